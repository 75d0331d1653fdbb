"""Probes: which protocols a set of clips allows, that no split leaks, and that accuracies mean what they say."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import pydreaming.evaluation.probes as probes_module
from pydreaming.evaluation.classifiers import GRID, Labels
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import ProbeResult, accuracy_row, loso_strict, probe_rows, run_forest, run_probe
from pydreaming.evaluation.protocols import DRAWS, MAX_SPEAKERS, SHOTS, Protocol, plan_protocols, speaker_centred, strict_protocol
from pydreaming.evaluation.views import Views


def names(values: Sequence[str]) -> Labels:
    return np.array(values, dtype=np.str_)


def clips_of(
    labels: Sequence[str],
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    held_out: Sequence[bool] | None = None,
    folds: Sequence[str] | None = None,
) -> Clips:
    n = len(labels)
    return Clips(
        [np.zeros((1, 1), np.float32)] * n,
        [np.zeros((1, 1), np.float32)] * n,
        names([f"{i}.wav" for i in range(n)]),
        names(labels),
        names(speakers or [""] * n),
        names(groups or [f"recording:{i}.wav" for i in range(n)]),
        np.array(held_out or [False] * n, dtype=np.bool_),
        None if folds is None else names(folds),
    )


def plan(
    labels: Sequence[str],
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    held_out: Sequence[bool] | None = None,
    folds: Sequence[str] | None = None,
) -> tuple[dict[tuple[str, str], Protocol], list[str]]:
    clips = clips_of(labels, speakers, groups, held_out, folds)
    protocols, notes = plan_protocols(clips)
    for protocol in protocols:
        for train, test in protocol.splits:
            assert len(train)
            assert len(test)
            assert not set(train.tolist()) & set(test.tolist())
            assert len(set(protocol.targets[train].tolist())) > 1
            if protocol.shots:
                assert set(train.tolist()) <= set(protocol.unlabelled.tolist())
                assert not clips.held_out[train].any()
                assert not set(clips.recordings[train].tolist()) & set(clips.recordings[test].tolist())
    return {(p.label, p.name): p for p in protocols}, notes


DIGITS = [str(i % 3) for i in range(24)]
SPEAKERS = [f"s{i // 6}" for i in range(24)]


def test_with_speakers_the_label_is_probed_on_those_left_out_and_the_speaker_on_held_out_clips() -> None:
    protocols, notes = plan(DIGITS, SPEAKERS, held_out=[i % 6 == 0 for i in range(24)])
    assert list(protocols) == [
        ("label", "leave-one-speaker-out"), ("label", "held-out clips"), ("label", "1-shot"),
        ("speaker", "held-out clips"), ("speaker", "5-shot"),
    ]  # fmt: skip
    assert notes == ["No label probe by 5-shot: label '0' has 4 of the 5 clips to draw among those that were trained on."]
    speakers = names(SPEAKERS)
    left_out = protocols["label", "leave-one-speaker-out"]
    assert len(left_out.splits) == 4
    for train, test in left_out.splits:
        assert len(set(speakers[test].tolist())) == 1
        assert not set(speakers[test].tolist()) & set(speakers[train].tolist())
    assert left_out.test_clips == 24
    assert left_out.chance == pytest.approx(1 / 3)
    train, test = protocols["label", "held-out clips"].splits[0]
    assert [i % 6 == 0 for i in range(24)] == [i in set(test.tolist()) for i in range(24)]
    assert len(train) == 20


def test_speakers_are_told_in_folds_where_no_clip_is_held_out() -> None:
    protocols, _ = plan(DIGITS, SPEAKERS)
    assert list(protocols)[-2:] == [("speaker", "folds"), ("speaker", "5-shot")]
    assert protocols["speaker", "folds"].test_clips == 24


def test_without_speakers_the_clips_of_one_recording_stay_together() -> None:
    groups = [f"recording:{i // 2}" for i in range(24)]
    protocols, notes = plan(DIGITS, groups=groups)
    assert list(protocols) == [("label", "grouped folds"), ("label", "1-shot")]
    for train, test in protocols["label", "grouped folds"].splits:
        assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert protocols["label", "grouped folds"].test_clips == 24
    assert notes == [
        "No label probe on held-out clips: none of them has a known label.",
        "No label probe by 5-shot: the recordings that were drawn from leave nothing to test.",
        "No speaker probe: no speaker is known with at least 2 clips.",
    ]


def test_many_speakers_are_left_out_by_the_most_frequent_only() -> None:
    speakers = [f"s{i % (MAX_SPEAKERS + 4)}" for i in range(84)]
    protocols, _ = plan([str(i // 14 % 2) for i in range(84)], speakers)
    assert len(protocols["label", "leave-one-speaker-out"].splits) == MAX_SPEAKERS


def test_nothing_known_leaves_no_protocol_and_two_notes() -> None:
    protocols, notes = plan([""] * 6)
    assert not protocols
    assert notes == [f"No {name} probe: no {name} is known with at least 2 clips." for name in ("label", "speaker")]


def test_no_clips_at_all_leave_no_protocol() -> None:
    protocols, notes = plan([])
    assert not protocols
    assert len(notes) == 2


def test_one_class_and_one_speaker_are_said() -> None:
    protocols, notes = plan(["dog"] * 6, ["ann"] * 6)
    assert not protocols
    assert notes == [f"No {name} probe: only one {name} is known with at least 2 clips." for name in ("label", "speaker")]


def test_one_speaker_still_allows_folds_over_recordings() -> None:
    protocols, _ = plan(DIGITS, ["ann"] * 24)
    assert list(protocols) == [("label", "grouped folds"), ("label", "1-shot"), ("label", "5-shot")]


def test_labels_of_one_recording_cannot_be_folded_and_that_is_said() -> None:
    protocols, notes = plan(DIGITS, groups=["recording:all"] * 24)
    assert not protocols
    assert "No label probe by grouped folds: no split leaves two labels to train on and one of them to test." in notes


def test_speakers_who_each_say_another_word_cannot_be_left_out_and_that_is_said() -> None:
    protocols, notes = plan(["yes"] * 4 + ["no"] * 4, ["ann"] * 4 + ["bob"] * 4)
    assert ("label", "leave-one-speaker-out") not in protocols
    assert ("speaker", "folds") in protocols
    assert any("leave-one-speaker-out" in note for note in notes)


def test_held_out_speakers_that_training_lacks_are_said() -> None:
    protocols, notes = plan(DIGITS, SPEAKERS, held_out=[speaker == "s3" for speaker in SPEAKERS])
    assert ("label", "held-out clips") in protocols
    assert ("speaker", "held-out clips") not in protocols
    assert "No speaker probe on held-out clips: speaker 's3' is not among the clips that were trained on." in notes


def test_a_training_split_of_one_label_is_said() -> None:
    _, notes = plan(["a"] * 8 + ["b", "b"], held_out=[False] * 6 + [True] * 2 + [False] * 2)
    assert not any("only one label" in note for note in notes)
    _, notes = plan(["a"] * 8 + ["b", "b"], held_out=[False] * 8 + [True] * 2)
    assert any("label 'b' is not among" in note for note in notes)


def test_a_class_with_one_clip_is_left_out_and_counted() -> None:
    protocols, notes = plan([*DIGITS, "rare"], held_out=[False] * 20 + [True] * 5)
    rows = np.concatenate([np.concatenate(split) for protocol in protocols.values() for split in protocol.splits])
    assert 24 not in rows.tolist()
    assert "1 label with a single clip left out of the label probes." in notes


def test_clips_without_a_label_are_in_no_split() -> None:
    protocols, _ = plan([*DIGITS, "", ""], [*SPEAKERS, "s0", "s1"])
    for protocol in protocols.values():
        if protocol.label == "label":
            assert all(i < 24 for split in protocol.splits for part in split for i in part.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_what_is_known_gives_protocols_or_notes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    labels = rng.choice(["", "a", "b", "c"], n).tolist()
    speakers = rng.choice(["", "x", "y"], n).tolist()
    protocols, notes = plan(labels, speakers, rng.choice(["g", "h", "i"], n).tolist(), rng.choice([True, False], n).tolist())
    for name in ("label", "speaker"):
        possible = (1 if ("speaker", "held-out clips") in protocols and name == "speaker" else 2) + len(SHOTS[name])
        said = sum(note.startswith(f"No {name} probe:") for note in notes) * possible + sum(
            note.startswith((f"No {name} probe by", f"No {name} probe on")) for note in notes
        )
        assert said + sum(label == name for label, _ in protocols) == possible


def test_random_features_are_at_chance_and_separable_ones_are_found() -> None:
    rng = np.random.default_rng(0)
    labels = [str(i % 4) for i in range(400)]
    protocol = plan(labels)[0]["label", "grouped folds"]
    noise = rng.standard_normal((400, 16)).astype(np.float32)
    blind = run_probe(noise, protocol)
    assert protocol.chance == 0.25
    assert abs(blind.linear - 0.25) < 0.09
    assert abs(blind.knn - 0.25) < 0.09
    told = noise.copy()
    told[np.arange(400), np.arange(400) % 4] += 8
    sure = run_probe(told, protocol)
    assert sure.linear > 0.98
    assert sure.knn > 0.98
    assert sure.interval < blind.interval
    assert blind.interval == pytest.approx(1.96 * np.sqrt(blind.linear * (1 - blind.linear) / 400), rel=0.02)


def test_of_two_views_the_one_that_knows_the_label_is_chosen_inside_the_training_clips() -> None:
    rng = np.random.default_rng(0)
    labels, speakers = [str(i % 3) for i in range(180)], [f"s{i // 60}" for i in range(180)]
    content = (np.eye(3, 40)[[int(x) for x in labels]] * 4 + rng.standard_normal((180, 40))).astype(np.float32)
    scene = (np.eye(3, 10)[[int(x[1]) for x in speakers]] * 4 + rng.standard_normal((180, 10))).astype(np.float32)
    protocols = plan(labels, speakers)[0]
    for name in (("label", "5-shot"), ("speaker", "5-shot"), ("speaker", "folds"), ("label", "leave-one-speaker-out")):
        found = run_probe(Views(content, scene), protocols[name])
        best, other = (content, scene) if name[0] == "label" else (scene, content)
        assert found.linear > 0.85
        assert found.linear >= run_probe(best, protocols[name]).linear - 0.05
        assert run_probe(other, protocols[name]).linear < 0.6
    # One clip of a class leaves nothing to choose by: the content stands.
    assert run_probe(Views(content, scene), protocols["label", "1-shot"]) == run_probe(content, protocols["label", "1-shot"])


def test_content_without_its_scene_serves_labels_of_what_happens_and_no_others() -> None:
    rng = np.random.default_rng(0)
    labels, speakers = [str(i % 3) for i in range(180)], [f"s{i // 60}" for i in range(180)]
    what = (np.eye(3, 40)[[int(x) for x in labels]] * 3 + rng.standard_normal((180, 40))).astype(np.float32)
    who = np.eye(3, 40, 10)[[int(x[1]) for x in speakers]] * 9
    scene = (np.eye(3, 10)[[int(x[1]) for x in speakers]] * 4 + rng.standard_normal((180, 10))).astype(np.float32)
    views = Views((what + who).astype(np.float32), scene, what)
    protocols = plan(labels, speakers)[0]
    plain, best = (run_probe(x, protocols["label", "1-shot"]).linear for x in (views.content, what))
    assert plain + 0.02 < run_probe(views, protocols["label", "1-shot"]).linear < best, "both side by side: nothing to choose by"
    assert run_probe(views, protocols["label", "5-shot"]).linear > run_probe(views.content, protocols["label", "5-shot"]).linear + 0.05
    assert run_probe(views, protocols["speaker", "5-shot"]).linear > 0.95
    assert run_probe(what, protocols["speaker", "5-shot"]).linear < 0.6
    found, alone = (
        run_probe(x, protocols["label", "leave-one-speaker-out"]).linear for x in (Views(views.content, None, what), views.content)
    )
    assert found >= alone - 0.05


def test_fewer_training_clips_than_neighbours_and_constant_features() -> None:
    protocol = plan(["a", "b", "a", "b"])[0]["label", "grouped folds"]
    result = run_probe(np.zeros((4, 3), np.float32), protocol)
    assert 0 <= result.linear <= 1
    assert 0 <= result.knn <= 1


def test_a_speakers_voice_helps_in_folds_but_not_on_speakers_left_out() -> None:
    """Features that tell only who speaks; half of the speakers mostly say 0, the others mostly 1."""
    labels = [str(i // 24 % 2) if i % 4 else str(1 - i // 24 % 2) for i in range(96)]
    features = np.eye(4, dtype=np.float32)[[i // 24 for i in range(96)]]
    by_clip = plan(labels)[0]["label", "grouped folds"]
    by_speaker = plan(labels, [f"s{i // 24}" for i in range(96)])[0]["label", "leave-one-speaker-out"]
    assert run_probe(features, by_clip).linear > 0.7
    assert run_probe(features, by_speaker).linear < 0.5


def test_few_clips_make_a_wide_interval_even_where_all_are_right() -> None:
    features = np.repeat(np.array([[-4.0], [4.0]], np.float32), 4, 0)
    protocol = plan(["a"] * 4 + ["b"] * 4, held_out=[False, False, False, True] * 2)[0]["label", "held-out clips"]
    result = run_probe(features, protocol)
    assert result.linear == 1
    assert 0.2 < result.interval < 0.5


def test_few_shots_are_drawn_from_what_was_trained_on_and_tested_on_all_else() -> None:
    protocol = plan(DIGITS, SPEAKERS, held_out=[i % 8 == 0 for i in range(24)])[0]["label", "5-shot"]
    assert len(protocol.splits) == DRAWS
    assert len({tuple(train.tolist()) for train, _ in protocol.splits}) == DRAWS
    for train, test in protocol.splits:
        assert sorted(protocol.targets[train].tolist()) == sorted(["0", "1", "2"] * 5)
        assert len(train) + len(test) == 24
    assert len(protocol.unlabelled) == 21
    again = plan(DIGITS, SPEAKERS, held_out=[i % 8 == 0 for i in range(24)])[0]["label", "5-shot"]
    assert all(np.array_equal(a, b) for one, two in zip(protocol.splits, again.splits, strict=True) for a, b in zip(one, two, strict=True))


def test_too_few_clips_to_draw_from_are_said() -> None:
    protocols, notes = plan(["a"] * 8 + ["b"] * 3)
    assert ("label", "1-shot") in protocols
    assert "No label probe by 5-shot: label 'b' has 3 of the 5 clips to draw among those that were trained on." in notes
    _, notes = plan(["a"] * 8 + ["b"] * 3, held_out=[False] * 8 + [True] * 3)
    assert "No label probe by 1-shot: label 'b' has no clip to draw among those that were trained on." in notes
    _, notes = plan(["a", "a", "b", "b"], groups=["recording:a", "recording:b"] * 2)
    assert "No label probe by 1-shot: the recordings that were drawn from leave nothing to test." in notes


def test_official_folds_come_before_our_own_and_never_share_a_recording() -> None:
    folds = [str(1 + i % 4) for i in range(24)]
    protocols, _ = plan(DIGITS, folds=[*folds[:-1], ""])
    assert [test.tolist() for _, test in protocols["label", "official folds"].splits] == [
        [i for i in range(23) if folds[i] == fold] for fold in "1234"
    ]
    groups = [f"recording:{min(i, 22)}" for i in range(24)]
    splits = plan(DIGITS, groups=groups, folds=folds)[0]["label", "official folds"].splits
    assert [22 in train for train, _ in splits] == [True, True, False, False]


def test_c_is_chosen_inside_the_training_clips_alone() -> None:
    rng = np.random.default_rng(0)
    labels = [str(i % 2) for i in range(200)]
    protocol = plan(labels, held_out=[i >= 150 for i in range(200)])[0]["label", "held-out clips"]
    features = rng.standard_normal((200, 30)).astype(np.float32)
    features[:, 0] += 2 * (np.arange(200) % 2)
    chosen = run_probe(features, protocol)
    assert set(chosen.c) <= set(GRID)
    spoilt = features.copy()
    spoilt[150:] *= -100
    assert run_probe(spoilt, protocol).c == chosen.c
    assert run_probe(features, protocol, [GRID[0]]).c == [GRID[0]]


def test_centring_by_speaker_takes_out_the_voice_and_is_named() -> None:
    rng = np.random.default_rng(0)
    labels, speakers = [str(i % 2) for i in range(80)], [f"s{i // 20}" for i in range(80)]
    clips = clips_of(labels, speakers)
    voice = rng.standard_normal((4, 6)) * 10
    features = (0.3 * rng.standard_normal((80, 6)) + voice[np.arange(80) // 20]).astype(np.float32)
    features[:, 0] += np.arange(80) % 2
    protocol = plan(labels, speakers)[0]["label", "leave-one-speaker-out"]
    centred = speaker_centred(protocol, clips)
    assert "told who speaks" in centred.name
    assert run_probe(features, centred).linear > 0.9 > run_probe(features, protocol).linear


def test_few_shot_intervals_are_over_draws() -> None:
    labels = [str(i % 2) for i in range(60)]
    features = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    features[:, 0] += 3 * (np.arange(60) % 2)
    protocol = plan(labels)[0]["label", "1-shot"]
    result = run_probe(features, protocol)
    assert 0.5 < result.linear < 1
    assert 0 < result.interval < 0.1
    sure = run_probe(np.eye(2, dtype=np.float32)[np.arange(60) % 2], protocol)
    assert (sure.linear, sure.knn, sure.nearest_mean, sure.interval) == (1, 1, 1, 0)


def test_a_speaker_never_heard() -> None:
    labels, speakers = [str(i % 2) for i in range(40)], ["ann", "bob", "cid", "cid"] * 10
    features = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    clips = clips_of(labels, speakers)
    strict = strict_protocol(clips, "ann")
    assert isinstance(strict, Protocol)
    assert strict.test_clips == 10
    result = loso_strict(features, clips, "cid")
    assert not isinstance(result, str)
    assert result.linear == 1
    assert loso_strict(features, clips, "dan") == (
        "No loso_strict of speaker 'dan': it needs labelled clips of that speaker, and of two labels by others."
    )


def test_features_are_scaled_by_the_training_clips_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Array] = []

    def fit(x: Array, y: Labels, u: Array, c: float) -> Labels:
        del c
        fitted.append(x)
        return np.repeat(y[:1], len(u))

    monkeypatch.setattr(probes_module, "linear", fit)
    features = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    features[12:] = 100 * features[12:] + 7
    run_probe(features, Protocol("label", "halves", [(np.arange(12), np.arange(12, 24))], names(DIGITS), 1 / 3), [1.0])
    np.testing.assert_allclose([fitted[0].mean(0), fitted[0].std(0)], [np.zeros(3), np.ones(3)], atol=1e-5)


def test_rows_that_are_known_are_not_computed_again() -> None:
    protocols, _ = plan_protocols(clips_of(DIGITS))
    features = {"a": np.zeros((24, 2), np.float32), "b": np.ones((24, 2), np.float32)}
    known = [accuracy_row("a", protocol, [0.5] * DRAWS) for protocol in protocols[1:]]
    rows = probe_rows(protocols, features, jobs=2, known=known)
    assert [(row.protocol, row.features) for row in rows] == [
        ("grouped folds", "a"), ("grouped folds", "b"), ("1-shot", "b"), ("5-shot", "b"),
    ]  # fmt: skip
    assert known[0].knn is None


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_a_row_that_ends_leaves_the_others_their_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, ended, seen = threading.Barrier(2), threading.Event(), []

    def slow(x: Array, y: Labels, u: Array, c: float) -> Labels:
        del c
        at_work.wait(30)
        if x.shape[1] == 3:
            assert ended.wait(30)
            seen.append(blas_threads())
        return np.repeat(y[:1], len(u))

    def probe(features: Array, protocol: Protocol, c: Sequence[float]) -> ProbeResult:
        result = run_probe(features, protocol, c)
        ended.set()
        return result

    monkeypatch.setattr(probes_module, "linear", slow)
    monkeypatch.setattr(probes_module, "run_probe", probe)
    protocol = Protocol("label", "halves", [(np.arange(12), np.arange(12, 24))], names(DIGITS), 1 / 3)
    features = {"soon": np.eye(24, 2, dtype=np.float32), "late": np.eye(24, 3, dtype=np.float32)}
    with threadpool_limits(2):
        probe_rows([protocol], features, jobs=2, c={("label", "halves"): [1.0]})
        assert blas_threads() == {2}
    assert seen == [{1}]


def test_a_forest_is_a_row_of_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "TREES", 10)
    protocol = plan(DIGITS)[0]["label", "grouped folds"]
    row = run_forest(np.eye(3, dtype=np.float32)[np.arange(24) % 3], protocol)
    assert (row.linear, row.knn, row.protocol) == (1, None, "grouped folds")
