"""What a training step costs on one core: its parts, its floating-point operations, and how near it is to the speed of matrix products.

    python -m benchmarks.step [--replay RUN/replay] [--presets defaults fsdd] [--json out.json] [--quick]

Batches come from a replay store of the presets' features, or from a made one: clips of 6 to 16 tokens, random normal, as long as spoken
digits. CPU time of one thread, medians of interleaved repeats. "by hand" is the step as it trains, "plain" the same with PYDREAMING_PLAIN
set (`pydreaming/models/by_hand.py`); both train models of their own on the same batches, and the ratio is taken repeat by repeat. Parts are
timed alone, forwards; "backward" is that of the whole step. Operations are those of matrix products, two for each multiplication with its
addition; the peak is the best square product (1024) between the steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config, load_config
from pydreaming.objectives import TensorBatch
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.schema import Clip, Episode, StoreMeta
from pydreaming.replay.writer import ShardWriter
from pydreaming.training.trainer import Trainer, decoder_loss
from pydreaming.training.views import centre_sequences
from workers.batches import make_sampler

SQUARE = 1024  # side of the matrices whose product is the peak
HAND, PLAIN = "by hand", "plain"


def make_store(folder: Path, config: Config, episodes: int, clips: int) -> None:
    """A store of the configuration's features: `episodes` of `clips` clips, 6 to 16 tokens each, random normal."""
    bands, rng = config.features.n_mels, np.random.default_rng(0)
    meta = StoreMeta.of(config.features, FeatureStats([0.0] * bands, [1.0] * bands, 1), config.action)
    with ShardWriter(folder, shard_prefix(0, 0), meta, episodes) as writer:
        for number in range(episodes):
            lengths = rng.integers(6, 17, clips)
            begins = np.cumsum(lengths) - lengths
            steps, is_first = int(lengths.sum()), np.zeros(int(lengths.sum()), bool)
            is_first[begins] = True
            start = np.arange(steps, dtype=np.int64) - np.repeat(begins, lengths)
            names = [Clip(int(begin), number * clips + i, f"{number}-{i}.wav", 0) for i, begin in enumerate(begins)]
            tokens = rng.standard_normal((steps, meta.token_dim), np.float32).astype(np.float16)
            action = np.zeros((steps, meta.action_dim), np.float32)
            writer.add(Episode(tokens, is_first, action, start * 320, names, f"recording:{number}"))
        writer.commit()


@contextmanager
def path(way: str) -> Iterator[None]:
    """Take the plain paths, or those written by hand."""
    if way == PLAIN:
        os.environ["PYDREAMING_PLAIN"] = "1"
    else:
        os.environ.pop("PYDREAMING_PLAIN", None)
    try:
        yield
    finally:
        os.environ.pop("PYDREAMING_PLAIN", None)


def spent(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products in one call."""

    def in_place(a: Sequence[int], b: Sequence[int], c: Sequence[int], *rest: Any, **named: Any) -> int:
        return 2 * b[0] * b[1] * c[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        work()
    return float(counter.get_total_flops())


def parts(trainer: Trainer, batch: TensorBatch) -> dict[str, Callable[[], object]]:
    """Parts of the step by name, each on its own; `backward` needs a forward pass before it and is not among them."""
    config, model, objective = trainer.config, trainer.model, trainer.objective
    B, T = batch.mask.shape
    noise = model.noise(B, T, trainer.generator)
    embed = model.encoder(batch.tokens)
    state = model.dynamics.initial(B, trainer.device)
    losses = objective(model, batch, noise)
    rows = len(losses.observed.embed)

    def clip() -> None:
        for parameters in (trainer.world, trainer.probe):
            nn.utils.clip_grad_norm_(parameters, config.training.clip)

    def update() -> None:
        trainer.optimizer.step()
        trainer.decoder_optimizer.step()

    return {
        "noise of the samples": lambda: model.noise(B, T, trainer.generator),
        "centred views": lambda: centre_sequences(batch, config.features.n_mels, config.augment.centre),
        "encoder": lambda: model.encoder(batch.tokens),
        "recurrence, posterior, prior": lambda: model.dynamics.observe_some(rows, embed, batch.action, batch.is_first, state, noise),
        "encoder, recurrence and all losses": lambda: objective(model, batch, noise).total(),
        "probe decoder": lambda: decoder_loss(model, losses, batch),
        "clipping": clip,
        "optimisers": update,
    }


def forward(trainer: Trainer, batch: TensorBatch) -> Tensor:
    """The sum that a step differentiates."""
    B, T = batch.mask.shape
    losses = trainer.objective(trainer.model, batch, trainer.model.noise(B, T, trainer.generator))
    total: Tensor = losses.total() + decoder_loss(trainer.model, losses, batch)
    return total


class Way:
    """One training on a store, by hand or plain, with batches of its own (the same ones for both)."""

    def __init__(self, name: str, config: Config, index: ReplayIndex) -> None:
        assert index.meta is not None, f"{index.location} holds no episodes"
        self.name = name
        self.trainer = Trainer(config, index.meta.token_dim, index.meta.action_dim)
        self.sampler = make_sampler(index, config)

    def batch(self) -> TensorBatch:
        """The next batch."""
        return self.trainer.to_device(self.sampler.sample())

    def train(self, steps: int) -> None:
        """Whole steps, sampling among them."""
        with path(self.name):
            for _ in range(steps):
                self.trainer.train_step(self.batch(), 0.0)

    def gflop(self) -> float:
        """GFLOP of one step."""
        return operations(lambda: self.train(1)) / 1e9

    def ms(self, steps: int) -> float:
        """CPU time of a step, the mean of `steps`."""
        return 1e3 * spent(lambda: self.train(steps)) / steps


def measure(config: Config, replay: Path, repeats: int, steps: int) -> dict[str, Any]:
    """All figures: `ms` by part with a list over the repeats, `step_ms` by way, `gflop` of a step, `peak` in GFLOP/s by repeat."""
    index = ReplayIndex(replay)
    index.refresh()
    ways = [Way(name, config, index) for name in (HAND, PLAIN)]
    for way in ways:
        way.train(3)
    gflop, square = {way.name: way.gflop() for way in ways}, torch.randn(SQUARE, SQUARE)
    step_ms: dict[str, list[float]] = {way.name: [] for way in ways}
    part_ms: dict[str, list[float]] = {}
    peak: list[float] = []
    for _ in range(repeats):
        for way in ways:
            step_ms[way.name].append(way.ms(steps))
        peak.append(2e-9 * SQUARE**3 / min(spent(lambda: square @ square) for _ in range(3)))
        hand = ways[0]
        part_ms.setdefault("sampling and transfer", []).append(1e3 * spent(hand.batch))
        batch = hand.batch()
        part_ms.setdefault("backward", []).append(1e3 * spent(forward(hand.trainer, batch).backward))
        for name, work in parts(hand.trainer, batch).items():
            part_ms.setdefault(name, []).append(1e3 * spent(work))
    return {"ms": part_ms, "step_ms": step_ms, "gflop": gflop, "peak": peak}


def report(figures: dict[str, Any]) -> str:
    """Markdown: parts, then both ways with their rates and shares of the peak."""
    lines = ["| part, by hand | ms of CPU |", "|---|---:|"]
    lines += [f"| {name} | {statistics.median(values):.1f} |" for name, values in figures["ms"].items()]
    lines += ["", "| whole step | ms of CPU | steps per CPU second | GFLOP | share of the peak |", "|---|---:|---:|---:|---:|"]
    for way, values in figures["step_ms"].items():
        ms, gflop = statistics.median(values), figures["gflop"][way]
        share = statistics.median(1e3 * gflop / value / peak for value, peak in zip(values, figures["peak"], strict=True))
        lines.append(f"| {way} | {ms:.1f} | {1e3 / ms:.1f} | {gflop:.2f} | {share:.2f} |")
    ratios = sorted(plain / hand for hand, plain in zip(figures["step_ms"][HAND], figures["step_ms"][PLAIN], strict=True))
    peak = statistics.median(figures["peak"])
    lines += ["", f"plain / by hand: {statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}). Peak: {peak:.0f} GFLOP/s."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", type=Path, help="a run's replay folder; without it a store is made")
    parser.add_argument("--presets", nargs="+", default=["defaults", "fsdd"])
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a tiny run, for the tests")
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.presets, ["--training.device=cpu", "--training.threads=1"])
    repeats, steps = (2, 1) if arguments.quick else (arguments.repeats, 5)
    if arguments.quick:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=4))
    with tempfile.TemporaryDirectory() as name:
        replay = arguments.replay or Path(name)
        if arguments.replay is None:
            make_store(replay, config, *((8, 4) if arguments.quick else (256, 16)))
        figures = measure(config, replay, repeats, steps)
    print(report(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
