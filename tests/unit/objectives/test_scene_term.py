"""The scene term: parts of a clip recognise each other, and nothing but the scene encoder learns from it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import TOKEN_DIM, tiny_batch, tiny_config
from torch import Tensor, nn

from pydreaming.models.scene import SceneEncoder
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import TensorBatch, make_objective
from pydreaming.objectives.scene import LEAST, TEMPERATURE, any_places, cut_clips, scene_terms
from pydreaming.replay.schema import ID_STEPS

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


def noise_for(batch: TensorBatch, seed: int = 0) -> Tensor:
    return torch.randn(*batch.mask.shape, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_clips_are_cut_in_their_middle_half() -> None:
    batch = scene_batch()
    middle = torch.full(batch.mask.shape, 0.5)
    clip, second, length = cut_clips(batch.is_first, batch.mask, middle)
    assert clip[1].tolist() == [12] * 6 + [13] * 6
    assert second[1].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert length[:2].tolist() == [6, 3]  # the second clip of the first row is cut short by padding
    assert second[0, 6:9].tolist() == [0, 0, 1]
    assert int(length.sum()) == int(batch.mask.sum())


@pytest.mark.parametrize(("place", "first"), [(0.0, 3), (0.14, 3), (0.15, 4), (0.5, 6), (0.85, 8), (0.999, 9)])
def test_each_place_between_the_quarters_is_as_likely(place: float, first: int) -> None:
    is_first = torch.zeros(1, 12, dtype=torch.bool)
    is_first[0, 0] = True
    _, second, _ = cut_clips(is_first, torch.ones(1, 12, dtype=torch.bool), torch.full((1, 12), place))
    assert int((second == 0).sum()) == first


@pytest.mark.parametrize("length", [2, 3, 4, 5, 24])
def test_both_parts_of_a_clip_have_something(length: int) -> None:
    behind = tokens_behind_the_cut(length)
    assert behind == {*range(max(1, length // 4), length - max(1, length // 4) + 1)}


def test_a_clip_of_one_token_is_not_cut() -> None:
    assert tokens_behind_the_cut(1) == {0}


def tokens_behind_the_cut(length: int) -> set[int]:
    """For clips of that length, each cut at another place."""
    is_first, mask = torch.zeros(40, length, dtype=torch.bool), torch.ones(40, length, dtype=torch.bool)
    is_first[:, 0] = True
    _, second, _ = cut_clips(is_first, mask, torch.arange(40).unsqueeze(1).expand(40, length) / 40)
    return {*second.sum(1).tolist()}


@pytest.mark.parametrize("kind", ["gumbel", "normal"])
def test_places_are_spread_evenly_whatever_the_noise(kind: str) -> None:
    noise = torch.randn(50, 40, 16, 16, generator=torch.Generator().manual_seed(0))
    places = any_places(noise if kind == "normal" else -torch.log(noise.abs()))
    assert 0 <= float(places.min()) < 0.01 < 0.99 < float(places.max()) < 1
    assert abs(float(places.mean()) - 0.5) < 0.03


def test_clips_that_keep_their_level_come_to_be_recognised() -> None:
    encoder, head = parts()
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 3e-3)

    def on_new_clips() -> tuple[float, float]:
        found = [scene_terms(encoder, head, scene_batch(seed), noise_for(scene_batch(), seed), 1.0) for seed in range(900, 920)]
        terms, metrics = [f.terms["scene"].mean() for f in found], [f.metrics["scene_accuracy"] for f in found]
        return float(torch.stack(terms).mean().detach()), float(torch.stack(metrics).mean())

    loss, accuracy = on_new_clips()
    for step in range(300):
        optimizer.zero_grad()
        scene_terms(encoder, head, scene_batch(step), noise_for(scene_batch(), step), 1.0).terms["scene"].mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    less, better = on_new_clips()
    least = math.log(1 + 10 * math.exp(-1 / TEMPERATURE))  # of clips that are at right angles to the ten others
    assert less - least < 0.5 * (loss - least)
    assert better > accuracy + 0.1


def test_short_clips_and_padding_count_for_nothing() -> None:
    encoder, head = parts()
    batch = scene_batch()
    term = scene_terms(encoder, head, batch, noise_for(batch), 1.0).terms["scene"]
    assert int(term.valid.sum()) == 11  # of twelve clips one has but three tokens
    assert LEAST == 4
    other = batch.tokens.clone()
    other[0, 6:] = 9.0
    changed = scene_terms(encoder, head, replace(batch, tokens=other), noise_for(batch), 1.0).terms["scene"]
    torch.testing.assert_close(term.mean(), changed.mean())
    assert term.value.isfinite().all()


def test_a_clip_that_is_there_twice_is_no_negative_of_itself() -> None:
    batch = tiny_batch(2, 12, resets=0)
    others = scene_terms(*parts(), batch, noise_for(batch), 1.0).terms["scene"]
    twice = replace(batch, tokens=batch.tokens[:1].repeat(2, 1, 1), token_id=batch.token_id[:1].repeat(2, 1))
    term = scene_terms(*parts(), twice, noise_for(twice), 1.0).terms["scene"]
    assert int(term.valid.sum()) == 2
    assert float(term.mean().detach()) == 0.0 < float(others.mean().detach())


@pytest.mark.parametrize(("moved", "steps"), [(3, 12), (-5, 12), (0, 9), (0, 5), (7, 6)])
def test_nor_is_it_in_another_pass_or_where_a_sequence_breaks_it_off(moved: int, steps: int) -> None:
    batch = tiny_batch(2, 12, resets=0)
    ids, mask = batch.token_id[:1].repeat(2, 1), batch.mask.clone()
    ids[1] += moved  # in sixteenths of a token
    mask[1, steps:], ids[1, steps:] = False, -1
    term = scene_terms(*parts(), replace(batch, token_id=ids, mask=mask), noise_for(batch), 1.0).terms["scene"]
    assert int(term.valid.sum()) == 2
    assert float(term.mean().detach()) == 0.0


def test_a_later_stretch_of_the_same_recording_is_a_negative() -> None:
    batch = tiny_batch(2, 12, resets=0)
    later = batch.token_id[:1] + torch.tensor([[0], [12 * ID_STEPS - 7]])  # of a pass whose windows begin 7/16 of a token earlier
    assert float(scene_terms(*parts(), replace(batch, token_id=later), noise_for(batch), 1.0).terms["scene"].mean().detach()) > 0


def test_loss_metric_and_gradients_are_those_of_all_places_for_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = scene_batch()

    def outcome() -> tuple[Tensor, Tensor, tuple[Tensor, ...], int]:
        encoder, head = parts()
        found = scene_terms(encoder, head, batch, noise_for(batch), 1.0)
        term = found.terms["scene"]
        gradients = torch.autograd.grad(term.mean(), [*encoder.parameters(), *head.parameters()])
        return term.mean(), found.metrics["scene_accuracy"], gradients, len(term.value)

    *packed, count = outcome()
    monkeypatch.setenv("PYDREAMING_PLAIN", "1")
    *plain, places = outcome()
    torch.testing.assert_close(packed, plain)
    assert (count, places) == (11, batch.mask.numel())


def test_autocast_leaves_the_comparison_of_clips_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDREAMING_PLAIN", "1")  # as autocast does: a vector for every place
    alike = 1 + 1e-3 * torch.randn(2 * 72 + 1, 8, generator=torch.Generator().manual_seed(0))

    class Fixed(nn.Module):
        def forward(self, *_: object) -> Tensor:
            return alike

    def found(autocast: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            parts = scene_terms(Fixed(), nn.Identity(), scene_batch(), noise_for(scene_batch()), 1.0)  # type: ignore[arg-type]
        return parts.terms["scene"].mean(), parts.metrics["scene_accuracy"]

    torch.testing.assert_close(found(True), found(False), rtol=1e-6, atol=0)


def test_a_batch_without_a_clip_that_is_long_enough_has_no_term() -> None:
    batch = scene_batch()
    assert not scene_terms(*parts(), replace(batch, is_first=torch.ones_like(batch.is_first)), noise_for(batch), 1.0).terms


def test_clips_are_heard_as_recorded() -> None:
    batch = scene_batch()
    viewed = replace(batch, tokens=torch.zeros_like(batch.tokens), recorded=batch.tokens)
    losses = [scene_terms(*parts(), b, noise_for(batch), 1.0).terms["scene"].mean() for b in (batch, viewed)]
    torch.testing.assert_close(*losses)


def test_a_batch_of_one_source_teaches_nothing() -> None:
    assert not scene_terms(*parts(), replace(scene_batch(), mixed=False), noise_for(scene_batch()), 1.0).terms


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
