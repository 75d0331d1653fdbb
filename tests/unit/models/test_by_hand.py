"""Backward passes written by hand, beside numbers and beside the plain paths."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.models.belief import Belief
from pydreaming.models.by_hand import by_hand, contrast_rows, kl_both_sides, packed_gru, unit
from pydreaming.models.distributions import kl_sides
from pydreaming.models.layers import run_gru

PLAIN = "PYDREAMING_PLAIN"
SIZES = [3, 3, 2, 1]


def doubles(*shapes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]


def test_the_gradients_of_the_gru_are_those_of_numerical_differences() -> None:
    x, h0, *weights = doubles((sum(SIZES), 2), (3, 4), (12, 2), (12, 4), (12,), (12,))
    assert torch.autograd.gradcheck(lambda x, h0, *w: packed_gru(x, SIZES, h0, w), (x, h0, *weights))


def test_the_gradients_of_unit_vectors_and_of_the_contrast_are_those_of_numerical_differences() -> None:
    query, key = doubles((3, 4), (5, 4))
    barred = torch.zeros(5, 5, dtype=torch.float64)
    barred[2, 0] = barred[0, 2] = -torch.inf
    positive = torch.tensor([2, 4, 0])
    assert torch.autograd.gradcheck(unit, (query,))
    assert torch.autograd.gradcheck(lambda q, k: contrast_rows(q, k, positive, barred, 0.3)[0], (query, key))


def test_each_side_of_the_divergence_has_its_own_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    q, p = (x.log_softmax(-1).detach().requires_grad_() for x in doubles((3, 2, 4), (3, 2, 4)))
    assert torch.autograd.gradcheck(lambda p: kl_both_sides(q.detach(), p)[0], (p,))
    assert torch.autograd.gradcheck(lambda q: kl_both_sides(q, p.detach())[1], (q,))

    def both() -> list[Tensor]:
        dyn, rep = kl_sides(q, p)
        return [dyn, rep, *torch.autograd.grad((2 * dyn + rep.square()).sum(), (q, p))]

    hand = both()
    monkeypatch.setenv(PLAIN, "1")
    torch.testing.assert_close(hand, both())


def test_a_vector_without_length_stays_finite() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    torch.testing.assert_close(unit(zero), functional.normalize(zero, dim=-1))
    (grad,) = torch.autograd.grad(unit(zero).sum(), zero)
    assert bool(grad.isfinite().all())


@pytest.mark.parametrize("resets", [False, True])
def test_the_recurrence_equals_the_fused_call_in_values_and_gradients(resets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    gru, x, h0 = nn.GRU(6, 16, batch_first=True), torch.randn(5, 12, 6, requires_grad=True), torch.randn(5, 16, requires_grad=True)
    is_first = torch.rand(5, 12) < (0.3 if resets else 0.0)
    weight, wanted = torch.randn(5, 12, 16), [x, h0, *gru.parameters()]

    def values_and_gradients() -> list[Tensor]:
        states = run_gru(gru, x, is_first, h0)
        return [states, *torch.autograd.grad((states * weight).sum(), wanted)]

    hand = values_and_gradients()
    monkeypatch.setenv(PLAIN, "1")
    torch.testing.assert_close(hand, values_and_gradients(), atol=1e-5, rtol=1e-5)


def test_the_plain_paths_are_taken_where_they_are_asked_for_and_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1)
    assert by_hand(x)
    assert not by_hand(torch.zeros(1, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_hand(x)
    monkeypatch.setenv(PLAIN, "1")
    assert not by_hand(x)


def test_the_belief_update_in_two_parts_is_one_linear_map_of_all_three() -> None:
    dynamics = tiny_model().dynamics
    assert isinstance(dynamics, Belief)
    deter, stoch = torch.randn(3, dynamics.config.deter), torch.randn(3, dynamics.config.groups, dynamics.config.classes)
    action = torch.randn(3, dynamics.update.in_features - dynamics.config.deter - dynamics.latent)
    gate, new = dynamics.update(torch.cat([deter, stoch.flatten(1), action], 1)).chunk(2, -1)
    torch.testing.assert_close(dynamics._update(deter, stoch, action), torch.lerp(deter, new.tanh(), gate.sigmoid()))
