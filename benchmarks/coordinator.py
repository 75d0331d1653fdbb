"""The real coordinator under the messages of 1,000 workers: what it costs, and how fast it answers.

    python -m benchmarks.coordinator [--workers 1000] [--recordings 1000000] [--json FILE]

The workers are simulated: their sockets, messages and timing are real, and so are the files they report (of a few bytes), but nothing is
decoded. Three phases, one coordinator process each time:

    join     all workers say Hello at once
    steady   a lease takes LEASE_S, beats every second: as workers behave that decode for some seconds between two questions
    flood    a lease takes no time at all: the most leases a second that the coordinator can give and take back

CPU is the coordinator's own (user and system), so that a busy host changes little of it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq

from pydreaming.audio.stats import StatsSums
from pydreaming.config import Config, load_config
from pydreaming.replay.names import shard_name, shard_prefix
from workers.layout import RunDir
from workers.protocol import (
    Beat,
    Done,
    Hello,
    Lease,
    Pull,
    Rehello,
    Revoked,
    Stop,
    StoredFile,
    Totals,
    Wait,
    Welcome,
    decode_from_coordinator,
    encode,
)  # fmt: skip

CLIENTS = 2  # processes that play the workers
CONTENT = b"x" * 64
TOKENS = 4096  # of a file: 32 episodes of 128 tokens


@dataclass
class Crew:
    """What one process's workers have seen: messages sent and received, leases done, and seconds from Pull to Lease."""

    messages: int = 0
    leases: int = 0
    waits: list[float] = field(default_factory=list)


@dataclass
class SimulatedWorker:
    """One worker's side of the protocol; `due` is when it has to speak next."""

    socket: zmq.Socket[bytes]
    name: str
    lease: Lease | None = None
    until: float = 0.0
    pulled: float = 0.0
    leases: int = 0


class Crowd:
    """Some workers in one process, over one ZeroMQ context.

    Args:
      lease_s: time that a lease takes. beat_s: between beats. replay: where the files go.
    """

    def __init__(self, address: str, names: list[str], replay: Path, lease_s: float, beat_s: float, bands: int) -> None:
        self._context, self._poller = zmq.Context(), zmq.Poller()
        self._replay, self._lease_s, self._beat_s, self._bands = replay, lease_s, beat_s, bands
        self._random = random.Random(names[0])  # noqa: S311 - no secret
        self.seen, self.joined = Crew(), 0
        self._workers: dict[zmq.Socket[bytes], SimulatedWorker] = {}
        self._due: list[tuple[float, int, SimulatedWorker]] = []
        for i, name in enumerate(names):
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(address)
            self._poller.register(socket, zmq.POLLIN)
            worker = SimulatedWorker(socket, name)
            self._workers[socket] = worker
            self._say(worker, Hello("worker", name, "simulated", i))

    def run(self, seconds: float) -> None:
        """Work until the time is over."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            while self._due and self._due[0][0] <= now:
                self._speak(heapq.heappop(self._due)[2], now)
            wait = min(self._due[0][0] if self._due else end, end) - time.monotonic()
            for socket, _ in self._poller.poll(max(0, int(1000 * wait))):
                self._hear(self._workers[socket])

    def close(self) -> None:
        """Without a word, as a host that loses its power."""
        self._context.destroy(linger=0)

    def _hear(self, worker: SimulatedWorker) -> None:
        message, now = decode_from_coordinator(worker.socket.recv()), time.monotonic()
        self.seen.messages += 1
        if isinstance(message, Welcome):
            self.joined += 1
            self._pull(worker)
        elif isinstance(message, Lease):
            self.seen.waits.append(now - worker.pulled)
            worker.lease, worker.until = message, now + self._lease_s * self._random.uniform(0.8, 1.2)
            self._later(worker, min(worker.until, now + self._beat_s))
        elif isinstance(message, Wait):
            self._later(worker, now + message.seconds)
        elif isinstance(message, Rehello):
            self._say(worker, Hello("worker", worker.name, "simulated", 0))
        elif isinstance(message, Stop | Revoked):
            worker.lease = None

    def _speak(self, worker: SimulatedWorker, now: float) -> None:
        if worker.lease is None:
            self._pull(worker)
        elif now < worker.until:
            self._say(worker, Beat(worker.lease.id, Totals(clips=worker.leases)))
            self._later(worker, min(worker.until, now + self._beat_s))
        else:
            self._finish(worker, worker.lease)
            self._pull(worker)

    def _finish(self, worker: SimulatedWorker, lease: Lease) -> None:
        files, sums = [], None
        if lease.kind == "measure":
            sums = StatsSums(100, [0.0] * self._bands, [100.0] * self._bands)
        else:
            name = shard_name(shard_prefix(lease.epoch, lease.number), 0)
            (self._replay / name).write_bytes(CONTENT)
            files = [StoredFile(name, 32, TOKENS, len(CONTENT))]
        worker.leases += 1
        self.seen.leases += lease.kind == "episodes"
        self._say(worker, Done(lease.id, files, [], sums, Totals(clips=worker.leases)))

    def _pull(self, worker: SimulatedWorker) -> None:
        worker.lease, worker.pulled = None, time.monotonic()
        self._say(worker, Pull())

    def _later(self, worker: SimulatedWorker, when: float) -> None:
        heapq.heappush(self._due, (when, id(worker), worker))

    def _say(self, worker: SimulatedWorker, message: Any) -> None:
        self.seen.messages += 1
        worker.socket.send(encode(message))


def play(address: str, names: list[str], replay: Path, lease_s: float, bands: int, seconds: tuple[float, float], results: Any) -> None:
    """A client process: joins, warms up, then counts."""
    begin = time.monotonic()
    crowd = Crowd(address, names, replay, lease_s, 1.0, bands)
    while crowd.joined < len(names):
        crowd.run(0.05)
    results.put(("joined", time.monotonic() - begin))
    crowd.run(seconds[0])
    crowd.seen = Crew()
    crowd.run(seconds[1])
    results.put(("seen", crowd.seen))
    crowd.close()


def make_run(folder: Path, recordings: int, capacity_files: int) -> RunDir:
    """A run over a manifest whose recordings nobody will read."""
    folder.mkdir(parents=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as manifest:
        for i in range(recordings):
            row = {"audio_filepath": f"part-{i // 1000:04}/recording-{i:08}.flac", "duration": 12.5, "speaker": f"speaker-{i // 100}"}
            manifest.write(json.dumps(row) + "\n")
    overrides = {
        "source.kind": "nemo", "source.path": str(folder / "train.jsonl"), "source.held_out": "0", "features.stats_files": "64",
        "replay.replay_ratio": "0", "replay.capacity_tokens": str(capacity_files * TOKENS), "replay.prefill_tokens": "1",
    }  # fmt: skip
    config = load_config(["defaults"], [word for key, value in overrides.items() for word in (f"--{key}", value)])
    run = RunDir(folder / "run")
    run.path.mkdir()
    run.config.write_text(config.to_yaml(), encoding="utf-8")
    return run


def start(run: RunDir, deadline_s: float = 600.0) -> tuple[psutil.Popen, str, float]:
    """The coordinator's process, its address, and how long it took to list the recordings."""
    begin = time.monotonic()
    with (run.path / "coordinator.log").open("ab") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "workers.coordinator", "--run", str(run.path)], stdout=output, stderr=subprocess.STDOUT
        )
    while (announced := run.read_coordinator()) is None or announced.error:
        if process.poll() is not None or time.monotonic() - begin > deadline_s:
            raise SystemExit((run.path / "coordinator.log").read_text())
        time.sleep(0.02)
    return process, announced.address, time.monotonic() - begin


def measure(folder: Path, workers: int, recordings: int, stored: int, lease_s: float, warm_s: float, seconds: float) -> dict[str, float]:
    """Figures of one phase; `stored` files lie in the store from the beginning."""
    run = make_run(folder, recordings, max(2 * stored, 100_000))
    config: Config = run.read_config()
    replay = Path(run.replay(config))
    process, address, listing = start(run)
    if stored:
        process.terminate()
        process.wait()
        fill(run, replay, stored)
        process, address, _ = start(run)
    results: Any = multiprocessing.Queue()
    names = [f"w-{i:04}" for i in range(workers)]
    crowds = [
        multiprocessing.Process(
            target=play, args=(address, names[i::CLIENTS], replay, lease_s, config.features.n_mels, (warm_s, seconds), results)
        )
        for i in range(CLIENTS)
    ]
    for crowd in crowds:
        crowd.start()
    joined = max(results.get(timeout=600)[1] for _ in crowds)
    time.sleep(warm_s)
    before, begin = process.cpu_times(), time.monotonic()
    seen: list[Crew] = [results.get(timeout=600 + seconds)[1] for _ in crowds]
    elapsed = time.monotonic() - begin
    after, memory = process.cpu_times(), process.memory_info().rss
    for crowd in crowds:
        crowd.join()
    process.terminate()
    process.wait()
    cpu = after.user + after.system - before.user - before.system
    messages, leases = sum(c.messages for c in seen), sum(c.leases for c in seen)
    waits = np.array([wait for crew in seen for wait in crew.waits] or [np.nan])
    return {
        "workers": workers, "recordings": recordings, "stored_files": stored, "lease_s": lease_s, "listing_s": listing, "join_s": joined,
        "messages_per_s": messages / elapsed, "leases_per_s": leases / elapsed, "cpu_share": cpu / elapsed,
        "cpu_us_per_message": 1e6 * cpu / max(1, messages), "answer_ms_median": 1e3 * float(np.median(waits)),
        "answer_ms_p99": 1e3 * float(np.quantile(waits, 0.99)), "rss_mb": memory / 1e6,
    }  # fmt: skip


def fill(run: RunDir, replay: Path, count: int) -> None:
    """`count` files of an earlier part of the run, in the folder and in the coordinator's state."""
    names = deque[str]()
    for i in range(count):
        names.append(shard_name(shard_prefix(0, 500_000 + i), 0))
        (replay / names[-1]).write_bytes(CONTENT)
    state = json.loads(run.coordinator_state.read_bytes())
    state["files"] = dict.fromkeys(names, TOKENS)
    state["written_tokens"] = count * TOKENS
    run.coordinator_state.write_text(json.dumps(state))
    run.coordinator.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--stored", type=int, default=20_000, help="files that the store holds from the beginning")
    parser.add_argument("--lease-s", type=float, default=10.0, help="time that a lease takes in the steady phase")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    arguments = parser.parse_args()
    rows = []
    print("| phase | workers | join s | messages/s | leases/s | CPU, cores | µs CPU a message | answer ms, median / p99 | memory MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for phase, lease_s, warm_s in (("steady", arguments.lease_s, 1.5 * arguments.lease_s), ("flood", 0.0, 2.0)):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(
                Path(folder) / "bench", arguments.workers, arguments.recordings, arguments.stored, lease_s, warm_s, arguments.seconds
            )
        rows.append({"phase": phase, **row})
        print(
            f"| {phase} | {row['workers']:,.0f} | {row['join_s']:.1f} | {row['messages_per_s']:,.0f} | {row['leases_per_s']:,.0f} "
            f"| {row['cpu_share']:.2f} | {row['cpu_us_per_message']:,.0f} | {row['answer_ms_median']:,.1f} / {row['answer_ms_p99']:,.1f} "
            f"| {row['rss_mb']:,.0f} |",
            flush=True,
        )
    print(f"\nlisting {arguments.recordings:,} recordings took {rows[0]['listing_s']:.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
