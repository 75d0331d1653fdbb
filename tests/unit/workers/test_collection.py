from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from places import Bucket, Folder, Place
from s3_server import Cable, S3Server

from pydreaming.audio.sources import Catalogue
from pydreaming.errors import ConfigError, ReplayError, SourceError
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.store import Store
from workers import shards
from workers.collection import DEADLY, PROBE_S, SWEEP_S, Collection
from workers.layout import RunDir
from workers.produce import Producer
from workers.protocol import Done, Lease, Refused, Revoked, Stop, StoredFile, Totals, Unreadable, Wait
from workers.serial import collect, work
from workers.shards import ShardFolder

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]


def open_collection(run: RunDir, now: float = 0.0) -> Collection:
    config = run.read_config()
    return Collection(run, config, Catalogue.build(config.source, config.action, config.run.seed, run.catalogue), now)


def producer(run: RunDir) -> Producer:
    config = run.read_config()
    return Producer(config, Path(config.source.path), run.replay(config))


def pull_lease(collection: Collection, owner: str, now: float) -> Lease:
    lease = collection.pull(owner, now)
    assert isinstance(lease, Lease)
    return lease


def measured(run: RunDir) -> Collection:
    """A collection whose statistics are measured."""
    collection = open_collection(run)
    while collection.phase == "measure":
        collection.done(work(producer(run), pull_lease(collection, "m", 0.0)), "m")
    return collection


@pytest.fixture(params=["folder", "s3"])
def make_run(request: pytest.FixtureRequest, make_run: MakeRun) -> MakeRun:
    """The same invariants on disk and in a bucket."""
    if request.param == "folder":
        return make_run
    server = request.getfixturevalue("s3_server")
    return lambda source, *overrides, **options: make_run(source, "--replay.dir", server.new_address(), *overrides, **options)


def place_of(run: RunDir) -> Place:
    """The run's store, behind its back."""
    where = run.replay(run.read_config())
    return Folder(where) if isinstance(where, Path) else Bucket(S3Server.running, run.path / "replay-cache", where)


def stored(run: RunDir) -> dict[tuple[int, str], int]:
    """(epoch, path) -> tokens, as the files say; a token that is there twice fails the test."""
    counts: dict[tuple[int, str], int] = {}
    seen = set()
    place = place_of(run)
    for name in place.names():
        table = pq.read_table(io.BytesIO(place.read(name)), columns=["source", "start_sample"]).to_pylist()
        for row in table:
            token = (int(name[1:6]), row["source"], row["start_sample"])
            assert token not in seen, f"twice: {token}"
            seen.add(token)
            counts[token[:2]] = counts.get(token[:2], 0) + 1
    return counts


def quarantine(run: RunDir) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.quarantine.read_text().splitlines()] if run.quarantine.exists() else []


def test_every_good_file_once_per_pass_and_broken_ones_in_the_list(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(9, broken=2))
    collection = collect(run, run.read_config())
    tokens = stored(run)
    assert {path for _, path in tokens} == {f"good-{i:03d}.wav" for i in range(9)}
    assert sum(1 for epoch, _ in tokens if epoch == 0) == sum(1 for epoch, _ in tokens if epoch == 1) == 9
    assert collection.state.written_tokens == collection.stored_tokens == sum(tokens.values())
    assert sorted(str(line["path"]) for line in quarantine(run)) == ["broken-000.wav", "broken-001.wav"]
    assert all(line["cause"] and line["item"] is not None for line in quarantine(run))
    assert collection.exhausted
    assert not collection.all_failed
    assert isinstance(collection.pull("w", 0.0), Stop)
    assert all(name.endswith(".parquet") for name in place_of(run).names())


def test_a_lease_done_again_writes_the_same_bytes(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(6), "--augment.probability", "0.5", "--action.kind", "stride")
    collection = measured(run)
    lease = pull_lease(collection, "a", 0.0)
    place = place_of(run)
    first = {file.name: place.read(file.name) for file in work(producer(run), lease).files}
    again = {file.name: place.read(file.name) for file in work(producer(run), lease).files}
    assert first
    assert first == again


def test_all_files_unreadable_is_all_failed(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(0, broken=5))
    collection = collect(run, run.read_config())
    assert collection.all_failed
    assert collection.exhausted
    assert len(quarantine(run)) == collection.unreadable == 5


def test_one_good_file_outside_the_sample_is_found(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(1, broken=12), "--features.stats_files", "1")
    collection = collect(run, run.read_config())
    assert not collection.all_failed
    assert len(stored(run)) == 2


def test_files_that_vanish_in_a_later_pass_fail_the_run(make_run: MakeRun, recordings: Recordings) -> None:
    audio = recordings(4)
    run = make_run(audio, "--workers.passes", "0")
    config = run.read_config()
    collect(run, config, leases=2)  # the measurement, and the first pass
    for path in audio.iterdir():
        path.unlink()
    collection = collect(run, config)
    assert collection.all_failed


def test_a_late_done_changes_nothing_and_its_strange_files_go(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4), "--workers.passes", "1")
    collection = measured(run)
    slow = pull_lease(collection, "slow", 0.0)
    late = work(producer(run), slow)  # renamed, but not yet said
    collection.tick(100.0)
    fast = pull_lease(collection, "fast", 100.0)
    assert (fast.number, fast.items) == (slow.number, slow.items)
    assert collection.done(work(producer(run), fast), "fast") is None
    written = collection.state.written_tokens
    assert collection.done(late, "slow") == Revoked(slow.id)
    assert collection.state.written_tokens == written == sum(stored(run).values())
    stranger = "e00007-000000-000.parquet"
    place_of(run).write(stranger, b"x")
    collection.done(Done(slow.id, [late.files[0].__class__(stranger, 1, 1, 1)], [], None, Totals()), "slow")
    assert stranger not in place_of(run).names()


def test_a_late_done_leaves_the_files_of_who_has_the_lease_now(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4), "--workers.passes", "1")
    collection = measured(run)
    slow = pull_lease(collection, "slow", 0.0)
    late = work(producer(run), slow)
    collection.tick(100.0)
    in_time = work(producer(run), pull_lease(collection, "fast", 100.0))  # renamed, but not yet said
    assert collection.done(late, "slow") == Revoked(slow.id)
    assert collection.done(in_time, "fast") is None
    assert collection.state.written_tokens == collection.stored_tokens == sum(stored(run).values()) > 0


def test_a_split_lease_leaves_no_token_twice(make_run: MakeRun, recordings: Recordings) -> None:
    """Workers die after they have renamed the files of a whole lease, before they can say so."""
    run = make_run(recordings(4), "--workers.passes", "1")
    collection = measured(run)
    now = 0.0
    for _ in range(2):
        work(producer(run), pull_lease(collection, "dies", now))
        now += 100.0
        collection.tick(now)
    while isinstance(lease := collection.pull("lives", now), Lease):
        assert len(lease.items) == 1
        collection.done(work(producer(run), lease), "lives")
    assert len(stored(run)) == 4
    assert collection.exhausted
    assert quarantine(run) == []


def test_files_that_only_the_lost_worker_wrote_go_when_the_lease_is_done(make_run: MakeRun, recordings: Recordings) -> None:
    """It died after renaming; before the second try a recording has vanished, so that one file fewer comes out."""
    audio = recordings(4, seconds=1.5)
    run = make_run(audio, "--workers.passes", "1", "--replay.shard_episodes", "1")
    collection = measured(run)
    first = work(producer(run), pull_lease(collection, "dies", 0.0))
    collection.tick(100.0)
    (audio / "good-002.wav").unlink()
    second = work(producer(run), pull_lease(collection, "lives", 100.0))
    assert len(second.files) < len(first.files)
    assert collection.done(second, "lives") is None
    assert {path for _, path in stored(run)} == {"good-000.wav", "good-001.wav", "good-003.wav"}
    assert collection.stored_tokens == sum(stored(run).values())
    assert [line["path"] for line in quarantine(run)] == ["good-002.wav"]


def test_the_file_that_kills_workers_is_given_up_and_named(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(5))
    collection, deaths, now = measured(run), 0, 0.0
    while not collection.exhausted:
        now += 0.1
        lease = collection.pull(f"w{deaths}", now)
        if isinstance(lease, Lease) and any(item.path == "good-003.wav" for item in lease.items):
            deaths += 1
            now += 100.0
            collection.tick(now)
        elif isinstance(lease, Lease):
            collection.done(work(producer(run), lease), f"w{deaths}")
    assert deaths == 4
    assert [(line["path"], line["cause"]) for line in quarantine(run)] == [("good-003.wav", DEADLY)]
    assert {path for _, path in stored(run)} == {f"good-{i:03d}.wav" for i in (0, 1, 2, 4)}
    assert 3 in open_collection(run)._episodes.skip  # a restarted coordinator does not try it again


@pytest.mark.parametrize("leases", [1, 2, 4, 5])
def test_a_killed_coordinator_goes_on(make_run: MakeRun, recordings: Recordings, leases: int) -> None:
    run, whole = make_run(recordings(9, broken=1)), make_run(recordings(9, broken=1), name="whole")
    collect(run, run.read_config(), leases=leases)
    collection = open_collection(run)
    if collection.phase == "episodes":
        pull_lease(collection, "gone", 0.0)  # and killed again, with a lease in hand
    collection = collect(run, run.read_config())
    collect(whole, whole.read_config())
    assert stored(run) == stored(whole)
    assert collection.state.starts == 3
    assert collection.exhausted
    assert len(quarantine(run)) == 1


def test_a_state_older_than_the_files_is_harmless(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(9))
    collect(run, run.read_config(), leases=3)
    state = run.coordinator_state.read_bytes()
    collect(run, run.read_config(), leases=2)
    run.coordinator_state.write_bytes(state)
    collection = collect(run, run.read_config())
    assert collection.state.written_tokens == collection.stored_tokens == sum(stored(run).values())


def test_the_gate_makes_workers_wait_and_the_learner_releases_them(make_run: MakeRun, recordings: Recordings) -> None:
    gate = ["--replay.replay_ratio", "2", "--replay.prefill_tokens", "10", "--replay.slack_tokens", "10", "--workers.passes", "0"]
    run = make_run(recordings(6), *gate)
    config = run.read_config()
    collection = collect(run, config)
    waiting = collection.pull("w", 0.0)
    assert isinstance(waiting, Wait)
    assert "learner" in waiting.reason
    collection.progress(2 * collection.state.written_tokens)
    assert isinstance(collection.pull("w", 0.0), Lease)


def test_the_store_stays_within_its_capacity(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(12), "--replay.capacity_tokens", "200", "--workers.passes", "4")
    collection = collect(run, run.read_config())
    tokens = stored(run)
    assert sum(tokens.values()) == collection.stored_tokens <= 200
    assert max(epoch for epoch, _ in tokens) == 3
    assert collection.state.written_tokens > 400


def test_a_full_folder_is_not_searched_for_every_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, searched = ShardFolder(tmp_path, 1), list[int]()

    def oldest_first(_: Store, capacity_tokens: int, known: Mapping[str, int]) -> list[str]:
        searched.append(capacity_tokens)
        return list(folder.files)[: max(0, folder.tokens - capacity_tokens)]  # a token each

    monkeypatch.setattr(shards, "oldest_files", oldest_first)
    for number in range(1100):
        folder.accept(f"e00000-{number:06d}", [StoredFile(f"e00000-{number:06d}-000.parquet", 1, 1, 1)])
        folder.evict(1000)
        assert 980 <= folder.tokens <= 1000 or number < 980
    assert searched == [980] * 5


def test_files_evicted_before_they_were_reported_are_no_error(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(8), "--replay.capacity_tokens", "200")
    collection = measured(run)
    slow = pull_lease(collection, "slow", 0.0)
    late = work(producer(run), slow)
    while collection.stored_files == len(place_of(run).names()) - len(late.files):
        fast = pull_lease(collection, "fast", 0.0)
        assert collection.done(work(producer(run), fast), "fast") is None
    assert collection._shards._evicted  # remembered as long as their worker may still report them, and no longer
    assert collection.done(late, "slow") is None
    assert not collection._shards._evicted
    assert collection.stored_tokens == sum(stored(run).values())


def test_reports_that_cannot_be_true_are_refused(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    run = make_run(recordings(4))
    collection = measured(run)
    place = place_of(run)
    lease = pull_lease(collection, "w", 0.0)
    done = work(producer(run), lease)
    (only,) = done.files
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(place.read(only.name))
    place.remove(only.name)
    verdict = collection.done(done, "w")
    assert isinstance(verdict, Refused)
    assert "--replay" in verdict.reason
    lease = pull_lease(collection, "w", 0.0)  # it went back, at no one's fault
    done.lease = lease.id
    if isinstance(place, Folder):
        (place.folder / only.name).symlink_to(elsewhere)
    else:
        place.write(only.name, elsewhere.read_bytes() + b"x")
    assert isinstance(collection.done(done, "w"), Refused)
    place.remove(only.name)
    lease = pull_lease(collection, "w", 0.0)
    done = work(producer(run), lease)
    done.files[0].bytes += 1
    assert isinstance(collection.done(done, "w"), Refused)
    lease = pull_lease(collection, "w", 0.0)
    done = work(producer(run), lease)
    done.files[0].name = "e00000-000099-000.parquet"
    assert isinstance(collection.done(done, "w"), Refused)
    assert collection.state.written_tokens == 0


def test_only_recordings_of_the_lease_can_be_quarantined_under_the_catalogues_name(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(8))
    collection = measured(run)
    lease = pull_lease(collection, "w", 0.0)
    inside, outside = lease.items[0], next(i for i in range(8) if i not in {item.index for item in lease.items})
    done = work(producer(run), lease)
    done.unreadable = [Unreadable("../../etc/passwd", inside.index, "no"), Unreadable("x", outside, "no"), Unreadable("x", 10**9, "no")]
    collection.done(done, "w")
    assert [line["path"] for line in quarantine(run)] == [inside.path]


def test_a_torn_line_of_the_quarantine_list_is_survived(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4, broken=2))
    run.quarantine.write_text('{"path":"broken-000.wav","cause":"x","item":0,"epoch":0}\n{"cause":"no path"}\n[1]\n{"path":"bro')
    collect(run, run.read_config())
    lines = run.quarantine.read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[4])["path"] == "broken-001.wav"


def test_folders_of_other_runs_are_left_alone(make_run: MakeRun, recordings: Recordings) -> None:
    audio = recordings(4)
    run = make_run(audio)
    collect(run, run.read_config())
    other = make_run(audio, "--replay.dir", str(run.replay(run.read_config())), name="other")
    with pytest.raises(ReplayError, match=r"workers\.count 0"):
        open_collection(other)


def test_statistics_of_other_features_are_refused(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4))
    measured(run)
    text = run.config.read_text().replace("n_mels: 16", "n_mels: 20")
    run.config.write_text(text)
    with pytest.raises(ConfigError, match=r"features\.n_mels is 20"):
        open_collection(run)


def test_statistics_are_kept_over_a_restart(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4))
    stats = measured(run).stats
    assert open_collection(run).stats == stats


def test_damaged_state_is_a_clear_error(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4))
    measured(run)
    run.coordinator_state.write_bytes(b"\xff{")
    with pytest.raises(ReplayError, match="is damaged"):
        open_collection(run)


def test_an_emptied_replay_folder_is_filled_again(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(4))
    collect(run, run.read_config())
    for name in place_of(run).names():
        place_of(run).remove(name)
    collection = collect(run, run.read_config())
    assert len(stored(run)) == 8
    assert collection.exhausted


def test_a_lost_worker_that_comes_back_and_dies_leaves_nothing(make_run: MakeRun, recordings: Recordings) -> None:
    """It publishes after its lease was split and done by others, and is killed before it can say so."""
    run = make_run(recordings(4), "--workers.passes", "1")
    collection, now = measured(run), 0.0
    for _ in range(2):
        stopped = pull_lease(collection, "stopped", now)
        now += 100.0
        collection.tick(now)
    while isinstance(lease := collection.pull("lives", now), Lease):
        collection.done(work(producer(run), lease), "lives")
    before = stored(run)
    work(producer(run), stopped)
    place_of(run).write("mine.parquet", b"not the run's")
    collection.tick(now + SWEEP_S)
    place_of(run).remove("mine.parquet")
    assert stored(run) == before
    assert collection.stored_tokens == sum(before.values())


def test_files_that_somebody_removed_are_not_counted_for_ever(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(8), "--workers.passes", "1")
    collection = measured(run)
    collection.done(work(producer(run), pull_lease(collection, "w", 0.0)), "w")
    place_of(run).wipe()
    lease = pull_lease(collection, "w", 0.0)
    work(producer(run), lease)  # published, but not yet said
    assert collection.beat(lease.id, "w", SWEEP_S)
    collection.tick(SWEEP_S)
    assert collection.stored_tokens == 0
    assert len(stored(run)) == len(lease.items)


@pytest.mark.parametrize("make_run", ["s3"], indirect=True)
def test_a_store_that_does_not_answer_costs_no_token(make_run: MakeRun, recordings: Recordings, s3_server: S3Server) -> None:
    cable = Cable(s3_server.port)
    run = make_run(recordings(8), "--workers.passes", "1", "--replay.dir", s3_server.new_address(cable.port))
    collection = measured(run)
    lease = pull_lease(collection, "w", 0.0)
    done = work(producer(run), lease)
    cable.cut()
    assert collection.done(done, "w") == Revoked(lease.id)
    for now in (PROBE_S, 2 * PROBE_S):
        waiting = collection.pull("w", now)
        assert isinstance(waiting, Wait)
        assert "does not answer" in waiting.reason
        collection.tick(now)
    cable.mend()
    collection.tick(3 * PROBE_S)
    again = pull_lease(collection, "w", 1.0)
    assert (again.number, again.items) == (lease.number, lease.items)
    assert collection.done(work(producer(run), again), "w") is None
    while isinstance(more := collection.pull("w", 2.0), Lease):
        assert collection.done(work(producer(run), more), "w") is None
    assert collection.state.written_tokens == collection.stored_tokens == sum(stored(run).values())
    assert len(stored(run)) == 8


def test_nothing_to_train_on_is_a_source_error(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = make_run(tmp_path / "empty")
    with pytest.raises(SourceError):
        collect(run, run.read_config())


def test_the_learner_can_read_what_was_collected(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(9, broken=1))
    collection = collect(run, run.read_config())
    index = ReplayIndex(run.replay(run.read_config()))
    index.refresh()
    assert index.tokens == collection.stored_tokens
    assert index.damaged == {}
    assert index.meta is not None
    assert index.meta.stats == collection.stats
