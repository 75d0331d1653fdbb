"""All figures of merit of a checkpoint, each beside its baselines, with a note for every protocol that was left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pydreaming.config import Config
from pydreaming.evaluation.baselines import LOG_MEL, MORE_LOG_MEL, log_mel_features, more_log_mel_features
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.features import PARTS, SCENE, centred_bands, clip_features, hears_scenes, join_parts, probed, untrained_like
from pydreaming.evaluation.ngram import CodeNgrams
from pydreaming.evaluation.open_loop import STEPS, OpenLoop, open_loop
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import ProbeRow, probe_rows
from pydreaming.evaluation.protocols import Protocol, plan_protocols
from pydreaming.evaluation.scenes import clip_statistics, scene_groups
from pydreaming.evaluation.world_figures import WorldFigures
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, TensorBatch

SEED = 20_000  # of noise in evaluation; the same for every checkpoint, so that checkpoints compare
OURS, UNTRAINED = "world model", "untrained network"  # names of rows
WITHOUT_SCENE = ", without scene"  # behind a row's name: see `scenes`
HEADLINE = (OURS, *LOG_MEL, UNTRAINED)  # rows that are shown where there is no room for all
SATURATED = 0.95  # accuracy of log-mel alone from which a protocol is called so


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
    if heard is not None and model.dynamics.latents.discrete and (rows := np.flatnonzero(~heard.held_out)).size:
        ngrams = CodeNgrams(model, [heard.tokens[i] for i in rows], [heard.actions[i] for i in rows], STEPS)
    result.open_loop = open_loop(model, objective, batches, e.rollouts, e.context_tokens, generator, ngrams)
    if result.open_loop is None:
        result.notes.append("No open-loop figures: no recording to evaluate on is longer than one token.")
    return result


def evaluate_probes(
    model: WorldModelNet, clips: Clips, config: Config, known: Sequence[ProbeRow], complete: bool, jobs: int = 1
) -> tuple[list[ProbeRow], list[ProbeRow], list[str]]:
    """Probes on labelled clips.

    Args:
      known: rows of the baselines from earlier evaluations of the same clips, which do not change; those that are missing are computed.
      jobs: threads at work at once.
      complete: all protocols and baselines, and the parts of the state by themselves. Else the first protocol only, with the C that was
        chosen for the untrained network, which is much faster.
    Returns:
      (rows of this model, rows of the baselines with those of `known`, notes).
    """
    protocols, notes = plan_protocols(clips)
    if not protocols:
        return [], list(known), notes
    shown = protocols if complete else protocols[:1]
    baselines = _baselines(model, clips, config, shown, known, complete, jobs)
    features = clip_features(model, clips.tokens, clips.actions, centred_bands=centred_bands(config))
    scene = hears_scenes(config)
    ours = {OURS: probed(features, scene)}
    if not complete:
        c = {(row.label, row.protocol): row.c for row in baselines if row.features == UNTRAINED}
        return probe_rows(shown, ours, jobs, c=c), baselines, notes
    rows = probe_rows(shown, ours, jobs) + probe_rows(shown[:1], _alone(features, scene), jobs)
    if groups := scene_groups(clip_statistics(clips.tokens, config.features.n_mels), np.flatnonzero(~clips.held_out)):
        asked = [protocol for protocol in shown if protocol.label == "label"]  # a speaker is what is taken out
        rows += probe_rows(asked, {OURS + WITHOUT_SCENE: groups.taken_out(ours[OURS].content)}, jobs)
        log_mel = log_mel_features(clips.tokens, config.features.n_mels)[LOG_MEL[0]]
        baselines = [*baselines, *probe_rows(asked, {LOG_MEL[0] + WITHOUT_SCENE: groups.taken_out(log_mel)}, jobs, baselines)]
    return rows, baselines, notes + _saturated(baselines)


def _alone(features: Mapping[str, Array], scene: bool) -> dict[str, Array]:
    """Each part of the state by itself, and the scene."""
    return {f"{OURS}, {part} only": features[part] for part in (*PARTS, *([SCENE] if scene else []))}


def _baselines(
    model: WorldModelNet, clips: Clips, config: Config, protocols: list[Protocol], known: Sequence[ProbeRow], complete: bool, jobs: int
) -> list[ProbeRow]:
    """`known`, and after it the rows that these protocols lack."""
    there = {(row.label, row.protocol, row.features) for row in known}

    def lack(*names: str) -> bool:
        return any((p.label, p.name, name) not in there for p in protocols for name in names)

    features: dict[str, Array] = {}
    if lack(*LOG_MEL):
        features |= log_mel_features(clips.tokens, config.features.n_mels)
    if complete and lack(*MORE_LOG_MEL):
        features |= more_log_mel_features(clips.tokens, config.features.n_mels)
    if lack(UNTRAINED):
        untrained = untrained_like(config, model.token_dim, model.action_dim, model.device)
        features[UNTRAINED] = join_parts(clip_features(untrained, clips.tokens, clips.actions, centred_bands=centred_bands(config)))
    return [*known, *probe_rows(protocols, features, jobs, known)]


def _saturated(baselines: Sequence[ProbeRow]) -> list[str]:
    """A sentence for each protocol under which log-mel alone leaves next to nothing to be won."""
    best: dict[tuple[str, str], float] = {}
    for row in baselines:
        if row.features.startswith("log-mel") and not row.features.endswith(WITHOUT_SCENE):
            best[row.label, row.protocol] = max(row.linear, best.get((row.label, row.protocol), 0.0))
    return [
        f"{label} probe, {protocol}: saturated. Log-mel alone is right {value:.1%} of the time, so it tells little about the model."
        for (label, protocol), value in best.items()
        if value >= SATURATED
    ]
