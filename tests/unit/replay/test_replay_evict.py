"""Eviction takes the oldest replay files, and nothing that it does not own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pandas as pd
from places import Folder, Place
from replay_store import build_group, evict, store_meta, write_lease


def fill(place: Place, leases: list[tuple[int, int]]) -> list[str]:
    """One file of 20 tokens for each (epoch, lease)."""
    meta = store_meta()
    return [write_lease(place.open(), lease, build_group("g", [(0, 20)], meta), meta, epoch=epoch)[0].name for epoch, lease in leases]


def test_oldest_lease_goes_first_whatever_its_time(place):
    names = fill(place, [(1, 0), (0, 9), (0, 10)])  # written in another order than named
    assert evict(place.open(), 60) == []
    assert evict(place.open(), 59) == [names[1]]
    assert evict(place.open(), 40) == []
    assert evict(place.open(), 21) == [names[2]]
    assert place.names() == [names[0]]


def test_one_file_always_stays(place):
    names = fill(place, [(0, 0), (0, 1), (0, 2)])
    assert evict(place.open(), 1) == names[:2]
    assert evict(place.open(), 0) == []
    assert place.names() == names[2:]


def test_other_names_are_older_than_all_leases_and_ordered_by_time(tmp_path):
    names = fill(Folder(tmp_path), [(0, 0), (0, 1), (0, 2)])
    for age, old in [(50, "x.parquet"), (100, "y.parquet")]:
        (tmp_path / names.pop()).rename(tmp_path / old)
        os.utime(tmp_path / old, (time.time() - age,) * 2)
    assert evict(tmp_path, 45) == ["y.parquet"]
    assert evict(tmp_path, 25) == ["x.parquet"]


def test_foreign_and_damaged_files_are_left_alone(place):
    names = fill(place, [(0, 5), (0, 6)])
    place.write("e00000-000000-000.parquet", pd.DataFrame({"a": range(1000)}).to_parquet())
    place.write("e00000-000001-000.parquet", b"torn")
    place.write("notes.txt", b"mine")
    assert evict(place.open(), 40) == []
    assert evict(place.open(), 20) == names[:1]
    assert len(place.names()) == 4


def test_a_file_that_is_being_written_stays_however_long_that_takes(tmp_path):
    """Its writer may be a process of another host or container, of which nothing can be seen here."""
    fill(Folder(tmp_path), [(0, 0), (0, 1)])
    unfinished = tmp_path / "e00000-000002-000.parquet.tmp-7"
    unfinished.write_bytes(b"half")
    os.utime(unfinished, (time.time() - 1e6,) * 2)
    assert len(evict(tmp_path, 20)) == 1
    assert unfinished.exists()


def test_missing_folder_is_empty(tmp_path):
    assert evict(tmp_path / "none", 10) == []


def test_a_replaced_file_is_counted_anew(place):
    meta = store_meta()
    names = fill(place, [(0, 0), (0, 1)])
    assert evict(place.open(), 40) == []
    write_lease(place.open(), 1, build_group("g", [(0, 50)], meta), meta)
    assert evict(place.open(), 60) == names[:1]


def test_the_coordinator_does_not_load_audio_or_torch_to_evict():
    code = "import sys, pydreaming.replay.evict; print([m for m in ('torch', 'torchaudio', 'soundfile') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
