"""`pydreaming status`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pydreaming.cli.command import Command, positive


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of the run, such as runs/my-run")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--watch", type=positive, metavar="S", help="show it anew every S seconds, until Ctrl-C")


def _run(options: argparse.Namespace) -> int:
    from pydreaming.tracking.live import as_json, describe, read_run

    while True:
        run = read_run(Path(options.run_folder))
        print(as_json(run) if options.json else "\n".join(describe(run)), flush=True)
        if options.watch is None:
            return 0 if run.alive(time.time()) else 1
        time.sleep(options.watch)
        print()


COMMAND = Command(
    "status",
    "how a run is doing right now",
    "Say how a run is doing: training, data collection, replay store, workers, what was refused. It reads small files in the run's\n"
    "folder, so it works on every host that sees that folder, without MLflow, and after the run has ended.\n\n"
    "  learner      gradient steps, the share of the run that is done, the loss, the share of time in which it waits for data\n"
    "  collection   the pass, recordings done of it, leases in workers' hands, log-mel windows (tokens) written since the run began\n"
    "  replay       what the store holds after eviction, its share of the capacity, and how often each token was trained on\n"
    "  workers      recordings and seconds of audio a second, over the last half minute; when it was heard of, and when it joined\n\n"
    "exit code: 0 while the run is alive, 1 when it has ended or nothing was heard of it for 15 s; so it serves as a health check.\n\n"
    "example:\n  pydreaming status runs/my-run --watch 5\n  pydreaming status runs/my-run --json",
    _arguments,
    _run,
)
