"""The world model: window encoder, dynamics, probe decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pydreaming.config import ModelConfig
from pydreaming.models.belief import Belief
from pydreaming.models.decoder import ProbeDecoder
from pydreaming.models.dynamics import Dynamics
from pydreaming.models.encoder import WindowEncoder
from pydreaming.models.rssm import RSSM
from pydreaming.models.scene import SceneEncoder
from pydreaming.models.state import Heard, Observed, State


class WorldModelNet(nn.Module):
    """Networks of the world model; the contrastive heads belong to the objective.

    Args:
      token_dim: values in one token. action_dim: width A of the action vector. n_mels: values in one of its frames; 0: it is one frame.
    Attributes:
      scene: what hears who and where; None with `model.scene` 0.
    """

    def __init__(self, config: ModelConfig, token_dim: int, action_dim: int, n_mels: int = 0) -> None:
        super().__init__()
        self.config = config
        self.token_dim = token_dim
        self.action_dim = action_dim
        self.encoder = WindowEncoder(token_dim, config)
        self.dynamics: Dynamics = Belief(config, action_dim) if config.dynamics == "belief" else RSSM(config, action_dim)
        self.decoder = ProbeDecoder(self.dynamics.feat_dim, token_dim, config)
        self.scene = SceneEncoder(n_mels or token_dim, config.scene) if config.scene else None

    @property
    def feat_dim(self) -> int:
        """Width F of `State.feat`."""
        return self.dynamics.feat_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def observe(
        self, tokens: Tensor, action: Tensor, is_first: Tensor, carry: State | None = None, noise: Tensor | None = None
    ) -> Observed:
        """Posterior rollout over observed tokens.

        Args:
          tokens: (B, T, token_dim) normalised log-mel windows.
          action: (B, T, A); a_t leads from t - 1 to t and is ignored at resets.
          is_first: (B, T) bool; True resets the state before that step.
          carry: state after the previous chunk; None starts from the initial state.
          noise: (B, T, S, K) from `noise`; None takes the mode of each posterior.
        Raises:
          ValueError: the arguments disagree on (B, T) or on a width; or an attending core is to go on from a state without memory.
        """
        carry = self._check(tokens, action, is_first, carry)
        return self.dynamics.observe(self.encoder(tokens), action, is_first, carry, noise)

    def observe_some(
        self, rows: int, tokens: Tensor, action: Tensor, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[Heard, Observed]:
        """As `observe` from the initial state, for training: what is known of all sequences, and the rollout of the first `rows`."""
        carry = self._check(tokens, action, is_first, None)
        return self.dynamics.observe_some(rows, self.encoder(tokens), action, is_first, carry, noise)

    def _check(self, tokens: Tensor, action: Tensor, is_first: Tensor, carry: State | None) -> State:
        """The state to go on from; raises ValueError for shapes that disagree."""
        B, T = is_first.shape
        if tokens.shape != (B, T, self.token_dim) or action.shape != (B, T, self.action_dim):
            expected = f"tokens {(B, T, self.token_dim)} and action {(B, T, self.action_dim)}"
            raise ValueError(f"expected {expected}, got {tuple(tokens.shape)} and {tuple(action.shape)}")
        return self.dynamics.initial(B, tokens.device) if carry is None else carry

    def imagine(self, state: State, actions: Tensor, noise: Tensor | None = None, temperature: float = 1.0) -> State:
        """Prior rollout from any state; the encoder is never called.

        Args:
          state: (B, ...) state to start from.
          actions: (B, N, A); zeros for the placeholder action.
          noise: (B, N, S, K) from `noise`; None takes modes.
          temperature: divides the prior's log-probabilities (or log-density) before sampling.
        Returns:
          States (B, N, ...).
        """
        return self.dynamics.imagine(state, actions, noise, temperature)

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise of the latents' kind for `observe` or `imagine`: (batch, steps, S, K)."""
        latents = self.dynamics.latents
        S, _, K = latents.sizes(self.config)
        return latents.noise((batch, steps, S, K), self.device, generator)
