"""The interface of training objectives.

An objective owns its heads and projections. It turns a batch into losses by name, each (B, T) until one weighted sum, and names the space
in which predictions are compared with what came: `predict(state)` against `target(embed)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pydreaming.config import ObjectiveConfig
from pydreaming.models.state import Observed, State
from pydreaming.models.world_model import WorldModelNet


@dataclass(frozen=True)
class TensorBatch:
    """A replay batch on the training device.

    Attributes:
      tokens: (B, T, token_dim) float32. is_first: (B, T) bool. action: (B, T, A) float32.
      token_id: (B, T) int64, equal exactly where the audio is the same. mask: (B, T) bool, False on padding.
    """

    tokens: Tensor
    is_first: Tensor
    action: Tensor
    token_id: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Term:
    """One loss: values (B, T), where it holds, and its weight in the sum."""

    value: Tensor
    valid: Tensor
    weight: float

    def mean(self) -> Tensor:
        """Mean over the valid steps; zero where there is none."""
        return (self.value * self.valid).sum() / self.valid.sum().clamp_min(1)


@dataclass(frozen=True)
class Losses:
    """What an objective returns.

    Attributes:
      terms: losses by name. metrics: scalars for the log, without gradient. observed: the posterior rollout they came from.
    """

    terms: dict[str, Term]
    observed: Observed
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def total(self) -> Tensor:
        """The weighted sum of the means: the scalar that is differentiated."""
        return torch.stack([term.weight * term.mean() for term in self.terms.values()]).sum()


class Objective(nn.Module):
    """Base of all objectives.

    Args:
      model: the networks; read for their widths, not kept (the trainer passes the model to `forward`).
    """

    def __init__(self, config: ObjectiveConfig, model: WorldModelNet) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> Losses:
        """Losses of one batch; `noise` (B, T, S, K) drives the posterior's samples."""
        raise NotImplementedError

    def predict(self, state: State) -> Tensor:
        """Where the state expects its own token in the comparison space: (..., P), unit length."""
        raise NotImplementedError

    def target(self, embed: Tensor) -> Tensor:
        """Tokens in the comparison space: (..., E) -> (..., P), unit length."""
        raise NotImplementedError
