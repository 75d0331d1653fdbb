"""Gaussian latents against torch's own distributions, and what both families have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_config
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.distributions import kl_divergence as torch_kl

from pydreaming.models.distributions import balanced_kl, marginal, mixture
from pydreaming.models.latents import LATENTS

GAUSSIAN, CATEGORICAL = LATENTS["gaussian"], LATENTS["categorical"]
CONFIG = tiny_config().model
N, S = 6, CONFIG.gaussians
both = pytest.mark.parametrize("name", LATENTS)


def scores(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """(*shape, S * 2)."""
    return (scale * torch.randn(*shape, 2 * S, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def gaussian(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return GAUSSIAN.parameters(scores(seed, *(shape or (N,)), scale=scale), CONFIG)


def as_torch(logits: Tensor) -> Independent:
    return Independent(Normal(logits[..., 0], logits[..., 1]), 1)


def test_parameters_are_a_mean_and_a_deviation_above_the_floor() -> None:
    raw = scores(0, N, scale=50.0)
    mean, std = GAUSSIAN.parameters(raw.to(torch.bfloat16), CONFIG).unbind(-1)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, raw[:, 0::2].to(torch.bfloat16).float())
    assert float(std.detach().min()) == pytest.approx(CONFIG.min_std)
    torch.testing.assert_close(GAUSSIAN.parameters(torch.zeros(2 * S), CONFIG)[:, 1], torch.full((S,), 0.1 + np.log(2)))


def test_kl_entropy_and_density_equal_those_of_torch() -> None:
    q, p = gaussian(0), gaussian(1)
    x = torch.randn(N, S, 1)
    torch.testing.assert_close(GAUSSIAN.kl(q, p), torch_kl(as_torch(q), as_torch(p)))
    torch.testing.assert_close(GAUSSIAN.entropy(q), as_torch(q).entropy())
    torch.testing.assert_close(GAUSSIAN.nll(x, q), -as_torch(q).log_prob(x.squeeze(-1)))
    torch.testing.assert_close(GAUSSIAN.kl(q, q), torch.zeros(N))


def test_samples_are_reparametrised_and_their_noise_is_standard_normal() -> None:
    logits = gaussian(0)
    noise = GAUSSIAN.noise((N, S, 1), torch.device("cpu"), torch.Generator().manual_seed(3))
    sample = GAUSSIAN.sample(logits, noise)
    torch.testing.assert_close(sample, logits[..., :1] + logits[..., 1:] * noise)
    (grad,) = torch.autograd.grad(sample.sum(), logits)
    torch.testing.assert_close(grad, torch.cat([torch.ones_like(noise), noise], -1))
    assert torch.equal(GAUSSIAN.sample(logits, None), logits[..., :1])
    for many in (GAUSSIAN.noise((100_000,), torch.device("cpu")), GAUSSIAN.numpy_noise((100_000,), np.random.default_rng(0))):
        assert float(many.mean()) == pytest.approx(0, abs=0.02)
        assert float(many.std()) == pytest.approx(1, abs=0.02)


def test_temperature_is_a_power_of_the_distribution() -> None:
    """p^(1/T) of a normal has T times its variance; of classes it divides the log-probabilities."""
    logits = gaussian(0)
    noise = GAUSSIAN.noise((20_000, N, S, 1), torch.device("cpu"), torch.Generator().manual_seed(0))
    warm = GAUSSIAN.sample(logits.detach(), noise, temperature=4.0)
    torch.testing.assert_close(warm.std(0).squeeze(-1), 2 * logits[..., 1].detach(), rtol=0.05, atol=0)
    log_probs = torch.tensor([0.7, 0.2, 0.1]).log().expand(50_000, 1, 3)
    gumbel = CATEGORICAL.noise((50_000, 1, 3), torch.device("cpu"), torch.Generator().manual_seed(0))
    rates = CATEGORICAL.sample(log_probs, gumbel, temperature=0.5).mean(0)
    torch.testing.assert_close(rates, log_probs[0].mul(2).softmax(-1), atol=0.01, rtol=0)


def test_balanced_kl_trains_each_side_and_leaves_free_nats() -> None:
    post, prior = scores(0, N), scores(1, N)
    q, p = GAUSSIAN.parameters(post, CONFIG), GAUSSIAN.parameters(prior, CONFIG)
    kl = GAUSSIAN.kl(q, p).detach()
    free = float(kl.median()) + 1e-4
    dyn, rep = balanced_kl(q, p, free, GAUSSIAN.kl_sides)
    torch.testing.assert_close(dyn, kl.clamp_min(free))
    of_dyn = torch.autograd.grad(dyn.sum(), (post, prior), allow_unused=True, retain_graph=True)
    of_rep = torch.autograd.grad(rep.sum(), (post, prior), allow_unused=True)
    assert of_dyn[0] is None
    assert of_rep[1] is None
    for grad in (of_dyn[1], of_rep[0]):
        assert grad is not None
        assert (grad[kl < free] == 0).all()
        assert (grad[kl > free].abs().sum(-1) > 0).all()


def test_a_mixture_and_a_marginal_have_the_moments_of_what_they_stand_for() -> None:
    samples = gaussian(0, 2, 7, 3)  # (B, R, N, S, 2)
    approximate = GAUSSIAN.mixture(samples)
    parts = Normal(samples[..., 0].movedim(1, -1), samples[..., 1].movedim(1, -1))
    exact = MixtureSameFamily(Categorical(torch.ones(2, 3, S, 7)), parts)
    torch.testing.assert_close(approximate[..., 0], exact.mean)
    torch.testing.assert_close(approximate[..., 1], exact.stddev)
    torch.testing.assert_close(GAUSSIAN.mixture(samples[:, :1]), samples[:, 0])
    steps, mask = gaussian(1, 2, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[1, 2:] = False
    kept = steps[mask]
    torch.testing.assert_close(GAUSSIAN.marginal(steps, mask), GAUSSIAN.mixture(kept[None, :, None])[0, 0])
    assert torch.isfinite(GAUSSIAN.marginal(steps, torch.zeros_like(mask))).all()


def test_the_gain_over_the_marginal_is_never_below_zero_on_average() -> None:
    """Of all Gaussians the marginal is the best single guess, so KL(q || marginal) is no more than from any other."""
    steps, mask = gaussian(0, 2, 50), torch.ones(2, 50, dtype=torch.bool)
    best = GAUSSIAN.kl(steps, GAUSSIAN.marginal(steps, mask).expand_as(steps)).mean()
    for other in (torch.tensor([0.0, 1.0]).expand(S, 2), GAUSSIAN.marginal(gaussian(5, 2, 50), mask)):
        assert best < GAUSSIAN.kl(steps, other.expand_as(steps)).mean()


def test_categorical_arithmetic_is_that_of_distributions() -> None:
    log_probs = CATEGORICAL.parameters(torch.randn(2, 4, 3, CONFIG.groups * CONFIG.classes), CONFIG)
    mask = torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(CATEGORICAL.mixture(log_probs), mixture(log_probs))
    assert torch.equal(CATEGORICAL.marginal(log_probs[:, :, 0], mask), marginal(log_probs[:, :, 0], mask))
    torch.testing.assert_close(CATEGORICAL.mean(log_probs).sum(-1), torch.ones(2, 4, 3, CONFIG.groups))
    code = CATEGORICAL.sample(log_probs, None)
    torch.testing.assert_close(CATEGORICAL.nll(code, log_probs), -log_probs.max(-1).values.sum(-1))


@both
def test_extreme_scores_give_finite_figures_and_gradients(name: str) -> None:
    latents = LATENTS[name]
    S, P, K = latents.sizes(CONFIG)
    extreme = (1e4 * torch.randn(N, S * P, generator=torch.Generator().manual_seed(0))).requires_grad_()
    q, p = latents.parameters(extreme, CONFIG), latents.parameters(-extreme, CONFIG)
    stoch = latents.sample(q, latents.noise((N, S, K), extreme.device))
    values = torch.stack([latents.kl(q, p), latents.entropy(q), latents.nll(stoch.detach(), p)])
    assert q.shape == (N, S, P)
    assert stoch.shape == (N, S, K)
    assert torch.isfinite(values).all()
    (grad,) = torch.autograd.grad(values.sum() + stoch.sum(), [extreme])
    assert torch.isfinite(grad).all()
