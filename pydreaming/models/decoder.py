"""Probe decoder: states back to log-mel windows, for pictures and sound. It never trains the world model."""

from __future__ import annotations

from torch import Tensor, nn

from pydreaming.config import ModelConfig
from pydreaming.models.layers import mlp


class ProbeDecoder(nn.Module):
    """Perceptron from detached features to one window of normalised log-mel; trained by squared error with its own optimiser."""

    def __init__(self, feat_dim: int, token_dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.layers = mlp([feat_dim, config.decoder_hidden, token_dim])

    def forward(self, feat: Tensor) -> Tensor:
        """(..., F) -> (..., token_dim). The features are detached here, so that no caller can forget it."""
        tokens: Tensor = self.layers(feat.detach())
        return tokens
