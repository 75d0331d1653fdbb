"""What `make bench` has measured beside what was to be reached: one table from the figures that its parts have left.

    python -m benchmarks.targets RUNS/bench

Each row is the median over the repeats of one part of the benchmark with their range; ratios are taken repeat by repeat. A part that has
not run, or a peer that was not given, leaves "not measured". Targets are those that the project set itself (docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers import REFERENCE
from benchmarks.replay import BATCHES, CURIOUS, GATHERED, MEMMAP, NPZ, ROW_GROUP, SAMPLING, WRITING
from benchmarks.step import HAND, PLAIN

PARTS = ("frontend", "replay", "store", "step", "peers", "whole")
Values = list[float]  # one of each repeat
Read = Callable[[Any], Values]  # a part's figures -> values; KeyError, IndexError, StopIteration: it did not measure this


@dataclass(frozen=True)
class Target:
    """One row: what, the `part` it is from, how it is read, its bound (None: none was set) and whether that is the least or the most."""

    what: str
    part: str
    read: Read
    bound: float | None = None
    at_least: bool = True

    def row(self, figures: dict[str, Any]) -> str:
        """Markdown."""
        sign = "≥" if self.at_least else "≤"
        wanted = "" if self.bound is None else f"{sign} {_number(self.bound)}"
        try:
            values = self.read(figures[self.part])
        except (KeyError, IndexError, StopIteration):
            return f"| {self.what} | not measured | | {wanted} | |"
        middle = median(values)
        spread = f"{_number(min(values))} – {_number(max(values))}" if len(values) > 1 else ""
        verdict = "" if self.bound is None else "met" if (middle >= self.bound) == self.at_least or middle == self.bound else "**missed**"
        return f"| {self.what} | {_number(middle)} | {spread} | {wanted} | {verdict} |"


def ratio(name: str) -> Read:
    """One of the front end's ratios."""
    return lambda figures: list(figures["ratios"][name])


def rates(table: str, over: str, under: str) -> Read:
    """The ratio of two ways of the replay's benchmark."""
    return lambda figures: [a / b for a, b in zip(figures[table][over], figures[table][under], strict=True)]


def store(tokens: float, key: str) -> Read:
    """A figure of the store that holds at least so many tokens."""
    return lambda rows: [next(row for row in rows if row["tokens"] >= tokens)[key]]


def flatness(rows: Any) -> Values:
    """A sequence of the largest store over one of the smallest."""
    return [rows[-1]["uniform_us"] / rows[0]["uniform_us"]]


def against_peer(ours: str) -> Read:
    """How many times as fast as the reference peer."""
    return lambda figures: [peer / own for peer, own in zip(figures["ms"][REFERENCE], figures["ms"][ours], strict=True)]


def of_peak(ours: str) -> Read:
    """Share of the processor's peak."""
    return lambda figures: [1e3 * figures["gflop"][ours] / ms / peak for ms, peak in zip(figures["ms"][ours], figures["peak"], strict=True)]


def by_hand(figures: Any) -> Values:
    """Plain step over the one by hand."""
    return [plain / hand for plain, hand in zip(figures["step_ms"][PLAIN], figures["step_ms"][HAND], strict=True)]


def p99(kind: str) -> Read:
    """99th percentile of an event into the spool, µs."""
    return lambda figures: [float(np.quantile(figures["append_us"][kind], 0.99))]


def priority(tokens: float) -> Read:
    """A sequence by priority over a uniform one, in a store of at least so many tokens."""
    return lambda rows: [store(tokens, "curious_us")(rows)[0] / store(tokens, "uniform_us")(rows)[0]]


def first_step(figures: Any) -> Values:
    """Seconds from the call of launch.py."""
    return list(figures["start"]["first_step_s"])


def data_wait(figures: Any) -> Values:
    """Percent of the training thread's time."""
    return [100 * figures["busy"]["data_wait"]]


def appended(figures: Any) -> Values:
    """µs of the run's own events."""
    return list(figures["append_us_in_the_run"])


CLIPS, TO_PARQUET = "{}, clips of 0.5 s / recordings of 10 s -> tokens", "{} of 10 s, Parquet / tokens"
OURS = "ours, single sequences"
AT_MOST = False

TARGETS = (
    Target("log-mel / torchaudio", "frontend", ratio("log-mel / torchaudio"), 1.4),
    Target("log-mel / librosa", "frontend", ratio("log-mel / librosa"), 2.0),
    Target("log-mel / bare rfft", "frontend", ratio("log-mel / bare rfft"), 0.3),
    Target("wav to log-mel / float32 and torchaudio", "frontend", ratio("wav / float32 + torchaudio"), 1.6),
    Target("a recording of 600 s / of 10 s, speed", "frontend", ratio("600 s / 10 s file"), 0.9),
    Target("wav: clips of .5 s / recordings of 10 s, to tokens", "frontend", ratio(CLIPS.format("wav")), 0.5),
    Target("flac: the same", "frontend", ratio(CLIPS.format("flac")), 0.5),
    Target("wav of 10 s: to Parquet / to tokens", "frontend", ratio(TO_PARQUET.format("wav")), 0.7),
    Target("flac of 10 s: the same", "frontend", ratio(TO_PARQUET.format("flac")), 0.7),
    Target("single sequences / `numpy.memmap`", "replay", rates(SAMPLING, OURS, MEMMAP), 0.75),
    Target("single sequences / `read_row_group`", "replay", rates(SAMPLING, OURS, ROW_GROUP), 7.0),
    Target("single sequences / pydreamer's npz", "replay", rates(SAMPLING, OURS, NPZ), 100.0),
    Target("batches / `numpy.memmap` that gathers batches", "replay", rates(SAMPLING, BATCHES, GATHERED)),
    Target("a batch by priority / uniform, cost", "replay", rates(SAMPLING, BATCHES, CURIOUS), 1.3, AT_MOST),
    Target("durable writing / pydreamer's npz", "replay", rates(WRITING, "ours, durable", NPZ), 20.0),
    Target("10⁷ tokens: to open, s of CPU", "store", store(1e7, "open_s"), 2.0, AT_MOST),
    Target("10⁷ tokens: index, MB", "store", store(1e7, "index_mb"), 200.0, AT_MOST),
    Target("a sequence of the largest / of the smallest store, cost", "store", flatness),
    Target("10⁴ tokens: a sequence by priority / uniform, cost", "store", priority(1e4), 1.3, AT_MOST),
    Target("10⁶ tokens: the same", "store", priority(1e6), 1.3, AT_MOST),
    Target("10⁷ tokens: the same", "store", priority(1e7), 1.3, AT_MOST),
    Target(f"RSSM step, filter / {REFERENCE}", "peers", against_peer("ours, filter"), 1.4),
    Target(f"RSSM step, token / {REFERENCE}", "peers", against_peer("ours, token"), 1.8),
    Target("RSSM step, filter: share of the peak", "peers", of_peak("ours, filter"), 0.7),
    Target("RSSM step, token: share of the peak", "peers", of_peak("ours, token"), 0.8),
    Target("training step: plain / by hand", "step", by_hand),
    Target("launch to first step, s", "whole", first_step, 10.0, AT_MOST),
    Target("training thread waits for data, % of its time", "whole", data_wait, 2.0, AT_MOST),
    Target("an event into the spool: CPU, p99, µs", "whole", p99("cpu"), 50.0, AT_MOST),
    Target("the same in the run: wall, µs", "whole", appended, 50.0, AT_MOST),
)


def report(figures: dict[str, Any], host: str) -> str:
    """Markdown: the table, and the host below it."""
    head = ["| | median | range | target | |", "|---|---:|---|---:|---|"]
    return "\n".join([*head, *(target.row(figures) for target in TARGETS), "", host])


def host(figures: dict[str, Any]) -> str:
    """What it was measured on: the processor, how many of them, and their peak where a part has measured it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "a processor without a name"
    peaks = [peak for part in ("peers", "step") for peak in figures.get(part, {}).get("peak", [])]
    peak = f", {median(peaks):.0f} GFLOP/s each (float32 products, one thread)" if peaks else ""
    return f"{len(os.sched_getaffinity(0))} × {model}{peak}."


def load(folder: Path) -> dict[str, Any]:
    """The figures by part, of those that are there."""
    return {part: json.loads(path.read_text(encoding="utf-8")) for part in PARTS if (path := folder / f"{part}.json").is_file()}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"  # with three digits 1.396 would miss "1.4" as "1.4"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the parts have left their JSON files")
    options = parser.parse_args(words)
    figures = load(options.folder)
    if not figures:
        print(f"benchmarks.targets: {options.folder} holds no figures; make bench leaves them", file=sys.stderr)
        return 2
    print(report(figures, host(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
