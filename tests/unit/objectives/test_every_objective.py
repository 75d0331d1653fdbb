"""What holds for every objective on every dynamics: finite steps, masks, where gradients go and where they stop, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny_models import FORMS, STRIDES, TOKEN_DIM, tiny_batch, tiny_config, tiny_model
from torch import Tensor

from pydreaming import config as configuration
from pydreaming.audio.features import FeatureStats
from pydreaming.config import objective_names
from pydreaming.errors import ConfigError
from pydreaming.evaluation.open_loop import open_loop
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import OBJECTIVES, Losses, Objective, TensorBatch, make_objective
from pydreaming.objectives.latents import LatentObjective, ReadoutObjective
from pydreaming.objectives.next_embed import _hidden_from
from pydreaming.training.checkpoint import restore, save_checkpoint
from pydreaming.training.diagnostics import step_metrics, verdict
from pydreaming.training.trainer import Trainer

B, T = 4, 10
BELIEF_ONLY = {"cpc"}


class Case(NamedTuple):
    """An objective on one form of the networks."""

    name: str
    dynamics: str
    posterior: str
    core: str = "gru"
    latents: str = "categorical"

    def model_keys(self) -> dict[str, object]:
        return {f"model__{key}": value for key, value in self._asdict().items() if key != "name"}


def cases_of(name: str) -> list[Case]:
    """All forms with a GRU; the transformer with either dynamics; and Gaussian latents too, where the objective takes both."""
    own = OBJECTIVES[name].latents or "categorical"
    attending = [(*form, "transformer", own) for form in (("belief", "filter"), ("rssm", "token"))]
    forms = [*((*form, "gru", own) for form in FORMS), *attending]
    if OBJECTIVES[name].latents is None:
        forms += [("belief", "filter", "gru", "gaussian"), ("rssm", "token", "transformer", "gaussian")]
    return [Case(name, *form) for form in forms if form[0] == "belief" or name not in BELIEF_ONLY]


CASES = [case for name in OBJECTIVES for case in cases_of(name)]
CONTRASTIVE = ("dreaming_v2", "dreaming")  # with a comparison space of their own, not a readout
NEW = [case for case in CASES if case.name not in CONTRASTIVE]
WITH_LATENTS = [case for case in CASES if case.name != "cpc"]
every_case = pytest.mark.parametrize("case", CASES, ids="-".join)
every_new_case = pytest.mark.parametrize("case", NEW, ids="-".join)
every_latent_case = pytest.mark.parametrize("case", WITH_LATENTS, ids="-".join)


def networks(case: Case, **overrides: object) -> tuple[WorldModelNet, Objective]:
    overrides = {"objective__latent_streams": 1, "objective__free_nats": 0, **overrides}
    model = tiny_model(*case[1:], **overrides)
    torch.manual_seed(1)
    return model, make_objective(tiny_config(objective__name=case.name, **case.model_keys(), **overrides).objective, model)


def trainer(case: Case) -> Trainer:
    config = tiny_config(objective__name=case.name, training__precision="float32", **case.model_keys())
    return Trainer(config, TOKEN_DIM, STRIDES)


def noise(model: WorldModelNet) -> Tensor:
    return model.noise(B, T, torch.Generator().manual_seed(0))


def losses_of(batch: TensorBatch, case: Case) -> Losses:
    model, objective = networks(case)
    return objective(model, batch, noise(model))


def reached(loss: Tensor, module: torch.nn.Module) -> bool:
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return any(g is not None and bool(g.any()) for g in grads)


@every_case
def test_a_step_is_finite_and_trains_the_encoder(case: Case) -> None:
    of = trainer(case)
    result = of.train_step(tiny_batch(B, T), progress=0.0)
    assert result.finite
    assert any(bool(p.grad.any()) for p in of.model.encoder.parameters() if p.grad is not None)
    for term_name, term in result.losses.terms.items():
        assert term.value.shape == term.valid.shape == (term.value.shape[0], T), term_name
        assert term.valid.dtype == torch.bool
    for metric, value in result.losses.metrics.items():
        assert not value.requires_grad, metric


@every_case
def test_what_is_expected_ahead_is_what_the_loss_compares(case: Case) -> None:
    model, objective = networks(case)
    batch = tiny_batch(B, T, resets=0.0)
    observed = model.observe(batch.tokens, batch.action, batch.is_first, noise=noise(model))
    ahead = objective.ahead_of(observed)
    losses = objective(model, batch, noise(model))
    steps = {int(term.removeprefix("ahead_")) for term in losses.terms if term.startswith("ahead_") and term.count("_") == 1} - {0}
    if ahead is None:
        assert not steps
        return
    assert set(ahead.expected) == steps
    for k in steps:
        assert ahead.mismatch(k).shape == (B, max(0, T - k))
        if k >= T:
            continue
        logits = torch.einsum("btp,csp->btcs", ahead.expected[k], ahead.target).flatten(2)[:, : T - k] / objective.config.temperature
        positive = torch.arange(B).unsqueeze(1) * T + torch.arange(k, T)
        by_hand = torch.nn.functional.cross_entropy(logits.flatten(0, 1), positive.flatten(), reduction="none").reshape(B, T - k)
        torch.testing.assert_close(losses.terms[f"ahead_{k}"].value[:, : T - k], by_hand, rtol=1e-4, atol=1e-4)


@every_new_case
def test_a_token_that_is_no_number_refuses_the_step_and_changes_no_weight(case: Case) -> None:
    of, batch = trainer(case), tiny_batch(B, T)
    before = [p.detach().clone() for p in (*of.world, *of.probe)]
    batch.tokens[1, 2, 3] = math.nan
    result = of.train_step(batch, progress=0.0)
    assert not result.finite
    assert all(torch.equal(a, b) for a, b in zip(before, (*of.world, *of.probe), strict=True))
    assert verdict(step_metrics(of, result, batch.mask), 8).startswith("BROKEN")


@every_case
def test_bfloat16_arithmetic_gives_finite_steps(case: Case) -> None:
    model, objective = networks(case)
    with torch.autocast("cpu", torch.bfloat16):
        total = objective(model, tiny_batch(B, T), noise(model)).total()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for m in (model, objective) for p in m.parameters() if p.grad is not None)


@every_new_case
def test_padding_changes_nothing(case: Case) -> None:
    batch = tiny_batch(B, T)
    mask, is_first = batch.mask.clone(), batch.is_first.clone()
    mask[0, 6:], is_first[0, 6:] = False, True
    mask[2, 1:], is_first[2, 1:] = False, True
    tokens, action, ids = batch.tokens.clone(), batch.action.clone(), batch.token_id.clone()
    tokens[~mask], action[~mask], ids[~mask] = 1e3, -5.0, -1
    padded = dataclasses.replace(batch, mask=mask, is_first=is_first)
    filled = dataclasses.replace(padded, tokens=tokens, action=action, token_id=ids)
    a, b = (losses_of(x, case) for x in (padded, filled))
    for term, of in a.terms.items():
        assert not (of.valid & ~mask).any(), term
        torch.testing.assert_close(of.mean(), b.terms[term].mean(), msg=lambda m, n=term: f"{n}: {m}")
    for metric, value in a.metrics.items():
        torch.testing.assert_close(value, b.metrics[metric])


@every_new_case
def test_a_batch_of_padding_only_is_finite_and_free(case: Case) -> None:
    batch = tiny_batch(B, T)
    nothing = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask), is_first=torch.ones_like(batch.is_first))
    model, objective = networks(case)
    total = objective(model, nothing, noise(model)).total()
    total.backward()
    assert float(total.detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_case
def test_the_probe_decoder_is_never_trained_by_an_objective(case: Case) -> None:
    model, objective = networks(case)
    assert not reached(objective(model, tiny_batch(B, T), noise(model)).total(), model.decoder)


@every_new_case
def test_the_readout_trains_itself_alone(case: Case) -> None:
    model, objective = networks(case)
    terms = objective(model, tiny_batch(B, T), noise(model)).terms
    assert isinstance(objective, ReadoutObjective)
    readouts = [term.mean() for key, term in terms.items() if key.startswith("readout")]
    assert len(readouts) == (2 if case.dynamics == "belief" and case.name != "cpc" else 1)
    for loss in readouts:
        assert not reached(loss, model)
        assert reached(loss, objective.readout_state)
        assert reached(loss, objective.readout_token)
    rest = sum(term.weight * term.mean() for key, term in terms.items() if not key.startswith("readout"))
    assert isinstance(rest, Tensor)
    assert not reached(rest, objective.readout_state)


@pytest.mark.parametrize("case", [c for c in NEW if c.name != "cpc"], ids="-".join)
def test_targets_give_gradient_to_the_encoder_only_in_twister(case: Case) -> None:
    model, objective = networks(case)
    assert isinstance(objective, ReadoutObjective)
    batch = tiny_batch(B, T)
    observed = model.observe(batch.tokens, batch.action, batch.is_first, noise=noise(model))
    embed = observed.embed.detach().requires_grad_()
    parts = objective.state_terms(observed.context.detach(), observed, objective.key(embed), batch, batch.mask)
    loss = torch.stack([term.mean() for term in parts.terms.values()]).sum()
    (grad,) = torch.autograd.grad(loss, [embed], allow_unused=True)
    assert (grad is not None and bool(grad.any())) == (case.name == "twister")


@every_latent_case
def test_the_latents_are_trained_and_leave_the_encoder_alone_where_detached(case: Case) -> None:
    for detach in (True, False):
        model, objective = networks(case, model__detach_latents=detach)
        assert isinstance(objective, LatentObjective)
        batch = tiny_batch(B, T)
        observed = model.observe(batch.tokens, batch.action, batch.is_first, noise=noise(model))
        key = observed.embed if case.name in CONTRASTIVE else objective.key(observed.embed)  # type: ignore[attr-defined]
        terms = objective.latent_terms(model, observed, key, batch).terms
        loss = torch.stack([term.weight * term.mean() for term in terms.values()]).sum()
        assert reached(loss, model.dynamics.prior)
        assert reached(loss, model.encoder) != (detach and case.dynamics == "belief")


def test_cpc_trains_no_latents_and_needs_a_trunk_without_them() -> None:
    model, objective = networks(Case("cpc", "belief", "filter"))
    losses = objective(model, tiny_batch(B, T), noise(model))
    assert set(losses.terms) == {"ahead_1", "ahead_2", "readout"}
    for module in ("post_token", "post_past", "prior", "update"):
        assert not reached(losses.total(), getattr(model.dynamics, module))
    assert reached(losses.total(), model.dynamics.gru)
    with pytest.raises(ConfigError, match=r"^objective.name 'cpc' needs model.dynamics 'belief'[^\n]*$"):
        networks(Case("cpc", "rssm", "token"))


def test_an_objective_refuses_latents_that_it_is_not_defined_for() -> None:
    for name, kind in OBJECTIVES.items():
        for latents in ("categorical", "gaussian"):
            case = Case(name, "belief", "filter", "gru", latents)
            if kind.latents in (None, latents):
                networks(case)
            else:
                message = f"^objective.name '{name}' needs model.latents '{kind.latents}', not '{latents}'$"
                with pytest.raises(ConfigError, match=message):
                    networks(case)
    assert {name for name, kind in OBJECTIVES.items() if kind.latents == "gaussian"} == {"dreaming", "planet"}
    assert {name for name, kind in OBJECTIVES.items() if kind.latents == "categorical"} == {"dreaming_v2", "dreamer_v2"}


@pytest.mark.parametrize(("name", "dynamics", "sees_its_step"), [
    ("cdp", "rssm", False), ("cdp", "belief", True), ("dreamer_v2", "rssm", True), ("dreamer_v2", "belief", True),
])  # fmt: skip
def test_losses_at_a_step_depend_on_no_later_token(name: str, dynamics: str, sees_its_step: bool) -> None:
    batch = tiny_batch(B, T, resets=0)
    batch = dataclasses.replace(batch, tokens=batch.tokens.requires_grad_())
    term = losses_of(batch, Case(name, dynamics, "token")).terms[{"cdp": "prediction", "dreamer_v2": "reconstruction"}[name]]
    (grad,) = torch.autograd.grad(term.value[:, 5].sum(), [batch.tokens])
    by_step = grad.abs().sum((0, 2)) > 0
    assert by_step.tolist() == [t < 5 or (t == 5 and sees_its_step) for t in range(T)]


def test_the_transformer_looks_back_within_the_clip_and_never_at_padding() -> None:
    batch = tiny_batch(1, 5, resets=0)
    is_first = torch.tensor([[True, False, False, True, False]])
    valid = torch.tensor([[True, False, True, True, True]])
    seen = ~_hidden_from(dataclasses.replace(batch, is_first=is_first), valid)[0]
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]


def test_twister_weighs_ten_steps_and_survives_sequences_shorter_than_that() -> None:
    batch = tiny_batch(B, 6, resets=0)
    model, objective = networks(Case("twister", "rssm", "token"))
    losses = objective(model, batch, model.noise(B, 6, torch.Generator().manual_seed(0)))
    assert [losses.terms[f"ahead_{k}"].weight for k in range(10)] == [0.75**k for k in range(10)]
    assert [bool(losses.terms[f"ahead_{k}"].valid.any()) for k in range(10)] == [k < 6 for k in range(10)]
    assert torch.isfinite(losses.total())
    model, objective = networks(Case("twister", "belief", "token"))
    unrolled = set(objective(model, tiny_batch(B, T), noise(model)).terms)
    assert {f"ahead_{k}_{j}" for k in (0, 1) for j in (1, 2)} == {term for term in unrolled if term.count("_") == 2 and "ahead" in term}


@every_case
def test_predictions_and_targets_are_unit_vectors_that_the_open_loop_takes(case: Case) -> None:
    model, objective = networks(case)
    batch = tiny_batch(B, T, resets=0)
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    for vectors in (objective.predict(observed.post), objective.target(observed.embed)):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(B, T))
    figures = open_loop(model, objective, [batch], samples=2, context=4, generator=torch.Generator().manual_seed(0))
    assert figures is not None
    assert all(0 <= share <= 1 for share in figures.retrieval.values())


@pytest.mark.parametrize("case", [c for c in CASES if c.posterior == "filter" or c.core == "transformer"], ids="-".join)
def test_a_restored_checkpoint_goes_on_bit_for_bit(case: Case, tmp_path: Path) -> None:
    straight, resumed = (trainer(case) for _ in range(2))
    straight.train_step(tiny_batch(seed=0), progress=0.0)
    path = save_checkpoint(tmp_path, straight, FeatureStats([0.5] * 64, [1.5] * 64, 1000), {}, seconds=1.0, keep=1)
    restore(path, resumed)
    a, b = (of.train_step(tiny_batch(seed=1), progress=0.0) for of in (straight, resumed))
    assert torch.equal(a.total, b.total)
    for mine, other in zip(straight.objective.parameters(), resumed.objective.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_choices_are_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path(configuration.__file__).parent / "objectives"
    assert set(OBJECTIVES) == {p.stem for p in folder.glob("*.py")} - {"__init__", "base", "contrast", "latents", "scene"}
    with pytest.raises(ConfigError, match=f"one of {', '.join(sorted(OBJECTIVES))}, got 'dreamer'"):
        tiny_config(objective__name="dreamer")
    for file in ("base.py", "mine.py", "notes.txt"):
        (tmp_path / file).touch()
    monkeypatch.setattr(configuration, "_OBJECTIVES", tmp_path)
    assert objective_names() == ["mine"]
