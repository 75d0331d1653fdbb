"""Replay sampling and writing beside its peers and its limit, in one run.

    python -m benchmarks.replay [--json out.json] [--quick] [--s3 s3://BUCKET/PREFIX?endpoint_override=HOST:PORT&scheme=http]

Data: 100,096 tokens of 640 float16 values in 391 episodes of 256 (128 MB, random normal), sequences of 64 steps, files in the page
cache, CPU time of one thread. Each way copies one random sequence at a time into fresh memory (the first of an episode costs a look at its
checksum, and at its file's footer); the last rows make whole batches of 24 sequences: by memmap, only copied into new (24, 64) arrays of
tokens, actions and starts, each column from a file of its own, which is the limit of a batch; ours, drawn as training draws them, with
is_first, identities and masks; and by priority (`replay.priority curious`, losses told after each batch).

Writing: 64 episodes (21 MB) in files of 32, removed after each repeat; npz is not synced, so "ours, not synced" is the like-for-like row,
and "ours, durable" what a worker does. Repeats of all ways are interleaved; medians, and ratios within the run.

With --s3, the same episodes in a store on S3 as well (an empty prefix, which is emptied again): what a sequence costs where its file was
never on this host (cold: listed, fetched, kept), where another process has left a copy (checked, mapped), and after that.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.replay.address import Location
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.priority import Curiosity
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.replay.schema import Clip, Episode, StoreMeta
from pydreaming.replay.store import Store, open_store
from pydreaming.replay.writer import ShardWriter

LENGTH = 64  # steps of a sequence
BATCH = 24  # sequences of a batch
STEPS = 256  # of an episode
SHARD = 32  # episodes of a file

SAMPLING, WRITING = "sampling, sequences/s", "writing, MB/s"
DISTANT = "a sequence from a store, µs"
LOCAL, COLD, COPIED, MAPPED = "folder", "S3, file never fetched", "S3, copy of another process", "S3, copy in use"
MEMMAP, ROW_GROUP, NPZ = "numpy.memmap", "read_row_group", "pydreamer's npz_compressed"
GATHERED, BATCHES, CURIOUS = "numpy.memmap, whole batches", "ours, whole batches", "ours, whole batches, by priority"
CURIOSITY = Curiosity(share=0.5, visits=1e4, decay=0.7, power=0.7, cap=1e5)

Draw = Callable[[], object]


def make_meta() -> StoreMeta:
    config = load_config(["defaults"], ["--features.n_mels", "80", "--features.token_frames", "8", "--features.sample_rate", "16000"])
    bands = config.features.n_mels
    return StoreMeta.of(config.features, FeatureStats([0.0] * bands, [1.0] * bands, 1), config.action)


def make_episodes(count: int, meta: StoreMeta) -> list[Episode]:
    rng = np.random.default_rng(0)
    is_first, start = np.arange(STEPS) == 0, np.arange(STEPS, dtype=np.int64) * 1280
    action = np.zeros((STEPS, meta.action_dim), np.float32)
    return [
        Episode(
            rng.standard_normal((STEPS, meta.token_dim), np.float32).astype(np.float16),
            is_first,
            action,
            start,
            [Clip(0, number, f"{number}.wav", 0)],
            f"recording:{number // 16}",
        )
        for number in range(count)
    ]


@contextmanager
def syncing(active: bool) -> Iterator[None]:
    """Whether fsync reaches the disk."""
    real = os.fsync
    try:
        if not active:
            os.fsync = lambda fd: None
        yield
    finally:
        os.fsync = real


def write_ours(where: Location | Store, episodes: list[Episode], meta: StoreMeta) -> None:
    for lease, begin in enumerate(range(0, len(episodes), SHARD)):
        with ShardWriter(where, shard_prefix(0, lease), meta, SHARD) as writer:
            for episode in episodes[begin : begin + SHARD]:
                writer.add(episode)
            writer.commit()


def write_npz(folder: Path, episodes: list[Episode]) -> None:
    """One compressed npz an episode, as pydreamer stores them (through memory, then one write)."""
    folder.mkdir(exist_ok=True)
    for number, e in enumerate(episodes):
        with io.BytesIO() as buffer:
            np.savez_compressed(buffer, image=e.tokens, reset=e.is_first, action=e.action)
            (folder / f"{number:05d}.npz").write_bytes(buffer.getvalue())


def readers(folder: Path, count: int, meta: StoreMeta) -> dict[str, tuple[Draw, int]]:
    """Name to (draw, sequences in one draw)."""
    width, rng = meta.token_dim, np.random.default_rng(1)
    places = list(zip(rng.integers(0, count, 65_536).tolist(), rng.integers(0, STEPS - LENGTH + 1, 65_536).tolist(), strict=True))
    turn = iter(range(10**12))

    def place() -> tuple[int, int]:
        return places[next(turn) % len(places)]

    raw: NDArray[np.float16] = np.memmap(folder / "tokens.f16", np.float16, "r", shape=(count * STEPS, width)).view(np.ndarray)
    action = np.memmap(folder / "action.f32", np.float32, "r", shape=(count * STEPS, meta.action_dim)).view(np.ndarray)
    starts = np.memmap(folder / "start.i64", np.int64, "r", shape=(count * STEPS,)).view(np.ndarray)
    columns = (raw, action, starts)
    index = ReplayIndex(folder / "ours")
    index.refresh()
    sampler = ReplaySampler(index, BATCH, LENGTH, 0.75, 0.3, 0)
    curious = ReplaySampler(index, BATCH, LENGTH, 0.75, 0.3, 0, CURIOSITY)
    losses = rng.random((64, BATCH), np.float32)
    groups = [
        (pq.ParquetFile(path), n) for path in sorted((folder / "ours").iterdir()) for n in range(pq.read_metadata(path).num_row_groups)
    ]

    def memmap() -> object:
        episode, start = place()
        begin = episode * STEPS + start
        return raw[begin : begin + LENGTH].copy()

    def gathered() -> object:
        batch = [np.empty((BATCH, LENGTH, *column.shape[1:]), column.dtype) for column in columns]
        for row in range(BATCH):
            episode, start = place()
            begin = episode * STEPS + start
            for made, column in zip(batch, columns, strict=True):
                made[row] = column[begin : begin + LENGTH]
        return batch

    def by_priority() -> object:
        batch = curious.sample()
        curious.learn(losses[next(turn) % len(losses)])
        return batch

    def ours() -> object:
        episode, start = place()
        return index.read(episode, start, LENGTH)

    def unread() -> Iterator[tuple[ReplayIndex, int]]:
        while True:
            fresh = ReplayIndex(folder / "ours")
            fresh.refresh()
            yield from ((fresh, episode) for episode in np.random.default_rng(2).permutation(fresh.episodes).tolist())

    firsts = unread()

    def first() -> object:
        fresh, episode = next(firsts)
        return fresh.read(episode, place()[1], LENGTH)

    def row_group() -> object:
        episode, start = place()
        file, number = groups[episode]
        column = file.read_row_group(number, columns=["obs"])["obs"].chunk(0)
        values = np.frombuffer(column.buffers()[1], np.float16).reshape(-1, width)
        return values[start : start + LENGTH].copy()

    def npz() -> object:
        episode, start = place()
        with np.load(folder / "npz" / f"{episode:05d}.npz") as file:
            return {key: file[key][start : start + LENGTH] for key in ("image", "reset", "action")}

    return {
        MEMMAP: (memmap, 1),
        "ours, single sequences": (ours, 1),
        "ours, first of an episode": (first, 1),
        ROW_GROUP: (row_group, 1),
        NPZ: (npz, 1),
        GATHERED: (gathered, BATCH),
        BATCHES: (sampler.sample, BATCH),
        CURIOUS: (by_priority, BATCH),
    }


def rate(draw: Draw, sequences: int, seconds: float) -> float:
    """Sequences per second of CPU, drawing for about `seconds` of it."""
    draw()
    done, begin = 0, time.process_time()
    while (spent := time.process_time() - begin) < seconds:
        for _ in range(8):
            draw()
        done += 8 * sequences
    return done / spent


def time_writing(folder: Path, episodes: list[Episode], meta: StoreMeta) -> dict[str, float]:
    """Seconds of each way to write the episodes into a new folder."""
    ways: dict[str, tuple[bool, Callable[[], None]]] = {
        "ours, durable": (True, lambda: write_ours(folder, episodes, meta)),
        "ours, not synced": (False, lambda: write_ours(folder, episodes, meta)),
        NPZ: (True, lambda: write_npz(folder, episodes)),
    }
    spent = {}
    for way, (sync, write) in ways.items():
        with syncing(sync):
            begin = time.perf_counter()
            write()
            spent[way] = time.perf_counter() - begin
        shutil.rmtree(folder)
    return spent


def measure(repeats: int, count: int, seconds: float, write_count: int) -> dict[str, dict[str, list[float]]]:
    """Rates of every way and repeat: sampling in sequences/s, writing in MB/s."""
    meta = make_meta()
    episodes = make_episodes(count, meta)
    sampling: dict[str, list[float]] = {}
    writing: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.concatenate([e.tokens for e in episodes]).tofile(folder / "tokens.f16")
        np.concatenate([e.action for e in episodes]).tofile(folder / "action.f32")
        np.concatenate([e.start_sample for e in episodes]).tofile(folder / "start.i64")
        write_ours(folder / "ours", episodes, meta)
        write_npz(folder / "npz", episodes)
        ways = readers(folder, count, meta)
        for _ in range(repeats):
            for way, (draw, sequences) in ways.items():
                sampling.setdefault(way, []).append(rate(draw, sequences, seconds))
            for way, spent in time_writing(folder / "new", episodes[:write_count], meta).items():
                writing.setdefault(way, []).append(sum(e.tokens.nbytes for e in episodes[:write_count]) / 1e6 / spent)
    return {SAMPLING: sampling, WRITING: writing}


def first_reads(store: Store) -> float:
    """Seconds to read one sequence of every file of a store just opened, for each."""
    begin = time.perf_counter()
    index = ReplayIndex(store)
    index.refresh()
    places = range(0, index.episodes, SHARD)
    for episode in places:
        index.read(episode, 0, LENGTH)
    return (time.perf_counter() - begin) / len(places)


def measure_s3(address: str, repeats: int, count: int, seconds: float) -> dict[str, list[float]]:
    """µs of every way and repeat to read a random sequence."""
    meta = make_meta()
    episodes, ways = make_episodes(count, meta), dict[str, list[float]]()
    bucket = open_store(address)
    if bucket.scan():
        raise SystemExit(f"{address} is not empty")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ours(folder / "ours", episodes, meta)
        write_ours(bucket, episodes, meta)
        try:
            for number in range(repeats):
                copies = folder / f"copies{number}"
                ways.setdefault(COLD, []).append(1e6 * first_reads(open_store(address, copies, 10**12)))
                ways.setdefault(COPIED, []).append(1e6 * first_reads(open_store(address, copies, 10**12)))
                for way, store in ((MAPPED, open_store(address, copies, 10**12)), (LOCAL, open_store(folder / "ours"))):
                    ways.setdefault(way, []).append(1e6 / rate(random_reads(store), 1, seconds))
                shutil.rmtree(copies)
        finally:
            bucket.remove(bucket.scan())
    return ways


def random_reads(store: Store) -> Draw:
    """Reads random sequences, of files that have all been touched."""
    index, rng = ReplayIndex(store), np.random.default_rng(1)
    index.refresh()
    for episode in range(0, index.episodes, SHARD):
        index.read(episode, 0, 1)
    places = list(zip(rng.integers(0, index.episodes, 4096).tolist(), rng.integers(0, STEPS - LENGTH + 1, 4096).tolist(), strict=True))
    turn = iter(range(10**12))

    def read() -> object:
        episode, start = places[next(turn) % len(places)]
        return index.read(episode, start, LENGTH)

    return read


def table(title: str, rates: dict[str, list[float]], bases: list[str]) -> str:
    """Markdown: median, range and, for each base, the median over repeats of the ratio to it."""
    lines = ["| " + " | ".join([title, "median", "range", *(f"× {base}" for base in bases)]) + " |", "|---" * (3 + len(bases)) + "|"]
    for way, values in rates.items():
        ratios = [statistics.median(a / b for a, b in zip(values, rates[base], strict=True)) for base in bases]
        cells = [
            way,
            f"{statistics.median(values):,.0f}",
            f"{min(values):,.0f} – {max(values):,.0f}",
            *(f"{ratio:,.3g}" for ratio in ratios),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a tiny run, for the tests")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--s3", metavar="ADDRESS", help="measure a store there, too; credentials as usual with AWS")
    arguments = parser.parse_args()
    rates = measure(2, 6, 0.01, 2) if arguments.quick else measure(arguments.repeats, 391, 0.25, 64)
    bases = {SAMPLING: [MEMMAP, ROW_GROUP, NPZ, GATHERED, BATCHES], WRITING: [NPZ], DISTANT: [LOCAL]}
    if arguments.s3:
        rates[DISTANT] = measure_s3(arguments.s3, *((2, 40, 0.01) if arguments.quick else (arguments.repeats, 391, 0.5)))
    for title, found in rates.items():
        print(table(title, found, bases[title]), end="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
