"""One vector for a clip, from a sequence of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def mean(x: Array) -> Array:
    """Mean over the steps: (T, D) -> (D,)."""
    pooled: Array = x.mean(0)
    return pooled


def mean_and_std(x: Array) -> Array:
    """Mean and deviation over the steps: (T, D) -> (2 D,)."""
    return np.concatenate([x.mean(0), x.std(0)])


def thirds_and_std(x: Array) -> Array:
    """Means over the thirds of the sequence and the deviation over all of it: (T, D) -> (4 D,).

    The thirds overlap where T is no multiple of three, so that each holds at least one step; they keep a little of the order in time,
    which a plain mean loses (a spoken word played backwards has the same mean).
    """
    return np.concatenate([*(x[a:b].mean(0) for a, b in third_bounds(len(x))), x.std(0)]).astype(np.float32)


def third_bounds(steps: int) -> list[tuple[int, int]]:
    """First step of each third, and the step after its last; see `thirds_and_std`."""
    return [(steps * i // 3, max(-(-steps * (i + 1) // 3), steps * i // 3 + 1)) for i in range(3)]


POOLINGS: dict[str, Callable[[Array], Array]] = {"mean": mean, "mean_std": mean_and_std, "thirds_std": thirds_and_std}


def pool_clips(clips: Sequence[Array], pooling: str = "thirds_std") -> Array:
    """One vector for each clip: N times (T_i, D) -> (N, D, 2 D or 4 D), see POOLINGS. Raises KeyError: an unknown pooling."""
    pool = POOLINGS[pooling]
    return np.stack([pool(clip) for clip in clips])
