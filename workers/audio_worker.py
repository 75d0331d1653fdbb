"""The audio worker process: pulls leases, decodes, writes replay files. Any number may run, on any host that sees the audio and the store.

    python -m workers.audio_worker --run RUN_DIR                                   on the coordinator's host
    python -m workers.audio_worker --address tcp://HOST:PORT --keys FOLDER \\
                                   --root AUDIO --replay STORE                     on another one, where these are mounted elsewhere

Its settings come from the coordinator. Signs of life are sent from the work loop, so that a hung worker is noticed.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec
import torch

from pydreaming.audio.controls import ControlScale
from pydreaming.config import Config, config_from_dict
from pydreaming.errors import PydreamingError, ReplayError, TransportError, UsageError
from pydreaming.keys import load_client_keys
from pydreaming.replay.store import Patience, Store, open_store
from workers import logs
from workers.children import NICE
from workers.layout import RunDir
from workers.life import SignOfLife
from workers.produce import Producer
from workers.protocol import (
    Beat,
    Bye,
    Done,
    FromCoordinator,
    Hello,
    Lease,
    ProtocolError,
    Pull,
    Refused,
    Rehello,
    Revoked,
    Stop,
    Totals,
    Wait,
    Welcome,
    one_line,
)
from workers.serial import work
from workers.transport import Dealer
from workers.watchdog import Watchdog

log = logging.getLogger(__name__)

REPLY_S = 3.0  # s without an answer to Pull after which the connection is made anew
SLICE_S = 0.1  # s; a signal is noticed within it
HUNG_TTLS = 3.0  # times of a lease without progress after which the process ends itself; the supervisor's limit comes before


class Interrupted(Exception):  # noqa: N818 - no error: the process was asked to end
    """SIGTERM or SIGINT."""


class LeaseLost(Exception):  # noqa: N818 - no error: the work is another worker's now
    """The coordinator has given the lease to another worker."""


class Stopped(Exception):  # noqa: N818 - no error
    """The coordinator says that there is no more work."""


@dataclass(frozen=True)
class Options:
    """Where the coordinator and the data are. `run` or `address` is given; `root` and `replay` override what the coordinator says.

    alive: file that is touched as a sign of life, for the supervisor.
    """

    run: Path | None
    address: str
    keys: Path | None
    root: Path | None
    replay: str
    name: str
    patience_s: float
    alive: Path | None = None


class AudioWorker:
    """One worker: connects, works until stopped, reconnects when the coordinator was restarted."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._hello = Hello("worker", options.name, socket.gethostname(), os.getpid(), secrets.randbits(32))
        self._dealer: Dealer | None = None
        self._producer: Producer | None = None
        self._store: Store | None = None
        self._totals = Totals()
        self._lease = -1
        self._beat_s, self._beaten = 1.0, 0.0
        self._unanswered: Done | None = None  # said again when the coordinator did not know this worker
        self._answered = time.monotonic()
        self._explanation = ""
        self._life = SignOfLife(options.alive)  # where none can be given, the process's own watchdog is left
        self._watchdog: Watchdog | None = None
        self.interrupted = False

    def run(self) -> None:
        """Work until there is no more, or a signal.

        Raises:
          TransportError: refused, or no answer for `patience_s`.
          ReplayError: the store cannot be written. UsageError: a folder is not there on this host.
        """
        reason = ""
        try:
            self._connect()
            while True:
                self._round()
        except Stopped as e:
            reason = str(e)
            t = self._totals
            counts = {"clips": t.clips, "audio_s": round(t.audio_s, 1), "tokens": t.tokens}
            log.info("done: %s; %d recordings, %.1f s of audio, %d tokens", reason, t.clips, t.audio_s, t.tokens, extra=counts)
        except Interrupted:
            reason = "interrupted"
            log.info("interrupted; any lease goes back")
        except PydreamingError as e:
            reason = str(e)[:1000]
            raise
        finally:
            if self._watchdog is not None:
                self._watchdog.close()
            if self._dealer is not None:
                # Not after a crash: a lease that is given back counts as no one's fault, and its recording would crash worker after worker.
                if reason:
                    self._dealer.send(Bye(reason))
                self._dealer.close()

    # -- talking ------------------------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """(Re)connect and say Hello; gives up after `patience_s` without an answer."""
        while True:
            if self._dealer is not None:
                self._dealer.close()
                self._dealer = None
            left = self._options.patience_s - (time.monotonic() - self._answered)
            if left <= 0:
                raise TransportError(self._explanation)
            address = self._address()
            if not address:
                self._explanation = f"no coordinator has announced itself in {self._options.run} for {self._options.patience_s:.0f} s"
                self._pause(SLICE_S)
                continue
            self._dealer = Dealer(address, load_client_keys(self._options.keys) if self._options.keys else None)
            welcome = self._greet(self._dealer, min(left, REPLY_S))
            if welcome is not None:
                self._settle(welcome)
                return

    def _greet(self, dealer: Dealer, timeout_s: float) -> Welcome | None:
        deadline = time.monotonic() + timeout_s
        said = False
        while time.monotonic() < deadline:
            said = said or dealer.send(self._hello)
            answer = self._receive(SLICE_S)
            if isinstance(answer, Welcome):
                return answer
        self._explanation = dealer.explain(time.monotonic() - self._answered)
        return None

    def _address(self) -> str:
        if self._options.address:
            return self._options.address
        assert self._options.run is not None
        announced = RunDir(self._options.run).read_coordinator()
        return announced.address if announced is not None else ""

    def _receive(self, timeout_s: float) -> FromCoordinator | None:
        """The next message. Raises Interrupted, Stopped, or TransportError when refused or of another version."""
        self._show_life()
        if self.interrupted:
            raise Interrupted
        assert self._dealer is not None
        try:
            message = self._dealer.receive(timeout_s)
        except ProtocolError as e:
            if e.kind == "version":
                raise TransportError(f"{self._dealer.address}: {e}") from e
            log.warning("dropped: %s", e)
            return None
        if message is not None:
            self._answered = time.monotonic()
        if isinstance(message, Refused):
            raise TransportError(f"{self._dealer.address} refuses this worker: {message.reason}")
        if isinstance(message, Stop):
            raise Stopped(message.reason)
        return message

    def _show_life(self) -> None:
        if self._watchdog is not None:
            self._watchdog.progress()
        self._life.show()

    def _pause(self, seconds: float) -> None:
        """Wait, but notice signals and Stop."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._dealer is None:
                self._show_life()
                time.sleep(min(left, SLICE_S))
                if self.interrupted:
                    raise Interrupted
            else:
                self._receive(min(left, SLICE_S))

    # -- working ------------------------------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        """Pull once and do what is answered."""
        assert self._dealer is not None
        self._dealer.send(Pull())
        deadline = time.monotonic() + REPLY_S
        while time.monotonic() < deadline:
            answer = self._receive(SLICE_S)
            if isinstance(answer, Rehello):
                break
            if isinstance(answer, Lease | Wait):
                self._unanswered = None
            if isinstance(answer, Lease):
                return self._work(answer)
            if isinstance(answer, Wait):
                log.debug("waiting: %s", answer.reason)
                return self._pause(answer.seconds)
        else:
            log.info("no answer for %.0f s; connecting again", REPLY_S)
        self._connect()
        if self._unanswered is not None:
            self._dealer.send(self._unanswered)
        return None

    def _settle(self, welcome: Welcome) -> None:
        """Take over the run's settings."""
        config = self._config(welcome)
        root = self._options.root or Path(welcome.root)
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder on this host; say with --root where it is here")
        store = self._open_store(self._options.replay or welcome.replay, config.replay.patience_s)
        logs.identify(run=one_line(welcome.run))
        self._beat_s = config.workers.beat_s
        if self._watchdog is None:
            self._watchdog = Watchdog(HUNG_TTLS * config.workers.lease_ttl_s)
        controls = ControlScale(welcome.control_mean, welcome.control_std)
        self._producer = Producer(config, root, store, controls, self._on_block, self._totals)
        self._producer.warm_up()
        log.info("%s: %d recordings in %s", self._options.name, welcome.recordings, root)

    def _open_store(self, where: str, patience_s: float) -> Store:
        """The replay store, once it can be written: it may be away just when the coordinator has come back. Kept over reconnections."""
        if self._store is None or self._store.location != where:
            store = open_store(where, patience=Patience(patience_s, self._on_block))  # signs of life go on, and so the lease stays
            store.patiently(store.check_writable)
            self._store = store
        return self._store

    @staticmethod
    def _config(welcome: Welcome) -> Config:
        try:
            values = msgspec.json.decode(welcome.config, type=dict[str, dict[str, object]])
        except (msgspec.MsgspecError, RecursionError) as e:
            raise TransportError(f"the coordinator's configuration cannot be read: {e}") from e
        return config_from_dict(values)

    def _work(self, lease: Lease) -> None:
        assert self._producer is not None
        assert self._dealer is not None
        self._lease, self._beaten = lease.id, time.monotonic()
        try:
            done = work(self._producer, lease)
        except LeaseLost:
            log.info("lease %d was given to another worker", lease.id, extra={"lease": lease.id})
            return
        except ReplayError as e:
            if not self._is_fenced(e):
                raise
            log.info("lease %d was given to another worker", lease.id, extra={"lease": lease.id})
            return
        finally:
            self._lease = -1
            self._answered = time.monotonic()  # patience counts from the next question
        self._unanswered = done
        self._dealer.send(done)

    def _is_fenced(self, error: ReplayError) -> bool:
        """Whether the coordinator took the lease back: it then removes the temporary files, so that they can no longer be renamed.

        A worker that was stopped finds this out before it can ask, as its connection is gone too. A distant store has no such fence: there
        the files are published again as they were, or the coordinator removes them.
        """
        if self._store is None or not isinstance(error.__cause__, FileNotFoundError):
            return False
        try:
            self._store.check_writable()
        except PydreamingError:
            return False
        return True

    def _on_block(self) -> None:
        """Between two blocks of audio: signs of life, signals and news. Raises what ends the lease."""
        now = time.monotonic()
        assert self._dealer is not None
        if now - self._beaten >= self._beat_s:
            self._beaten = now
            self._dealer.send(Beat(self._lease, self._totals))
        answer = self._receive(0.0)
        if isinstance(answer, Rehello):  # the connection was made anew, under a name that the coordinator does not know: the lease stays
            self._dealer.send(self._hello)
        if isinstance(answer, Revoked) and answer.lease == self._lease:
            raise LeaseLost


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options; ends the process with exit code 2 where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m workers.audio_worker", description="turns recordings into episodes of tokens")
    parser.add_argument("--run", type=Path, help="folder of the run, on the coordinator's host")
    parser.add_argument("--address", default="", help="the coordinator, tcp://host:port, from another host")
    parser.add_argument("--keys", type=Path, help="folder of CURVE keys (FOLDER/peers/NAME of the coordinator's host)")
    parser.add_argument("--root", type=Path, help="the audio's root folder, where it differs from the coordinator's")
    parser.add_argument("--replay", default="", help="the replay store, where it differs from the coordinator's")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="shown in logs and metrics")
    parser.add_argument("--patience", type=float, default=60.0, help="s without a coordinator after which to give up (default 60)")
    parser.add_argument("--alive", type=Path, help="file to touch as a sign of life (the supervisor's)")
    parser.add_argument("--logs", choices=("text", "json"), help="one event a line, as key=value or JSON (default: the run's, or text)")
    given = parser.parse_args(arguments)
    if (given.run is None) == (not given.address):
        parser.error("give either --run or --address")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m workers.audio_worker`."""
    given = parse(arguments)
    logs.begin("worker", given.run and RunDir(given.run), worker=given.name, style=given.logs)
    torch.set_num_threads(1)
    os.nice(NICE)
    worker = AudioWorker(Options(given.run, given.address, given.keys, given.root, given.replay, given.name, given.patience, given.alive))

    def interrupt(number: int, frame: FrameType | None) -> None:
        worker.interrupted = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        worker.run()
    except PydreamingError as e:
        log.error("error: %s", e)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
