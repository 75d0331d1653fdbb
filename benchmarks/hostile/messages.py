"""Hostile messages by real sockets into a real coordinator that is confined; every thousand messages it has to answer an honest learner."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from benchmarks.hostile.confine import Confinement, FellError, limit_memory, peak_rss
from benchmarks.hostile.mutate import Messages
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from workers import coordinator
from workers.collection import SavedStats
from workers.layout import RunDir, replace_json
from workers.protocol import Hello, Lease, Progress, ProtocolError, Status, decode_from_coordinator, encode

MEMORY = 256 << 20  # bytes that the coordinator may map beyond what it has when it begins
BATCH = 1000  # messages between two honest questions
ANSWER_S = 300.0
ASK_S = 2.0
START_S = 120.0
PEERS = 4
_REPORT = re.compile(r"peak rss (\d+) tried (.*)")


@dataclass(frozen=True)
class Withstood:
    """`seconds` for all messages; `dropped` by the coordinator; memory in bytes, `begin` when it had just begun to listen."""

    messages: int
    seconds: float
    dropped: int
    begin_rss: int
    peak_rss: int
    log_bytes: int
    folder_bytes: int


def flood(messages: int, seed: int, folder: Path) -> Withstood:
    """Send so many messages. Raises FellError: the coordinator died, fell silent, grew beyond MEMORY, or tried what it has no reason to."""
    run = _make_run(folder, max(1000, messages // 20))
    log = folder / "coordinator.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "benchmarks.hostile.messages", str(run.path)]
        child = subprocess.Popen(command, stdout=out, stderr=out, cwd=Path(__file__).parents[2])
    try:
        address = _address(run, child, log)
        begin_rss = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        begin = time.monotonic()
        dropped = _pump(address, Messages(seed, Path(run.replay(run.read_config()))), messages, child, log)
        seconds = time.monotonic() - begin
        child.send_signal(signal.SIGTERM)
        if child.wait(60) != 0:
            raise FellError(f"the coordinator ended with {child.returncode}: {_tail(log)}")
    finally:
        child.kill()
        child.wait()
    report = _REPORT.search(log.read_text(errors="replace"))
    if report is None or report[2] != "[]":
        raise FellError(f"the coordinator tried {report[2] if report else 'to hide'}")
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    return Withstood(messages, seconds, dropped, begin_rss, int(report[1]), log.stat().st_size, size)


def _make_run(folder: Path, recordings: int) -> RunDir:
    """A run that has its statistics and work for long: a list of recordings, which the coordinator has no reason to open."""
    audio, run = folder / "audio", RunDir(folder / "run")
    audio.mkdir()
    run.path.mkdir()
    rows = (f'{{"audio_filepath": "{i:07d}.wav", "duration": 1.0}}\n' for i in range(recordings))
    (audio / "manifest.json").write_text("".join(rows), encoding="utf-8")
    settings = {"source.path": audio, "source.kind": "nemo", "features.n_mels": 16, "replay.prefill_tokens": 0}
    settings |= {"workers.lease_items": 2, "workers.lease_ttl_s": 2, "workers.beat_s": 0.2}
    config = load_config(["defaults"], [word for key, value in settings.items() for word in (f"--{key}", str(value))])
    run.config.write_text(config.to_yaml(), encoding="utf-8")
    replace_json(run.stats, SavedStats(config.to_dict()["features"], FeatureStats([0.0] * 16, [1.0] * 16, 1)))
    return run


def _address(run: RunDir, child: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while (announced := run.read_coordinator()) is None or announced.error:
        if child.poll() is not None or time.monotonic() > deadline:
            raise FellError(f"the coordinator did not begin: {_tail(log)}")
        time.sleep(0.05)
    return announced.address


def _pump(address: str, source: Messages, messages: int, child: subprocess.Popen[bytes], log: Path) -> int:
    """Send all; returns how many the coordinator says it has dropped."""
    context = zmq.Context()
    try:
        peers = [context.socket(zmq.DEALER) for _ in range(PEERS)]
        for peer in peers:
            peer.connect(address)
        dropped = 0
        for number in range(messages):
            parts = source.next()
            if len(parts) == 1:
                _decode(parts[0])
            peer = peers[number // BATCH % PEERS]
            peer.send_multipart(parts)
            while peer.poll(0):  # what is not read fills the coordinator's queues, which then drop
                answer = decode_from_coordinator(peer.recv())
                source.lease = answer if isinstance(answer, Lease) else source.lease
            if (number + 1) % BATCH == 0 or number + 1 == messages:
                dropped = _honest(peer, child, log)
        return dropped
    finally:
        context.destroy(linger=0)


def _decode(frame: bytes) -> None:
    """The peers' side of the same frames: a message or a ProtocolError, and no other exception."""
    try:
        decode_from_coordinator(frame)
    except ProtocolError:
        return


def _honest(peer: zmq.Socket[bytes], child: subprocess.Popen[bytes], log: Path) -> int:
    """Ask, behind everything that was sent by this socket, how collecting goes; again where the answer met a full queue and was dropped."""
    deadline, asked = time.monotonic() + ANSWER_S, -ASK_S
    while (now := time.monotonic()) < deadline:
        if child.poll() is not None:
            raise FellError(f"the coordinator ended with {child.returncode}: {_tail(log)}")
        if now - asked > ASK_S:
            peer.send(encode(Hello("learner", "honest", "here", os.getpid())))
            peer.send(encode(Progress(0, 0)))
            asked = now
        while peer.poll(200):
            answer = decode_from_coordinator(peer.recv())
            if isinstance(answer, Status):
                return answer.dropped_messages
    raise FellError(f"the coordinator has not answered for {ANSWER_S:.0f} s: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def main(arguments: list[str]) -> int:
    """The confined coordinator: `python -m benchmarks.hostile.messages RUN`."""
    run = Path(arguments[0])
    msgspec.json.format(b"{}")
    confinement = Confinement([run])
    confinement.begin()
    limit_memory(MEMORY)
    code = coordinator.main(["--run", str(run)])
    sys.stdout.write(f"peak rss {peak_rss()} tried {confinement.tried}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
