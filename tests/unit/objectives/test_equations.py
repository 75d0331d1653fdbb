"""Every objective's terms, step by step, against the equations in its docstring written out here a second time, on a tiny batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from tiny_models import tiny_batch, tiny_config, tiny_model
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from pydreaming.models.latents import LATENTS
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import OBJECTIVES, Losses, TensorBatch, make_objective

B, T = 2, 4
Step = tuple[int, int]  # sequence, time
STEPS = [(b, t) for b in range(B) for t in range(T)]
FREE = 0.05  # nats: below some of the divergences and above others
NAMES = ("dreaming", "dreaming_v2", "dreamer_v2", "planet", "cpc", "barlow", "cdp", "next_embed", "twister")
FORMS = [(name, dynamics) for name in NAMES for dynamics in ("belief", "rssm") if (name, dynamics) != ("cpc", "rssm")]


class Expected(NamedTuple):
    """A term by hand: its value at each step where it holds, and its weight."""

    at: dict[Step, float]
    weight: float


class Given(NamedTuple):
    """What an objective's own terms are about: states (B, T, C), and the steps where they hold."""

    states: Tensor
    holds: list[Step]


def batch_of_two() -> TensorBatch:
    """Three steps and padding; two clips of two steps."""
    batch = tiny_batch(B, T, resets=0)
    batch.is_first[0, 3], batch.mask[0, 3], batch.is_first[1, 2] = True, False, True
    return batch


def networks(name: str, dynamics: str) -> tuple[WorldModelNet, Any]:
    latents = OBJECTIVES[name].latents or "categorical"
    keys = {"objective__latent_streams": 1, "objective__free_nats": FREE, "objective__horizon_decay": 0.5, "objective__consistency": 0.3}
    model = tiny_model(dynamics, "filter", "gru", latents, **keys)
    torch.manual_seed(1)
    config = tiny_config(objective__name=name, model__dynamics=dynamics, model__latents=latents, **keys)
    return model, make_objective(config.objective, model)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def reached(batch: TensorBatch, k: int, holds: list[Step]) -> list[Step]:
    """Where t + k exists and is of the same clip."""
    same = [(b, t) for b, t in holds if t + k < T and batch.mask[b, t + k]]
    return [(b, t) for b, t in same if not any(batch.is_first[b, t + j] for j in range(1, k + 1))]


def ahead(batch: TensorBatch, states: Tensor, b: int, t: int, k: int) -> Tensor:
    """The state at t and the k actions that lead to t + k."""
    return torch.cat([states[b, t], *batch.action[b, t + 1 : t + k + 1]])


def info_nce(batch: TensorBatch, query: Callable[[int, int], Tensor], key: Tensor, k: int, holds: list[Step]) -> dict[Step, float]:
    """-log of the share that the token at t + k has among all tokens of the batch that are no padding."""

    def loss(b: int, t: int) -> float:
        scores = {at: cosine(query(b, t), key[at]) / 0.07 for at in STEPS if batch.mask[at]}
        return float(torch.stack(list(scores.values())).logsumexp(0) - scores[b, t + k])

    return {(b, t): loss(b, t) for b, t in reached(batch, k, holds)}


def redundancy(x: Tensor, target: Tensor) -> float:
    """Of N standardised rows: sum (C_ii - 1)^2 + 5e-4 * sum of the squares beside the diagonal."""
    a, b = ((v - v.mean(0)) / (v.var(0, correction=0) + 1e-5).sqrt() for v in (x, target))
    c = a.t() @ b / len(a)
    E = len(c)
    return float(sum((c[i, j] - 1) ** 2 if i == j else 5e-4 * c[i, j] ** 2 for i in range(E) for j in range(E)))


def heads_ahead(of: Any, batch: TensorBatch, embed: Tensor, given: Given, names: range, weights: list[float]) -> dict[str, Expected]:
    """InfoNCE of heads that read the state and the actions, for the k of `names`."""
    key, heads = of.project(embed), dict(zip(names, of.ahead, strict=False))
    return {
        f"ahead_{k}": Expected(
            info_nce(batch, lambda b, t, k=k: heads[k](ahead(batch, given.states, b, t, k)), key, k, given.holds), weight
        )
        for k, weight in zip(names, weights, strict=True)
    }


def own_terms(name: str, of: Any, batch: TensorBatch, embed: Tensor, given: Given, belief: bool) -> dict[str, Expected]:
    """The equation of each objective, without KL and readout. `belief`: on an unrolled belief and not on what was heard."""
    states, holds = given
    following = reached(batch, 1, holds)
    if name in ("dreaming", "dreaming_v2", "cpc") and not belief:
        return heads_ahead(of, batch, embed, given, range(1, 3), [2 / 3, 1 / 3])
    if name in ("dreaming", "dreaming_v2"):
        return {"next_step": heads_ahead(of, batch, embed, given, range(1, 2), [of.config.next_step])["ahead_1"]}
    if name == "twister":
        steps = 2 if belief else 10
        return heads_ahead(of, batch, embed, given, range(steps), [0.75**k for k in range(steps)])
    if name in ("dreamer_v2", "planet"):
        error = (of.decoder(states) - batch.tokens) ** 2 / 2
        return {"reconstruction": Expected({at: float(error[at].sum()) for at in holds}, 1.0)}
    if name == "barlow":
        value = redundancy(torch.stack([of.project(states[at]) for at in holds]), torch.stack([embed[at] for at in holds]))
        return {"barlow": Expected(dict.fromkeys(holds, value), 0.05)}
    if name == "next_embed":

        def predicted(b: int, t: int) -> Tensor:
            """What the transformer says at the end of the clip up to t."""
            start = max(s for s in range(t + 1) if batch.is_first[b, s])
            seen = [ahead(batch, states, b, s, 1) for s in range(start, t + 1) if (b, s) in holds]
            mask = torch.full((len(seen), len(seen)), -torch.inf).triu(1)
            out: Tensor = of.output(of.transformer(of.inputs(torch.stack(seen)).unsqueeze(0), mask=mask))[0, -1]
            return out

        value = redundancy(torch.stack([predicted(*at) for at in following]), torch.stack([embed[b, t + 1] for b, t in following]))
        return {"next_embed": Expected(dict.fromkeys(following, value), 0.05)}
    if name == "cdp" and of.rssm:
        known = [at for at in holds if not batch.is_first[at]]  # h_t knows nothing at the first step of a clip
        return {"prediction": Expected({at: -float(cosine(of.predictor(states[at][: of.deter]), embed[at])) for at in known}, 10.0)}
    assert name == "cdp"
    at_next = {(b, t): -float(cosine(of.predictor(ahead(batch, states, b, t, 1)), embed[b, t + 1])) for b, t in following}
    return {"prediction": Expected(at_next, 10.0)}


def latent_terms(name: str, model: WorldModelNet, of: Any, batch: TensorBatch, losses: Losses) -> dict[str, Expected]:
    """KL of each unroll, consistency, readout or same-step contrast, and the own terms on beliefs."""
    observed, c = losses.observed, of.config
    unrolls = model.dynamics.unrolls(observed, 2)
    expected: dict[str, Expected] = {}

    def divergence(prior: Tensor, at: Step) -> float:
        q, p = observed.post.logits[at], prior[at]
        gaussian = model.config.latents == "gaussian"
        a, b = (Normal(*v.unbind(-1)) if gaussian else Categorical(logits=v) for v in (q, p))
        return max(FREE, float(kl_divergence(a, b).sum()))

    for j, unroll in enumerate(unrolls, start=1):
        holds = [at for at in STEPS if batch.mask[at] and not (j > 1 and batch.is_first[at])]  # the second begins a step before
        kl = {at: divergence(unroll.prior_logits, at) for at in holds}
        terms = {"dyn": Expected(kl, c.kl_dyn)}
        if j == 1:
            expected["rep"] = Expected(kl, c.latent_scale * c.kl_rep)
        contrast = name in ("dreaming", "dreaming_v2")
        head, key = (of.now, observed.embed) if contrast else (of.readout_state, of.readout_token(observed.embed))
        same = info_nce(batch, lambda b, t, h=head, u=unroll: h(u.state[b, t]), key, 0, holds)
        terms["same_step" if contrast else "readout"] = Expected(same, c.same_step if contrast else 1.0)
        if model.config.dynamics == "belief":
            trunk = observed.context
            apart = {at: float(1 - cosine(unroll.state[at], trunk[at]) + (unroll.state[at] - trunk[at]).square().mean()) for at in holds}
            terms["consistency"] = Expected(apart, c.consistency)
            terms |= own_terms(name, of, batch, observed.embed, Given(unroll.state, holds), belief=True)
        scale = c.latent_scale / len(unrolls)
        expected |= {f"{term}_{j}": Expected(value.at, scale * value.weight) for term, value in terms.items()}
    return expected


@pytest.mark.parametrize(("name", "dynamics"), FORMS, ids=lambda x: x)
def test_every_term_has_the_value_of_its_equation(name: str, dynamics: str) -> None:
    model, objective = networks(name, dynamics)
    batch = batch_of_two()
    with torch.no_grad():
        losses = objective(model, batch, model.noise(B, T, torch.Generator().manual_seed(0)))
        observed, holds = losses.observed, [at for at in STEPS if batch.mask[at]]
        expected = own_terms(name, objective, batch, observed.embed, Given(observed.context, holds), belief=False)
        if name == "cpc":
            read = info_nce(
                batch, lambda b, t: objective.readout_state(observed.context[b, t]), objective.readout_token(observed.embed), 0, holds
            )
            expected["readout"] = Expected(read, 1.0)
        else:
            expected |= latent_terms(name, model, objective, batch, losses)
    assert losses.terms.keys() == expected.keys()
    for key, (at, weight) in expected.items():
        term = losses.terms[key]
        assert term.weight == pytest.approx(weight), key
        assert [tuple(step) for step in term.valid.nonzero().tolist()] == sorted(at), key
        assert {step: float(term.value[step]) for step in at} == pytest.approx(at, rel=2e-4, abs=2e-5), key


@pytest.mark.parametrize(
    ("name", "dynamics", "delay"),
    [("cdp", "belief", 1), ("cdp", "rssm", 0), ("dreamer_v2", "belief", 0), ("dreamer_v2", "rssm", 0), ("planet", "belief", 0)],
)
def test_another_target_changes_the_loss_of_the_step_that_predicts_it_and_no_other(name: str, dynamics: str, delay: int) -> None:
    model, objective = networks(name, dynamics)
    batch = tiny_batch(B, T, resets=0)
    observed = model.observe(batch.tokens, batch.action, batch.is_first)

    def losses(key: Tensor, batch: TensorBatch) -> Tensor:
        (term,) = objective.state_terms(observed.context, observed, key, batch, batch.mask).terms.values()
        value: Tensor = term.value
        return value

    tokens, key = batch.tokens.clone(), observed.embed.clone()
    tokens[0, 2], key[0, 2] = tokens[1, 1], key[1, 1]
    changed = losses(observed.embed, batch) != losses(key, dataclasses.replace(batch, tokens=tokens))
    assert changed.nonzero().tolist() == [[0, 2 - delay]]


def test_every_objective_and_kind_of_latents_is_among_them() -> None:
    assert set(NAMES) == set(OBJECTIVES)
    assert {OBJECTIVES[name].latents or "categorical" for name in NAMES} == set(LATENTS)
