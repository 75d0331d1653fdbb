"""Data collection in the calling process, without sockets: the same work as with workers, one lease after the other."""

from __future__ import annotations

import itertools
import time

from pydreaming.audio.controls import ControlScale
from pydreaming.audio.sources import Catalogue, source_root
from pydreaming.config import Config
from workers.collection import Collection
from workers.layout import RunDir
from workers.produce import Producer
from workers.protocol import Done, Lease, StoredFile, Wait

OWNER = "serial"


def collect(run: RunDir, config: Config, leases: int | None = None) -> Collection:
    """Collect until all passes are done, the replay ratio makes workers wait, or so many leases are done.

    Returns: the collection as it then is.
    Raises SourceError, ReplayError, ConfigError: as the coordinator does.
    """
    catalogue = Catalogue.build(config.source, config.action, config.run.seed, run.catalogue)
    collection = Collection(run, config, catalogue, time.monotonic())
    controls = ControlScale(catalogue.info.control_mean, catalogue.info.control_std)
    producer = Producer(config, source_root(config.source), run.replay(config), controls)
    for _ in itertools.count() if leases is None else range(leases):
        answer = collection.pull(OWNER, time.monotonic())
        if not isinstance(answer, Lease):
            if isinstance(answer, Wait) and collection.phase == "measure":
                continue
            break
        collection.done(work(producer, answer), OWNER)
        collection.tick(time.monotonic())
    collection.save(time.monotonic())
    return collection


def work(producer: Producer, lease: Lease) -> Done:
    """Do one lease; returns the message that reports it. Raises ReplayError."""
    if lease.kind == "measure" or lease.stats is None:
        sums, unreadable = producer.measure(lease.items)
        return Done(lease.id, [], unreadable, sums, producer.totals)
    reports, unreadable = producer.produce(lease.epoch, lease.number, lease.items, lease.stats)
    files = [StoredFile(report.name, report.episodes, report.tokens, report.bytes) for report in reports]
    return Done(lease.id, files, unreadable, None, producer.totals)
