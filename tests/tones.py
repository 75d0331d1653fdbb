"""Generated recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000  # Hz


def write_tone(path: Path, seconds: float, seed: int) -> None:
    """A tone of random pitch in noise, different for every seed."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * np.arange(n) / RATE)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone + 0.05 * rng.standard_normal(n), RATE, subtype="PCM_16")
