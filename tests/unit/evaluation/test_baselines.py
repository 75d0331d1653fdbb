"""Baselines: shapes, and what the normalised kind must not notice."""

from __future__ import annotations

import numpy as np

from pydreaming.evaluation.baselines import COEFFICIENTS, FLAT_FRAMES, log_mel_features, log_mel_quantiles, more_log_mel_features

MELS, FRAMES = 5, 4  # bands, frames in a token
PLAIN, NORMALISED = "log-mel", "log-mel, clip-normalised"


def clips(lengths: tuple[int, ...] = (1, 2, 7)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((length, FRAMES * MELS)).astype(np.float32) for length in lengths]


def test_shapes_and_names() -> None:
    features = log_mel_features(clips(), MELS)
    assert {name: array.shape for name, array in features.items()} == {PLAIN: (3, 4 * MELS), NORMALISED: (3, 8 * MELS)}
    assert all(np.isfinite(array).all() for array in features.values())


def test_a_single_frame_has_no_difference() -> None:
    one = log_mel_features([np.ones((1, MELS), np.float32)], MELS)
    assert not one[NORMALISED].any()


def test_gain_and_contrast_of_each_band_are_forgotten_by_the_normalised_kind_alone() -> None:
    rng = np.random.default_rng(1)
    shift, scale = rng.normal(size=MELS).astype(np.float32), rng.uniform(0.5, 2, MELS).astype(np.float32)
    plain = clips((6, 9))
    changed = [(clip.reshape(-1, MELS) * scale + shift).reshape(clip.shape) for clip in plain]
    before, after = log_mel_features(plain, MELS), log_mel_features(changed, MELS)
    np.testing.assert_allclose(after[NORMALISED], before[NORMALISED], atol=1e-2)
    assert np.abs(after[PLAIN] - before[PLAIN]).max() > 0.3


def test_one_clip_does_not_change_another() -> None:
    alone, together = log_mel_features(clips()[2:], MELS), log_mel_features(clips(), MELS)
    for name, array in alone.items():
        np.testing.assert_array_equal(array[0], together[name][2])


def test_further_statistics_have_their_widths_and_are_finite_for_the_shortest_clip() -> None:
    features = more_log_mel_features(clips(), MELS)
    widths = {"log-mel, mean and deviation": 2 * MELS, "log-mel, flat": FLAT_FRAMES * MELS, "MFCC": 4 * MELS}
    assert {name: array.shape for name, array in features.items()} == {name: (3, width) for name, width in widths.items()}
    assert all(np.isfinite(array).all() for array in features.values())
    assert more_log_mel_features([np.ones((2, 4 * 40), np.float32)], 40)["MFCC"].shape == (1, 4 * COEFFICIENTS)
    assert log_mel_quantiles(clips(), MELS).shape == (3, 14 * MELS)


def test_flat_frames_keep_the_ends_and_the_order() -> None:
    ramp = np.repeat(np.arange(8, dtype=np.float32)[:, None], MELS, 1).reshape(2, FRAMES * MELS)
    flat = more_log_mel_features([ramp], MELS)["log-mel, flat"][0].reshape(FLAT_FRAMES, MELS)
    np.testing.assert_allclose(flat[:, 0], np.linspace(0, 7, FLAT_FRAMES), atol=1e-5)


def test_a_flat_spectrum_has_no_shape_in_its_cepstrum() -> None:
    mfcc = more_log_mel_features([np.full((3, FRAMES * MELS), 2.0, np.float32)], MELS)["MFCC"][0]
    assert mfcc[0] > 1
    np.testing.assert_allclose(mfcc[1:], 0, atol=1e-5)
