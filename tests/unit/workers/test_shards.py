"""The coordinator's account of the replay folder: what counts, what is removed, and that the sum follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydreaming.replay.store import LocalStore
from workers.protocol import StoredFile
from workers.shards import ShardFolder


def write(folder: Path, prefix: str, part: int, size: int = 8) -> StoredFile:
    name = f"{prefix}-{part:03}.parquet"
    (folder / name).write_bytes(b"x" * size)
    return StoredFile(name, 1, 100, size)


@pytest.fixture
def shards(tmp_path: Path) -> ShardFolder:
    return ShardFolder(tmp_path, 1)


def test_the_sum_follows_every_change(shards: ShardFolder, tmp_path: Path) -> None:
    first = write(tmp_path, "e00000-000001", 0)
    assert shards.accept("e00000-000001", [first]) == 100
    assert shards.accept("e00000-000001", [StoredFile(first.name, 1, 70, 8)]) == 70  # done again: it replaces itself
    assert shards.accept("e00000-000002", [write(tmp_path, "e00000-000002", i) for i in range(3)]) == 300
    assert shards.tokens == sum(shards.files.values()) == 370
    shards.remove_lease("e00000-000002")
    assert shards.tokens == sum(shards.files.values()) == 70
    again = ShardFolder(tmp_path, 1)
    again.restore({first.name: 70, "e00000-000009-000.parquet": 5})  # one of them is not there
    assert again.tokens == sum(again.files.values()) == 70


def test_what_a_lost_worker_has_renamed_goes_when_the_lease_is_done_by_another(shards: ShardFolder, tmp_path: Path) -> None:
    write(tmp_path, "e00000-000001", 7)
    shards.lost("e00000-000001")  # as the coordinator does when a lease is lost or given back
    done = write(tmp_path, "e00000-000001", 0)
    shards.accept("e00000-000001", [done])
    assert [path.name for path in tmp_path.iterdir()] == [done.name]


def test_what_was_never_reported_before_a_restart_goes_too(tmp_path: Path) -> None:
    reported, stray = write(tmp_path, "e00000-000001", 0), write(tmp_path, "e00000-000002", 5)
    again = ShardFolder(tmp_path, 1)
    again.restore({reported.name: 100})
    assert (tmp_path / stray.name).exists()  # until its lease is done
    done = write(tmp_path, "e00000-000002", 0)
    again.accept("e00000-000002", [done])
    assert {path.name for path in tmp_path.iterdir()} == {reported.name, done.name}


def test_a_done_lease_does_not_search_the_whole_store(shards: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the folder was searched")

    monkeypatch.setattr(LocalStore, "scan", refuse)  # with 20,000 files it took 5 ms, for each of thousands of leases a second
    assert shards.accept("e00000-000003", [write(tmp_path, "e00000-000003", 0)]) == 100
    with pytest.raises(AssertionError):
        shards.remove_lease("e00000-000003")


def test_a_file_that_no_listing_shows_yet_stays_counted(shards: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may serve a folder's listing from before a file came."""
    done = write(tmp_path, "e00000-000001", 0)
    shards.accept("e00000-000001", [done])
    with monkeypatch.context() as stale:
        stale.setattr(LocalStore, "scan", lambda store: {})
        shards.sweep(set)
        again = ShardFolder(tmp_path, 1)
        again.restore({done.name: 100, "e00000-000002-000.parquet": 5})
    assert shards.tokens == again.tokens == 100
    for folder in (shards, again):
        folder.sweep(set)
        assert (tmp_path / done.name).exists()
    (tmp_path / done.name).unlink()
    shards.sweep(set)
    assert shards.tokens == 0
