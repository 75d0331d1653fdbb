"""Every objective gives the same losses, metrics and gradients by hand as on the plain paths."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import tiny_batch, tiny_config, tiny_model

from pydreaming.objectives import OBJECTIVES, TensorBatch, make_objective
from pydreaming.objectives.base import Objective

B, T = 4, 10


def awkward_batch() -> TensorBatch:
    """With resets, padding and audio that occurs twice."""
    batch = tiny_batch(B, T)
    mask, is_first, ids = batch.mask.clone(), batch.is_first.clone(), batch.token_id.clone()
    mask[0, 6:], is_first[0, 6:], ids[0, 6:] = False, True, -1
    ids[3, :5] = ids[1, 2:7]
    return dataclasses.replace(batch, mask=mask, is_first=is_first, token_id=ids)


@pytest.mark.parametrize("negatives", ["batch", "sequence"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_losses_metrics_and_gradients_are_those_of_the_plain_paths(name: str, negatives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = OBJECTIVES[name].latents or "categorical"
    settings: dict[str, object] = {"objective__name": name, "objective__negatives": negatives}
    model = tiny_model(latents=latents, **settings)
    torch.manual_seed(1)
    objective = make_objective(tiny_config(**settings).objective, model)
    noise = model.noise(B, T, torch.Generator().manual_seed(0))
    parameters = [*model.parameters(), *objective.parameters()]

    def outcome() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[torch.Tensor]]:
        losses = objective(model, awkward_batch(), noise)
        gradients = torch.autograd.grad(losses.total(), parameters, allow_unused=True, materialize_grads=True)
        return {key: term.mean() for key, term in losses.terms.items()}, losses.metrics, list(gradients)

    hand = outcome()
    monkeypatch.setenv("PYDREAMING_PLAIN", "1")
    torch.testing.assert_close(hand, outcome(), atol=2e-5, rtol=1e-4)


def test_no_step_counts_and_nothing_breaks() -> None:
    """A batch of padding alone, and one of single steps: a contrast without one query."""
    model = tiny_model()
    objective: Objective = make_objective(tiny_config().objective, model)
    batch = tiny_batch(B, T)
    alone = dataclasses.replace(batch, is_first=torch.ones(B, T, dtype=torch.bool))
    for empty in (alone, dataclasses.replace(alone, mask=torch.zeros(B, T, dtype=torch.bool))):
        losses = objective(model, empty, model.noise(B, T))
        assert float(losses.terms["ahead_1"].mean().detach()) == 0
        losses.total().backward()  # type: ignore[no-untyped-call]
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
