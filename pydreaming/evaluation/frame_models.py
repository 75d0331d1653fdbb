"""What surprise must beat at finding anomalies: small networks over a few log-mel frames, trained on the same normal clips.

    frames            t .. t + 4, of n_mels bands each
    autoencoder       all five -> all five, through a narrow layer            (the baseline of DCASE 2020, task 2)
    next frame        the first four -> the fifth, through a narrow layer     (the network of IDNN, asked for the last frame)

A clip's score is its mean squared error. Sources: Koizumi et al., arXiv 2006.05822 (autoencoder); Suefusa et al., arXiv 2005.09234 (IDNN,
which predicts the middle frame; its variant that predicts the last one is used here, as a world model too predicts forwards).
Approximations: LayerNorm and SiLU for batch normalisation and ReLU, and as many parameters as the world model has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pydreaming.evaluation.pooling import Array
from pydreaming.models.layers import mlp

FRAMES = 5
NARROW = 16
BATCH = 512  # windows of FRAMES frames
LEARNING_RATE = 1e-3

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrameTask:
    """Which of FRAMES frames are read, and which are to be told."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


TASKS = {
    "autoencoder": FrameTask(tuple(range(FRAMES)), tuple(range(FRAMES))),
    "next-frame predictor": FrameTask(tuple(range(FRAMES - 1)), (FRAMES - 1,)),
}


class FrameModel:
    """A network for one task, trained on normal clips when it is made.

    Args:
      clips: (F_i, n_mels) normalised log-mel frames, of which one has at least FRAMES. Raises ValueError otherwise.
      parameters: about how many weights the network has. seconds: CPU time of training. seed: of weights and batches.
    """

    def __init__(self, task: FrameTask, clips: Sequence[Array], parameters: int, seconds: float, seed: int) -> None:
        windows = [_windows(clip) for clip in clips if len(clip) >= FRAMES]
        if not windows:
            raise ValueError(f"no clip has {FRAMES} frames to train on")
        self.task = task
        n_mels = clips[0].shape[1]
        read, told = len(task.inputs) * n_mels, len(task.targets) * n_mels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = hidden_width(read, told, parameters)
            self.network = mlp([read, width, width, NARROW, width, width, told])
            self._train(torch.cat(windows), seconds)

    @torch.no_grad()
    def score(self, clip: Array) -> float:
        """Mean squared error over the windows of a clip (F, n_mels). Raises ValueError for one of fewer than FRAMES frames."""
        if len(clip) < FRAMES:
            raise ValueError(f"a clip of {len(clip)} frames has no window of {FRAMES}")
        return float(self._error(_windows(clip)))

    def _train(self, windows: Tensor, seconds: float) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        end = time.process_time() + seconds
        while True:
            error = self._error(windows[torch.randint(len(windows), (BATCH,))])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            if time.process_time() >= end:
                return

    def _error(self, windows: Tensor) -> Tensor:
        """() mean squared error on windows (N, FRAMES, n_mels)."""
        read, told = (windows[:, list(frames)].flatten(1) for frames in (self.task.inputs, self.task.targets))
        return nn.functional.mse_loss(self.network(read), told)


def hidden_width(read: int, told: int, parameters: int) -> int:
    """Width of the hidden layers with which the network has about so many weights: the root of 2 w^2 + (read + told + 2 NARROW) w."""
    linear = read + told + 2 * NARROW
    return max(NARROW, round((math.sqrt(linear**2 + 8 * parameters) - linear) / 4))


def _windows(clip: Array) -> Tensor:
    """(F, n_mels) -> (F - FRAMES + 1, FRAMES, n_mels)."""
    return torch.from_numpy(clip.astype(np.float32)).unfold(0, FRAMES, 1).transpose(1, 2)
