"""Probes: which protocols a set of clips allows, that no split leaks, and that accuracies mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pydreaming.evaluation.probes import MAX_SPEAKERS, Labels, Protocol, plan_protocols, run_probe


def names(values: Sequence[str]) -> Labels:
    return np.array(values, dtype=np.str_)


def plan(
    labels: Sequence[str],
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    held_out: Sequence[bool] | None = None,
) -> tuple[dict[tuple[str, str], Protocol], list[str]]:
    n = len(labels)
    protocols, notes = plan_protocols(
        names(labels),
        names(speakers or [""] * n),
        names(groups or [f"recording:{i}" for i in range(n)]),
        np.array(held_out or [False] * n, dtype=np.bool_),
    )
    for protocol in protocols:
        for train, test in protocol.splits:
            assert len(train)
            assert len(test)
            assert not set(train.tolist()) & set(test.tolist())
            assert len(set(protocol.targets[train].tolist())) > 1
    return {(p.label, p.name): p for p in protocols}, notes


DIGITS = [str(i % 3) for i in range(24)]
SPEAKERS = [f"s{i // 6}" for i in range(24)]


def test_with_speakers_the_label_is_probed_on_those_left_out_and_the_speaker_over_clips() -> None:
    protocols, notes = plan(DIGITS, SPEAKERS, held_out=[i % 6 == 0 for i in range(24)])
    assert list(protocols) == [
        ("label", "leave-one-speaker-out"), ("label", "held-out clips"), ("speaker", "folds"), ("speaker", "held-out clips"),
    ]  # fmt: skip
    assert notes == []
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


def test_without_speakers_the_clips_of_one_recording_stay_together() -> None:
    groups = [f"recording:{i // 2}" for i in range(24)]
    protocols, notes = plan(DIGITS, groups=groups)
    assert list(protocols) == [("label", "grouped folds")]
    for train, test in protocols["label", "grouped folds"].splits:
        assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert protocols["label", "grouped folds"].test_clips == 24
    assert notes == [
        "No label probe on held-out clips: none of them has a known label.",
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
    assert list(protocols) == [("label", "grouped folds")]


def test_labels_of_one_recording_cannot_be_folded_and_that_is_said() -> None:
    protocols, notes = plan(DIGITS, groups=["recording:all"] * 24)
    assert not protocols
    assert "No label probe by grouped folds: no split leaves two labels to train on and one of them to test." in notes


def test_speakers_who_each_say_another_word_cannot_be_left_out_and_that_is_said() -> None:
    protocols, notes = plan(["yes"] * 4 + ["no"] * 4, ["ann"] * 4 + ["bob"] * 4)
    assert list(protocols) == [("speaker", "folds")]
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
        said = sum(note.startswith(f"No {name} probe:") for note in notes) * 2 + sum(
            note.startswith((f"No {name} probe by", f"No {name} probe on")) for note in notes
        )
        assert said + sum(label == name for label, _ in protocols) == 2


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
