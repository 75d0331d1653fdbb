"""The sum of terms: names, weights, masks and where gradients go."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import FORMS, STRIDES, TOKEN_DIM, tiny_batch, tiny_config, tiny_model

from pydreaming.models.distributions import balanced_kl
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import OBJECTIVES, Losses, Objective, TensorBatch, Term, make_objective
from pydreaming.objectives.contrast import reaches
from pydreaming.training.trainer import Trainer

B, T = 4, 10

# Losses of three steps before this objective came to share its parts with others.
RECORDED = {
    ("belief", "filter"): [21.53630, 18.83261, 19.30727],
    ("belief", "token"): [17.15950, 15.80736, 14.09419],
    ("rssm", "filter"): [16.39449, 13.69915, 13.83821],
    ("rssm", "token"): [14.49054, 12.69069, 11.99636],
}


def losses_of(batch: TensorBatch | None = None, dynamics: str = "belief", posterior: str = "filter", **overrides: object) -> Losses:
    model, objective = networks(dynamics, posterior, **overrides)
    return objective(model, tiny_batch(B, T) if batch is None else batch, noise(model))


def networks(dynamics: str = "belief", posterior: str = "filter", **overrides: object) -> tuple[WorldModelNet, Objective]:
    model = tiny_model(dynamics, posterior, **overrides)
    torch.manual_seed(1)
    return model, make_objective(tiny_config(model__dynamics=dynamics, **overrides).objective, model)


def noise(model: WorldModelNet, steps: int = T) -> torch.Tensor:
    return model.noise(B, steps, torch.Generator().manual_seed(0))


def test_every_term_is_there_with_its_weight_under_belief() -> None:
    weights = {"same_step": 0.7, "next_step": 0.6, "consistency": 0.9, "kl_dyn": 1.1, "kl_rep": 0.2, "latent_scale": 0.5}
    losses = losses_of(objective__horizon=3, objective__horizon_decay=0.5, **{f"objective__{k}": v for k, v in weights.items()})
    expected = {"ahead_1": 4 / 7, "ahead_2": 2 / 7, "ahead_3": 1 / 7, "rep": 0.5 * 0.2}
    for j in (1, 2):  # half of latent_scale to each of the two unrolls
        expected |= {f"dyn_{j}": 0.25 * 1.1, f"same_step_{j}": 0.25 * 0.7, f"consistency_{j}": 0.25 * 0.9, f"next_step_{j}": 0.25 * 0.6}
    assert {name: term.weight for name, term in losses.terms.items()} == pytest.approx(expected)


def test_every_term_is_there_with_its_weight_under_rssm() -> None:
    losses = losses_of(dynamics="rssm", objective__kl_dyn=1.1, objective__same_step=0.7, objective__kl_rep=0.2)
    expected = {"ahead_1": 0.5, "ahead_2": 0.5, "dyn_1": 1.1, "same_step_1": 0.7, "rep": 0.2}
    assert {name: term.weight for name, term in losses.terms.items()} == pytest.approx(expected)


def test_the_total_is_the_weighted_sum_of_the_means_over_valid_steps() -> None:
    losses = losses_of()
    by_hand = sum(t.weight * t.value[t.valid].mean().item() for t in losses.terms.values())
    assert losses.total().item() == pytest.approx(by_hand, rel=1e-5)
    assert float(Term(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), 1.0).mean()) == 0


def test_terms_stay_batch_by_time_until_the_sum() -> None:
    for name, term in losses_of(objective__latent_streams=0.5).terms.items():
        rows = B if name.startswith("ahead") else B // 2
        assert term.value.shape == term.valid.shape == (rows, T), name
        assert term.valid.dtype == torch.bool


def test_the_next_step_of_an_unroll_counts_where_the_unroll_and_its_next_token_do() -> None:
    batch = tiny_batch(B, T)
    terms = losses_of(batch, objective__latent_streams=1).terms
    for j in (1, 2):
        assert torch.equal(terms[f"next_step_{j}"].valid, terms[f"dyn_{j}"].valid & reaches(batch.is_first, batch.mask, 1))
    assert terms["dyn_1"].valid.all()
    assert torch.equal(terms["dyn_2"].valid, ~batch.is_first)


def test_kl_terms_compare_the_posterior_with_the_prior_of_the_rollout() -> None:
    losses = losses_of(objective__latent_streams=1, objective__free_nats=0)
    dyn, rep = balanced_kl(losses.observed.post.logits, losses.observed.prior_logits, 0.0)
    torch.testing.assert_close(losses.terms["dyn_1"].value, dyn)
    torch.testing.assert_close(losses.terms["rep"].value, rep)


def test_latents_are_left_out_at_scale_zero() -> None:
    assert set(losses_of(objective__latent_scale=0).terms) == {"ahead_1", "ahead_2"}


@pytest.mark.parametrize("form", FORMS, ids="-".join)
@pytest.mark.parametrize("negatives", ["batch", "sequence"])
def test_padding_changes_nothing(form: tuple[str, str], negatives: str) -> None:
    batch = tiny_batch(B, T)
    mask, is_first = batch.mask.clone(), batch.is_first.clone()
    mask[0, 6:], is_first[0, 6:] = False, True
    mask[2, 1:], is_first[2, 1:] = False, True
    tokens, action, ids = batch.tokens.clone(), batch.action.clone(), batch.token_id.clone()
    tokens[~mask], action[~mask], ids[~mask] = 1e3, -5.0, -1
    padded = dataclasses.replace(batch, mask=mask, is_first=is_first)
    filled = dataclasses.replace(padded, tokens=tokens, action=action, token_id=ids)
    a, b = (losses_of(x, *form, objective__negatives=negatives, objective__latent_streams=1) for x in (padded, filled))
    for name, term in a.terms.items():
        assert not (term.valid & ~mask).any(), name
        torch.testing.assert_close(term.mean(), b.terms[name].mean(), msg=lambda m, n=name: f"{n}: {m}")
    for name, value in a.metrics.items():
        torch.testing.assert_close(value, b.metrics[name])


def test_predictions_ahead_read_the_actions_up_to_their_token_and_no_further() -> None:
    batch = tiny_batch(B, T, resets=0)
    action = batch.action.clone()
    action[:, 6] = action[:, 6].roll(1, -1)  # leads from 5 to 6
    a, b = losses_of(batch), losses_of(dataclasses.replace(batch, action=action))
    for k in (1, 2):
        changed = (a.terms[f"ahead_{k}"].value != b.terms[f"ahead_{k}"].value).any(0).tolist()
        assert not any(changed[: 6 - k])
        assert all(changed[6 - k : T - k])


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_the_latents_leave_the_trunk_alone_only_where_detached(form: tuple[str, str]) -> None:
    for detach in (True, False):
        model, objective = networks(*form, model__detach_latents=detach, objective__free_nats=0)
        losses = objective(model, tiny_batch(B, T), noise(model))
        for name, term in losses.terms.items():
            if name.startswith("ahead"):
                continue
            grads = torch.autograd.grad(term.mean(), list(model.encoder.parameters()), allow_unused=True, retain_graph=True)
            reached = any(g is not None and bool(g.any()) for g in grads)
            assert reached != (detach and form[0] == "belief"), name
        ahead = torch.autograd.grad(losses.terms["ahead_1"].mean(), list(model.encoder.parameters()))
        assert all(bool(g.any()) for g in ahead)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_predict_and_target_share_a_space_of_unit_vectors(form: tuple[str, str]) -> None:
    model, objective = networks(*form)
    batch = tiny_batch(B, T)
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    predicted, wanted = objective.predict(observed.post), objective.target(observed.embed)
    assert predicted.shape == wanted.shape == (B, T, 8)
    for vectors in (predicted, wanted):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(B, T))


def test_extreme_tokens_stay_finite() -> None:
    batch = tiny_batch(B, T)
    for scale in (0.0, 1e4):
        model, objective = networks()
        total = objective(model, dataclasses.replace(batch, tokens=scale * batch.tokens), noise(model)).total()
        total.backward()
        assert torch.isfinite(total)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_losses_are_those_recorded(form: tuple[str, str]) -> None:
    config = tiny_config(model__dynamics=form[0], model__posterior=form[1], training__precision="float32")
    trainer = Trainer(config, TOKEN_DIM, STRIDES)
    totals = [float(trainer.train_step(tiny_batch(B, T, seed=i), 0.0).total) for i in range(3)]
    assert totals == pytest.approx(RECORDED[form], rel=1e-5)


def test_every_named_objective_can_be_made() -> None:
    for name, kind in OBJECTIVES.items():
        model = tiny_model(latents=kind.latents or "categorical")
        assert make_objective(tiny_config(objective__name=name).objective, model).config.name == name


def test_the_base_class_leaves_everything_to_an_objective() -> None:
    with pytest.raises(TypeError, match=r"abstract.*forward.*predict.*target"):
        Objective(tiny_config().objective, tiny_model())  # type: ignore[abstract]
