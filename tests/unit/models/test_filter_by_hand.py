"""The filtering recurrence as one function, beside numbers and beside the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TOKEN_DIM, one_hot_actions, tiny_batch, tiny_model
from torch import Tensor

from pydreaming.models.filter_by_hand import FilterWeights, filter_rollout
from pydreaming.models.rssm import RSSM
from pydreaming.models.state import State
from pydreaming.models.world_model import WorldModelNet

PLAIN = "PYDREAMING_PLAIN"
B, D, H, S, K = 2, 3, 4, 2, 3


def doubles(*shapes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]


def double_model(unimix: float = 0.01) -> WorldModelNet:
    """Its biases and norms at random: as they begin, zeros and ones would hide what they do."""
    model = tiny_model("rssm", "filter", model__unimix=unimix).double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return model


def test_the_gradients_of_a_step_are_those_of_numerical_differences() -> None:
    """Of one step: a sample's gradient is that of its probabilities by design, which no difference of samples shows."""
    gru = [(3 * D, H), (3 * D, D), (3 * D,), (3 * D,)]
    shapes = [(H, S * K), (H,), (H,), (H, H), (H,), *gru, (H, D), (H,), (H,), (S * K, H), (S * K,)]
    drive, token, deter, stoch, *weights = doubles((1, B, H), (1, B, H), (B, D), (B, S, K), *shapes)
    keep = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert len(weights) == len(shapes)

    def step(drive: Tensor, token: Tensor, deter: Tensor, stoch: Tensor, *w: Tensor) -> tuple[Tensor, Tensor]:
        bundle = FilterWeights(w[0], (w[1], w[2]), (w[3], w[4]), (w[5], w[6], w[7], w[8]), w[9], (w[10], w[11]), (w[12], w[13]))
        return filter_rollout(drive, token, keep, None, deter, stoch, 0.1, bundle)[:2]

    assert torch.autograd.gradcheck(step, (drive, token, deter, stoch, *weights))


def values_and_gradients(model: WorldModelNet, resets: float, noisy: bool, carried: bool) -> list[Tensor]:
    """Of a rollout whose every output is asked for; in float64 where the model is."""
    dtype = next(model.parameters()).dtype
    rssm, batch, config = model.dynamics, tiny_batch(3, 9, resets=resets), model.config
    assert isinstance(rssm, RSSM)
    random = torch.Generator().manual_seed(2)
    embed, deter = (
        torch.randn(*shape, generator=random, dtype=dtype).requires_grad_() for shape in ((3, 9, config.embed), (3, config.deter))
    )
    stoch = torch.randn(3, config.groups, config.classes, generator=random, dtype=dtype).requires_grad_()
    is_first = batch.is_first.clone()
    is_first[:, 0] = not carried
    noise = rssm.latents.noise((3, 9, config.groups, config.classes), torch.device("cpu"), random) if noisy else None
    observed = rssm.observe(embed, one_hot_actions(3, 9, 3).to(dtype), is_first, State(deter, stoch, stoch), noise)
    outputs = [observed.post.deter, observed.post.logits, observed.post.stoch, observed.prior_logits]
    weighted = [(x * torch.randn(x.shape, generator=random, dtype=dtype)).sum() for x in outputs]
    wanted = [embed, deter, stoch, *rssm.parameters()]
    return [*outputs, *torch.autograd.grad(torch.stack(weighted).sum(), wanted)]


@pytest.mark.parametrize("unimix", [0.0, 0.01])
@pytest.mark.parametrize(("resets", "noisy", "carried"), [(0.0, True, True), (0.3, True, False), (0.3, False, True)])
def test_values_and_gradients_are_those_of_the_loop(
    unimix: float, resets: float, noisy: bool, carried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double_model(unimix)
    hand = values_and_gradients(model, resets, noisy, carried)
    monkeypatch.setenv(PLAIN, "1")
    torch.testing.assert_close(hand, values_and_gradients(model, resets, noisy, carried), atol=1e-9, rtol=1e-9)


def test_scores_far_apart_stay_finite_without_a_floor_under_probabilities() -> None:
    model = tiny_model("rssm", "filter", model__unimix=0.0)
    dynamics: Any = model.dynamics
    with torch.no_grad():
        dynamics.post[3].weight *= 1e5
    batch = tiny_batch()
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    observed.post.feat.sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in dynamics.post.parameters())


def test_a_rollout_of_one_step_that_goes_on_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("rssm", "filter")
    tokens, is_first = torch.randn(2, 1, TOKEN_DIM), torch.zeros(2, 1, dtype=torch.bool)
    hand = model.observe(tokens, one_hot_actions(2, 1, 0), is_first).post
    monkeypatch.setenv(PLAIN, "1")
    plain = model.observe(tokens, one_hot_actions(2, 1, 0), is_first).post
    torch.testing.assert_close((hand.deter, hand.logits, hand.stoch), (plain.deter, plain.logits, plain.stoch))
