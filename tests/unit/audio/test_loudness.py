"""Levels of sounds whose level is known."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.audio.loudness import FLOOR_DBFS, Loudness, LoudnessMeter


def measure(samples: np.ndarray, size: int = 10_000) -> Loudness:
    meter = LoudnessMeter()
    for start in range(0, len(samples), size):
        meter.add(samples[start : start + size].astype(np.float32))
    return meter.finish()


def test_a_sine_and_a_square_wave() -> None:
    sine = 0.5 * np.sin(2 * np.pi * 0.01 * np.arange(8000))
    assert measure(sine).rms_dbfs == pytest.approx(-6.02 - 3.01, abs=0.01)
    assert measure(sine).peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert measure(np.sign(sine)).rms_dbfs == pytest.approx(0.0, abs=0.01)


def test_silence_has_a_floor() -> None:
    found = measure(np.zeros(100))
    assert found == Loudness(FLOOR_DBFS, FLOOR_DBFS, 0)
    assert found.silent
    assert not measure(np.full(100, 0.01)).silent
    with pytest.raises(ValueError, match="no samples"):
        LoudnessMeter().finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_clipped_runs_are_counted_whatever_the_blocks(size: int) -> None:
    # a run of four, a single peak, a run of two, a change of sign (two runs of two), and a run of three at the very end
    samples = np.array([0, 1, 1, 1, 1, 0, 1, 0, -1, -1, 0, 1, 1, -1, -1, 0, -1, -1, -1.0])
    assert measure(samples, size).clipped == 4 + 3
