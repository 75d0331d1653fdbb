"""Anomalies: no clip is judged by who was fitted on it, the obvious is found, and frame models have the size they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import tiny_config

import pydreaming.evaluation.anomaly as module
from pydreaming.evaluation.anomaly import FOLDS, Anomalies, Indices, anomalies, normal_folds
from pydreaming.evaluation.frame_models import FRAMES, TASKS, FrameModel
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective

CONFIG = tiny_config()
FEATURES = CONFIG.features
D = FEATURES.token_dim
WINDOWS = 200


def networks(name: str = "dreaming_v2") -> tuple[WorldModelNet, Objective]:
    config = tiny_config(objective__name=name)
    torch.manual_seed(0)
    model = WorldModelNet(config.model, D, 1).eval()
    return model, make_objective(config.objective, model).eval()


def clips_of(normal: int, anomalous: int, windows: int = WINDOWS) -> tuple[list[np.ndarray], np.ndarray]:
    """Normal clips hum steadily, anomalous ones are noise."""
    rng = np.random.default_rng(0)
    hum = np.sin(np.arange(D))
    tokens = [hum + 0.1 * rng.standard_normal((windows, D)) for _ in range(normal)]
    tokens += [rng.standard_normal((windows, D)) for _ in range(anomalous)]
    return [clip.astype(np.float32) for clip in tokens], np.arange(normal + anomalous) < normal


def figures(
    tokens: list[np.ndarray], normal: np.ndarray, machines: list[str], count: int = 1, name: str = "dreaming_v2"
) -> Anomalies | str:
    nets = [networks(name)] * count
    return anomalies(nets, FEATURES, tokens, normal, np.array(machines), np.zeros(1, np.float32), 0.02, 0)


def test_folds_share_out_each_machine() -> None:
    machines, normal = np.array(["a"] * 7 + ["b"] * 4), np.array([True] * 6 + [False] + [True] * 4)
    folds = normal_folds(machines, normal, 0)
    assert folds[6] == -1
    assert np.bincount(folds[:6]).tolist() == [2, 2, 2]
    assert sorted(np.bincount(folds[7:]).tolist()) == [1, 1, 2]


@pytest.mark.parametrize("count", [1, FOLDS])
def test_the_obvious_is_found(count: int) -> None:
    tokens, normal = clips_of(6, 4)
    found = figures(tokens, normal, ["fan"] * 10, count)
    assert isinstance(found, Anomalies)
    assert set(found.rows) == {"typicality", "mean surprise", "autoencoder", "next-frame predictor"}
    for name in ("typicality", "autoencoder", "next-frame predictor"):
        row = found.rows[name]
        assert row.auc == {"fan": 1.0}
        assert row.partial_auc == {"fan": 1.0}
        assert row.auc_interval == (1.0, 1.0)
    assert (found.normal, found.anomalous, found.notes) == (6, 4, [])


def test_no_clip_is_scored_by_a_detector_that_was_fitted_on_it() -> None:
    folds = np.array([0, 1, 2, 0, 1, 2, -1, -1])
    asked: list[tuple[set[int], set[int]]] = []

    def fit(fold: int, train: Indices) -> module.Detector:
        def detector(clips: Indices) -> module.Scores:
            asked.append((set(train.tolist()), set(clips.tolist())))
            return clips.astype(float) + len(asked)

        return detector

    usual, unusual = module._cross_validated(fit, np.arange(8), folds)
    assert (len(usual), len(unusual)) == (6, 2)
    judged = [(train, clips) for train, clips in asked if train != clips]
    assert all(not train & clips for train, clips in judged)
    assert set().union(*(clips for _, clips in judged)) == set(range(8))
    assert all(6 not in train and 7 not in train for train, _ in asked)


def test_machines_with_too_little_are_named() -> None:
    tokens, normal = clips_of(6, 4)
    few, few_normal = clips_of(2, 1)
    found = figures(tokens + few, np.concatenate([normal, few_normal]), ["fan"] * 10 + ["pump"] * 3)
    assert isinstance(found, Anomalies)
    assert list(found.rows["typicality"].auc) == ["fan"]
    assert [note.partition(":")[0] for note in found.notes] == ["Machine 'pump' left out"]
    none = figures(few, few_normal, ["pump"] * 3)
    assert none == "No anomaly figures: no machine has both normal and anomalous clips enough."
    assert isinstance(figures([np.empty((0, D), np.float32)] * 3, few_normal, ["pump"] * 3), str)


def test_an_objective_without_latents_leaves_the_frame_models() -> None:
    tokens, normal = clips_of(6, 4)
    found = figures(tokens, normal, ["fan"] * 10, name="cpc")
    assert isinstance(found, Anomalies)
    assert set(found.rows) == {"autoencoder", "next-frame predictor"}


def test_two_networks_fit_no_folds() -> None:
    tokens, normal = clips_of(6, 4)
    with pytest.raises(ValueError, match="2 networks"):
        figures(tokens, normal, ["fan"] * 10, 2)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_frame_models_have_about_the_size_they_should(task: str) -> None:
    clip = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    state = torch.get_rng_state()
    model = FrameModel(TASKS[task], [clip], 50_000, 0.0, 0)
    assert sum(p.numel() for p in model.network.parameters()) == pytest.approx(50_000, rel=0.1)
    assert torch.equal(state, torch.get_rng_state())
    assert model.score(clip) == FrameModel(TASKS[task], [clip], 50_000, 0.0, 0).score(clip)
    with pytest.raises(ValueError, match="no window"):
        model.score(clip[: FRAMES - 1])
    with pytest.raises(ValueError, match="to train on"):
        FrameModel(TASKS[task], [clip[: FRAMES - 1]], 50_000, 0.0, 0)
