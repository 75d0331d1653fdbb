"""Baselines: shapes, and what the normalised kind must not notice."""

from __future__ import annotations

import numpy as np

from pydreaming.evaluation.baselines import log_mel_features

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
