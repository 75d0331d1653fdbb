"""Building blocks shared by the encoder, the dynamics and the probe decoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pydreaming.models.by_hand import by_hand, packed_gru, shapes_are_static


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with LayerNorm and SiLU between them; the last layer is plain."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def shift_right(x: Tensor, first: Tensor, is_first: Tensor) -> Tensor:
    """The previous step's value at each step, zero where a step starts afresh.

    Args:
      x: (B, T, ...) values at t.
      first: (B, ...) value before the first step (from an earlier chunk).
      is_first: (B, T) bool.
    Returns:
      (B, T, ...): x at t - 1.
    """
    previous = torch.cat([first.unsqueeze(1), x[:, :-1]], 1)
    keep = (~is_first).to(x.dtype)
    return previous * keep.reshape(*keep.shape, *[1] * (x.dim() - 2))


def run_gru(gru: nn.GRU, x: Tensor, is_first: Tensor, h0: Tensor) -> Tensor:
    """A fused GRU over sequences that restart from zero at every `is_first`.

    A fused kernel cannot reset in mid-sequence, so each run between resets becomes a row of its own and all rows go through one call,
    packed: runs differ in length, and padding them to the longest would triple the work on short clips. Where shapes are static nothing
    can be packed, and it goes step by step, on a GPU with one fused cell at each.

    Args:
      gru: one layer, batch first.
      x: (B, T, I).
      is_first: (B, T) bool; True resets the state before that step.
      h0: (B, D) state before the first step, used where the first step is no reset.
    Returns:
      (B, T, D) states after each step, of h0's type: under autocast a GPU's kernel gives bfloat16, which a later step would refuse.
    """
    if shapes_are_static():
        return _step_by_step(gru, x, (~is_first).to(h0.dtype).unsqueeze(-1), h0)
    B, T = is_first.shape
    h0 = h0 * (~is_first[:, :1]).to(h0.dtype)
    hand = by_hand(x)
    if not hand and not bool(is_first[:, 1:].any()):
        whole: Tensor = gru(x, h0.unsqueeze(0))[0]
        return whole.to(h0.dtype)
    starts = is_first.clone()
    starts[:, 0] = True
    begin = starts.flatten().nonzero().squeeze(1)  # (N,) flat index of each run's first step
    lengths, order = torch.diff(begin, append=begin.new_tensor([B * T])).sort(descending=True)
    begin = begin[order]
    step = torch.arange(int(lengths[0]), device=x.device).unsqueeze(1)
    inside = step < lengths  # (L, N): at each step the runs that have not ended, the longest first
    index = (begin + step)[inside]  # (B * T,) flat index of each packed step
    # A run carries a state in only where it opens its sequence.
    opens = (begin % T == 0).to(h0.dtype).unsqueeze(1)
    first, inputs, sizes = h0[begin // T] * opens, x.flatten(0, 1).index_select(0, index), inside.sum(1)
    if hand:
        states = packed_gru(inputs, sizes.tolist(), first, list(gru.parameters()))
    else:
        states = gru(PackedSequence(inputs, sizes.cpu()), first.unsqueeze(0))[0].data
    return torch.empty_like(states).index_copy(0, index, states).reshape(B, T, -1).to(h0.dtype)


def gru_cell(gru: nn.GRU, x: Tensor, h: Tensor) -> Tensor:
    """One step of a GRU of one layer: (B, I), (B, D) -> (B, D), of h's type also under autocast (see `run_gru`)."""
    return torch.gru_cell(x, h, *gru.parameters()).to(h.dtype)


def _step_by_step(gru: nn.GRU, x: Tensor, keep: Tensor, h: Tensor) -> Tensor:
    """`run_gru` with `keep` (B, T, 1), zero at resets."""
    states = []
    for step, kept in zip(x.unbind(1), keep.unbind(1), strict=True):
        h = gru_cell(gru, step, h * kept)
        states.append(h)
    return torch.stack(states, 1)
