"""A training step over buffers that stay where they are, which a GPU plays back as one CUDA graph.

A step of the world model is thousands of short kernels, and a GPU waits for their launches. A graph launches all of them at once, provided
that nothing in the step depends on a value that the host would have to know: shapes are static (`static_shapes`), a step that is not
finite is refused on the device (`Trainer.update`), and what changes from step to step (batch, noise, learning rate) is copied to where the
graph reads it. On a CPU the same buffers and static shapes are used without a graph.

Source: the whole-network capture of PyTorch's notes on CUDA semantics.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pydreaming.models.by_hand import static_shapes
from pydreaming.objectives import Losses, TensorBatch

log = logging.getLogger(__name__)

WARM_UP = 3  # steps of a kind before its graph is made: optimisers make their moments, libraries their workspaces
PARTS = ("tokens", "is_first", "action", "token_id", "mask")


@dataclass(frozen=True)
class Outcome:
    """What an update leaves on the device.

    Attributes:
      losses: what the objective returned. figures: (5,) float32: loss, decoder's loss, tokens trained on, gradient norm, 1 where refused.
    """

    losses: Losses
    figures: Tensor


class StaticStep:
    """`update` over static buffers: one set, and on a GPU one graph, for each shape of batch and each value of `mixed`.

    Args:
      update: (batch, noise) -> Outcome, without waiting for the device. parameters: what it makes gradients for.
    """

    def __init__(self, update: Callable[[TensorBatch, Tensor], Outcome], parameters: Sequence[nn.Parameter]) -> None:
        self._update, self._parameters = update, parameters
        self._plays: dict[tuple[torch.Size, bool], _Play] = {}
        self._captures = True

    def __call__(self, batch: TensorBatch, noise: Tensor) -> Outcome:
        """As `update`. Tensors of the result other than figures and metrics hold until the next step of the same kind."""
        key = (batch.tokens.shape, batch.mixed)
        if key not in self._plays:
            self._plays[key] = _Play(batch, noise)
        play = self._plays[key]
        play.load(batch, noise)
        with static_shapes():
            if noise.device.type != "cuda":
                return _kept(self._update(dataclasses.replace(play.batch), play.noise))
            with torch.cuda.device(noise.device):  # streams and graphs are the current one's
                return _kept(self._on_gpu(play))

    def _on_gpu(self, play: _Play) -> Outcome:
        if play.warmed < WARM_UP or not self._captures:
            play.warmed += 1
            return self._as_it_is(play)
        if play.outcome is None:
            try:
                play.outcome = self._capture(play)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as e:
                self._captures = False
                log.warning("this GPU cannot record a training step, so steps run as they are: %s", str(e).splitlines()[0])
                return self._as_it_is(play)
        play.graph.replay()
        for parameter, grad in zip(self._parameters, play.grads, strict=True):
            parameter.grad = grad  # of this graph: another may have played since
        return play.outcome

    def _as_it_is(self, play: _Play) -> Outcome:
        """A step without a graph, on a stream of its own, as captures need it before them."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            outcome = self._update(dataclasses.replace(play.batch), play.noise)
        torch.cuda.current_stream().wait_stream(side)
        return outcome

    def _capture(self, play: _Play) -> Outcome:
        """Record a step, which does not run it."""
        play.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(play.graph):
            outcome = self._update(dataclasses.replace(play.batch), play.noise)
        play.grads = [parameter.grad for parameter in self._parameters]
        return outcome


class _Play:
    """Buffers of one kind of step, and its graph once there is one."""

    graph: torch.cuda.CUDAGraph
    grads: list[Tensor | None]

    def __init__(self, batch: TensorBatch, noise: Tensor) -> None:
        places: dict[str, Any] = {name: torch.empty_like(getattr(batch, name)) for name in PARTS}
        self.batch = dataclasses.replace(batch, **places)
        self.noise = torch.empty_like(noise)
        self.outcome: Outcome | None = None
        self.warmed = 0

    def load(self, batch: TensorBatch, noise: Tensor) -> None:
        """Copy the next batch and noise to where the step reads them."""
        for name in PARTS:
            getattr(self.batch, name).copy_(getattr(batch, name), non_blocking=True)
        self.noise.copy_(noise, non_blocking=True)


def _kept(outcome: Outcome) -> Outcome:
    """With figures and metrics of its own: those are summed over steps, and the next step would write over them."""
    names = outcome.losses.metrics
    metrics = dict(zip(names, torch.stack([value.float() for value in names.values()]).unbind(), strict=True)) if names else {}
    return Outcome(dataclasses.replace(outcome.losses, metrics=metrics), outcome.figures.clone())
