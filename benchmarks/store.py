"""What a large replay store costs the learner: to open it, to look at it again, to draw the first batch, and memory.

    python -m benchmarks.store [--files 1000 10000 50000] [--json out.json]

Files of 32 episodes of 256 tokens (one is written, the others are links to it, so that a large store needs no large disk; each is opened,
mapped and looked at for itself). One process for each size, whose CPU time is taken; memory is what it grew by, without pages of mapped
files.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.replay import SHARD, STEPS, make_episodes, make_meta, write_ours
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_name, shard_prefix
from pydreaming.replay.sampler import ReplaySampler


def measure(folder: Path, files: int, results: Any) -> None:
    """Figures of one store; runs in a process of its own."""
    process = psutil.Process()

    def private() -> int:
        info = process.memory_info()
        return int(info.rss - info.shared)

    index = ReplayIndex(folder)
    before, begin = private(), time.process_time()
    index.refresh()
    opened = time.process_time()
    index.refresh()
    again = time.process_time()
    indexed = private()
    sampler = ReplaySampler(index, 24, 64, 0.75, 0.3, 0)
    sampler.sample()
    drawn = time.process_time()
    results.put(
        {
            "files": files, "tokens": index.tokens, "index_mb": (indexed - before) / 1e6, "sampler_mb": (private() - indexed) / 1e6,
            "open_s": opened - begin, "look_again_s": again - opened, "first_batch_s": drawn - again,
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    rows = []
    print("| files | million tokens | open, s of CPU | look again, ms of CPU | first batch, s of CPU | index, MB | sampler, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for files in arguments.files:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_ours(folder, make_episodes(SHARD, make_meta()), make_meta())
            (first,) = folder.iterdir()
            for number in range(1, files):
                os.link(first, folder / shard_name(shard_prefix(0, number), 0))
            fresh = multiprocessing.get_context("spawn")
            results: Any = fresh.Queue()
            process = fresh.Process(target=measure, args=(folder, files, results))
            process.start()
            row = results.get(timeout=1200)
            process.join()
        assert row["tokens"] == files * SHARD * STEPS
        rows.append(row)
        print(
            f"| {files:,} | {row['tokens'] / 1e6:,.1f} | {row['open_s']:.2f} | {1e3 * row['look_again_s']:,.0f} "
            f"| {row['first_batch_s']:.2f} | {row['index_mb']:,.0f} | {row['sampler_mb']:,.0f} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
