"""What each transform of a sound keeps, and what it destroys."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.evaluation.transforms import KINDS, transform

RATE = 8000


def sound(samples: int = 3001) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (np.cumsum(rng.standard_normal(samples)) * np.linspace(0.1, 1, samples)).astype(np.float32)


def changed(kind: str, x: np.ndarray, seed: int = 0) -> np.ndarray:
    y, rate = transform(kind, (x, RATE), np.random.default_rng(seed))
    assert y.dtype == np.float32
    assert rate == (2 * RATE if kind == "speed" else RATE)
    return y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 1, 2, 401, 3000, 3001])
def test_length_and_power_are_kept(kind: str, length: int) -> None:
    x = sound(length)
    y = changed(kind, x)
    assert y.shape == x.shape
    if length > 400:
        assert np.sqrt(np.mean(y**2)) == pytest.approx(np.sqrt(np.mean(x**2)), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_stays_silent(kind: str) -> None:
    assert not changed(kind, np.zeros(1000, np.float32)).any()


def test_what_is_reversed_and_shuffled_has_the_same_samples() -> None:
    x = sound()
    np.testing.assert_array_equal(changed("reversed", x)[::-1], x)
    y = changed("shuffled", x)
    assert not np.array_equal(x, y)
    np.testing.assert_array_equal(np.sort(x), np.sort(y))


@pytest.mark.parametrize("length", [3000, 3001])
def test_random_phases_keep_the_power_spectrum(length: int) -> None:
    x = sound(length)
    y = changed("phase_randomised", x)
    np.testing.assert_allclose(np.abs(np.fft.rfft(y)), np.abs(np.fft.rfft(x)), rtol=1e-3, atol=1e-2)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.9


def test_a_tone_is_one_frequency() -> None:
    power = np.abs(np.fft.rfft(changed("tone", sound()) * np.hanning(3001))) ** 2
    peak = int(power.argmax())
    assert power[max(0, peak - 3) : peak + 4].sum() > 0.99 * power.sum()


def test_the_seed_decides() -> None:
    for kind in ("white", "tone", "shuffled", "phase_randomised"):
        np.testing.assert_array_equal(changed(kind, sound(), 3), changed(kind, sound(), 3))
        assert not np.array_equal(changed(kind, sound(), 3), changed(kind, sound(), 4))
