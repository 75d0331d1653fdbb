"""Figures of a run for Prometheus: `python -m workers.exporter --run RUN_DIR --address 127.0.0.1:9464` answers on /metrics.

    coordinator, learner ---> RUN/status/*.json ---> exporter <--- GET /metrics --- Prometheus

It reads what `pydreaming status` reads, when it is asked: nothing of it is on the path of training, and it may run on any host that sees
the run's folder. The supervisor starts it where `tracking.prometheus` is set. There is no password: beyond loopback anyone who reaches
the port reads these figures, which are numbers, and names of the run, of hosts and of workers.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pydreaming.errors import PydreamingError, TransportError, UsageError
from pydreaming.tracking.live import CollectionNow, LearnerNow, RunNow, WorkerNow, read_run
from workers import logs
from workers.layout import RunDir

log = logging.getLogger("exporter")


class RunCollector(Collector):
    """The figures of one run, read anew at every scrape; a status file that cannot be read leaves its figures out, and `up` at 0."""

    def __init__(self, run: Path) -> None:
        self._run, self._name = run, run.resolve().name

    def collect(self) -> Iterator[Metric]:
        """All metrics, each with the label `run`."""
        try:
            now = read_run(self._run)
        except PydreamingError as e:
            log.warning("%s", e)
            yield self._gauge("up", "Whether the run goes on (0 as well: its status files cannot be read)", 0.0)
            return
        yield self._gauge("up", "Whether the run goes on (0 as well: its status files cannot be read)", now.alive(time.time()))
        yield self._gauge("quarantined_recordings", "Unreadable recordings in the quarantine list", now.quarantined)
        if now.learner is not None:
            yield from self._of_learner(now.learner)
        if now.collection is not None:
            yield from self._of_collection(now, now.collection)

    def _of_learner(self, x: LearnerNow) -> Iterator[Metric]:
        yield self._counter("learner_steps", "Gradient steps", x.step)
        yield self._counter("learner_tokens", "Tokens trained on", x.trained_tokens)
        yield self._counter("learner_refused_steps", "Steps that were not finite and changed no weight", x.non_finite_steps)
        yield self._gauge("learner_steps_per_second", "Gradient steps a second, since the last log line", x.steps_per_s)
        yield self._gauge("learner_tokens_per_second", "Tokens trained on a second, since the last log line", x.tokens_per_s)
        yield self._gauge("learner_wait_ratio", "Share of the time in which the learner waits for data", x.wait_share)
        yield self._gauge("learner_progress_ratio", "Share of the run that is done", x.progress)
        yield self._gauge("learner_loss", "Training loss, a mean since the last log line", x.loss)
        yield self._gauge("learner_heard_timestamp_seconds", "Last sign of life of the learner", x.time)
        if x.checkpoint_time:
            yield self._gauge("checkpoint_timestamp_seconds", "When the newest checkpoint was written", x.checkpoint_time)

    def _of_collection(self, now: RunNow, x: CollectionNow) -> Iterator[Metric]:
        yield self._counter("collected_tokens", "Tokens written since the run began", x.written_tokens)
        yield self._gauge("replay_tokens", "Tokens in the replay store", x.stored_tokens)
        yield self._gauge("replay_capacity_tokens", "Tokens that the replay store may hold", x.capacity_tokens)
        yield self._gauge("replay_files", "Files in the replay store", x.files)
        if now.learner is not None:
            yield self._gauge("replay_ratio", "Times that each collected token was trained on", now.learner.replay_ratio)
        yield self._gauge("leases", "Leases in workers' hands", x.leases)
        yield self._gauge("passes", "Passes over the recordings, with the share of the present one", x.passes_done + x.pass_share)
        yield self._counter("dropped_messages", "Messages that the coordinator refused", x.dropped_messages)
        yield self._gauge("collection_heard_timestamp_seconds", "Last sign of life of the coordinator", x.time)
        yield self._gauge("workers", "Connected workers", len(x.workers))
        yield from self._of_workers(x.workers)

    def _of_workers(self, workers: Iterable[WorkerNow]) -> Iterator[Metric]:
        kinds: dict[str, tuple[str, Callable[[WorkerNow], float]]] = {
            "worker_recordings_per_second": ("Recordings a second over the last half minute", lambda w: w.clips_per_s),
            "worker_audio_seconds_per_second": ("Seconds of audio a second over the last half minute", lambda w: w.audio_per_s),
            "worker_silent_seconds": ("Time since the last message", lambda w: w.silent_s),
            "worker_age_seconds": ("Time since it joined", lambda w: w.age_s),
            "worker_busy": ("Whether it has a lease", lambda w: float(w.lease >= 0)),
        }
        for name, (text, value) in kinds.items():
            family = GaugeMetricFamily(f"pydreaming_{name}", text, labels=["run", "host", "worker"])
            for worker in workers:
                family.add_metric([self._name, worker.host, worker.name], value(worker))
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"pydreaming_{name}", text, labels=["run"])
        family.add_metric([self._name], float(value))
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"pydreaming_{name}", text, labels=["run"])
        family.add_metric([self._name], float(value))
        return family


def serve(run: Path, address: str) -> None:
    """Answer scrapes in a thread from now on. Raises UsageError for a malformed address, TransportError for one that is taken."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"'{address}' (tracking.prometheus) must be HOST:PORT, such as 127.0.0.1:9464")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(run))
    try:
        start_http_server(int(port), host.strip("[]"), registry)
    except OSError as e:
        raise TransportError(f"cannot listen on {address} (tracking.prometheus): {e.strerror or e}") from e


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m workers.exporter`."""
    parser = argparse.ArgumentParser(prog="python -m workers.exporter", description="offers a run's figures to Prometheus")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--address", help="HOST:PORT to listen on (default: the run's tracking.prometheus)")
    given = parser.parse_args(arguments)
    logs.begin("exporter", RunDir(given.run))
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        address = given.address or RunDir(given.run).read_config().tracking.prometheus
        serve(given.run, address)
    except PydreamingError as e:
        log.error("error: %s", e)
        return e.exit_code
    log.info("figures for Prometheus at http://%s/metrics", address)
    ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
