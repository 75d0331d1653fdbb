"""One vector for a clip, from a sequence of vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def thirds_and_std(x: Array) -> Array:
    """Means over the thirds of the sequence and the deviation over all of it: (T, D) -> (4 D,).

    The thirds overlap where T is no multiple of three, so that each holds at least one step; they keep a little of the order in time,
    which a plain mean loses (a spoken word played backwards has the same mean).
    """
    steps = len(x)
    bounds = [(steps * i // 3, max(-(-steps * (i + 1) // 3), steps * i // 3 + 1)) for i in range(3)]
    return np.concatenate([*(x[a:b].mean(0) for a, b in bounds), x.std(0)]).astype(np.float32)


def pool_clips(clips: list[Array]) -> Array:
    """`thirds_and_std` of each clip: N times (T_i, D) -> (N, 4 D)."""
    return np.stack([thirds_and_std(clip) for clip in clips])
