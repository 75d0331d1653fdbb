"""What a large replay store costs the learner: to open it, to look at it again, to draw batches, and memory.

    python -m benchmarks.store [--files 1000 10000 50000] [--json out.json]
    python -m benchmarks.store --tokens 10000 100000 1000000 10000000

Files of 32 episodes of 256 tokens, or with --tokens of the default configuration (32 episodes of 128 tokens of 256 values, 2.1 MB). Some
are written, the others are links to them, so that a large store needs no large disk; each is opened, mapped and looked at for itself, and
those written are more than caches hold. One process for each size, whose CPU time is taken; memory is what it grew by, without pages of
mapped files. A drawn sequence is one of a batch of 24 of 64 tokens, uniform or by priority; median of 7 turns, after each episode was read
once. That first time finds where the episodes of its file lie and checks all of the episode's values; it is told for itself, an episode.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.replay import BATCH, CURIOSITY, LENGTH, SHARD, make_episodes, make_meta, write_ours
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_name, shard_prefix
from pydreaming.replay.priority import Curiosity
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.replay.schema import StoreMeta
from pydreaming.replay.writer import ShardWriter

DISTINCT = 64  # files that are written, 135 MB of the default configuration


def make_default_store(folder: Path, files: int) -> None:
    """`files` files of the default configuration."""
    config, rng = load_config(["defaults"]), np.random.default_rng(0)
    f, r = config.features, config.replay
    meta = StoreMeta.of(f, FeatureStats([0.0] * f.n_mels, [1.0] * f.n_mels, 1), config.action)
    for lease in range(min(files, DISTINCT)):
        builder = EpisodeBuilder(f"speaker:{lease // 4}", r.episode_tokens)
        tokens = rng.standard_normal((r.shard_episodes * r.episode_tokens, f.token_dim), np.float32)
        start = np.arange(len(tokens), dtype=np.int64) * f.token_stride_samples
        episodes = builder.add_tokens(tokens, np.zeros((len(tokens), 1)), start, True, ClipInfo(lease, f"{lease}.wav")) + builder.finish()
        with ShardWriter(folder, shard_prefix(0, lease), meta, r.shard_episodes) as writer:
            for episode in episodes:
                writer.add(episode)
            writer.commit()
    link(folder, files)


def make_wide_store(folder: Path, files: int) -> None:
    """`files` links to one file of the benchmark of sampling."""
    write_ours(folder, make_episodes(SHARD, make_meta()), make_meta())
    link(folder, files)


def link(folder: Path, files: int) -> None:
    """Further names for the files that are there."""
    there = sorted(folder.iterdir())
    for number in range(len(there), files):
        os.link(there[number % len(there)], folder / shard_name(shard_prefix(0, number), 0))


def sequence_us(index: ReplayIndex, curiosity: Curiosity | None, seconds: float) -> float:
    """µs of CPU for a sequence of a batch."""
    sampler, losses, turns = ReplaySampler(index, BATCH, LENGTH, 0.75, 0.3, 0, curiosity), np.ones(BATCH, np.float32), []
    for turn in range(8):
        begin, batches = time.process_time(), 0
        while (spent := time.process_time() - begin) < seconds:
            sampler.sample()
            sampler.learn(losses)
            batches += 1
        if turn:  # the first one maps pages
            turns.append(1e6 * spent / batches / BATCH)
    return statistics.median(turns)


def first_time_us(index: ReplayIndex) -> float:
    """µs of CPU for an episode when it is read for the first time."""
    begin = time.process_time()
    for episode in range(index.episodes):
        index.read(episode, 0, 1)
    return 1e6 * (time.process_time() - begin) / index.episodes


def measure(folder: Path, files: int, seconds: float, results: Any) -> None:
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
    sampler = ReplaySampler(index, BATCH, LENGTH, 0.75, 0.3, 0)
    sampler.sample()
    drawn = time.process_time()
    sampled = private()
    curious = ReplaySampler(index, BATCH, LENGTH, 0.75, 0.3, 0, CURIOSITY)
    curious.sample()
    priority_mb = (private() - sampled - (sampled - indexed)) / 1e6  # it has a sampler's memory of its own, too
    results.put(
        {
            "files": files, "tokens": index.tokens, "index_mb": (indexed - before) / 1e6, "sampler_mb": (sampled - indexed) / 1e6,
            "priority_mb": priority_mb,
            "open_s": opened - begin, "look_again_s": again - opened, "first_batch_s": drawn - again,
            "episode_us": first_time_us(index),
            "uniform_us": sequence_us(index, None, seconds), "curious_us": sequence_us(index, CURIOSITY, seconds),
        }
    )  # fmt: skip


def files_of(tokens: int) -> int:
    """Files of the default configuration for so many tokens."""
    r = load_config(["defaults"]).replay
    return -(-tokens // (r.shard_episodes * r.episode_tokens))


def in_own_process(make: Callable[[Path, int], None], files: int, seconds: float) -> dict[str, float]:
    """Figures of a store of so many files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, files)
        fresh = multiprocessing.get_context("spawn")
        results: Any = fresh.Queue()
        process = fresh.Process(target=measure, args=(folder, files, seconds, results))
        process.start()
        row: dict[str, float] = results.get(timeout=1200)
        process.join()
    assert row["files"] == files
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--tokens", type=int, nargs="+", help="stores of the default configuration of so many tokens, instead")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn of drawing")
    arguments = parser.parse_args()
    make = make_default_store if arguments.tokens else make_wide_store
    sizes = [files_of(tokens) for tokens in arguments.tokens] if arguments.tokens else arguments.files
    rows = []
    print("| files | tokens | open, s of CPU | look again, ms | first batch, s | index, MB | sampler, MB ", end="")
    print("| an episode's first time, µs | a sequence, µs | by priority, µs |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for files in sizes:
        row = in_own_process(make, files, arguments.seconds)
        rows.append(row)
        print(
            f"| {files:,} | {row['tokens']:,} | {row['open_s']:.2f} | {1e3 * row['look_again_s']:,.0f} "
            f"| {row['first_batch_s']:.2f} | {row['index_mb']:,.0f} | {row['sampler_mb']:,.0f} "
            f"| {row['episode_us']:.0f} | {row['uniform_us']:.1f} | {row['curious_us']:.1f} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
