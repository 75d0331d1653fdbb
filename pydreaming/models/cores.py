"""The recurrence of the dynamics, behind one interface: a GRU, or a transformer that looks back a window of tokens.

Shapes: B sequences, T steps, I input width, D deterministic width, W slots of M values in a memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import ModelConfig
from pydreaming.models.layers import gru_cell, run_gru
from pydreaming.models.state import sliding

BLOCK = 512  # steps that a transformer takes at once: the room for scores is BLOCK * (BLOCK + W) of each head, however long the sequence
ROTARY_BASE = 10_000.0


class Core(nn.Module, ABC):
    """What carries the past from step to step: `deter` for all cores, and for some a memory beside it."""

    @abstractmethod
    def empty(self, batch: int, device: torch.device) -> Tensor | None:
        """The memory before the first step: zeros (batch, M, W), or None for a core without one."""

    @abstractmethod
    def run(self, x: Tensor, is_first: Tensor, deter: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """All steps of sequences that start afresh at every `is_first`.

        Args:
          x: (B, T, I). is_first: (B, T) bool. deter: (B, D) and memory: (B, M, W) before the first step.
        Returns:
          (B, T, D) of deter's type, and memories after each step (B, T, M, W) or None.
        """

    @abstractmethod
    def step(self, x: Tensor, deter: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One step, no reset: (B, I), (B, D), (B, M, W) -> (B, D), (B, M, W)."""


class GRU(nn.GRU, Core):
    """One layer, fused over the sequence."""

    def empty(self, batch: int, device: torch.device) -> None:
        """None: `deter` holds all."""

    def run(self, x: Tensor, is_first: Tensor, deter: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `Core`."""
        return run_gru(self, x, is_first, deter), None

    def step(self, x: Tensor, deter: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `Core`."""
        return gru_cell(self, x, deter), None


class Transformer(Core):
    """Pre-norm transformer, causal, over the last `model.window` tokens of the same clip; positions are relative (rotary).

    A memory slot holds keys and values of one step in every layer, and in its last place how many slots, itself among them, belong to
    the clip of that step. So a stream needs W = window - 1 slots however long it is, and a layer sees what the layers below it have made of
    (layers * window) tokens.

    The output passes through tanh: like a GRU's state it lies between -1 and 1, which is where belief updates can follow.

    Source: pre-norm arXiv 2002.04745; rotary positions arXiv 2104.09864, eq. 34; window and cache as in arXiv 1901.02860, section 3.2
    (but with gradient into cached steps of the same call).
    """

    def __init__(self, config: ModelConfig, inputs: int) -> None:
        super().__init__()
        self.slots = config.window - 1
        self.head_width = config.deter // config.heads
        self.inputs = nn.Linear(inputs, config.deter)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.deter)

    def empty(self, batch: int, device: torch.device) -> Tensor:
        """See `Core`."""
        values = 2 * self.inputs.out_features * len(self.layers) + 1
        return torch.zeros(batch, values, self.slots, device=device)

    def run(self, x: Tensor, is_first: Tensor, deter: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `Core`; `deter` gives the type only. Raises ValueError without a memory."""
        if memory is None:
            raise ValueError("a transformer goes on from states that have a memory: from `Observed.carry`, not from an imagined belief")
        line, outputs = memory.transpose(1, 2), []
        for begin in range(0, x.shape[1], BLOCK):
            s = slice(begin, begin + BLOCK)
            output, added = self._block(x[:, s], is_first[:, s], line[:, -self.slots :])
            outputs.append(output.to(deter.dtype))
            line = torch.cat([line, added], 1)
        return torch.cat(outputs, 1), sliding(line[:, 1:], self.slots)

    def step(self, x: Tensor, deter: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `Core`."""
        goes_on = torch.zeros(len(x), 1, dtype=torch.bool, device=x.device)
        after, memories = self.run(x.unsqueeze(1), goes_on, deter, memory)
        return after.squeeze(1), None if memories is None else memories[:, 0]

    def _block(self, x: Tensor, is_first: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (B, T, I) after the slots (B, W, M) -> outputs (B, T, D) and their own slots (B, T, M)."""
        T, W = x.shape[1], self.slots
        heard = _steps_of_clip(is_first, past[:, -1, -1])
        position = torch.arange(W + T, device=x.device)
        age = position[W:, None] - position  # (T, W + T) steps from query back to key
        visible = (age >= 0) & (age <= W) & (age < heard.unsqueeze(-1))  # (B, T, W + T)
        rotation = _rotation(position, self.head_width)
        hidden = self.inputs(x).to(past.dtype)  # autocast leaves the residual stream alone
        added = []
        for layer, slots in zip(self.layers, past[..., :-1].chunk(len(self.layers), -1), strict=True):
            hidden, slot = layer(hidden, slots, visible, rotation)
            added.append(slot)
        return self.norm(hidden).tanh(), torch.cat([*added, heard.clamp_max(W).unsqueeze(-1).to(past.dtype)], -1)


class _Layer(nn.Module):
    """Attention over slots and steps, then a perceptron, each after a norm and beside a residual path."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.deter
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))

    def forward(self, x: Tensor, past: Tensor, visible: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, T, D), keys and values before them (B, W, 2 D), (B, T, W + T) bool -> (B, T, D), own keys and values (B, T, 2 D).

        Keys are kept as they are and turned when they are used, so that a slot does not depend on where it will stand.
        """
        query, slot = self.query_key_value(self.norm(x)).to(past.dtype).split([x.shape[-1], 2 * x.shape[-1]], -1)
        key, value = torch.cat([past, slot], 1).chunk(2, -1)
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (query, key, value))  # (B, H, ., D / H)
        query, key = _turn(query, *(r[-x.shape[1] :] for r in rotation)), _turn(key, *rotation)
        attended = functional.scaled_dot_product_attention(query, key, value, visible.unsqueeze(1))
        x = x + self.output(attended.transpose(1, 2).flatten(-2))
        return x + self.perceptron(x), slot


def make_core(config: ModelConfig, inputs: int) -> Core:
    """The core named by `model.core`, for inputs of the given width."""
    return GRU(inputs, config.deter, batch_first=True) if config.core == "gru" else Transformer(config, inputs)


def _steps_of_clip(is_first: Tensor, before: Tensor) -> Tensor:
    """Steps of its clip up to each step, itself among them: (B, T) bool, and steps before the first (B,) -> (B, T)."""
    step = torch.arange(is_first.shape[1], device=is_first.device)
    begin = torch.where(is_first, step, -1).cummax(1).values  # the last reset so far; -1 for none
    return torch.where(begin >= 0, step - begin + 1, step + 1 + before.long().unsqueeze(1))


def _rotation(position: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles: (N,) -> (N, width / 2) twice."""
    rate = ROTARY_BASE ** (-torch.arange(0, width, 2, device=position.device) / width)
    angle = position.unsqueeze(-1) * rate
    return angle.cos(), angle.sin()


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs of values turned by the angles of their position: (..., N, width), products then depend on differences of positions only."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
