"""What only the belief dynamics have: unrolls beside the trunk, and latents that leave the trunk alone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_batch, tiny_model
from torch import Tensor, nn

from pydreaming.models.belief import Belief
from pydreaming.models.distributions import balanced_kl
from pydreaming.models.state import Observed
from pydreaming.models.world_model import WorldModelNet

B, T, COUNT = 4, 10, 3


def observe(model: WorldModelNet) -> Observed:
    batch = tiny_batch(B, T)
    return model.observe(batch.tokens, batch.action, batch.is_first, noise=model.noise(B, T, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("posterior", ["filter", "token"])
def test_an_unroll_holds_exactly_where_it_crosses_no_reset(posterior: str) -> None:
    model = tiny_model("belief", posterior)
    observed = observe(model)
    is_first = observed.is_first.tolist()
    for j, unroll in enumerate(model.dynamics.unrolls(observed, COUNT)):
        # Unroll j began j steps before t; t may continue a clip only if none of the steps t-j+1 .. t is a reset.
        expected = [[t >= j and not any(is_first[b][t - j + 1 : t + 1]) for t in range(T)] for b in range(B)]
        assert unroll.valid.tolist() == expected
    assert 0 < int(unroll.valid.sum()) < B * T


def test_the_first_unroll_has_the_prior_of_the_observation_and_later_ones_are_beliefs_of_beliefs() -> None:
    model = tiny_model()
    assert isinstance(model.dynamics, Belief)
    observed = observe(model)
    first, second, _ = model.dynamics.unrolls(observed, COUNT)
    torch.testing.assert_close(first.prior_logits, observed.prior_logits)
    b, t = (int(i) for i in second.valid.nonzero()[0])
    before = first.state[b, t - 1]
    torch.testing.assert_close(second.prior_logits[b, t], model.dynamics._prior(before, observed.action[b, t]))
    torch.testing.assert_close(second.state[b, t], model.dynamics._update(before, observed.post.stoch[b, t], observed.action[b, t]))


def test_an_unroll_of_an_imagination_on_the_same_samples_is_the_same_belief() -> None:
    """Teacher forcing and imagination share one update: with the posterior's own samples forced, both give the same states."""
    model = tiny_model()
    assert isinstance(model.dynamics, Belief)
    observed = observe(model)
    _, second, _ = model.dynamics.unrolls(observed, COUNT)
    b, t = (int(i) for i in second.valid.nonzero()[0])
    start = (
        observed.post.at(slice(b, b + 1), t - 2) if t > 1 and not observed.is_first[b, t - 1] else model.dynamics.initial(1, model.device)
    )
    force = 1e6 * observed.post.stoch[b : b + 1, t - 1 : t + 1]  # as noise, it decides every draw
    imagined = model.imagine(start, observed.action[b : b + 1, t - 1 : t + 1], force)
    torch.testing.assert_close(imagined.deter[0, -1], second.state[b, t])


def gradient(loss: Tensor, module: nn.Module) -> float:
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return sum(float(g.abs().sum()) for g in grads if g is not None)


@pytest.mark.parametrize("detach", [True, False])
def test_detached_latents_give_no_gradient_to_encoder_and_trunk(detach: bool) -> None:
    model = tiny_model(model__detach_latents=detach)
    assert isinstance(model.dynamics, Belief)
    observed = observe(model)
    unrolls = model.dynamics.unrolls(observed, COUNT)
    losses = {"states": torch.stack([u.state.square().sum() for u in unrolls]).sum()}
    losses |= {"samples": (observed.post.stoch * torch.arange(4.0)).sum()}
    dyn, rep = balanced_kl(observed.post.logits, unrolls[1].prior_logits, free_nats=0.0)
    losses |= {"dyn": dyn.sum(), "rep": rep.sum()}
    for name, loss in losses.items():
        for part, module in (("encoder", model.encoder), ("trunk", model.dynamics.gru)):
            assert (gradient(loss, module) == 0) == detach, f"{name} to {part}"
        assert gradient(loss, model.dynamics) > 0, f"{name} trains the latents themselves"


def test_the_trunk_is_a_fixed_target() -> None:
    unroll = tiny_model().dynamics.unrolls(observe(tiny_model()), 1)[0]
    assert unroll.target is not None
    assert not unroll.target.requires_grad


def test_the_token_posterior_reads_its_token_alone() -> None:
    batch, model = tiny_batch(B, T), tiny_model("belief", "token")
    with torch.no_grad():
        before = model.observe(batch.tokens, batch.action, batch.is_first).post.logits
        batch.tokens[:, :5] += 2
        after = model.observe(batch.tokens, batch.action, batch.is_first).post.logits
    torch.testing.assert_close(before[:, 5:], after[:, 5:])
