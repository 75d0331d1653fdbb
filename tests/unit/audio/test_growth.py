"""What is complete in a growing source, and what its catalogue makes of it."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pydreaming.audio.sources import Catalogue, iter_source
from pydreaming.audio.sources.growth import OLD_S, Completeness, is_temporary
from pydreaming.config import Config, load_config
from pydreaming.errors import SourceError


def test_a_file_is_complete_when_it_has_not_changed_for_a_while(tmp_path):
    now = [100.0]
    complete, path = Completeness(tmp_path, 5.0, lambda: now[0]), tmp_path / "a.wav"
    assert not complete.is_complete("a.wav")
    path.write_bytes(b"")
    assert not complete.is_complete("a.wav")
    for size in (1, 2, 3):  # it grows
        path.write_bytes(b"x" * size)
        assert not complete.is_complete("a.wav")
        now[0] += 4.0
    path.write_bytes(b"yyy")  # the same size, at another time
    os.utime(path, (time.time() + 1,) * 2)
    assert not complete.is_complete("a.wav")
    now[0] += 4.9
    assert not complete.is_complete("a.wav")
    now[0] += 0.2
    assert complete.is_complete("a.wav")
    path.write_bytes(b"yyyy")
    assert not complete.is_complete("a.wav")


def test_only_what_is_old_is_complete_at_first_sight_however_clocks_differ(tmp_path):
    complete = Completeness(tmp_path, 5.0)
    for name, age, expected in (("old", OLD_S + 60, True), ("new", 30, False), ("ahead", -30, False), ("far", -OLD_S - 60, True)):
        (tmp_path / f"{name}.wav").write_bytes(b"x")
        os.utime(tmp_path / f"{name}.wav", (time.time() - age,) * 2)
        assert complete.is_complete(f"{name}.wav") is expected, name


def test_what_has_gone_is_forgotten(tmp_path):
    complete = Completeness(tmp_path, 5.0)
    for number in range(20):
        (tmp_path / f"{number}.wav").write_bytes(b"x")
        complete.is_complete(f"{number}.wav")
        (tmp_path / f"{number}.wav").unlink()
        complete.end_round()
        assert len(complete._seen) <= 1


@pytest.mark.parametrize(
    ("name", "temporary"),
    [
        ("a/b.wav", False), ("a.part/b.wav", False), ("apart.wav", False), (".b.wav", True), ("a/~b.wav", True), ("b.part.wav", True),
        ("b.wav.part", True), ("b.wav.tmp", True), ("B.TMP.WAV", True), ("b.wav.crdownload", True), ("b.wav~", True), ("a.flac", False),
    ],
)  # fmt: skip
def test_temporary_names(name, temporary):
    assert is_temporary(name) is temporary


def source(folder: Path, *overrides: str) -> Config:
    return load_config(["defaults"], ["--source.path", str(folder), "--source.watch_s", "1", *overrides])


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"RIFF")


def split(catalogue: Catalogue) -> dict[str, bool]:
    return {item.path: bool(catalogue.held_out[item.index]) for item in catalogue}


@pytest.mark.parametrize("first", [3, 40])
def test_growth_moves_no_recording_between_training_and_held_out(tmp_path, first):
    audio, names = tmp_path / "audio", [f"{n:03d}.wav" for n in range(300)]
    np.random.default_rng(first).shuffle(names)
    config, seen = source(audio, "--source.held_out", "0.2"), dict[str, bool]()
    fill(audio, names[:first])
    catalogue = Catalogue.build(config.source, config.action, 0, tmp_path / "c")
    for until in (first, first + 1, first + 20, 300):
        fill(audio, names[:until])
        known = {item.path for item in catalogue}
        catalogue.add([item for item in iter_source(config.source) if item.path not in known], config.source, 0)
        assert len(catalogue) == until
        assert [item.index for item in catalogue] == list(range(until)) == [catalogue[i].index for i in range(until)]
        assert seen.items() <= split(catalogue).items()
        seen = split(catalogue)
        assert split(Catalogue.open(tmp_path / "c")) == seen
        assert sorted([*catalogue.train_indices, *catalogue.held_out_indices]) == list(range(until))
    assert 40 <= sum(seen.values()) <= 80
    whole = Catalogue.build(config.source, config.action, 0, tmp_path / "whole")
    assert split(whole) == seen  # as if everything had been there at once
    assert split(Catalogue.build(config.source, config.action, 1, tmp_path / "seed")) != seen


def test_a_speakers_later_recordings_are_on_the_same_side(tmp_path):
    names = [f"{speaker}/{n}.wav" for speaker in range(30) for n in range(4)]
    audio, folder = tmp_path / "audio", tmp_path / "c"
    rows = [f"{name},{name.partition('/')[0]}" for name in names]
    config = source(audio, "--source.held_out", "0.3", "--source.held_out_speakers", "['7']")
    fill(audio, names)

    def manifest(count: int) -> None:
        (audio / "metadata.csv").write_text("\n".join(["file_name,speaker", *rows[:count]]))

    manifest(100)
    catalogue = Catalogue.build(config.source, config.action, 0, folder)
    assert catalogue.info.split == "speaker"
    manifest(120)
    catalogue.add(list(iter_source(config.source))[100:], config.source, 0)
    sides: dict[str, set[bool]] = {}
    for path, held_out in split(catalogue).items():
        sides.setdefault(path.partition("/")[0], set()).add(held_out)
    assert all(len(side) == 1 for side in sides.values())
    assert sides["7"] == {True}
    assert 2 <= sum(side == {True} for side in sides.values()) <= 20


def test_a_torn_line_is_written_over_and_a_damaged_one_refused(tmp_path):
    config = source(tmp_path / "audio")
    fill(tmp_path / "audio", ["a.wav", "b.wav"])
    catalogue = Catalogue.build(config.source, config.action, 0, tmp_path / "c")
    new = [msgspec.structs.replace(catalogue[0], path=f"{n}.wav") for n in range(4)]
    catalogue.add(new[:2], config.source, 0)
    path = tmp_path / "c" / "arrivals.jsonl"
    path.write_bytes(path.read_bytes() + b'{"held_out":false,"item":{"index":4,"path":"torn.wav","group":"g"}}')
    catalogue = Catalogue.open(tmp_path / "c")
    assert len(catalogue) == 4
    catalogue.add(new[2:], config.source, 0)
    assert [item.path for item in Catalogue.open(tmp_path / "c")][2:] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    path.write_bytes(path.read_bytes().replace(b'"held_out"', b'"held_in"', 1))
    with pytest.raises(SourceError, match="damaged"):
        Catalogue.open(tmp_path / "c")


def test_leases_of_rows_cover_these_rows(tmp_path):
    config = source(tmp_path / "audio", "--source.held_out", "0.3")
    fill(tmp_path / "audio", [f"{n}.wav" for n in range(50)])
    catalogue = Catalogue.build(config.source, config.action, 0, tmp_path / "c")
    for rows in ((0, 50), (10, 30), (20, 20), (49, 50)):
        leased = sorted(i for lease in catalogue.leases(0, 3, 4, rows) for i in lease.tolist())
        assert leased == [i for i in catalogue.train_indices.tolist() if rows[0] <= i < rows[1]]


def test_catalogues_from_before_sources_grew_are_still_good(tmp_path):
    fill(tmp_path / "audio", ["a.wav", "b.wav"])
    config = load_config(["defaults"], ["--source.path", str(tmp_path / "audio")])
    first = Catalogue.build(config.source, config.action, 0, tmp_path / "c")
    (tmp_path / "audio" / "c.wav").write_bytes(b"RIFF")
    assert len(Catalogue.build(config.source, config.action, 0, tmp_path / "c")) == 2
    grown = dataclasses.replace(config.source, watch_s=3.0)
    catalogue = Catalogue.build(grown, config.action, 0, tmp_path / "c2")
    often = Catalogue.build(dataclasses.replace(grown, watch_s=9.0), config.action, 0, tmp_path / "c2")
    assert catalogue.info.fingerprint == often.info.fingerprint != first.info.fingerprint
