"""Window encoder: one token, one embedding, and no sight of any other token."""

from __future__ import annotations

from torch import Tensor, nn

from pydreaming.config import ModelConfig
from pydreaming.models.layers import mlp


class WindowEncoder(nn.Module):
    """Perceptron over one window of normalised log-mel.

    It has no receptive field across tokens: one would leak the future into the contrastive targets and make the task trivial.
    """

    def __init__(self, token_dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.layers = mlp([token_dim, *config.encoder_layers, config.embed])

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., token_dim) -> (..., E)."""
        embed: Tensor = self.layers(tokens)
        return embed
