"""Sounds that no longer are what they were: for asking whether a model notices.

Each kind keeps something of the recording, so that no trivial statistic gives it away:

    reversed          the samples backwards: the same spectra, in the wrong order
    white             Gaussian noise of the same length and power
    phase_randomised  the same power spectrum of the whole recording, random phases (stationary, coloured noise)
    tone              a sine of the same length and power at a seeded frequency: too predictable, not too surprising
    shuffled          pieces of 50 ms in another order
    speed             twice as fast, and an octave higher
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pydreaming.audio.buffer import Samples

Random = np.random.Generator
Sound = tuple[Samples, int]  # (num_samples,) float32, and samples per second

PIECE_S = 0.05
LOWEST_TONE, HIGHEST_TONE = 0.02, 0.4  # of the sample rate


def transform(kind: str, sound: Sound, random: Random) -> Sound:
    """One of KINDS of a mono sound. Raises KeyError for another kind."""
    samples, rate = sound
    changed, new_rate = TRANSFORMS[kind](samples, rate, random)
    return np.ascontiguousarray(changed, dtype=np.float32), new_rate


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean())) if len(samples) else 0.0


def _reversed(samples: Samples, rate: int, random: Random) -> Sound:
    return samples[::-1], rate


def _white(samples: Samples, rate: int, random: Random) -> Sound:
    return (random.standard_normal(len(samples)) * _rms(samples)).astype(np.float32), rate


def _phase_randomised(samples: Samples, rate: int, random: Random) -> Sound:
    if len(samples) < 3:
        return samples, rate  # no frequency between the mean and half the rate, so no phase
    spectrum = np.fft.rfft(samples)
    phase = random.uniform(-np.pi, np.pi, len(spectrum))
    phase[0] = 0.0
    if len(samples) % 2 == 0:
        phase[-1] = 0.0  # the bin at half the rate has no phase either
    return np.fft.irfft(np.abs(spectrum) * np.exp(1j * phase), len(samples)).astype(np.float32), rate


def _tone(samples: Samples, rate: int, random: Random) -> Sound:
    frequency = np.exp(random.uniform(np.log(LOWEST_TONE), np.log(HIGHEST_TONE)))  # cycles per sample
    tone = np.sin(2 * np.pi * (frequency * np.arange(len(samples)) + random.uniform()))
    return (np.sqrt(2) * _rms(samples) * tone).astype(np.float32), rate


def _shuffled(samples: Samples, rate: int, random: Random) -> Sound:
    piece = max(1, round(PIECE_S * rate))
    pieces = [samples[start : start + piece] for start in range(0, len(samples), piece)]
    order = random.permutation(len(pieces))
    return np.concatenate([pieces[i] for i in order]) if pieces else samples, rate


def _speed(samples: Samples, rate: int, random: Random) -> Sound:
    return samples, 2 * rate  # the front end resamples


TRANSFORMS: dict[str, Callable[[Samples, int, Random], Sound]] = {
    "reversed": _reversed,
    "white": _white,
    "phase_randomised": _phase_randomised,
    "tone": _tone,
    "shuffled": _shuffled,
    "speed": _speed,
}
KINDS = tuple(TRANSFORMS)
