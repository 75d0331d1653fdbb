from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import Cable, S3Server

from pydreaming.errors import ReplayError
from workers.audio_worker import AudioWorker, Interrupted, Options, Stopped
from workers.layout import RunDir
from workers.life import LIFE_S
from workers.protocol import Beat, Bye, FromPeer, Welcome


class Listener:
    """Takes the place of the worker's connection."""

    def __init__(self) -> None:
        self.heard: list[FromPeer] = []
        self.closed = False

    def send(self, message: FromPeer) -> bool:
        self.heard.append(message)
        return True

    def receive(self, timeout_s: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def last_words(end: Exception, monkeypatch: pytest.MonkeyPatch) -> tuple[list[FromPeer], Exception | None]:
    """What a worker says when its work ends in such a way, and what it raises."""
    worker, listener = AudioWorker(Options(None, "tcp://127.0.0.1:9", None, None, None, "w", 1.0)), Listener()

    def work() -> None:
        raise end

    monkeypatch.setattr(worker, "_dealer", listener)
    monkeypatch.setattr(worker, "_connect", lambda: None)
    monkeypatch.setattr(worker, "_round", work)
    raised: Exception | None = None
    try:
        worker.run()
    except (ReplayError, MemoryError) as e:
        raised = e
    assert listener.closed
    return listener.heard, raised


@pytest.mark.parametrize(
    ("end", "reason"), [(Stopped("all is done"), "all is done"), (Interrupted(), "interrupted"), (ReplayError("disk full"), "disk full")]
)
def test_who_ends_in_good_order_gives_its_lease_back(end: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, raised = last_words(end, monkeypatch)
    assert heard == [Bye(reason)]
    assert isinstance(raised, ReplayError) == isinstance(end, ReplayError)


def test_who_crashes_says_nothing_so_that_the_lease_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, raised = last_words(MemoryError(), monkeypatch)
    assert heard == []
    assert isinstance(raised, MemoryError)


def test_a_folder_that_takes_no_sign_of_life_is_a_warning_and_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sign = tmp_path / "status" / "worker-0.alive"
    worker = AudioWorker(Options(None, "tcp://127.0.0.1:9", None, None, None, "w", 1.0, sign))
    for _ in range(2):
        worker._show_life()
        time.sleep(LIFE_S)
    assert len(caplog.records) == 1
    assert str(sign) in caplog.text
    sign.parent.mkdir()
    worker._show_life()
    assert sign.exists()


def test_a_worker_that_connects_again_while_the_store_is_away_waits_for_it(
    make_run: Callable[..., RunDir], tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cable = Cable(s3_server.port)
    config = json.dumps(make_run(tmp_path).read_config().to_dict())
    worker, listener = AudioWorker(Options(None, "tcp://127.0.0.1:9", None, None, None, "w", 1.0)), Listener()
    monkeypatch.setattr(worker, "_dealer", listener)
    welcome = Welcome(config, str(tmp_path), s3_server.new_address(cable.port), 0, [], [])
    cable.cut()
    threading.Timer(2.0, cable.mend).start()
    worker._settle(welcome)
    assert any(isinstance(message, Beat) for message in listener.heard)  # it is alive meanwhile
    store = worker._store
    cable.cut()
    worker._settle(welcome)
    assert worker._store is store
    assert worker._watchdog is not None
    worker._watchdog.close()
