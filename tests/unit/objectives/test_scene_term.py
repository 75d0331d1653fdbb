"""The scene term: halves of a clip recognise each other, and nothing but the scene encoder learns from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import TOKEN_DIM, tiny_batch, tiny_config
from torch import nn

from pydreaming.models.scene import SceneEncoder
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import TensorBatch, make_objective
from pydreaming.objectives.scene import LEAST, halves, scene_terms

BANDS = TOKEN_DIM // 4


def scene_batch(seed: int = 0, rows: int = 6, steps: int = 12) -> TensorBatch:
    """Two clips a row, each with a level of its own per band; the first row ends in padding."""
    generator = torch.Generator().manual_seed(seed)
    batch = tiny_batch(rows, steps, seed, resets=0)
    is_first, mask = batch.is_first.clone(), batch.mask.clone()
    is_first[:, 6] = True
    mask[0, 9:] = False
    levels = torch.randn(rows, 2, 1, 1, BANDS, generator=generator).expand(rows, 2, 6, 4, BANDS).reshape(rows, steps, TOKEN_DIM)
    return replace(batch, tokens=(batch.tokens + 1.2 * levels) * mask.unsqueeze(-1), is_first=is_first, mask=mask)


def parts() -> tuple[SceneEncoder, nn.Linear]:
    torch.manual_seed(0)
    return SceneEncoder(BANDS, 16), nn.Linear(16, 8)


def test_halves_are_those_of_each_clip() -> None:
    batch = scene_batch()
    clip, second, length = halves(batch.is_first, batch.mask)
    assert clip[1].tolist() == [12] * 6 + [13] * 6
    assert second[1].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert length[:2].tolist() == [6, 3]  # the second clip of the first row is cut short by padding
    assert second[0, 6:9].tolist() == [0, 0, 1]
    assert int(length.sum()) == int(batch.mask.sum())


def test_clips_that_keep_their_level_come_to_be_recognised() -> None:
    encoder, head = parts()
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 3e-3)
    before = scene_terms(encoder, head, scene_batch(999), 1.0)
    for step in range(150):
        optimizer.zero_grad()
        scene_terms(encoder, head, scene_batch(step), 1.0).terms["scene"].mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = scene_terms(encoder, head, scene_batch(999), 1.0)
    assert float(after.metrics["scene_accuracy"]) > float(before.metrics["scene_accuracy"]) + 0.1
    assert float(after.terms["scene"].mean().detach()) < 0.7 * float(before.terms["scene"].mean().detach())


def test_short_clips_and_padding_count_for_nothing() -> None:
    encoder, head = parts()
    batch = scene_batch()
    term = scene_terms(encoder, head, batch, 1.0).terms["scene"]
    assert int(term.valid.sum()) == 11  # of twelve clips one has but three tokens
    assert LEAST == 4
    other = batch.tokens.clone()
    other[0, 6:] = 9.0
    changed = scene_terms(encoder, head, replace(batch, tokens=other), 1.0).terms["scene"]
    torch.testing.assert_close(term.mean(), changed.mean())
    assert term.value.isfinite().all()


def test_a_clip_that_is_there_twice_is_no_negative_of_itself() -> None:
    batch = tiny_batch(2, 12, resets=0)
    others = scene_terms(*parts(), batch, 1.0).terms["scene"]
    twice = replace(batch, tokens=batch.tokens[:1].repeat(2, 1, 1), token_id=batch.token_id[:1].repeat(2, 1))
    term = scene_terms(*parts(), twice, 1.0).terms["scene"]
    assert int(term.valid.sum()) == 2
    assert float(term.mean().detach()) == 0.0 < float(others.mean().detach())


def test_a_batch_of_one_source_teaches_nothing() -> None:
    assert not scene_terms(*parts(), replace(scene_batch(), mixed=False), 1.0).terms


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_only_the_scene_encoder_learns_from_it(weight: float) -> None:
    config = tiny_config(model__scene=16, objective__scene=weight, features__n_mels=BANDS)
    torch.manual_seed(0)
    model = WorldModelNet(config.model, TOKEN_DIM, config.action.dim, BANDS)
    objective, batch = make_objective(config.objective, model), scene_batch()
    losses = objective(model, batch, model.noise(*batch.mask.shape, torch.Generator().manual_seed(0)))
    term = losses.terms["scene"]
    assert term.weight == weight
    learning = {name for name, p in model.named_parameters() if _moved(term.mean(), p)}
    assert learning
    assert all(name.startswith("scene.") for name in learning)


def _moved(loss: torch.Tensor, parameter: nn.Parameter) -> bool:
    return torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)[0] is not None
