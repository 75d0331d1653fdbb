from dataclasses import replace

import numpy as np
import pytest
import torch

from pydreaming.audio.features import FrontEnd
from pydreaming.audio.render import PEAK, mel_to_wave
from pydreaming.config import load_config

FEATURES = load_config(["defaults"]).features


def vowel(num_samples=32_000, rate=16_000):
    """A buzz of gliding pitch, switched on and off, in a little noise."""
    time = np.arange(num_samples) / rate
    phase = 2 * np.pi * (150 * time + 40 * time**2)
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    rng = np.random.default_rng(0)
    return (0.1 * buzz * (np.sin(2 * np.pi * 3 * time) > 0) + 0.002 * rng.standard_normal(num_samples)).astype(np.float32)


def frames_of(samples, features=FEATURES):
    return np.concatenate(list(FrontEnd(features).frames([samples], features.sample_rate)))


@pytest.mark.parametrize(
    "features", [FEATURES, load_config(["defaults", "fsdd"]).features, replace(FEATURES, n_mels=80, win_length=512, hop_length=256)]
)
def test_the_rendering_has_the_log_mel_it_was_made_from(features):
    log_mel = frames_of(vowel(rate=features.sample_rate), features)
    wave = mel_to_wave(log_mel, features)
    assert wave.dtype == np.float32
    assert len(wave) == (len(log_mel) - 1) * features.hop_length + features.win_length
    again = frames_of(wave, features)
    assert np.corrcoef(log_mel.ravel(), again.ravel())[0, 1] > 0.95
    assert abs((log_mel - again).mean()) < 0.3


def test_rendering_is_repeatable_and_leaves_torchs_generator_alone():
    log_mel = frames_of(vowel(8000))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = mel_to_wave(log_mel, FEATURES, iterations=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first, mel_to_wave(log_mel, FEATURES, iterations=4))
    assert not np.array_equal(first, mel_to_wave(log_mel, FEATURES, iterations=4, seed=1))


@pytest.mark.parametrize("level", [-1000.0, -13.8, 0.0, 12.0, 1000.0])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_imagined_extremes_stay_finite_and_below_the_peak(level, count):
    wave = mel_to_wave(np.full((count, 64), level, np.float32), FEATURES, iterations=4)
    assert len(wave) == (count - 1) * 160 + 400
    assert np.abs(wave).max() <= PEAK + 1e-6


@pytest.mark.parametrize("wrong", [np.zeros((0, 64)), np.zeros((5, 63)), np.zeros(64), np.full((5, 64), np.nan)])
def test_what_is_not_a_log_mel_is_refused(wrong):
    with pytest.raises(ValueError, match="log-mel must be"):
        mel_to_wave(wrong.astype(np.float32), FEATURES)
