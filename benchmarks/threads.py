"""What several threads give a learner on a CPU, alone and beside others: milliseconds of a training step, by the clock.

    python -m benchmarks.threads [--repeats 3] [--steps 40] [--json out.json] [--quick]

Each figure is a process of its own that trains preset fsdd on a made store (see `benchmarks.step`) in the environment of a learner: with
one thread, with as many as a learner may take, with these where waiting threads sleep at once, and with the learner's own choice, whose
trials count. Company are processes that count: as many as there are processors at the niceness of workers, or one at the learner's own.
Ways take turns within each repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.step import HAND, Way, make_store
from pydreaming.config import load_config
from pydreaming.replay.index import ReplayIndex
from workers.children import NICE, role_environment
from workers.threads import choose_threads, default_threads

BUSY = "import os, sys\nos.nice(int(sys.argv[1]))\nwhile True: sum(range(10000))"
CORES = os.cpu_count() or 1
COMPANY = {"alone": [], "beside busy workers": [NICE] * CORES, "beside one busy program": [0]}
MOST = default_threads()
CHOSEN = "as chosen"
WAYS = {"1": (1, {}), f"{MOST}": (MOST, {}), f"{MOST}, sleeping": (MOST, {"OMP_WAIT_POLICY": "PASSIVE"}), CHOSEN: (0, {})}
WARM_UP = 10  # steps


@contextlib.contextmanager
def busy(niceness: list[int]) -> Iterator[None]:
    """Processes that count, one for each niceness."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY, str(nice)]) for nice in niceness]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def step_ms(threads: int, steps: int) -> float:
    """Milliseconds of a step by the clock, in this process. `threads`: 0 for those that a learner would choose."""
    config = load_config(["defaults", "fsdd"], ["--training.device=cpu"])
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), config, 64, 16)
        index = ReplayIndex(Path(folder))
        index.refresh()
        way = Way(HAND, config, index)
        torch.set_num_threads(1)
        way.train(WARM_UP)
        choice, taken = choose_threads(threads, 1, on_cpu=True, live=True), 0.0
        for _ in range(steps):
            begin = time.perf_counter()
            way.train(1)
            taken += (step := time.perf_counter() - begin)
            choice.stepped(step)
        return 1e3 * taken / steps


def measure(repeats: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds over the repeats, by company and way."""
    found: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in COMPANY}
    for _ in range(repeats):
        for name, niceness in COMPANY.items():
            for way, (threads, settings) in WAYS.items():
                command = [sys.executable, "-m", "benchmarks.threads", "--one", str(threads), "--steps", str(steps)]
                environment = role_environment(os.environ | settings, 0)
                with busy(niceness):
                    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
                found[name][way].append(float(said))
    return found


def report(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: medians and ranges, and how many times as fast as with the first number of threads."""
    lines = ["| a step by the clock | threads | ms | range | times as fast | range |", "|---|---:|---:|---:|---:|---:|"]
    for name, by_threads in found.items():
        first = next(iter(by_threads.values()))
        for n, values in by_threads.items():
            gain = sorted(one / other for one, other in zip(first, values, strict=True))
            ms = f"{statistics.median(values):.0f} | {min(values):.0f} - {max(values):.0f}"
            lines.append(f"| {name} | {n} | {ms} | {statistics.median(gain):.2f} | {gain[0]:.2f} - {gain[-1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a tiny run, for the tests")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(step_ms(arguments.one, arguments.steps))
        return
    found = measure(*((1, 2) if arguments.quick else (arguments.repeats, arguments.steps)))
    print(report(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
