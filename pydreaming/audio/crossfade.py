"""Joining sounds without clicks."""

from __future__ import annotations

import numpy as np

from pydreaming.audio.buffer import Samples


def crossfade(old: Samples, new: Samples) -> Samples:
    """(n,) samples that go over from `old` (n,) to `new` (n,), as loud in between as at the ends.

    With weights f and g the power of f * old + g * new is f^2 + g^2 + 2 r f g for sounds of equal power and correlation r. Dividing by its
    root makes a plain fade of equal sounds (r = 1: f + g = 1, so that a sound faded into itself stays as it is) and a fade of constant
    power of unrelated ones (r = 0). Opposed sounds are faded as unrelated ones.
    """
    n = len(old)
    g = np.sin((np.arange(n, dtype=np.float64) + 0.5) * (np.pi / 2 / max(1, n))) ** 2
    f = 1 - g
    r = max(0.0, correlation(old, new))
    mixed: Samples = ((f * old + g * new) / np.sqrt(f * f + g * g + 2 * r * f * g)).astype(np.float32)
    return mixed


def overlap_add(old: Samples, new: Samples, overlap: int) -> Samples:
    """`old` (n,) and `new` (m,) in a row, the last `overlap` samples of one faded into the first of the other: (n + m - overlap,)."""
    if not overlap:
        return np.concatenate([old, new])
    return np.concatenate([old[:-overlap], crossfade(old[-overlap:], new[:overlap]), new[overlap:]])


def best_shift(old: Samples, room: Samples) -> int:
    """Where in `room` (m,) the stretch most like `old` (n,), n <= m, begins, by normalised correlation; the middle one where all are alike.

    Two voiced sounds that are joined in phase do not cancel each other in the cross-fade.
    Source: W. Verhelst, M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA)", ICASSP 1993.
    """
    windows = np.lib.stride_tricks.sliding_window_view(room.astype(np.float64), len(old))
    scores = windows @ old.astype(np.float64) / np.sqrt(np.square(windows).sum(1) + 1e-9)
    middle = (len(scores) - 1) // 2
    # Ties go to the middle, so that silence is not moved.
    return int(np.argmax(scores)) if scores.max() > scores[middle] else middle


def correlation(a: Samples, b: Samples) -> float:
    """Correlation of two sounds about zero, between -1 and 1; 0 where one is silent."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    power = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / power if power > 0 else 0.0
