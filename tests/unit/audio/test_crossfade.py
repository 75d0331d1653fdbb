from __future__ import annotations

import numpy as np

from pydreaming.audio.crossfade import best_shift, correlation, crossfade, overlap_add

RNG = np.random.default_rng(0)


def noise(n: int) -> np.ndarray:
    return (0.1 * RNG.standard_normal(n)).astype(np.float32)


def test_a_sound_faded_into_itself_stays_as_it_is() -> None:
    sound = noise(400)
    np.testing.assert_allclose(crossfade(sound, sound), sound, atol=1e-7)


def test_unrelated_sounds_keep_their_power() -> None:
    mixed = np.stack([crossfade(noise(256), noise(256)) for _ in range(400)])
    power = np.square(mixed).mean(0) / 0.01
    assert 0.8 < power.reshape(16, 16).mean(1).min() < power.reshape(16, 16).mean(1).max() < 1.2  # a plain fade dips to 0.5


def test_ends_are_those_of_the_two_sounds() -> None:
    old, new = noise(500), noise(500)
    mixed = crossfade(old, new)
    assert abs(mixed[0] - old[0]) < 1e-4
    assert abs(mixed[-1] - new[-1]) < 1e-4
    joined = overlap_add(old, new, 100)
    assert len(joined) == 900
    np.testing.assert_array_equal(joined[:400], old[:400])
    np.testing.assert_array_equal(joined[500:], new[100:])
    np.testing.assert_array_equal(overlap_add(old, new, 0), np.concatenate([old, new]))


def test_shift_finds_the_phase_and_leaves_silence_alone() -> None:
    tone = np.sin(2 * np.pi * np.arange(600) / 64).astype(np.float32)
    shift = best_shift(tone[100:220], tone[:240])
    assert (shift - 100) % 64 == 0
    assert correlation(tone[100:220], tone[shift : shift + 120]) > 0.999
    assert best_shift(np.zeros(10, np.float32), np.zeros(31, np.float32)) == 10
    assert correlation(np.zeros(4, np.float32), np.ones(4, np.float32)) == 0.0
