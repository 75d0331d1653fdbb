"""Out of distribution: figures of each kind, the warning of an inverted score, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import RATE, sweep, tiny_config

import pydreaming.evaluation.out_of_distribution as out_of_distribution_module
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.stats import FeatureStats
from pydreaming.evaluation.out_of_distribution import OutOfDistribution, out_of_distribution
from pydreaming.evaluation.transforms import KINDS
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective

CONFIG = tiny_config()
ACTION = np.zeros(1, np.float32)
FRONT_END = FrontEnd(CONFIG.features, FeatureStats([-6.0] * 16, [3.0] * 16, 1000))


def networks(name: str = "dreaming_v2") -> tuple[WorldModelNet, Objective]:
    config = tiny_config(objective__name=name)
    torch.manual_seed(0)
    model = WorldModelNet(config.model, config.features.token_dim, 1).eval()
    return model, make_objective(config.objective, model).eval()


def figures(normal: int, held_out: int, name: str = "dreaming_v2") -> OutOfDistribution | str:
    tokens = [FRONT_END.tokens_of(sweep(0.4 + 0.02 * i, seed=i), RATE) for i in range(normal)]
    sounds = [(sweep(0.5, seed=100 + i), RATE) for i in range(held_out)]
    return out_of_distribution(*networks(name), FRONT_END, tokens, sounds, ACTION, 0)


def test_noise_is_no_sweep_even_to_an_untrained_model() -> None:
    found = figures(30, 8)
    assert isinstance(found, OutOfDistribution)
    assert set(found.kl) == set(found.typicality) == set(KINDS)
    assert found.typicality["white"] > 0.95
    assert (found.clips, found.fitted_on) == (8, 30)
    assert found == figures(30, 8)


def test_sounds_that_are_not_changed_are_told_from_themselves_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_distribution_module, "transform", lambda kind, sound, random: sound)
    found = figures(25, 6)
    assert isinstance(found, OutOfDistribution)
    assert {*found.kl.values(), *found.typicality.values()} == {0.5}


def test_an_inverted_score_is_said_to_be() -> None:
    found = OutOfDistribution({"white": 0.05, "tone": 0.49, "speed": 0.5}, {"white": 0.99, "tone": 0.97, "speed": 0.98}, 10, 20)
    assert found.inverted == ["white", "tone"]
    assert "white 0.05, tone 0.49" in found.warning
    assert found.worst == ("tone", 0.97)
    assert OutOfDistribution({"tone": 0.7}, {"tone": 0.7}, 10, 20).warning == ""


@pytest.mark.parametrize(("normal", "held_out", "name"), [(30, 0, "dreaming_v2"), (5, 8, "dreaming_v2"), (30, 8, "cpc")])
def test_what_cannot_be_asked_is_a_sentence(normal: int, held_out: int, name: str) -> None:
    found = figures(normal, held_out, name)
    assert isinstance(found, str)
    assert found.startswith("Not asked what is out of distribution: ")


def test_silence_alone_is_survived() -> None:
    silent = np.zeros(RATE // 2, np.float32)
    tokens = [FRONT_END.tokens_of(silent, RATE)] * 25
    found = out_of_distribution(*networks(), FRONT_END, tokens, [(silent, RATE)] * 6, ACTION, 0)
    assert isinstance(found, OutOfDistribution)
    assert found.kl["white"] == 0.5  # noise of no power is the same silence
