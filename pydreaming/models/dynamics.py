"""What all dynamics have in common: the interface, the initial state, and how scores become distributions.

Shape legend: see `state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pydreaming.config import ModelConfig
from pydreaming.models.distributions import log_probabilities
from pydreaming.models.state import Observed, State, Unroll


class Dynamics(nn.Module, ABC):
    """Base of the dynamics.

    Attributes:
      latent: S * K. feat_dim: width F of `State.feat`. context_dim: width C of `Observed.context`.
    """

    def __init__(self, config: ModelConfig, context_dim: int) -> None:
        super().__init__()
        self.config = config
        self.latent = config.groups * config.classes
        self.feat_dim = config.deter + self.latent
        self.context_dim = context_dim

    def initial(self, batch: int, device: torch.device) -> State:
        """State before the first step: zeros, (batch, ...)."""
        c = self.config
        latent = torch.zeros(batch, c.groups, c.classes, device=device)
        return State(torch.zeros(batch, c.deter, device=device), latent, latent)

    @abstractmethod
    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> Observed:
        """Posterior rollout over observed tokens.

        Args:
          embed: (B, T, E). action: (B, T, A). is_first: (B, T) bool.
          carry: (B, ...) state before the first step.
          noise: (B, T, S, K) Gumbel noise; None takes modes.
        """

    @abstractmethod
    def imagine(self, state: State, actions: Tensor, noise: Tensor | None, temperature: float = 1.0) -> State:
        """Prior rollout: (B, ...) state and (B, N, A) actions -> states (B, N, ...). `noise` (B, N, S, K), or None for modes."""

    @abstractmethod
    def unrolls(self, observed: Observed, count: int) -> list[Unroll]:
        """Teacher-forced steps of the latents, at most `count` deep, to train prior and state by."""

    def log_probs(self, scores: Tensor) -> Tensor:
        """Scores of the classes (..., S * K) -> log-probabilities (..., S, K), mixed with the uniform."""
        return log_probabilities(scores.unflatten(-1, (self.config.groups, self.config.classes)), self.config.unimix)
