from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from source_trees import audio, config_of, text

from pydreaming.audio.sources import Catalogue, iter_source
from pydreaming.config import ActionConfig
from pydreaming.errors import SourceError

NONE = ActionConfig(kind="none", strides=[], columns=[])
RPM = ActionConfig(kind="controls", strides=[], columns=["rpm"])


def manifest(folder: Path, rows: list[dict[str, object]]) -> Path:
    lines = [json.dumps({"audio_filepath": f"{n}.wav"} | row) for n, row in enumerate(rows)]
    return text(folder / "m.jsonl", "\n".join(lines) + "\n")


def speakers(count: int, each: int = 3) -> list[dict[str, object]]:
    return [{"speaker": f"s{n % count}", "rpm": n} for n in range(count * each)]


def test_items_come_back_as_the_source_gave_them(tmp_path):
    config = config_of(manifest(tmp_path, speakers(4)))
    built = Catalogue.build(config, RPM, 0, tmp_path / "deep/er/catalogue")
    expected = list(iter_source(config, ["rpm"]))
    opened = Catalogue.open(built.folder)
    assert len(opened) == len(expected) == 12
    for i, item in enumerate(expected):
        assert opened[i] == built[i] == list(built)[i]
        assert (opened[i].index, opened[i].path, opened[i].controls, opened[i].labels) == (i, item.path, item.controls, item.labels)
    assert opened[-1] == opened[11]
    assert opened[np.int64(3)].index == 3
    for wrong in (12, -13):
        with pytest.raises(IndexError, match="of 12"):
            opened[wrong]
    assert sorted(p.name for p in opened.folder.iterdir()) == [
        "catalogue.json",
        "group_ids.npy",
        "held_out.npy",
        "items.jsonl",
        "offsets.npy",
    ]
    assert [p.name for p in opened.folder.parent.iterdir()] == ["catalogue"]


def test_group_ids_are_those_of_the_groups(tmp_path):
    catalogue = Catalogue.build(config_of(manifest(tmp_path, speakers(4))), NONE, 0, tmp_path / "c")
    pairs = {(item.group, int(catalogue.group_ids[item.index])) for item in catalogue}
    assert len(pairs) == len({g for g, _ in pairs}) == len({i for _, i in pairs}) == catalogue.info.groups == 4
    assert catalogue.info.label_columns == ["rpm", "speaker"]


def held_out_groups(catalogue: Catalogue) -> set[str]:
    held, train = ({catalogue[int(i)].group for i in side} for side in (catalogue.held_out_indices, catalogue.train_indices))
    assert not held & train
    return held


def test_held_out_by_speaker_where_ten_are_known(tmp_path):
    config = config_of(manifest(tmp_path, speakers(20)), held_out=0.2)
    splits = [held_out_groups(Catalogue.build(config, NONE, seed, tmp_path / f"c{seed}")) for seed in range(4)]
    assert all(len(groups) == 4 for groups in splits)
    assert len({frozenset(groups) for groups in splits}) > 1
    assert splits[0] == held_out_groups(Catalogue.build(config, NONE, 0, tmp_path / "again"))


def test_held_out_by_recording_where_fewer_speakers_are_known_and_segments_stay_together(tmp_path):
    rows: list[dict[str, object]] = [
        {"audio_filepath": f"{n // 4}.wav", "offset": n % 4, "duration": 1, "speaker": f"s{n % 2}"} for n in range(80)
    ]
    catalogue = Catalogue.build(config_of(manifest(tmp_path, rows)), NONE, 0, tmp_path / "c")
    assert catalogue.info.split == "recording"
    held, train = ({catalogue[int(i)].path for i in side} for side in (catalogue.held_out_indices, catalogue.train_indices))
    assert len(held) == 2
    assert not held & train


@pytest.mark.parametrize(("count", "share", "expected"), [(1, 0.1, 0), (2, 0.01, 1), (3, 0.5, 2), (5, 0.0, 0)])
def test_at_least_one_of_two_recordings_is_held_out_unless_none_is_wanted(tmp_path, count, share, expected):
    catalogue = Catalogue.build(config_of(manifest(tmp_path, [{}] * count), held_out=share), NONE, 0, tmp_path / "c")
    assert len(catalogue.held_out_indices) == expected
    assert len(catalogue.train_indices) == count - expected


def test_the_official_split_comes_first(tmp_path):
    for name in ["1_ann_0", "1_ann_5", "1_bob_7", "2_ann_4"]:
        audio(tmp_path / f"set/{name}.wav")
    catalogue = Catalogue.build(config_of(tmp_path / "set", held_out=0.0), NONE, 0, tmp_path / "c")
    assert catalogue.info.split == "official"
    assert [catalogue[int(i)].path for i in catalogue.held_out_indices] == ["1_ann_0.wav", "2_ann_4.wav"]


def test_a_source_that_is_all_test_set_is_split_like_any_other(tmp_path):
    for n in range(4):
        audio(tmp_path / f"set/1_ann_{n}.wav")
    catalogue = Catalogue.build(config_of(tmp_path / "set", held_out=0.5), NONE, 0, tmp_path / "c")
    assert (catalogue.info.split, len(catalogue.held_out_indices)) == ("recording", 2)


def test_named_speakers_are_held_out_beside_the_official_split(tmp_path):
    for name in ["1_ann_0", "1_ann_5", "1_bob_0", "1_bob_7", "1_bob_8", "2_cid_9"]:
        audio(tmp_path / f"set/{name}.wav")
    config = config_of(tmp_path / "set", held_out_speakers=["bob"])
    catalogue = Catalogue.build(config, NONE, 0, tmp_path / "c")
    assert [catalogue[int(i)].path for i in catalogue.train_indices] == ["1_ann_5.wav", "2_cid_9.wav"]
    assert catalogue.info.held_out == 4
    without = Catalogue.build(config_of(tmp_path / "set"), NONE, 0, tmp_path / "c")  # another setting, another catalogue
    assert len(without.train_indices) == 4


def test_named_speakers_are_held_out_beside_a_seeded_share(tmp_path):
    path = manifest(tmp_path, speakers(20))
    usual = held_out_groups(Catalogue.build(config_of(path, held_out=0.2), NONE, 0, tmp_path / "usual"))
    named = held_out_groups(Catalogue.build(config_of(path, held_out=0.2, held_out_speakers=["s3", "s4"]), NONE, 0, tmp_path / "named"))
    assert named == usual | {"speaker:s3", "speaker:s4"}
    alone = Catalogue.build(config_of(path, held_out=0.0, held_out_speakers=["s3"]), NONE, 0, tmp_path / "alone")
    assert (held_out_groups(alone), alone.info.split) == ({"speaker:s3"}, "none")


@pytest.mark.parametrize(
    ("rows", "known"),
    [(speakers(2), "are: s0, s1$"), (speakers(30), r"are: s0, s1, s10, .*\.\.\.$"), ([{}], "none of its speakers is known$")],
    ids=["few", "many", "none"],
)
def test_an_unknown_speaker_to_hold_out_is_answered_with_the_known_ones(tmp_path, rows, known):
    config = config_of(manifest(tmp_path, rows), held_out_speakers=["s1", "eve"] if len(rows) > 1 else ["eve"])
    with pytest.raises(SourceError, match=f"held_out_speakers: .* no speaker 'eve'; .*{known}"):
        Catalogue.build(config, NONE, 0, tmp_path / "c")


def test_max_files_is_a_seeded_sample_in_order(tmp_path):
    path = manifest(tmp_path, speakers(50, 4))
    paths = [
        [item.path for item in Catalogue.build(config_of(path, max_files=20), NONE, seed, tmp_path / f"{n}")]
        for n, seed in enumerate([0, 0, 1])
    ]
    order = {f"{n}.wav": n for n in range(200)}
    assert paths[0] == paths[1] == sorted(paths[0], key=order.__getitem__)
    assert len(set(paths[0])) == 20
    assert paths[0] != paths[2]
    catalogue = Catalogue.open(tmp_path / "0")
    assert [item.index for item in catalogue] == list(range(20))
    assert len(Catalogue.build(config_of(path, max_files=500), NONE, 0, tmp_path / "all")) == 200


def test_control_statistics_are_those_of_the_training_items(tmp_path):
    rows: list[dict[str, object]] = [{"rpm": float(n), "load": 3} for n in range(40)]
    action = ActionConfig(kind="controls", strides=[], columns=["rpm", "load"])
    catalogue = Catalogue.build(config_of(manifest(tmp_path, rows), held_out=0.25), action, 0, tmp_path / "c")
    values = np.array([catalogue[int(i)].controls for i in catalogue.train_indices])
    np.testing.assert_allclose(catalogue.info.control_mean, values.mean(axis=0))
    np.testing.assert_allclose(catalogue.info.control_std, [values[:, 0].std(), 1.0])
    assert catalogue.info.control_columns == ["rpm", "load"]


def test_reused_with_the_same_settings_and_rebuilt_with_others(tmp_path):
    path, folder = manifest(tmp_path, speakers(4)), tmp_path / "c"
    Catalogue.build(config_of(path), NONE, 0, folder)
    stamp = (folder / "items.jsonl").stat()
    manifest(tmp_path, speakers(5))  # a run keeps the catalogue it began with
    assert len(Catalogue.build(config_of(path), NONE, 0, folder)) == 12
    assert (folder / "items.jsonl").stat() == stamp
    assert len(Catalogue.build(config_of(path), NONE, 1, folder)) == 15
    assert Catalogue.build(config_of(path), RPM, 1, folder)[0].controls == (0.0,)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    path = manifest(tmp_path, speakers(2))
    text(tmp_path / "mine/thesis.tex", "precious")
    with pytest.raises(SourceError, match="other things than a catalogue"):
        Catalogue.build(config_of(path), NONE, 0, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.tex").read_text() == "precious"


def test_nothing_found_and_a_broken_manifest_leave_nothing_behind(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no audio found in .*empty"):
        Catalogue.build(config_of(tmp_path / "empty"), NONE, 0, tmp_path / "run/c")
    path = manifest(tmp_path, [{}, {"offset": "x"}])
    with pytest.raises(SourceError, match="line 2"):
        Catalogue.build(config_of(path), NONE, 0, tmp_path / "run/c")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    path = manifest(tmp_path, speakers(2))
    for folder in (path, path / "c"):
        with pytest.raises(SourceError, match=r"m\.jsonl.*(other things|cannot be written)"):
            Catalogue.build(config_of(path), NONE, 0, folder)


@pytest.mark.parametrize("damage", ["catalogue.json", "offsets.npy", "group_ids.npy", "held_out.npy", "items.jsonl"])
def test_damage_is_noticed_when_it_is_opened(tmp_path, damage):
    folder = Catalogue.build(config_of(manifest(tmp_path, speakers(4))), NONE, 0, tmp_path / "c").folder
    content = (folder / damage).read_bytes()
    (folder / damage).write_bytes(content[:-3])
    with pytest.raises(SourceError, match="catalogue"):
        Catalogue.open(folder)
    (folder / damage).unlink()
    with pytest.raises(SourceError, match="not a readable catalogue"):
        Catalogue.open(folder)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([2] * 8, [2] * 8),  # a quarter of a lease on average: one group to a lease
        ([2] * 7 + [1], [7, 8]),  # just below: whole groups packed together
        ([1] * 8, [8]),
        ([1] * 16, [8, 8]),
        ([17], [1, 8, 8]),
    ],
)
def test_leases_hold_one_group_or_are_packed(tmp_path, sizes, expected):
    rows: list[dict[str, object]] = [{"speaker": f"s{g}"} for g, size in enumerate(sizes) for _ in range(size)]
    catalogue = Catalogue.build(config_of(manifest(tmp_path, rows), held_out=0.0), NONE, 0, tmp_path / "c")
    found = sorted(len(lease) for lease in catalogue.leases(0, 0, 8))
    assert found == expected
    assert len(catalogue.leases(0, 0, 8)[:1]) == 1


def test_sample_draws_training_items_without_repetition(tmp_path):
    catalogue = Catalogue.build(config_of(manifest(tmp_path, speakers(20))), NONE, 0, tmp_path / "c")
    sample = catalogue.sample(10, seed=3)
    assert len(set(sample.tolist())) == 10
    assert set(sample.tolist()) <= set(catalogue.train_indices.tolist())
    np.testing.assert_array_equal(sample, catalogue.sample(10, seed=3))
    assert set(sample.tolist()) != set(catalogue.sample(10, seed=4).tolist())
    assert sorted(catalogue.sample(10_000, seed=3)) == catalogue.train_indices.tolist()


MEASURE = """
import re, sys
from pathlib import Path
from pydreaming.audio.sources import Catalogue
from pydreaming.config import load_config

def mib(key):
    return int(re.search(rf"{key}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

config = load_config(["defaults"], ["--source.path", sys.argv[1]])
before = mib("VmRSS")
catalogue = Catalogue.build(config.source, config.action, 0, Path(sys.argv[2]))
for lease in catalogue.leases(0, 0, 32)[:20]:
    [catalogue[int(i)] for i in lease]
print(len(catalogue), mib("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_many_rows_cost_little_memory(tmp_path):
    rows = 200_000
    with (tmp_path / "m.jsonl").open("w") as out:
        for n in range(rows):
            out.write(f'{{"audio_filepath": "clips/{n:09d}.wav", "speaker": "speaker-{n % 5000}", "text": "sentence number {n}"}}\n')
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "m.jsonl"), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.fullmatch(r"(\d+) ([\d.]+)\s*", done.stdout)
    assert found, done.stdout
    assert int(found[1]) == rows
    # The rows as Python objects would be some 150 MiB; measured: 21 MiB, and 91 MiB for a million rows.
    assert float(found[2]) < 45
