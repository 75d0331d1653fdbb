"""Recurrence over sequences that restart in the middle."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pydreaming.models.layers import run_gru, shift_right

WIDTH, D = 3, 4


def step_by_step(gru: nn.GRU, x: Tensor, is_first: Tensor, h0: Tensor) -> Tensor:
    h, states = h0, []
    for t in range(x.shape[1]):
        h = torch.where(is_first[:, t, None], torch.zeros_like(h), h)
        h = gru(x[:, t : t + 1], h.unsqueeze(0).contiguous())[1][0]
        states.append(h)
    return torch.stack(states, 1)


patterns = st.integers(1, 4).flatmap(
    lambda batch: st.integers(1, 9).flatmap(
        lambda steps: st.lists(st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=batch, max_size=batch)
    )
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pattern=patterns)
def test_the_fused_pass_equals_a_plain_loop_with_resets_and_carry(pattern: list[list[bool]]) -> None:
    is_first = torch.tensor(pattern)
    B, T = is_first.shape
    torch.manual_seed(B * 10 + T)
    gru = nn.GRU(WIDTH, D, batch_first=True)
    x, h0 = torch.randn(B, T, WIDTH), torch.randn(B, D)
    with torch.no_grad():
        torch.testing.assert_close(run_gru(gru, x, is_first, h0), step_by_step(gru, x, is_first, h0))


def test_gradients_equal_those_of_the_loop() -> None:
    torch.manual_seed(0)
    gru = nn.GRU(WIDTH, D, batch_first=True)
    x, h0 = torch.randn(2, 7, WIDTH, requires_grad=True), torch.randn(2, D, requires_grad=True)
    is_first = torch.tensor([[False, False, True, False, False, True, False], [True, False, False, False, True, True, False]])
    wanted = [x, h0, *gru.parameters()]
    weight = torch.randn(2, 7, D)
    fused = torch.autograd.grad((run_gru(gru, x, is_first, h0) * weight).sum(), wanted)
    plain = torch.autograd.grad((step_by_step(gru, x, is_first, h0) * weight).sum(), wanted)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_shift_right_gives_the_previous_step_or_zero_at_a_reset() -> None:
    x = torch.arange(1.0, 5.0).reshape(1, 4, 1)
    first = torch.tensor([[9.0]])
    is_first = torch.tensor([[False, False, True, False]])
    assert shift_right(x, first, is_first).flatten().tolist() == [9.0, 1.0, 0.0, 3.0]
    assert shift_right(x, first, ~is_first).flatten().tolist() == [0.0, 0.0, 2.0, 0.0]
