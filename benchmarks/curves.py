"""Scaling curves: collection by workers, the training step by its sizes, a learner's memory by the size of its replay store.

    python -m benchmarks.curves --out docs/images [--only memory] [--json curves.json] [--quick]

    workers   tokens/s written, durable, by real worker processes (as many as there are cores) over clips of 10 s under a real coordinator;
              beyond, and for comparison, the real coordinator under simulated workers: a lease takes them as long as it took one real
              worker, and nothing is decoded, so these say what the coordinator allows where each worker has a core of its own
    step      CPU time of one step of preset `defaults` (one thread), one size changed at a time, repeats interleaved; medians
    memory    what index and sampler take, and CPU time of a drawn sequence: `benchmarks.store` with stores of the default configuration

Writes scaling_workers.png, scaling_step.png and scaling_memory.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks import coordinator, store
from benchmarks.frontend import speech_like
from pydreaming.analysis.reports.pictures import BLUE, GREY, LABEL, SMALL, VERMILION, WIDTH, save
from pydreaming.config import Config, load_config
from pydreaming.replay.sampler import Batch
from pydreaming.replay.schema import ID_STEPS
from pydreaming.tracking.live import read_run
from pydreaming.training.trainer import Trainer
from workers.layout import RunDir

SIZES: dict[str, tuple[str, list[int]]] = {
    "batch": ("training.batch_size", [6, 12, 24, 48, 96]),
    "length": ("training.batch_length", [6, 12, 24, 48, 96]),
    "deter": ("model.deter", [64, 128, 256, 512, 1024]),
    "classes": ("model.classes", [4, 8, 16, 32, 64]),
}
CLIP = 12  # tokens of a clip in a step's batch
SIMULATED = [1, 2, 4, 8]
CURVES = ("step", "memory", "workers")
TOKENS = [10_000, 100_000, 1_000_000, 10_000_000]


# -- workers ----------------------------------------------------------------------------------------------------------------------------


def make_collection(folder: Path, clips: int) -> RunDir:
    """A run that collects for ever, over clips of 10 s."""
    (folder / "audio").mkdir(parents=True)
    samples = speech_like(10.0, 16_000)
    for number in range(clips):
        soundfile.write(str(folder / "audio" / f"{number:04}.wav"), np.roll(samples, 997 * number), 16_000, subtype="PCM_16")
    settings = {
        "source.path": str(folder / "audio"), "source.held_out": "0", "replay.replay_ratio": "0", "replay.prefill_tokens": "1",
        "replay.capacity_tokens": "1000000", "augment.shift": "0",
    }  # fmt: skip
    run = RunDir(folder / "run")
    run.path.mkdir()
    config = load_config(["defaults"], [word for key, value in settings.items() for word in (f"--{key}", value)])
    run.config.write_text(config.to_yaml(), encoding="utf-8")
    return run


def collect(count: int, clips: int, seconds: float) -> dict[str, float]:
    """Tokens per second of `count` real workers, and tokens of a lease."""
    with tempfile.TemporaryDirectory() as name:
        run = make_collection(Path(name) / "bench", clips)
        process, _, _ = coordinator.start(run)
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        command = [sys.executable, "-m", "workers.audio_worker", "--run", str(run.path), "--name"]
        with (Path(name) / "workers.log").open("wb") as log:
            crew = [subprocess.Popen([*command, f"w{i}"], stdout=log, stderr=log, env=environment) for i in range(count)]
            looks: list[tuple[float, int]] = []
            try:
                while not looks or looks[-1][0] - looks[0][0] < seconds:
                    time.sleep(0.5)
                    now = read_run(run.path).collection
                    if now is not None and len(now.workers) == count and now.passes_done >= 1 and (not looks or now.time > looks[-1][0]):
                        looks.append((now.time, now.written_tokens))
            finally:
                process.terminate()
                for child in crew:
                    child.terminate()
                    child.wait()
                process.wait()
        lease_tokens = run.read_config().workers.lease_items * 250.0  # of 25 tokens/s
    return {"tokens_per_s": (looks[-1][1] - looks[0][1]) / (looks[-1][0] - looks[0][0]), "lease_tokens": lease_tokens}


def simulate(count: int, lease_s: float, seconds: float) -> float:
    """Leases per second of simulated workers."""
    with tempfile.TemporaryDirectory() as name:
        clients, coordinator.CLIENTS = coordinator.CLIENTS, 1
        try:
            row = coordinator.measure(Path(name) / "bench", count, 20_000, 0, lease_s, 3.0, seconds)
        finally:
            coordinator.CLIENTS = clients
    return row["leases_per_s"]


def workers(quick: bool) -> dict[str, Any]:
    """tokens_per_s by number of workers: real, and simulated."""
    real = range(1, 2 if quick else 1 + len(os.sched_getaffinity(0)))
    found = {count: collect(count, 8 if quick else 256, 2.0 if quick else 20.0) for count in real}
    tokens = found[1]["lease_tokens"]
    lease_s = tokens / found[1]["tokens_per_s"]
    simulated = {count: tokens * simulate(count, lease_s, 1.0 if quick else 10.0) for count in (SIMULATED[:1] if quick else SIMULATED)}
    return {"real": {count: row["tokens_per_s"] for count, row in found.items()}, "simulated": simulated, "lease_s": lease_s}


# -- step -------------------------------------------------------------------------------------------------------------------------------


def make_batch(config: Config, seed: int) -> Batch:
    """Random tokens in clips of CLIP."""
    B, T = config.training.batch_size, config.training.batch_length
    rng = np.random.default_rng(seed)
    is_first = np.broadcast_to(np.arange(T) % CLIP == 0, (B, T)).copy()
    return Batch(
        tokens=rng.standard_normal((B, T, config.features.token_dim), np.float32).astype(np.float16),
        is_first=is_first,
        action=np.zeros((B, T, config.action.dim), np.float32),
        token_id=ID_STEPS * np.arange(B * T, dtype=np.int64).reshape(B, T),
        group=np.zeros(B, np.int32),
        mask=np.ones((B, T), np.bool_),
        mixed=np.ones(B, np.bool_),
    )


def steps(repeats: int, quick: bool) -> dict[str, dict[int, list[float]]]:
    """CPU ms of a step by what is changed, its value, and repeat."""
    trainers: dict[tuple[str, int], tuple[Trainer, Any]] = {}
    for name, (key, values) in SIZES.items():
        for value in values[:2] if quick else values:
            words = [f"--{key}={value}", "--training.device=cpu", "--training.threads=1", "--replay.episode_tokens=128"]
            config = load_config(["defaults"], words)
            trainer = Trainer(config, config.features.token_dim, config.action.dim)
            trainers[name, value] = trainer, trainer.to_device(make_batch(config, value))
    found: dict[str, dict[int, list[float]]] = {name: {} for name in SIZES}
    for repeat in range(repeats + 1):
        for (name, value), (trainer, batch) in trainers.items():
            begin = time.process_time()
            trainer.train_step(batch, 0.0)
            if repeat:
                found[name].setdefault(value, []).append(1e3 * (time.process_time() - begin))
    return found


# -- memory -----------------------------------------------------------------------------------------------------------------------------


def memory(sizes: list[int], seconds: float) -> list[dict[str, float]]:
    """Rows of `benchmarks.store`."""
    return [store.in_own_process(store.make_default_store, store.files_of(tokens), seconds) for tokens in sizes]


# -- pictures ---------------------------------------------------------------------------------------------------------------------------


def axes(ax: Axes, x: str, y: str, ticks: list[int] | None = None) -> None:
    """Logarithmic both ways, as straight lines are what one looks for."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(x, fontsize=LABEL)
    ax.set_ylabel(y, fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(alpha=0.3)
    if ticks:
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())


def proportional(ax: Axes, x: list[int], y: float, at: int, label: str | None = None) -> None:
    """The line of twice as much for twice as much, through one point."""
    ax.plot(x, [y * value / at for value in x], color=GREY, linestyle=":", linewidth=1, label=label)


def draw_workers(found: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for name, color, style, marker in (("real", BLUE, "-", "o"), ("simulated", VERMILION, "--", "s")):
        label = f"real processes, {len(found['real'])} cores" if name == "real" else "simulated, real coordinator"
        ax.plot(list(found[name]), list(found[name].values()), color=color, linestyle=style, marker=marker, label=label)
    proportional(ax, list(found["simulated"]), found["real"][1], 1, "in proportion to one")
    axes(ax, "workers", "tokens/s", list(found["simulated"]))
    ax.legend(fontsize=SMALL)
    save(figure, path)


def draw_steps(found: dict[str, dict[int, list[float]]], path: Path) -> None:
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    base = {"batch": 24, "length": 24, "deter": 256, "classes": 16}
    names = {"batch": "sequences of a batch", "length": "tokens of a sequence", "deter": "deter", "classes": "classes"}
    for number, (name, rows) in enumerate(found.items(), 1):
        ax = figure.add_subplot(2, 2, number)
        medians = {value: statistics.median(times) for value, times in rows.items()}
        ax.plot(list(medians), list(medians.values()), color=BLUE, marker="o")
        if base[name] in medians:
            ax.plot([base[name]], [medians[base[name]]], color=VERMILION, marker="s", markersize=9, fillstyle="none")
            if name in ("batch", "length"):
                proportional(ax, list(medians), medians[base[name]], base[name])
        axes(ax, names[name], "ms of CPU a step" if number % 2 else "", list(medians))
    save(figure, path)


def draw_memory(rows: list[dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    tokens = [row["tokens"] for row in rows]
    above, below = figure.add_subplot(2, 1, 1), figure.add_subplot(2, 1, 2)
    for ax, columns, y in (
        (above, (("index_mb", "index"), ("sampler_mb", "sampler"), ("priority_mb", "priorities (curious)")), "MB of memory"),
        (below, (("uniform_us", "uniform"), ("curious_us", "by priority (curious)")), "µs of CPU a sequence"),
    ):
        for (column, label), (color, style, marker) in zip(
            columns, ((BLUE, "-", "o"), (VERMILION, "--", "s"), (GREY, ":", "^")), strict=False
        ):
            ax.plot(
                tokens,
                [row[column] if row[column] > 0.1 else np.nan for row in rows],
                color=color,
                linestyle=style,
                marker=marker,
                label=label,
            )
        axes(ax, "tokens in the store", y)
        ax.legend(fontsize=SMALL)
    below.set_yscale("linear")
    below.yaxis.set_major_locator(MaxNLocator(5))
    below.set_ylim(bottom=0)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--repeats", type=int, default=7, help="of the steps (default 7)")
    parser.add_argument("--quick", action="store_true", help="a tiny run, for the tests")
    parser.add_argument("--only", nargs="+", choices=CURVES, default=CURVES, help="of these curves (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    quick, found = arguments.quick, dict[str, Any]()
    if "step" in arguments.only:
        found["step"] = steps(1 if quick else arguments.repeats, quick)
        draw_steps(found["step"], arguments.out / "scaling_step.png")
        for name, times in found["step"].items():
            print(f"{name}: " + " · ".join(f"{value} {statistics.median(ms):.0f} ms" for value, ms in times.items()))
    if "memory" in arguments.only:
        found["memory"] = memory(TOKENS[:2] if quick else TOKENS, 0.01 if quick else 0.3)
        draw_memory(found["memory"], arguments.out / "scaling_memory.png")
        for row in found["memory"]:
            size = f"{row['tokens']:,.0f} tokens: index {row['index_mb']:.1f} MB, sampler {row['sampler_mb']:.1f}"
            print(f"{size}; a sequence {row['uniform_us']:.1f} µs, an episode's first {row['episode_us']:.0f}")
    if "workers" in arguments.only:
        found["workers"] = workers(quick)
        draw_workers(found["workers"], arguments.out / "scaling_workers.png")
        for name in ("real", "simulated"):
            print(f"workers, {name}: " + " · ".join(f"{count} {rate:,.0f} tokens/s" for count, rate in found["workers"][name].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
