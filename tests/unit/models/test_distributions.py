"""Categorical groups: uniform mixing, straight-through samples, balanced KL."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl

from pydreaming.models.distributions import balanced_kl, entropy, gumbel, kl_divergence, log_probabilities, straight_through

SHAPE = (5, 3, 4)  # N, S groups, K classes
UNIMIX = 0.01


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return (scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def test_kl_and_entropy_equal_those_of_torch() -> None:
    q, p = (log_probabilities(logits(s), UNIMIX) for s in (0, 1))
    torch.testing.assert_close(kl_divergence(q, p), torch_kl(Categorical(logits=q), Categorical(logits=p)).sum(-1))
    torch.testing.assert_close(entropy(q), Categorical(logits=q).entropy().sum(-1))


def test_balanced_kl_is_the_kl_where_it_exceeds_the_free_nats() -> None:
    q, p = (log_probabilities(logits(s), UNIMIX) for s in (0, 1))
    dyn, rep = balanced_kl(q, p, free_nats=0.0)
    torch.testing.assert_close(dyn, kl_divergence(q, p))
    torch.testing.assert_close(rep, kl_divergence(q, p))


def test_dyn_trains_the_prior_only_and_rep_the_posterior_only() -> None:
    post, prior = logits(0), logits(1)
    dyn, rep = balanced_kl(log_probabilities(post, UNIMIX), log_probabilities(prior, UNIMIX), free_nats=0.0)
    post_grad, prior_grad = torch.autograd.grad(dyn.sum(), (post, prior), allow_unused=True, retain_graph=True)
    assert post_grad is None
    assert prior_grad is not None
    assert prior_grad.abs().sum() > 0
    post_grad, prior_grad = torch.autograd.grad(rep.sum(), (post, prior), allow_unused=True)
    assert prior_grad is None
    assert post_grad is not None
    assert post_grad.abs().sum() > 0


def test_free_nats_hold_per_step() -> None:
    post, prior = logits(0), logits(1)
    q, p = log_probabilities(post, UNIMIX), log_probabilities(prior, UNIMIX)
    kl = kl_divergence(q, p).detach()
    free = float(kl.median()) + 1e-4  # some steps lie below, some above
    dyn, rep = balanced_kl(q, p, free)
    post_grad, prior_grad = torch.autograd.grad((dyn + rep).sum(), (post, prior))
    below = kl < free
    assert 0 < int(below.sum()) < len(kl)
    assert (dyn[below] == free).all()
    assert (rep[below] == free).all()
    for grad in (post_grad, prior_grad):
        assert (grad[below] == 0).all()
        assert (grad[~below].abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize("noisy", [True, False])
def test_samples_are_exactly_one_hot_and_carry_the_gradient_of_the_probabilities(noisy: bool) -> None:
    x = logits(0)
    log_probs = log_probabilities(x, UNIMIX)
    noise = gumbel(SHAPE, torch.device("cpu"), torch.Generator().manual_seed(3)) if noisy else None
    sample = straight_through(log_probs, noise)
    assert set(sample.detach().unique().tolist()) == {0.0, 1.0}
    assert (sample.sum(-1) == 1).all()
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    (of_sample,) = torch.autograd.grad((sample * weight).sum(), x, retain_graph=True)
    (of_probs,) = torch.autograd.grad((((1 - UNIMIX) * x.softmax(-1) + UNIMIX / 4) * weight).sum(), x)
    torch.testing.assert_close(of_sample, of_probs)


def test_without_noise_the_mode_is_taken_and_with_noise_classes_come_at_their_rates() -> None:
    log_probs = log_probabilities(torch.tensor([[0.0, 1.0, 2.0, -1.0]]), UNIMIX)
    assert straight_through(log_probs, None).argmax(-1).item() == 2
    many = log_probs.expand(20_000, 1, 4)
    rates = straight_through(many, gumbel((20_000, 1, 4), torch.device("cpu"), torch.Generator().manual_seed(0))).mean(0)
    torch.testing.assert_close(rates, log_probs.exp(), atol=0.015, rtol=0)


def test_unimix_bounds_probabilities_and_kl_at_extreme_logits() -> None:
    groups, classes = 3, 4
    q_logits = torch.full((groups, classes), -1e4).index_fill_(1, torch.tensor([0]), 1e4)
    q, p = log_probabilities(q_logits, UNIMIX), log_probabilities(-q_logits, UNIMIX)
    for log_probs in (q, p):
        assert torch.isfinite(log_probs).all()
        assert float(log_probs.exp().min()) >= UNIMIX / classes * (1 - 1e-6)
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(groups))
    kl = float(kl_divergence(q, p))
    assert 0 < kl <= groups * math.log(classes / UNIMIX)


def test_log_probabilities_are_float32_whatever_comes_in() -> None:
    assert log_probabilities(torch.zeros(2, 3, 4, dtype=torch.bfloat16), 0.0).dtype == torch.float32


def test_gumbel_noise_is_finite_and_seeded() -> None:
    a, b = (gumbel((10_000,), torch.device("cpu"), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.isfinite(a).all()
    assert torch.equal(a, b)
    assert float(a.mean()) == pytest.approx(0.5772, abs=0.05)  # Euler's constant
