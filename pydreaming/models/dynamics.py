"""What all dynamics have in common: the interface, the initial state, and how a core and the latents are chosen.

Shape legend: see `state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from pydreaming.config import ModelConfig
from pydreaming.models.cores import Core, make_core
from pydreaming.models.latents import LATENTS
from pydreaming.models.state import Heard, Observed, State, Unroll


class Dynamics(nn.Module, ABC):
    """Base of the dynamics.

    Attributes:
      latents: the family of distributions. scores: S * P. latent: S * K.
      feat_dim: width F of `State.feat`. context_dim: width C of `Observed.context`, deterministic unless a subclass says otherwise.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = LATENTS[config.latents]
        S, P, K = self.latents.sizes(config)
        self.scores, self.latent = S * P, S * K
        self.feat_dim = config.deter + self.latent
        self.context_dim = config.deter

    @property
    def core(self) -> Core:
        """The recurrence. It is registered as what it is, so that weights of a GRU are named `gru` in every checkpoint."""
        return cast(Core, self.get_submodule(self.config.core))

    def build_core(self, inputs: int) -> None:
        """Make the core, for inputs of the given width."""
        self.add_module(self.config.core, make_core(self.config, inputs))

    def initial(self, batch: int, device: torch.device) -> State:
        """State before the first step: zeros, (batch, ...)."""
        S, P, K = self.latents.sizes(self.config)
        deter, stoch, logits = (torch.zeros(batch, *shape, device=device) for shape in ((self.config.deter,), (S, K), (S, P)))
        return State(deter, stoch, logits, self.core.empty(batch, device), self.latents)

    @abstractmethod
    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> Observed:
        """Posterior rollout over observed tokens.

        Args:
          embed: (B, T, E). action: (B, T, A). is_first: (B, T) bool.
          carry: (B, ...) state before the first step.
          noise: (B, T, S, K) of the latents' kind; None takes modes.
        """

    def observe_some(
        self, rows: int, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None
    ) -> tuple[Heard, Observed]:
        """As `observe`: what is known of all sequences, and the rollout of the first `rows` of them.

        The others' latents are not computed where nothing that is known depends on them.
        """
        observed = self.observe(embed, action, is_first, carry, noise)
        return observed, observed.rows(rows)

    @abstractmethod
    def imagine(self, state: State, actions: Tensor, noise: Tensor | None, temperature: float = 1.0) -> State:
        """Prior rollout: (B, ...) state and (B, N, A) actions -> states (B, N, ...). `noise` (B, N, S, K), or None for modes."""

    @abstractmethod
    def unrolls(self, observed: Observed, count: int) -> list[Unroll]:
        """Teacher-forced steps of the latents, at most `count` deep, to train prior and state by."""

    def logits(self, scores: Tensor) -> Tensor:
        """What a network gives, (..., S * P) -> parameters of the latents (..., S, P)."""
        return self.latents.parameters(scores, self.config)
