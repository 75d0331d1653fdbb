"""A world model's training step beside those of other projects, each with its own RSSM and KL, on the same shapes.

    python -m benchmarks.peers --peer pydreamer=PATH [--peer dreamer-torch=PATH ...] [--json out.json] [--quick]

PATH is a clone of the peer's repository (`PEERS` in peer_adapters.py says where from); a peer that is not given is left out, and the table
says so. Shapes: 16 sequences of 64 tokens, deter 512, 32 x 32 latents, hidden 512. Around each RSSM stand an encoder and a decoder of the
same form, and the same fused Adam, so that what differs is the RSSM with its KL. One thread, CPU time, medians of interleaved repeats;
ratios are taken repeat by repeat. Operations are those of matrix products; the peak is the best square product (1024) between the steps.
"plain" is the step with PYDREAMING_PLAIN set. Everything is float32; where the CPU has bfloat16, rows under autocast stand beside.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peer_adapters import PEERS, Rollout, Shapes
from benchmarks.step import HAND, PLAIN, SQUARE, operations, path, spent
from pydreaming.config import load_config
from pydreaming.errors import PydreamingError, UsageError
from pydreaming.models.distributions import balanced_kl
from pydreaming.models.layers import mlp
from pydreaming.models.rssm import RSSM

FULL, QUICK = Shapes(), Shapes(batch=2, length=4, deter=16, groups=2, classes=4, hidden=8, embed=8, token=6, action=2)
REFERENCE = "pydreamer"  # the best peer in the facts: targets are multiples of its speed
FREE, DYN, REP = 1.0, 0.5, 0.1  # nats; weights of the two sides of our KL


def ours(posterior: str) -> Callable[[Shapes], Rollout]:
    """This project's RSSM, `posterior` as in the configuration."""

    def build(shapes: Shapes) -> Rollout:
        widths = {"deter": shapes.deter, "groups": shapes.groups, "classes": shapes.classes, "hidden": shapes.hidden, "embed": shapes.embed}
        words = [f"--model.{key}={value}" for key, value in widths.items()]
        config = load_config(["defaults"], [*words, "--model.dynamics=rssm", f"--model.posterior={posterior}"]).model
        rssm = RSSM(config, shapes.action)

        def run(embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
            device = embed.device
            noise = rssm.latents.noise((shapes.batch, shapes.length, shapes.groups, shapes.classes), device)
            observed = rssm.observe(embed, action, is_first, rssm.initial(shapes.batch, device), noise)
            dyn, rep = balanced_kl(observed.post.logits, observed.prior_logits, FREE, rssm.latents.kl_sides)
            return observed.context, (DYN * dyn + REP * rep).mean()

        return Rollout(rssm, run)

    return build


class Contender:
    """One model in training: the same encoder, decoder and optimiser around an RSSM.

    Args:
      way: HAND or PLAIN, of our own step. autocast: to bfloat16.
    """

    def __init__(self, name: str, build: Callable[[Shapes], Rollout], shapes: Shapes, way: str = HAND, autocast: bool = False) -> None:
        torch.manual_seed(0)
        self.name, self.way, self.autocast = name, way, autocast
        self.rollout = build(shapes)
        self.encoder = mlp([shapes.token, shapes.hidden, shapes.hidden, shapes.embed])
        self.decoder = mlp([shapes.deter + shapes.groups * shapes.classes, shapes.hidden, shapes.hidden, shapes.token])
        parameters = [*self.encoder.parameters(), *self.decoder.parameters(), *self.rollout.module.parameters()]
        self.optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=1e-4, fused=True)
        self.tokens = torch.randn(shapes.batch, shapes.length, shapes.token)
        self.action = torch.randn(shapes.batch, shapes.length, shapes.action)
        self.is_first = torch.zeros(shapes.batch, shapes.length, dtype=torch.bool)
        self.is_first[:, 0] = True
        self.gflop = operations(self.step) / 1e9

    def step(self) -> None:
        """Forward, backward, update. Raises AssertionError where the peer trained nothing."""
        context = torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with path(self.way):
            with context:
                feat, kl = self.rollout.run(self.encoder(self.tokens), self.action, self.is_first)
                loss = functional.mse_loss(self.decoder(feat).float(), self.tokens) + kl.float()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        assert all(p.grad is not None for p in self.encoder.parameters()), f"{self.name}: the encoder was not trained"
        self.optimizer.step()


def contenders(peers: dict[str, Path], shapes: Shapes) -> list[Contender]:
    """Ours, then the peers that are given. Raises UsageError for a path that is not the peer."""
    table = [Contender(f"ours, {posterior}", ours(posterior), shapes) for posterior in ("filter", "token")]
    table += [Contender(f"ours, {posterior}, plain", ours(posterior), shapes, PLAIN) for posterior in ("filter", "token")]
    bfloat16 = torch.cpu._is_avx512_bf16_supported()
    if bfloat16:
        table += [Contender(f"ours, {posterior}, bfloat16", ours(posterior), shapes, autocast=True) for posterior in ("filter", "token")]
    for name, folder in peers.items():

        def build(shapes: Shapes, name: str = name, folder: Path = folder) -> Rollout:
            return PEERS[name].build(folder, shapes)

        table.append(Contender(name, build, shapes))
        if bfloat16 and name == REFERENCE:
            table.append(Contender(f"{name}, bfloat16", build, shapes, autocast=True))
    return table


def measure(table: list[Contender], repeats: int) -> dict[str, Any]:
    """`ms` of CPU by contender with a list over the repeats, `gflop` of a step, `peak` in GFLOP/s by repeat."""
    square = torch.randn(SQUARE, SQUARE)
    ms: dict[str, list[float]] = {c.name: [] for c in table}
    peak: list[float] = []
    for c in table:
        c.step()
    gc.collect()
    for _ in range(repeats):
        for c in table:
            ms[c.name].append(1e3 * spent(c.step))
        peak.append(2e-9 * SQUARE**3 / min(spent(lambda: square @ square) for _ in range(3)))
    return {"ms": ms, "gflop": {c.name: c.gflop for c in table}, "peak": peak}


def ratio(figures: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    """How many times faster than the reference peer: median, least and largest over the repeats; None where it was not given."""
    if REFERENCE not in figures["ms"]:
        return None
    values = sorted(peer / own for peer, own in zip(figures["ms"][REFERENCE], figures["ms"][name], strict=True))
    return statistics.median(values), values[0], values[-1]


def report(figures: dict[str, Any]) -> str:
    """Markdown: a row for each contender, and one for each peer that was not given."""
    lines = [
        f"| a step | ms of CPU | range | steps/s | × {REFERENCE} | range | GFLOP | share of the peak |",
        "|---|---:|---|---:|---:|---|---:|---:|",
    ]
    for name, values in figures["ms"].items():
        ms, gflop = statistics.median(values), figures["gflop"][name]
        share = statistics.median(1e3 * gflop / value / peak for value, peak in zip(values, figures["peak"], strict=True))
        found = ratio(figures, name)
        times = "- | -" if found is None else f"{found[0]:.2f} | {found[1]:.2f} – {found[2]:.2f}"
        spread = f"{min(values):.0f} – {max(values):.0f}"
        lines.append(f"| {name} | {ms:.0f} | {spread} | {1e3 / ms:.2f} | {times} | {gflop:.1f} | {share:.2f} |")
    lines += [f"| {name} | left out: --peer {name}=PATH | | | | | | |" for name in PEERS if name not in figures["ms"]]
    return "\n".join([*lines, "", f"Peak: {statistics.median(figures['peak']):.0f} GFLOP/s. {len(figures['peak'])} repeats, one thread."])


def peer_paths(words: list[str]) -> dict[str, Path]:
    """`NAME=PATH` words as a table. Raises UsageError for another form or name."""
    found = {}
    for word in words:
        name, _, folder = word.partition("=")
        if name not in PEERS or not folder:
            raise UsageError(f"--peer {word}: give NAME=PATH, NAME one of {', '.join(PEERS)}")
        found[name] = Path(folder)
    return found


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a peer's clone; may be repeated")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a tiny run, for the tests")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        table = contenders(peer_paths(arguments.peer), QUICK if arguments.quick else FULL)
    except PydreamingError as e:
        print(f"benchmarks.peers: {e}")
        return e.exit_code
    figures = measure(table, 2 if arguments.quick else arguments.repeats)
    print(report(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
