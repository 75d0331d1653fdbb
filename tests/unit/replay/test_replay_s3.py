"""What is particular about a store on S3: addresses, secrets, hostile names, outages. Against a real server."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from replay_store import build_group, small_store, store_meta, write_lease
from s3_server import BUCKET, CREDENTIALS, Cable, S3Server

from pydreaming.errors import ReplayError, UnreachableError, UsageError
from pydreaming.replay.address import Address, is_distant, parse_address
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.staging import Staging
from pydreaming.replay.store import Patience, open_store

NOBODY = "s3://b/p?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"


def test_addresses(monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert parse_address("s3://b/p") == Address("b/p", "", "https", "")
    assert parse_address("s3://b/p/q%20r/?region=eu-1") == Address("b/p/q r", "", "https", "eu-1")
    assert parse_address("s3://b/p?endpoint_override=h:1&scheme=http") == Address("b/p", "h:1", "http", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://other:9000/")
    assert parse_address("s3://b/p") == Address("b/p", "other:9000", "http", "")
    assert parse_address("s3://b/p?endpoint_override=h:1") == Address("b/p", "h:1", "https", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://third")
    assert parse_address("s3://b/p") == Address("b/p", "third", "https", "")
    assert not is_distant(Path("s3:/b"))
    assert not is_distant("runs/s3")


@pytest.mark.parametrize(
    "address",
    [
        "s3://", "s3://b", "s3://b/", "s3:///p", "s3://b/../other/p", "s3://b/./p", "s3://b/%2e%2e/p", "s3://b/p#f",
        "s3://b/p?scheme=ftp", "s3://b/p?endpoint=h", "s3://k:hush@b/p", "s3://k:hu/sh@b/p", "s3://b/p?secret_key=hush",
    ],
)  # fmt: skip
def test_wrong_addresses_are_refused_without_being_repeated(address):
    with pytest.raises(UsageError) as error:
        open_store(address)
    assert "hush" not in str(error.value)
    assert "\n" not in str(error.value)


def test_names_cannot_lead_out_of_the_store(bucket, s3_server):
    store, victim = bucket.open(), "victim.parquet"
    s3_server.client.put_object(Bucket=BUCKET, Key=victim, Body=b"mine")
    for name in ("../../" + victim, "..", ".", "a/b.parquet", "../x.parquet", "\n.parquet", ".hidden.parquet", "a\\b"):
        for use in (lambda n: store.remove([n]), lambda n: store.find([n]), lambda n: store.publish([(Path(__file__), n)])):
            with pytest.raises(ReplayError, match="no name"):
                use(name)
    assert s3_server.client.get_object(Bucket=BUCKET, Key=victim)["Body"].read() == b"mine"


def test_hostile_and_foreign_objects_are_not_listed(bucket):
    index = small_store(bucket.open(), groups=1)
    for name in ("sub/e00000-000007-000.parquet", "../e00000-000008-000.parquet", "./x.parquet", "notes.txt", "/x.parquet", ".h.parquet"):
        bucket.write(name, b"x")
    assert index.refresh() == ([], [])
    assert not index.damaged


def test_a_bucket_that_is_not_there_is_one_line(s3_server: S3Server):
    store = open_store(s3_server.new_address().replace(BUCKET, "nowhere"))
    for use in (store.make, store.check_writable):
        with pytest.raises(ReplayError, match="there is no bucket 'nowhere'") as error:
            use()
        assert not isinstance(error.value, UnreachableError)
    meta = store_meta()
    with pytest.raises(ReplayError, match="NO_SUCH_BUCKET") as error:
        write_lease(store, 0, build_group("a", [(0, 9)], meta), meta)
    assert not isinstance(error.value, UnreachableError)


@pytest.mark.parametrize(
    "use", [lambda s: s.make(), lambda s: s.scan(), lambda s: s.find(["a.parquet"]), lambda s: s.remove(["a.parquet"])]
)
def test_a_store_that_cannot_be_reached_is_one_line_within_seconds(use):
    begin = time.monotonic()
    with pytest.raises(UnreachableError, match="cannot be reached: NETWORK_CONNECTION") as error:
        use(open_store(NOBODY))
    assert "\n" not in str(error.value)
    assert time.monotonic() - begin < 20


def test_copies_are_read_without_the_server_and_new_files_wait_for_it(bucket, s3_server, caplog):
    caplog.set_level(logging.INFO)
    cable = Cable(s3_server.port)
    bucket.location = bucket.location.replace(str(s3_server.port), str(cable.port))
    small_store(bucket.open(), groups=2)
    meanwhile = []

    def mend() -> None:
        meanwhile.append(1)
        if len(meanwhile) == 5:
            cable.mend()

    reader = ReplayIndex(open_store(bucket.location, bucket.cache, 10**8, Patience(120.0, mend)))
    reader.refresh()
    last = reader.episodes - 1
    first = reader.read(0, 0, 5)
    cable.cut()
    assert (reader.read(0, 0, 5) == first).all()
    with pytest.raises(UnreachableError):
        reader.refresh()
    assert reader.episodes == last + 1
    assert len(reader.read(last, 0, 5)) == 5
    assert len(meanwhile) >= 5
    assert caplog.text.count("trying again") == caplog.text.count("answers again") == 1


def test_an_upload_that_broke_is_done_again(bucket, s3_server):
    cable, meta, tries = Cable(s3_server.port), store_meta(), []
    cable.cut()
    address = bucket.location.replace(str(s3_server.port), str(cable.port))

    def mend() -> None:
        tries.append(1)
        if len(tries) == 3:
            cable.mend()

    episodes = build_group("a", [(0, 40)], meta)
    reports = write_lease(open_store(address, patience=Patience(120.0, mend)), 0, episodes, meta, shard_episodes=1)
    assert bucket.names() == [report.name for report in reports]
    assert [len(bucket.read(report.name)) for report in reports] == [report.bytes for report in reports]


class GivenUp(Exception):  # noqa: N818
    pass


def test_what_waits_can_be_ended_and_does_not_wait_for_ever(tmp_path):
    meta, waited = store_meta(), []

    def meanwhile() -> None:
        waited.append(1)
        if len(waited) == 3:
            raise GivenUp

    episodes = build_group("a", [(0, 9)], meta)
    with pytest.raises(GivenUp):
        write_lease(open_store(NOBODY, patience=Patience(100.0, meanwhile)), 0, episodes, meta)
    begin = time.monotonic()
    with pytest.raises(UnreachableError):
        write_lease(open_store(NOBODY, patience=Patience(1.0)), 0, episodes, meta)
    assert time.monotonic() - begin < 20


def test_a_replaced_object_is_not_taken_for_the_listed_one(bucket):
    meta = store_meta()
    (report,) = write_lease(bucket.open(), 0, build_group("a", [(0, 40)], meta), meta)
    index = ReplayIndex(bucket.open())
    index.refresh()
    write_lease(bucket.open(), 0, build_group("b", [(5, 12)], meta), meta)
    with pytest.raises(FileNotFoundError, match="replaced"):
        index.read(0, 0, 5)
    assert index.refresh() == ([report.name], [report.name])
    assert index.groups == ["b"]


def test_an_object_that_goes_between_two_requests_is_gone_and_no_outage(bucket):
    small_store(bucket.open(), groups=1)
    store, name = bucket.open(), bucket.names()[0]

    def lose() -> None:
        with store._talking(), store._fs.open_input_file(store._path(name)) as file:
            bucket.remove(name)
            file.read_buffer()

    with pytest.raises(FileNotFoundError):
        lose()


def test_a_file_that_is_evicted_takes_its_copy_along(bucket):
    index = small_store(bucket.open(), groups=1, clips=40)
    for episode in range(index.episodes):
        index.read(episode, 0, 2)
    before = len(list(bucket.cache.iterdir()))
    bucket.remove(bucket.names()[0])
    index.refresh()
    assert len(list(bucket.cache.iterdir())) == before - 1 > 0


def test_a_file_of_several_parts_comes_back_whole(bucket, tmp_path):
    """From 10 MB on an upload has several requests."""
    meta = store_meta("--features.n_mels", "512", "--features.token_frames", "16")
    episodes = build_group("a", [(0, 800)], meta, episode_tokens=400)
    (report,) = write_lease(bucket.open(), 0, episodes, meta)
    assert report.bytes > 12e6
    index = ReplayIndex(bucket.open())
    index.refresh()
    assert (index.episode(1).tokens == episodes[1].tokens).all()


def test_no_secret_is_said(bucket, s3_server, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.DEBUG)
    store = bucket.open()
    small_store(store, groups=1)
    said = [repr(store), str(vars(store)), store.location]
    for location in (NOBODY, s3_server.new_address().replace(BUCKET, "nowhere")):
        with pytest.raises(ReplayError) as error:
            open_store(location).check_writable()
        said += [str(error.value), str(error.value.__cause__)]
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == secret
    assert not [text for text in [*said, caplog.text] if secret in text]


def test_staging_folders_of_killed_writers_go_and_of_living_ones_stay(tmp_path):
    code = (
        "import sys, time; from pydreaming.replay.staging import Staging;"
        "s = Staging(); (s.folder / 'half').write_text('x'); print(s.folder, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        return process, Path(process.stdout.readline().strip())

    dead, left = start()
    dead.kill()
    dead.wait()
    assert left.is_dir()
    alive, kept = start()
    other, own = start()
    try:
        assert not left.exists()
        assert (kept / "half").is_file()
        assert own.is_dir()
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {kept.name, own.name}
    finally:
        for process in (alive, other):
            process.kill()
            process.wait()
    assert tempfile.gettempdir() != str(tmp_path)


def test_a_staging_folder_that_is_just_being_made_is_not_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def use(_: int) -> bool:
        there = True
        for _ in range(60):
            staging = Staging()
            there &= staging.folder.is_dir()
            staging.close()
        return there

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_in_the_place_of_a_lock_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "pydreaming-staging-x.lock")
    code = "from pydreaming.replay.staging import Staging; Staging().close()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, check=True, timeout=30)
