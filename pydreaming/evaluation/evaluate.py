"""All figures of merit of a checkpoint, each beside its baselines, with a note for every protocol that was left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pydreaming.config import Config
from pydreaming.evaluation.baselines import log_mel_features
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.features import PARTS, clip_features, untrained_like
from pydreaming.evaluation.ngram import CodeNgrams
from pydreaming.evaluation.open_loop import STEPS, OpenLoop, open_loop
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import Labels, Protocol, plan_protocols, run_probe
from pydreaming.evaluation.world_figures import WorldFigures
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, TensorBatch

SEED = 20_000  # of noise in evaluation; the same for every checkpoint, so that checkpoints compare


@dataclass(frozen=True)
class ProbeRow:
    """One row of the probe table: accuracies of one kind of features under one protocol."""

    label: str
    protocol: str
    features: str
    linear: float
    knn: float
    interval: float
    chance: float
    clips: int


@dataclass
class Evaluation:
    """Figures of one checkpoint.

    Attributes:
      held_out_loss: objective by term, `loss` their sum (nats). open_loop: None when no sequence was long enough.
      probes: rows by label, protocol and features. notes: what was left out, and why.
      held_out: whether loss and open-loop figures are on recordings that were not trained on; False where there are none.
      world: what its surprise and codes are worth; None where that was not asked.
    """

    held_out_loss: dict[str, float] = field(default_factory=dict)
    open_loop: OpenLoop | None = None
    probes: list[ProbeRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    held_out: bool = True
    world: WorldFigures | None = None

    def metrics(self) -> dict[str, float]:
        """Scalars by short name for the log; `heard` instead of `held_out` where the recordings were trained on."""
        where = "held_out" if self.held_out else "heard"
        result = {f"learning/{where}_loss": self.held_out_loss["loss"]} if self.held_out_loss else {}
        if self.open_loop is not None:
            o = self.open_loop
            for name in ("retrieval", "retrieval_copy", "retrieval_trigram", "gain", "gain_copy", "gain_trigram"):
                title = f"{where}_{name}" if name.startswith("gain") else name
                result |= {f"world_model/{title}_k{k}": value for k, value in getattr(o, name).items()}
            result |= {"world_model/window_error": o.error, "world_model/window_error_copy": o.error_copy}
        if self.world is not None:
            result |= self.world.metrics()
        for row in self.probes:
            name = row.features.replace(", ", "_").replace(" ", "_").replace("-", "_")
            result[f"use/{row.label}_{row.protocol.replace(' ', '_').replace('-', '_')}.{name}"] = row.linear
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"metrics": self.metrics()}


@torch.no_grad()
def held_out_loss(model: WorldModelNet, objective: Objective, batches: Sequence[TensorBatch]) -> dict[str, float]:
    """Mean loss over batches, by term and in total (nats)."""
    generator = torch.Generator(model.device).manual_seed(SEED)
    sums: dict[str, list[float]] = {}
    for batch in batches:
        B, T = batch.mask.shape
        losses = objective(model, batch, model.noise(B, T, generator))
        values = {name: float(term.mean()) for name, term in losses.terms.items()} | {"loss": float(losses.total())}
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sums.items()}


def evaluate_world(
    model: WorldModelNet, objective: Objective, batches: Sequence[TensorBatch], config: Config, heard: Clips | None = None
) -> Evaluation:
    """Held-out loss and open-loop prediction on batches of sequences.

    Args:
      heard: clips of which those that were trained on are counted for the n-grams beside open-loop prediction; None leaves them out.
    """
    generator = torch.Generator(model.device).manual_seed(SEED)
    result = Evaluation(held_out_loss=held_out_loss(model, objective, batches))
    e = config.evaluation
    if not objective.trains_latents:
        result.notes.append(f"No open-loop figures, no surprise and no dreams: objective {config.objective.name} trains no latents.")
        return result
    ngrams = None
    if heard is not None and (rows := np.flatnonzero(~heard.held_out)).size:
        ngrams = CodeNgrams(model, [heard.tokens[i] for i in rows], [heard.actions[i] for i in rows], STEPS)
    result.open_loop = open_loop(model, objective, batches, e.rollouts, e.context_tokens, generator, ngrams)
    if result.open_loop is None:
        result.notes.append("No open-loop figures: no recording to evaluate on is longer than one token.")
    return result


def evaluate_probes(
    model: WorldModelNet, clips: Clips, config: Config, baselines: list[ProbeRow] | None, complete: bool, jobs: int = 1
) -> tuple[list[ProbeRow], list[ProbeRow], list[str]]:
    """Probes on labelled clips.

    Args:
      baselines: rows of an earlier evaluation of the same clips, which do not change; None computes them.
      jobs: threads at work at once.
      complete: all protocols, and the parts of the state by themselves; else the first protocol only, which is much faster.
    Returns:
      (rows of this model, rows of the baselines, notes).
    """
    protocols, notes = plan_protocols(clips.labels, clips.speakers, _sources(clips), clips.held_out)
    if not protocols:
        return [], [], notes
    features = clip_features(model, clips.tokens, clips.actions)
    rows = _rows(protocols if complete else protocols[:1], {"world model": features["feat"]}, jobs)
    if complete:
        rows += _rows(protocols[:1], {f"world model, {part} only": features[part] for part in PARTS}, jobs)
    if baselines is None:
        untrained = untrained_like(config, model.token_dim, model.action_dim, model.device)
        others = log_mel_features(clips.tokens, config.features.n_mels)
        others["untrained network"] = clip_features(untrained, clips.tokens, clips.actions)["feat"]
        baselines = _rows(protocols, others, jobs)
    return rows, baselines, notes


def _sources(clips: Clips) -> Labels:
    """(N,) what must not be on both sides of a fold: the group without its channel; the recording, where all are of one group."""
    groups = np.array([group.partition("#ch")[0] for group in clips.groups.tolist()], dtype=np.str_)
    return groups if len(set(groups.tolist())) > 1 else clips.paths


def _rows(protocols: list[Protocol], features: dict[str, Array], jobs: int) -> list[ProbeRow]:
    pairs = [(protocol, name) for protocol in protocols for name in features]
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda pair: run_probe(features[pair[1]], pair[0]), pairs)
        return [
            ProbeRow(p.label, p.name, name, result.linear, result.knn, result.interval, p.chance, p.test_clips)
            for (p, name), result in zip(pairs, results, strict=True)
        ]
