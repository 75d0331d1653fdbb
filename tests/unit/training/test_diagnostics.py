"""Figures on constructed cases with known answers."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import STRIDES, TOKEN_DIM, tiny_batch, tiny_config, tiny_model
from torch import Tensor, nn

from pydreaming.models.distributions import marginal, mixture
from pydreaming.models.latents import LATENTS
from pydreaming.models.state import Observed, State
from pydreaming.objectives import Losses
from pydreaming.training.diagnostics import (
    Averages,
    effective_rank,
    gradient_norms,
    latent_diagnostics,
    step_metrics,
    verdict,
    world_model_metrics,
)  # fmt: skip
from pydreaming.training.open_loop import Rollouts, gain, gain_on_batch, rollouts
from pydreaming.training.trainer import StepResult, Trainer

B, T, S, K = 4, 8, 2, 4
MASK = torch.ones(B, T, dtype=torch.bool)
NO_RESETS = torch.zeros(B, T, dtype=torch.bool)


def log_one_hot(codes: Tensor, sharp: float = 1 - 3e-6) -> Tensor:
    """Log-probabilities that put `sharp` on each code, the same in all groups or one for each: (B, T) or (B, T, S) -> (B, T, S, K)."""
    probabilities = nn.functional.one_hot(codes, K).float()
    probabilities = probabilities * sharp + (1 - probabilities) * (1 - sharp) / (K - 1)
    return probabilities.log() if codes.dim() == 3 else probabilities.log().unsqueeze(-2).expand(*codes.shape, S, K)


def observed_of(post: Tensor, prior: Tensor, embed: Tensor | None = None, is_first: Tensor = NO_RESETS) -> Observed:
    embed = torch.zeros(B, T, 3) if embed is None else embed
    deter = torch.zeros(B, T, 5)
    state = State(deter, post.exp(), post)
    return Observed(embed, torch.zeros(B, T, 1), is_first, deter, deter, state, prior, state.at(slice(None), -1))


EVERY_CODE = torch.arange(B * T).reshape(B, T) % K
UNIFORM = torch.full((B, T, S, K), 1 / K).log()


def test_a_code_that_tells_everything_has_full_information_and_perplexity() -> None:
    both = torch.stack([EVERY_CODE, torch.arange(B * T).reshape(B, T) // K % K], -1)  # each of the K * K codes of two groups twice
    figures = latent_diagnostics(observed_of(log_one_hot(both), UNIFORM), MASK, free_nats=1.0)
    assert figures["information"] == pytest.approx(math.log(K * K), abs=1e-3)
    assert figures["perplexity"] == pytest.approx(K, abs=1e-3)
    assert figures["post_entropy"] == pytest.approx(0, abs=1e-3)
    assert figures["prior_entropy"] == pytest.approx(S * math.log(K))
    assert figures["kl"] == pytest.approx(S * math.log(K), abs=1e-3)
    assert figures["free_share"] == 0.0


def test_what_two_groups_repeat_counts_twice_so_information_is_an_upper_bound() -> None:
    figures = latent_diagnostics(observed_of(log_one_hot(EVERY_CODE), UNIFORM), MASK, free_nats=1.0)
    known = math.log(K)  # I(z;x) of K codes that come alike often, whatever the number of groups that say so
    total_correlation = (S - 1) * math.log(K)
    assert figures["information"] == pytest.approx(known + total_correlation, abs=1e-3)


def test_a_constant_code_and_a_uniform_one_tell_nothing() -> None:
    constant = latent_diagnostics(observed_of(log_one_hot(torch.zeros_like(EVERY_CODE)), UNIFORM), MASK, 1.0)
    assert constant["information"] == pytest.approx(0, abs=1e-4)
    assert constant["perplexity"] == pytest.approx(1, abs=1e-3)
    uniform = latent_diagnostics(observed_of(UNIFORM, UNIFORM), MASK, 1.0)
    assert uniform["information"] == pytest.approx(0, abs=1e-4)
    assert uniform["perplexity"] == pytest.approx(K)
    assert (uniform["kl"], uniform["free_share"]) == (pytest.approx(0, abs=1e-5), 1.0)


def test_padding_does_not_count() -> None:
    mask = MASK.clone()
    mask[:, 4:] = False
    codes, embed = EVERY_CODE.clone(), torch.randn(B, T, 3, generator=torch.Generator().manual_seed(0))
    a = latent_diagnostics(observed_of(log_one_hot(codes), UNIFORM, embed), mask, 1.0)
    codes[:, 4:], embed[:, 4:] = 0, 1e6
    assert latent_diagnostics(observed_of(log_one_hot(codes), UNIFORM, embed), mask, 1.0) == pytest.approx(a)


def test_adjacent_cosine_compares_neighbours_of_one_clip() -> None:
    embed = torch.tensor([1.0, 0.0, 0.0]).repeat(B, T, 1)
    embed[:, 4:] *= -1  # another clip
    is_first = NO_RESETS.clone()
    assert latent_diagnostics(observed_of(UNIFORM, UNIFORM, embed), MASK, 1.0)["adjacent_cosine"] < 1
    is_first[:, 4] = True
    assert latent_diagnostics(observed_of(UNIFORM, UNIFORM, embed, is_first), MASK, 1.0)["adjacent_cosine"] == pytest.approx(1.0)


def test_effective_rank_of_known_matrices() -> None:
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(axes) == pytest.approx(4, rel=1e-4)
    assert effective_rank(axes + 100) == pytest.approx(4, rel=1e-3)  # the mean does not count
    assert effective_rank(axes[:, :1] * torch.tensor([[1.0, 2.0, 3.0]])) == pytest.approx(1, rel=1e-3)
    values = torch.tensor([0.5, 0.3, 0.2])
    expected = math.exp(-float((values * values.log()).sum()))
    scaled = torch.cat([torch.eye(3), -torch.eye(3)]) * values
    assert effective_rank(scaled) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(torch.ones(5, 3)) <= 1 + 1e-6
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan], [0.0, 1.0]])))


def test_gradient_norms_by_module() -> None:
    with_gradient, without = nn.Linear(2, 1, bias=False), nn.Linear(2, 1)
    with_gradient.weight.grad = torch.tensor([[3.0, 4.0]])
    assert gradient_norms({"a": with_gradient, "b": without}) == {"a": pytest.approx(5.0), "b": 0.0}


def healthy() -> dict[str, float]:
    return {
        "health/non_finite_steps": 0, "learning/loss": 1.0, "health/information": 2.0, "health/effective_rank": 30.0,
        "world_model/open_loop_gain_k1": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "healthy"),
        ({"health/information": 0.4}, "COLLAPSED: the code tells at most 0.40 nat"),
        ({"health/effective_rank": 4.0}, "COLLAPSING: effective rank of the embedding 4.0 of 100"),
        ({"world_model/open_loop_gain_k1": -0.1}, "no world model yet"),
        ({"learning/loss": math.nan, "health/non_finite_steps": 1}, "BROKEN"),
        ({"health/non_finite_steps": 1}, "healthy"),
        ({"health/information": math.nan, "health/non_finite_steps": 2}, "UNSTABLE: the last step was refused (2 so far)"),
    ],
)
def test_the_verdict_names_what_is_wrong(change: dict[str, float], words: str) -> None:
    assert verdict(healthy() | change, 100).startswith(words)


def test_the_verdict_judges_no_code_where_there_is_none() -> None:
    of_embedding = {name: value for name, value in healthy().items() if name not in ("health/information", "world_model/open_loop_gain_k1")}
    assert verdict(of_embedding, 100) == "healthy"
    assert verdict(of_embedding | {"health/effective_rank": 4.0}, 100).startswith("COLLAPSING")
    assert verdict(of_embedding | {"health/effective_rank": math.nan}, 100).startswith("UNSTABLE")


@pytest.mark.parametrize("batch_length", [2, 3, 10])
def test_metrics_of_a_step_are_finite_numbers_for_any_length(batch_length: int) -> None:
    trainer = Trainer(tiny_config(training__batch_length=batch_length, objective__horizon=1), TOKEN_DIM, STRIDES)
    batch = tiny_batch(4, batch_length, resets=0)
    result = trainer.train_step(batch, 0.0)
    metrics = step_metrics(trainer, result, batch.mask) | world_model_metrics(trainer, result, batch)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert metrics["learning/chance"] == pytest.approx(1 / (4 * batch_length))
    assert "world_model/open_loop_gain_k1" in metrics
    assert {f"losses/{name}" for name in result.losses.terms} <= metrics.keys()


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradient_norms_of_the_modules_are_parts_of_the_norm_before_clipping(clip: float) -> None:
    trainer, batch = Trainer(tiny_config(training__clip=clip), TOKEN_DIM, STRIDES), tiny_batch()
    metrics = step_metrics(trainer, trainer.train_step(batch, 0.0), batch.mask)
    parts = [metrics[f"health/grad_norm_{name}"] for name in ("encoder", "dynamics", "heads")]
    assert math.hypot(*parts) == pytest.approx(metrics["health/grad_norm"], rel=1e-2)


def test_chance_counts_the_candidates_that_there_are() -> None:
    config = tiny_config(objective__negatives="sequence")
    trainer, batch = Trainer(config, TOKEN_DIM, STRIDES), tiny_batch(4, 10, resets=0)
    assert step_metrics(trainer, trainer.train_step(batch, 0.0), batch.mask)["learning/chance"] == pytest.approx(1 / 10)


def test_a_refused_step_is_reported_and_not_fatal() -> None:
    trainer, batch = Trainer(tiny_config(), TOKEN_DIM, STRIDES), tiny_batch()
    batch.tokens[0, 0, 0] = math.nan
    metrics = step_metrics(trainer, trainer.train_step(batch, 0.0), batch.mask)
    assert verdict(metrics, 8).startswith("BROKEN")


def test_marginal_and_mixture_are_means_of_probabilities() -> None:
    mask = MASK.clone()
    mask[1:] = False
    codes = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]).repeat(B, 1)
    torch.testing.assert_close(marginal(log_one_hot(codes), mask).exp()[0], torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=1e-5, rtol=0)
    samples = torch.stack([log_one_hot(codes), log_one_hot((codes + 1) % K)], 1)  # (B, 2, T, S, K)
    torch.testing.assert_close(mixture(samples)[0, 0, 0].exp(), torch.tensor([0.5, 0.5, 0, 0]), atol=1e-5, rtol=0)


def test_gain_is_the_marginal_s_surprise_less_the_rollout_s() -> None:
    observed = observed_of(log_one_hot(EVERY_CODE), UNIFORM)
    valid = torch.ones(B, 3, dtype=torch.bool)

    def of(imagined: Tensor) -> Tensor:
        logits = imagined[:, 3:6].unsqueeze(1)
        return gain(observed, MASK, Rollouts(2, State(logits, logits, logits), valid))

    torch.testing.assert_close(of(log_one_hot(EVERY_CODE)), torch.full((B, 3), S * math.log(K)), atol=1e-3, rtol=0)
    torch.testing.assert_close(of(UNIFORM), torch.zeros(B, 3), atol=1e-3, rtol=0)
    assert (of(log_one_hot((EVERY_CODE + 1) % K)) < 0).all()


def test_rollouts_have_shapes_seeds_and_stop_counting_at_a_reset() -> None:
    model, batch = tiny_model(), tiny_batch(4, 10, resets=0)
    batch.is_first[1, 5] = True
    batch.mask[2, 6:] = False
    observed = model.observe(batch.tokens, batch.action, batch.is_first)

    def sample(seed: int) -> Rollouts:
        return rollouts(model, observed, batch.mask, 3, 4, 5, torch.Generator().manual_seed(seed))

    futures = sample(0)
    assert futures.states.logits.shape == (4, 5, 4, 3, 4)
    assert futures.valid.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(futures.states.deter, sample(0).states.deter)
    assert not torch.equal(futures.states.deter, sample(1).states.deter)
    assert not torch.equal(futures.states.stoch[:, 0], futures.states.stoch[:, 1])
    with pytest.raises(ValueError, match="reach past"):
        rollouts(model, observed, batch.mask, 3, 7, 1)


def test_rollouts_are_under_the_actions_that_followed_their_start() -> None:
    model, batch = tiny_model(), tiny_batch(4, 10, resets=0)
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    futures = rollouts(model, observed, batch.mask, 3, 4, 1, torch.Generator().manual_seed(0))
    start, noise = observed.post.at(slice(None), 3), model.noise(4, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(futures.states.logits[:, 0], model.imagine(start, batch.action[:, 4:8], noise).logits)


def test_steps_ahead_that_never_lie_in_a_clip_are_left_out() -> None:
    model, batch = tiny_model(), tiny_batch(4, 10, resets=0)
    batch.is_first[:, 5] = True
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    assert set(gain_on_batch(model, observed, batch, steps=4)) == {1}


def test_averages_are_means_of_the_finite_steps_since_the_last_look() -> None:
    def step(loss: float, finite: bool = True) -> StepResult:
        losses = Losses({}, None, {"nce_accuracy_k1": torch.tensor(loss / 10)})  # type: ignore[arg-type]
        return StepResult(losses, torch.tensor(loss), torch.tensor(1.0), torch.tensor(0.0), finite)

    averages = Averages()
    for result in (step(1.0), step(3.0), step(float("nan"), finite=False)):
        averages.add(result)
    taken = averages.take()
    assert taken["learning/loss"] == 2.0
    assert taken["learning/nce_accuracy_k1"] == pytest.approx(0.2)
    assert averages.take() == {}


def test_a_metric_that_some_steps_lack_is_the_mean_of_the_others() -> None:
    averages = Averages()
    for metrics in ({"scene_accuracy": torch.tensor(0.4)}, {}, {}, {"scene_accuracy": torch.tensor(0.8)}):
        losses = Losses({}, None, metrics)  # type: ignore[arg-type]
        averages.add(StepResult(losses, torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.0), True))
    assert averages.take()["learning/scene_accuracy"] == pytest.approx(0.6)


def test_gaussian_latents_have_information_but_no_perplexity() -> None:
    config = tiny_config(model__latents="gaussian", objective__name="planet")
    trainer, batch = Trainer(config, TOKEN_DIM, STRIDES), tiny_batch(resets=0)
    result = trainer.train_step(batch, 0.0)
    metrics = step_metrics(trainer, result, batch.mask) | world_model_metrics(trainer, result, batch)
    assert all(math.isfinite(value) for value in metrics.values())
    assert "health/perplexity" not in metrics
    assert metrics["health/information"] > 0
    assert "world_model/open_loop_gain_k1" in metrics


def test_a_gaussian_code_that_tells_everything_has_the_information_of_its_spread() -> None:
    latents = LATENTS["gaussian"]
    mean = torch.linspace(-30, 30, B * T).reshape(B, T, 1, 1)
    post = torch.cat([mean, torch.ones_like(mean)], -1)  # means far apart, each of deviation 1
    state = State(torch.zeros(B, T, 5), mean, post, latents=latents)
    observed = Observed(torch.zeros(B, T, 3), torch.zeros(B, T, 1), NO_RESETS, state.deter, state.deter, state, post, state.at(0))
    figures = latent_diagnostics(observed, MASK, 1.0)
    spread = math.sqrt(1 + float(mean.var(correction=0)))
    assert figures["information"] == pytest.approx(math.log(spread), rel=1e-4)
    assert figures["kl"] == 0
