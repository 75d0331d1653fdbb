from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
import torchaudio

from pydreaming.audio.features import LOG_FLOOR, MIN_STD, FeatureStats, FrontEnd, StatsAccumulator
from pydreaming.audio.tokens import num_frames
from pydreaming.config import load_config

FEATURES = load_config(["defaults"]).features
SETTINGS = [
    FEATURES,
    load_config(["defaults", "fsdd"]).features,
    replace(FEATURES, win_length=512, n_mels=80, f_min=0.0, f_max=7600.0, token_frames=5, token_hop=2),
    replace(FEATURES, n_fft=1024, win_length=401, hop_length=401, n_mels=3),
]


def noise(num_samples, seed=0):
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def frames_of(front_end, samples, rate=None):
    return np.concatenate(list(front_end.frames([samples], rate or front_end.features.sample_rate)))


def centred(samples, features):
    """Oracles place the window in the middle of n_fft samples; with this padding their frame t covers the same samples as ours."""
    spare = features.n_fft - features.win_length
    return np.pad(samples, (spare // 2, spare - spare // 2))


@pytest.mark.parametrize("features", SETTINGS)
def test_log_mel_is_librosas(features):
    samples = noise(50_000)
    mel = librosa.feature.melspectrogram(
        y=centred(samples, features).astype(np.float64),
        sr=features.sample_rate,
        n_fft=features.n_fft,
        win_length=features.win_length,
        hop_length=features.hop_length,
        n_mels=features.n_mels,
        fmin=features.f_min,
        fmax=features.f_max or features.sample_rate / 2,
        htk=True,
        norm=None,
        center=False,
    )
    np.testing.assert_allclose(frames_of(FrontEnd(features), samples), np.log(np.maximum(mel.T, LOG_FLOOR)), atol=1e-3)


@pytest.mark.parametrize("features", SETTINGS)
def test_log_mel_is_torchaudios(features):
    samples = noise(50_000)
    transform = torchaudio.transforms.MelSpectrogram(
        features.sample_rate, features.n_fft, features.win_length, features.hop_length, features.f_min, features.f_max or None,
        n_mels=features.n_mels, center=False,
    )  # fmt: skip
    mel = transform(torch.from_numpy(centred(samples, features))).T.numpy()
    np.testing.assert_allclose(frames_of(FrontEnd(features), samples), np.log(np.maximum(mel, LOG_FLOOR)), atol=1e-3)


def test_a_frame_sees_its_window_and_nothing_else():
    click = np.zeros(4000, dtype=np.float32)
    click[1000] = 1.0
    loud = (frames_of(FrontEnd(FEATURES), click) > np.log(LOG_FLOOR) + 1e-3).any(axis=1)
    covering = [t for t in range(len(loud)) if t * 160 < 1000 < t * 160 + 400]  # the window's first sample weighs nothing
    assert np.flatnonzero(loud).tolist() == covering


def test_what_follows_does_not_change_earlier_frames():
    samples = noise(200_000)
    whole, part = frames_of(FrontEnd(FEATURES), samples), frames_of(FrontEnd(FEATURES), samples[:123_456])
    np.testing.assert_allclose(part, whole[: len(part)], atol=1e-5)


@pytest.mark.parametrize("samples", [np.zeros(20_000), np.full(20_000, 0.7), np.full(20_000, 1e-20), np.tile([1.0, -1.0], 10_000)])
def test_degenerate_sound_gives_finite_frames(samples):
    samples = samples.astype(np.float32)
    accumulator = StatsAccumulator(FEATURES.n_mels)
    accumulator.add(frames_of(FrontEnd(FEATURES), samples))
    stats = accumulator.finish()
    assert min(stats.std) >= MIN_STD
    tokens = FrontEnd(FEATURES, stats).tokens_of(samples, FEATURES.sample_rate)
    assert np.isfinite(tokens).all()
    assert np.isfinite(FrontEnd(FEATURES, stats).tokens_of(noise(20_000), FEATURES.sample_rate).astype(np.float16)).all()


def test_digital_silence_is_the_floor():
    assert (frames_of(FrontEnd(FEATURES), np.zeros(5000, np.float32)) == np.log(np.float32(LOG_FLOOR))).all()


def test_normalised_frames_have_mean_zero_and_deviation_one():
    samples = noise(160_000)
    plain = frames_of(FrontEnd(FEATURES), samples)
    accumulator = StatsAccumulator(FEATURES.n_mels)
    accumulator.add(plain)
    normalised = frames_of(FrontEnd(FEATURES, accumulator.finish()), samples)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std(axis=0), 1, atol=1e-4)


def test_statistics_of_another_width_are_refused():
    with pytest.raises(ValueError, match="statistics of 3 bands do not fit"):
        FrontEnd(FEATURES, FeatureStats([0.0] * 3, [1.0] * 3, 1))


@pytest.mark.parametrize("features", SETTINGS)
def test_short_recordings_are_padded_to_one_token_and_no_further(features):
    front_end, span = FrontEnd(features), features.token_span_samples
    for count in (1, features.win_length - 1, features.win_length, span - 1, span, span + features.token_stride_samples - 1):
        tokens = front_end.tokens_of(noise(count), features.sample_rate)
        assert tokens.shape == (1, features.token_dim)
        padded = np.pad(noise(count), (0, max(0, span - count)))
        np.testing.assert_array_equal(tokens[0], frames_of(front_end, padded)[: features.token_frames].ravel())
    assert len(front_end.tokens_of(noise(span + features.token_stride_samples), features.sample_rate)) == 2
    assert front_end.tokens_of(noise(0), features.sample_rate).shape == (0, features.token_dim)


def test_padding_to_a_token_of_several_blocks():
    features = replace(FEATURES, n_fft=65_536, token_frames=16)  # four frames make a block
    tokens = FrontEnd(features).tokens_of(noise(1000), features.sample_rate)
    assert tokens.shape == (1, 16 * 64)
    frames = tokens.reshape(16, 64)
    padded = np.pad(noise(1000), (0, 10_000))
    np.testing.assert_array_equal(frames, frames_of(FrontEnd(features), padded)[:16])
    assert (frames[7:] == np.log(np.float32(LOG_FLOOR))).all()


@pytest.mark.parametrize("features", SETTINGS)
def test_denormalise_undoes_tokens(features):
    stats = FeatureStats(np.linspace(-9, 3, features.n_mels).tolist(), np.linspace(0.2, 4, features.n_mels).tolist(), 9)
    samples = noise(30_000)
    frames = FrontEnd(features, stats).denormalise(FrontEnd(features, stats).tokens_of(samples, features.sample_rate))
    plain = frames_of(FrontEnd(features), samples)
    count = len(frames)
    covered = np.arange(count) % features.token_hop < features.token_frames
    np.testing.assert_allclose(frames[covered], plain[:count][covered], atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 35_467, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_at_any_rate(rate):
    second = np.arange(rate * 2) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * second)).astype(np.float32)
    direct = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)).astype(np.float32)
    converted, expected = frames_of(FrontEnd(FEATURES), tone, rate), frames_of(FrontEnd(FEATURES), direct)
    assert len(converted) == num_frames(32_000, FEATURES)
    assert (converted[5:-5].argmax(axis=1) == expected[5:-5].argmax(axis=1)).all()
    np.testing.assert_allclose(converted[5:-5].max(axis=1), expected[5:-5].max(axis=1), atol=0.01)


@pytest.mark.parametrize("chunk", [np.zeros((10, 2), np.float32), np.zeros(10, np.int16)])
def test_chunks_must_be_mono_floats(chunk):
    with pytest.raises(ValueError, match="chunks must be"):
        list(FrontEnd(FEATURES).frames([chunk], FEATURES.sample_rate))


def test_read_only_samples_are_taken():
    samples = noise(10_000)
    expected = frames_of(FrontEnd(FEATURES), samples)
    samples.flags.writeable = False
    np.testing.assert_array_equal(frames_of(FrontEnd(FEATURES), samples), expected)


@pytest.mark.parametrize("features", SETTINGS)
def test_recordings_taken_together_give_the_same_bits(features):
    stats = FeatureStats([0.5] * features.n_mels, [2.0] * features.n_mels, 1)
    front_end, rng = FrontEnd(features, stats), np.random.default_rng(3)
    most = front_end.log_mel.block_frames * features.hop_length
    lengths = [1, features.win_length, features.token_span_samples + 1, *rng.integers(1, most, 60).tolist(), most, most]
    clips = [noise(length, seed) for seed, length in enumerate(lengths)]
    together = front_end.tokens_together(clips)
    assert len(together) == len(clips)
    for clip, tokens in zip(clips, together, strict=True):
        assert np.array_equal(tokens, front_end.tokens_of(clip, features.sample_rate))
    assert front_end.tokens_together([]) == []
