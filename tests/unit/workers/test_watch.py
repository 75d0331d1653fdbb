"""A source that grows: what a look finds, and what the collection makes of it."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tones import write_tone

from pydreaming.audio.sources.growth import Completeness
from pydreaming.errors import SourceError
from workers import watch
from workers.collection import Collection
from workers.layout import RunDir
from workers.produce import Producer
from workers.protocol import Lease, Stop, Wait
from workers.serial import work
from workers.watch import Change, SourceWatch, open_source

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
QUIET = ("--source.watch_s", "0.05")


@pytest.fixture
def grown(make_run: MakeRun, recordings: Recordings) -> tuple[RunDir, Collection, SourceWatch]:
    """A run over three recordings, whose statistics are measured, and the watch on its source."""
    run = make_run(recordings(3), *QUIET)
    return run, *opened(run)


def opened(run: RunDir) -> tuple[Collection, SourceWatch]:
    config = run.read_config()
    catalogue, source_watch = open_source(run, config)
    assert source_watch is not None
    collection = Collection(run, config, catalogue, 0.0)
    while collection.phase == "measure":
        do(run, collection)
    return collection, source_watch


def begun(run: RunDir, collection: Collection) -> Lease:
    """The first lease of the first pass is done."""
    lease = do(run, collection)
    assert isinstance(lease, Lease)
    return lease


def do(run: RunDir, collection: Collection, owner: str = "w") -> Lease | Wait | Stop:
    """One lease, if there is one."""
    config = run.read_config()
    lease = collection.pull(owner, 0.0)
    if isinstance(lease, Lease):
        assert collection.done(work(Producer(config, Path(config.source.path), run.replay(config)), lease), owner) is None
        collection.tick(0.0)
    return lease


def looked(collection: Collection, source_watch: SourceWatch) -> list[Change]:
    """What two looks find, some time apart, handed to the collection."""
    source_watch.look()
    time.sleep(0.06)
    source_watch.look()
    changes = source_watch.changes()
    for change in changes:
        collection.take_in(change)
    collection.tick(0.0)
    return changes


def paths(lease: Lease | Wait | Stop) -> set[str]:
    assert isinstance(lease, Lease)
    return {item.path for item in lease.items}


def test_what_has_come_is_the_next_lease_and_then_part_of_every_pass(grown: tuple[RunDir, Collection, SourceWatch]) -> None:
    run, collection, source_watch = grown
    audio = Path(run.read_config().source.path)
    assert looked(collection, source_watch) == []
    begun(run, collection)
    for name in ("new-a.wav", "new-b.wav"):
        write_tone(audio / name, 0.6, seed=7)
    (change,) = looked(collection, source_watch)
    assert ([item.path for item in change.new], change.gone, change.back) == (["new-a.wav", "new-b.wav"], frozenset(), frozenset())
    assert paths(do(run, collection)) == {"new-a.wav", "new-b.wav"}
    seen = [lease for _ in range(8) if isinstance(lease := do(run, collection), Lease)]
    assert {item.path for lease in seen if lease.epoch == 2 for item in lease.items} == {path.name for path in audio.iterdir()}
    assert isinstance(collection.pull("w", 0.0), Wait)  # two passes are done, and more may come
    assert not collection.exhausted
    write_tone(audio / "late.wav", 0.6, seed=8)
    looked(collection, source_watch)
    assert paths(do(run, collection)) == {"late.wav"}


def test_a_file_that_is_being_written_is_not_taken(grown: tuple[RunDir, Collection, SourceWatch]) -> None:
    run, collection, source_watch = grown
    audio = Path(run.read_config().source.path)
    begun(run, collection)
    write_tone(audio.parent / "whole.wav", 0.6, seed=1)
    data = (audio.parent / "whole.wav").read_bytes()
    for size in (100, 5000, len(data)):
        (audio / "new.wav").write_bytes(data[:size])
        source_watch.look()
        assert source_watch.changes() == []
    (audio / "other.part.wav").write_bytes(data)
    (change,) = looked(collection, source_watch)
    assert [item.path for item in change.new] == ["new.wav"]
    assert paths(do(run, collection)) == {"new.wav"}
    assert not run.quarantine.exists()


def test_deleted_recordings_are_left_out_until_they_are_there_again(grown: tuple[RunDir, Collection, SourceWatch]) -> None:
    run, collection, source_watch = grown
    audio = Path(run.read_config().source.path)
    (audio / "good-001.wav").rename(audio.parent / "away.wav")
    (change,) = looked(collection, source_watch)
    assert (change.new, len(change.gone), change.back) == ([], 1, frozenset())
    leases = [lease for _ in range(9) if isinstance(lease := do(run, collection), Lease)]
    assert {path for lease in leases for path in paths(lease)} == {"good-000.wav", "good-002.wav"}
    assert looked(collection, source_watch) == []
    (audio.parent / "away.wav").rename(audio / "good-001.wav")
    (change,) = looked(collection, source_watch)
    assert (change.new, change.gone, len(change.back)) == ([], frozenset(), 1)
    assert not run.quarantine.exists()


def test_a_source_that_empties_itself_waits_for_more(grown: tuple[RunDir, Collection, SourceWatch]) -> None:
    run, collection, source_watch = grown
    audio = Path(run.read_config().source.path)
    for path in audio.iterdir():
        path.unlink()
    looked(collection, source_watch)
    for _ in range(9):
        assert isinstance(do(run, collection), Wait)
        collection.tick(0.0)
    assert not collection.all_failed
    write_tone(audio / "new.wav", 0.6, seed=1)
    looked(collection, source_watch)
    assert paths(do(run, collection)) == {"new.wav"}


def test_a_source_that_is_away_is_left_as_it_was(grown: tuple[RunDir, Collection, SourceWatch], caplog: pytest.LogCaptureFixture) -> None:
    run, collection, source_watch = grown
    audio = Path(run.read_config().source.path)
    audio.rename(audio.parent / "away")
    assert looked(collection, source_watch) == []
    assert looked(collection, source_watch) == []
    assert caplog.text.count("cannot be looked at") == 1
    (audio.parent / "away").rename(audio)
    assert looked(collection, source_watch) == []


def test_a_restarted_coordinator_trains_on_every_arrival_once(make_run: MakeRun, recordings: Recordings) -> None:
    """Killed at any moment: before the arrival's pass was saved, in the middle of it, and after it."""
    audio = recordings(3)
    run = make_run(audio, *QUIET, "--workers.passes", "1", "--workers.lease_items", "1")
    collection, source_watch = opened(run)
    do(run, collection)
    collection.save(0.0)
    for number in range(4):
        write_tone(audio / f"new-{number}.wav", 0.6, seed=number)
    source_watch.look()
    time.sleep(0.06)
    source_watch.look()
    for change in source_watch.changes():
        collection.take_in(change)  # in the catalogue, but in no pass yet
    done: list[str] = []
    for work_done in (2, 1, 9):
        collection, source_watch = opened(run)
        assert looked(collection, source_watch) == []
        for _ in range(work_done):
            if isinstance(lease := do(run, collection), Lease):
                done += paths(lease)
        collection.save(0.0)
    assert len(done) == len(set(done)) == 6  # the first was done before
    assert {f"new-{n}.wav" for n in range(4)} < set(done)


def test_a_run_begins_when_the_first_recording_is_complete(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "ANNOUNCE_S", 0.0)
    caplog.set_level("INFO")
    (tmp_path / "live").mkdir()
    run = make_run(tmp_path / "live", *QUIET)
    threading.Timer(0.4, write_tone, [tmp_path / "live" / "first.wav", 0.6, 1]).start()
    begin = time.monotonic()
    catalogue, _ = open_source(run, run.read_config())
    assert time.monotonic() - begin > 0.4
    assert [item.path for item in catalogue] == ["first.wav"]
    assert "waiting for the first complete recording" in caplog.text


def test_a_run_waits_for_a_recording_to_train_on(make_run: MakeRun, tmp_path: Path) -> None:
    """The first ones may all be held out."""
    live = tmp_path / "live"
    run = make_run(live, *QUIET, "--source.held_out", "0.5")
    stop = threading.Event()

    def record() -> None:
        for number in range(200):
            write_tone(live / f"{number:03d}.wav", 0.3, seed=number)
            if stop.wait(0.1):
                return

    live.mkdir()
    thread = threading.Thread(target=record)
    thread.start()
    try:
        catalogue, _ = open_source(run, run.read_config())
    finally:
        stop.set()
        thread.join()
    assert len(catalogue.train_indices) > 0


def test_a_source_that_is_not_there_is_an_error_at_once(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "nowhere", *QUIET)
    with pytest.raises(SourceError, match="does not exist"):
        open_source(run, run.read_config())


def test_thousands_of_arrivals_cost_no_state_that_grows(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(3), *QUIET, "--workers.lease_items", "1")
    collection, source_watch = opened(run)
    audio = Path(run.read_config().source.path)
    held = collection.pull("slow", 0.0)  # the first pass stays open meanwhile
    assert isinstance(held, Lease)
    sizes = []
    for number in range(25):
        shutil.copy(audio / "good-000.wav", audio / f"new-{number:03d}.wav")
        looked(collection, source_watch)
        assert paths(do(run, collection)) == {f"new-{number:03d}.wav"}
        collection.save(0.0)
        collection._shards.evict(100)
        collection.save(0.0)
        sizes.append(len(collection.state.rows) + len(collection.state.epochs) + len(collection.state.closed))
    assert max(sizes) <= 8


def test_a_look_at_many_files_does_not_hold_up_the_coordinator(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(3), *QUIET)
    catalogue, _ = open_source(run, run.read_config())
    config = run.read_config().source
    source_watch = SourceWatch(config, [], Completeness(Path(config.path), config.watch_s), catalogue)
    source_watch.start()
    try:
        write_tone(Path(config.path) / "new.wav", 0.6, seed=1)
        end = time.monotonic() + 30
        while not (changes := source_watch.changes()):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert [item.path for item in changes[0].new] == ["new.wav"]
    finally:
        source_watch.close()


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left on device")])
def test_a_full_disk_does_not_end_the_watch(
    grown: tuple[RunDir, Collection, SourceWatch], error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, collection, source_watch = grown
    begun(run, collection)

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(watch, "iter_source", full)
        assert looked(collection, source_watch) == []
    assert len([record for record in caplog.records if "the source cannot be looked at" in record.message]) == 1
    write_tone(Path(run.read_config().source.path) / "new.wav", 0.6, seed=7)
    looked(collection, source_watch)
    assert paths(do(run, collection)) == {"new.wav"}
