"""Frames to tokens and back. A token is a fixed window of frames:

    frames   0 1 2 3 4 5 6 7 8          token_frames 4, token_hop 2
    token 0  [-----]                     token i covers frames [i * token_hop, i * token_hop + token_frames)
    token 1      [-----]
    token 2          [-----]             frame 8 fills no token and is dropped

Frame t covers samples [t * hop_length, t * hop_length + win_length).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from pydreaming.audio.stages import run
from pydreaming.config import FeatureConfig

Frames = npt.NDArray[np.float32]


def num_frames(num_samples: int, features: FeatureConfig) -> int:
    """Frames of so many samples at `features.sample_rate`: 1 + (n - win_length) // hop_length, 0 below one window."""
    return max(0, 1 + (num_samples - features.win_length) // features.hop_length)


def num_tokens(num_samples: int, features: FeatureConfig) -> int:
    """Tokens of so many samples at `features.sample_rate`; at least one where there is any sample, as short recordings are padded."""
    if num_samples <= 0:
        return 0
    return max(1, 1 + (num_frames(num_samples, features) - features.token_frames) // features.token_hop)


def token_start_samples(count: int, features: FeatureConfig, first: int = 0) -> npt.NDArray[np.int64]:
    """First sample (at `features.sample_rate`) of each of `count` tokens from the token `first` on, (count,) int64."""
    return np.arange(first, first + count, dtype=np.int64) * features.token_stride_samples


def cut_tokens(frames: Iterable[Frames], features: FeatureConfig) -> Iterator[Frames]:
    """Tokens (t, token_dim) from frames (f, n_mels) of one stream, as they become complete; the frames of a token lie end to end."""
    return run(TokenCutter(features), frames)


class TokenCutter:
    """`cut_tokens` as a stage: push frames (f, n_mels), get tokens (t, token_dim)."""

    def __init__(self, features: FeatureConfig) -> None:
        self._width, self._hop = features.token_frames, features.token_hop
        self._pending = np.empty((0, features.n_mels), dtype=np.float32)
        self._skip = 0  # frames still to be passed over, when tokens lie apart

    def push(self, part: Frames) -> Iterator[Frames]:
        """See `Stage`."""
        width, hop = self._width, self._hop
        fresh, self._skip = part[self._skip :], max(0, self._skip - len(part))
        pending = np.concatenate([self._pending, fresh]) if len(self._pending) else fresh
        count = max(0, 1 + (len(pending) - width) // hop)
        self._skip = max(self._skip, count * hop - len(pending))
        self._pending = pending[count * hop :]
        if count and hop == width:
            yield pending[: count * width].reshape(count, -1)
        elif count:
            index = np.arange(count)[:, None] * hop + np.arange(width)
            yield pending[index].reshape(count, -1)

    def finish(self) -> Iterator[Frames]:
        """See `Stage`. Frames that fill no token are dropped."""
        return iter(())


def join_tokens(tokens: npt.NDArray[np.float32], features: FeatureConfig) -> Frames:
    """Frames (F, n_mels) of consecutive tokens (T, token_dim): the mean where tokens overlap, the frame before where they lie apart.

    F = (T - 1) * token_hop + token_frames. Raises ValueError on another shape.
    """
    if tokens.ndim != 2 or tokens.shape[1] != features.token_dim or not len(tokens):
        raise ValueError(f"tokens must be (T, {features.token_dim}) with T >= 1, got {tokens.shape}")
    width, hop = features.token_frames, features.token_hop
    windows = tokens.reshape(len(tokens), width, features.n_mels).astype(np.float32)
    total = np.zeros(((len(tokens) - 1) * hop + width, features.n_mels), dtype=np.float32)
    covered = np.zeros((len(total), 1), dtype=np.float32)
    for offset in range(width):
        total[offset : offset + (len(tokens) - 1) * hop + 1 : hop] += windows[:, offset]
        covered[offset : offset + (len(tokens) - 1) * hop + 1 : hop] += 1
    last = np.maximum.accumulate(np.where(covered[:, 0] > 0, np.arange(len(total)), 0))
    total /= np.maximum(covered, 1)
    return total[last]
