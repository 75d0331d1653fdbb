"""Features of whole clips, and the rows, names and files that an evaluation makes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_model import tiny_config

import pydreaming.evaluation.listening as listening_module
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.evaluate import Evaluation, evaluate_probes
from pydreaming.evaluation.features import CENTRED, PARTS, SCENE, clip_features, hears_scenes, join_parts, untrained_like
from pydreaming.evaluation.open_loop import OpenLoop
from pydreaming.evaluation.pooling import thirds_and_std
from pydreaming.evaluation.probes import ProbeRow
from pydreaming.models.world_model import WorldModelNet
from pydreaming.tracking.names import display_name, section_of

CONFIG = tiny_config()
D = CONFIG.features.token_dim


@pytest.fixture(params=["belief", "rssm"])
def model(request: pytest.FixtureRequest) -> WorldModelNet:
    torch.manual_seed(0)
    return WorldModelNet(tiny_config(model__dynamics=request.param).model, D, 2).eval()


def clips_of(lengths: list[int], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    tokens = [rng.standard_normal((n, D)).astype(np.float32) for n in lengths]
    return tokens, [rng.standard_normal((n, 2)).astype(np.float32) for n in lengths]


def labelled(count: int, labels: list[str], groups: list[str] | None = None) -> Clips:
    tokens, _ = clips_of([4 + i % 3 for i in range(count)])
    none = np.array([""] * count, dtype=np.str_)
    own = np.array([f"recording:{i}" for i in range(count)], dtype=np.str_)
    return Clips(
        tokens,
        [np.zeros((len(x), 1), np.float32) for x in tokens],
        np.array([f"{i}.wav" for i in range(count)], dtype=np.str_),
        np.array(labels, dtype=np.str_),
        none,
        own if groups is None else np.array(groups, dtype=np.str_),
        np.zeros(count, np.bool_),
    )


def test_other_clips_and_padding_change_nothing(model: WorldModelNet, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, actions = clips_of([7, 1, 20, 3, 12])
    together = clip_features(model, tokens, actions)
    alone = [clip_features(model, [x], [a]) for x, a in zip(tokens, actions, strict=True)]
    for part, array in together.items():
        np.testing.assert_allclose(array, np.concatenate([one[part] for one in alone]), atol=1e-5)
    monkeypatch.setattr(listening_module, "MAX_PADDED_TOKENS", 15)  # several batches
    for part, array in clip_features(model, tokens, actions).items():
        np.testing.assert_allclose(array, together[part], atol=1e-5)


def test_parts_are_pooled_states(model: WorldModelNet) -> None:
    m = CONFIG.model
    tokens, actions = clips_of([9, 2])
    features = clip_features(model, tokens, actions)
    widths = {"deter": m.deter, "stoch": m.groups * m.classes, "embed": m.embed, "feat": m.deter + m.groups * m.classes}
    shapes = {part: (2, 4 * width) for part, width in widths.items()} | {SCENE: (2, m.scene)}
    assert {part: array.shape for part, array in features.items()} == shapes
    assert set(features) == {*PARTS, "feat", SCENE}
    with torch.no_grad():
        x, a = torch.from_numpy(tokens[0])[None], torch.from_numpy(actions[0])[None]
        first = torch.zeros(1, 9, dtype=torch.bool)
        first[:, 0] = True
        observed = model.observe(x, a, first)
    np.testing.assert_allclose(features["deter"][0], thirds_and_std(observed.post.deter[0].numpy()), atol=1e-5)
    probabilities = features["stoch"][0].reshape(4, m.groups, m.classes)[:3]
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-4)


def test_actions_reach_the_state(model: WorldModelNet) -> None:
    tokens, actions = clips_of([9])
    changed = [actions[0] + 1]
    assert not np.allclose(clip_features(model, tokens, actions)["deter"], clip_features(model, tokens, changed)["deter"])


def test_the_untrained_network_is_the_same_each_time_and_not_the_seed_of_training() -> None:
    first, second = (untrained_like(CONFIG, D, 1, torch.device("cpu")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(CONFIG.run.seed)
    begun = WorldModelNet(CONFIG.model, D, 1)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), begun.parameters(), strict=True))


def test_probe_rows_and_known_baselines() -> None:
    config = tiny_config(model__scene=0)
    model = untrained_like(config, D, 1, torch.device("cpu"))
    clips = labelled(24, [str(i % 3) for i in range(24)])
    quick, first, notes = evaluate_probes(model, clips, config, [], complete=False)
    assert [(row.features, row.protocol) for row in quick] == [("world model", "grouped folds")]
    assert [row.features for row in first] == ["log-mel", "log-mel, clip-normalised", "untrained network"]
    assert any("speaker" in note for note in notes)
    rows, baselines, _ = evaluate_probes(model, clips, config, first, complete=True, jobs=2)
    protocols = ["grouped folds", "1-shot", "5-shot"]
    assert [row.protocol for row in rows if row.features == "world model"] == protocols
    assert [row.features for row in rows if row.protocol == "grouped folds"] == ["world model", *(f"world model, {p} only" for p in PARTS)]
    names = {*(row.features for row in first), "log-mel, mean and deviation", "log-mel, flat", "MFCC"}
    assert {(row.features, row.protocol) for row in baselines} == {(name, protocol) for name in names for protocol in protocols}
    assert baselines[:3] == first
    assert all(row.clips == 24 for row in rows + baselines)
    # The same untrained weights on both sides: the figures are the same to the last digit, and so is the C that was chosen.
    assert rows[0].linear == first[-1].linear == quick[0].linear
    assert quick[0].c == first[-1].c == rows[0].c
    assert evaluate_probes(model, clips, config, baselines, complete=True)[1] == baselines


def test_a_scene_is_a_part_where_the_objective_trains_one() -> None:
    clips = labelled(24, [str(i % 3) for i in range(24)])
    for objective, trained in (("dreaming_v2", True), ("cpc", False)):
        config = tiny_config(objective__name=objective)
        rows, _, _ = evaluate_probes(untrained_like(config, D, 1, torch.device("cpu")), clips, config, [], complete=True)
        assert ("world model, scene only" in {row.features for row in rows}) == trained == hears_scenes(config)


def test_a_protocol_that_log_mel_saturates_is_called_so() -> None:
    model = untrained_like(CONFIG, D, 1, torch.device("cpu"))
    clips = labelled(24, [str(i % 2) for i in range(24)])
    for i, x in enumerate(clips.tokens):
        x += 10 * (i % 2)
    notes = evaluate_probes(model, clips, CONFIG, [], complete=True)[2]
    assert "label probe, grouped folds: saturated. Log-mel alone is right 100.0% of the time, so it tells little about the model." in notes


@pytest.mark.parametrize(("pooling", "times"), [("mean", 1), ("mean_std", 2), ("thirds_std", 4)])
def test_poolings_and_parts_side_by_side(model: WorldModelNet, pooling: str, times: int) -> None:
    features = clip_features(model, *clips_of([7, 3]), pooling)
    assert features["embed"].shape == (2, times * CONFIG.model.embed)
    np.testing.assert_array_equal(join_parts(features), features["feat"])
    np.testing.assert_array_equal(join_parts(features, ("embed", "deter")), np.concatenate([features["embed"], features["deter"]], 1))


def test_channels_of_one_recording_are_not_on_both_sides_of_a_fold() -> None:
    model = untrained_like(CONFIG, D, 1, torch.device("cpu"))
    groups = [f"recording:all#ch{1 + i % 2}" for i in range(8)]
    clips = labelled(8, ["a", "a", "b", "b"] * 2, groups)
    clips.paths[:] = "all.wav"
    rows, _, notes = evaluate_probes(model, clips, CONFIG, [], complete=False)
    assert rows == []
    assert any("grouped folds" in note for note in notes)


def test_one_group_of_many_recordings_is_folded_by_recording() -> None:
    model = untrained_like(CONFIG, D, 1, torch.device("cpu"))
    rows, _, _ = evaluate_probes(model, labelled(12, ["a", "b"] * 6, ["speaker:ann"] * 12), CONFIG, [], complete=False)
    assert [row.protocol for row in rows] == ["grouped folds"]


def test_metrics_have_names_that_mlflow_takes_and_values_for_json() -> None:
    by_step = {1: 0.5, 2: 0.25}
    names = ("world model", "world model, deter only", "log-mel", "log-mel, clip-normalised", "untrained network")
    protocols = (("label", "leave-one-speaker-out"), ("label", "held-out clips"), ("speaker", "folds"), ("label", "grouped folds"))
    result = Evaluation(
        {"loss": 1.0, "ahead_1": 2.0},
        OpenLoop(16, by_step, by_step, by_step, by_step, {1: 3, 2: 1}, 0.1, 0.2, 0.3),
        [ProbeRow(label, protocol, name, 0.5, 0.4, 0.1, 0.1, 10) for label, protocol in protocols for name in names],
        ["a note"],
    )
    metrics = result.metrics()
    shown = [display_name(name) for name in metrics]
    assert len(set(shown)) == len(metrics) == 1 + 8 + 2 + 20
    assert {section_of(name) for name in shown} == {"learning", "world_model", "use"}
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzACDFHILMPST0123456789_.-/ ") for name in shown)
    assert "use/label_leave_one_speaker_out.log_mel_clip_normalised" in metrics
    read = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert read["metrics"] == metrics
    assert read["open_loop"]["retrieval"] == {"1": 0.5, "2": 0.25}
    assert read["notes"] == ["a note"]


def test_the_centred_view_is_that_of_clips_without_their_mean_per_band_and_joins_the_clip_vector(model: WorldModelNet) -> None:
    tokens, actions = clips_of([7, 3])
    bands = CONFIG.features.n_mels
    both = clip_features(model, tokens, actions, centred_bands=bands)
    louder = clip_features(model, [x + np.float32(2) for x in tokens], actions, centred_bands=bands)
    plain = clip_features(model, tokens, actions)
    for part in (*PARTS, "feat"):
        assert np.array_equal(both[part], plain[part])
        np.testing.assert_allclose(both[part + CENTRED], louder[part + CENTRED], atol=1e-4)
        assert not np.allclose(both[part], louder[part], atol=1e-2)
    assert join_parts(both).shape[1] == 2 * join_parts(plain).shape[1]
