"""The scene of a clip: who and where, as against what happens in it.

What stays the same while a clip goes on is told from the level and spread of its bands alone, so that no recurrence is needed: a perceptron
over the mean and deviation of the frames. `objectives.scene` trains it.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

STRETCH = 24  # tokens, at most, that one vector is made of; a longer clip has the mean of its stretches


class SceneEncoder(nn.Module):
    """Statistics of frames to a vector of `width`.

    Args:
      n_mels: values in a frame; a token holds one frame or several. width: of the vector.
    """

    def __init__(self, n_mels: int, width: int) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.layers = nn.Sequential(
            nn.Linear(2 * n_mels, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width), nn.SiLU()
        )

    def forward(self, tokens: Tensor, owner: Tensor, owners: int) -> Tensor:
        """One vector for each set of tokens.

        Args:
          tokens: (N, D). owner: (N,) int64, the set that each belongs to, from 0. owners: S, how many sets there are.
        Returns:
          (S, width); of a set without tokens anything.
        """
        vectors: Tensor = self.layers(frame_statistics(tokens.unflatten(-1, (-1, self.n_mels)).float(), owner, owners))
        return vectors

    def of_clip(self, tokens: Tensor) -> Tensor:
        """(T, D), T >= 1 -> (width,): the mean over stretches of STRETCH tokens or a little more."""
        ends = stretch_ends(len(tokens))
        owner = torch.repeat_interleave(torch.tensor([end - begin for begin, end in itertools.pairwise([0, *ends])])).to(tokens.device)
        vector: Tensor = self(tokens, owner, len(ends)).mean(0)
        return vector


def stretch_ends(tokens: int) -> list[int]:
    """Where the stretches of a clip of so many tokens end: equal ones, but for rounding, of STRETCH tokens or a little more."""
    stretches = max(1, tokens // STRETCH)
    return [tokens * (i + 1) // stretches for i in range(stretches)]


def frame_statistics(frames: Tensor, owner: Tensor, owners: int) -> Tensor:
    """Mean and deviation per band over the frames of each set: (N, F, n_mels), (N,) -> (S, 2 * n_mels); zeros where there is none."""
    n_mels = frames.shape[-1]
    sums = torch.cat([frames.mean(1), frames.square().mean(1), frames.new_ones(len(frames), 1)], 1)
    total = sums.new_zeros(owners, sums.shape[1]).index_add_(0, owner, sums)
    moments = total[:, :-1] / total[:, -1:].clamp_min(1)
    mean, square = moments.split(n_mels, 1)
    return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1)
