"""What is measured of a job, by corpus: each suite is a function from a `Subject` to figures, and says why it has none."""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures.jobs import CEILING, NETWORKS, TRAINED, Job
from benchmarks.figures.training import FOLDS_SEED, NORMAL, Given, open_stores, read_stats, train, training_figures
from benchmarks.figures.version import signed
from pydreaming.audio.decode import decode, resolve_inside
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.sources import Catalogue, source_root
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config
from pydreaming.evaluation.anomaly import anomalies
from pydreaming.evaluation.baselines import log_mel_features, log_mel_quantiles, more_log_mel_features
from pydreaming.evaluation.clips import Clips, read_clips
from pydreaming.evaluation.evaluate import evaluate_world
from pydreaming.evaluation.features import (
    CENTRED,
    CLIP_PARTS,
    CLIP_POOLING,
    PARTS,
    SCENE,
    centred_bands,
    clip_features,
    hears_scenes,
    join_parts,
    probed,
    untrained_like,
)
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import ProbeRow, probe_rows, run_forest
from pydreaming.evaluation.protocols import Protocol, plan_protocols, speaker_centred, strict_protocol
from pydreaming.evaluation.scenes import clip_statistics, scene_groups
from pydreaming.evaluation.speaker_changes import speaker_changes
from pydreaming.evaluation.supervised import supervised_row
from pydreaming.evaluation.views import Views
from pydreaming.evaluation.world_figures import world_figures
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective
from pydreaming.training.checkpoint import load_networks
from workers.eval_set import EvalSet
from workers.evaluator import sequences

Figures = dict[str, float]
Table = dict[str, Figures]  # line of a table -> its figures
Networks = tuple[WorldModelNet, Objective]
CPU = torch.device("cpu")
FRAME_MODELS_BESIDE = "world_model"  # they are the same beside every row, and trained once
MODEL_FREE = ("spectral flux", "random")  # scores of boundaries
LATENT = ("stoch", "codes")  # representations that an objective without latents does not train
MFCC = "MFCC"
OTHER_POOLING = "mean_std"  # shown beside that of the clip vector
SEED = 0  # of draws in evaluation: the same for every row and seed of training


@dataclass(frozen=True)
class Subject:
    """What a job evaluates.

    Attributes:
      job, config, stats: as they are. recordings: stores of what was heard in training and of what was not. clips: the same, put together.
      networks: model and objective of each training, one but for `machines`; none in rows without.
    """

    job: Job
    config: Config
    stats: FeatureStats
    recordings: EvalSet
    clips: Clips
    networks: list[Networks]

    @property
    def listening(self) -> Array:
        """(A,) the action of listening on."""
        return np.zeros(self.clips.actions[0].shape[1], np.float32)

    def vectors(self) -> dict[str, Array | Views]:
        """Line of the table -> vectors of the clips (N, D). The first is the row's own; of networks, parts and poolings follow."""
        tokens, n_mels = self.clips.tokens, self.config.features.n_mels
        groups = scene_groups(clip_statistics(tokens, n_mels), np.flatnonzero(~self.clips.held_out))
        if not self.networks:
            found = log_mel_features(tokens, n_mels) | more_log_mel_features(tokens, n_mels)
            own_kind = {name: found[name] for name in found if (name == MFCC) == (self.job.row == "mfcc")}
            return {name: Views(x, without_scene=groups.taken_out(x) if groups else None) for name, x in own_kind.items()}
        model, objective = self.networks[0]
        bands = centred_bands(self.config)
        pooled = {kind: clip_features(model, tokens, self.clips.actions, kind, bands) for kind in (CLIP_POOLING, OTHER_POOLING)}
        scene = hears_scenes(self.config) and self.job.row != "untrained"
        trained = [part for part in PARTS if objective.trains_latents or part not in LATENT]
        own = [part for part in CLIP_PARTS if part.removesuffix(CENTRED) in trained]
        own_row = probed(pooled[CLIP_POOLING], scene, own, groups)
        lines: dict[str, Array | Views] = {self.job.row: own_row}
        views = {f"{self.job.row}, {view}": [p for p in own if p.endswith(CENTRED) == (view == "centred")] for view in ("plain", "centred")}
        lines |= {name: join_parts(pooled[CLIP_POOLING], parts) for name, parts in views.items() if bands}
        lines[f"{self.job.row}, content"] = own_row.content
        lines |= {f"{self.job.row}, content without scene": own_row.without_scene} if own_row.without_scene is not None else {}
        alone = [part for part in (*trained, *([SCENE] if scene else [])) if [part] != own]
        lines |= {f"{self.job.row}, {part} only": pooled[CLIP_POOLING][part] for part in alone}
        return lines | {f"{self.job.row}, {OTHER_POOLING}": join_parts(pooled[OTHER_POOLING], own)}


Suite = Callable[[Subject], tuple[Table, list[str]]]  # figures, and a sentence for each protocol that was left out


@dataclass
class Measured:
    """What a job leaves.

    Attributes:
      figures: by suite, line of the table and name. notes: by suite, sentences on what was left out and what to beware of.
      training: what the training was given (see `training_figures`). evaluation_s: CPU seconds by suite.
      trained_by: the versions of the code that the checkpoints are from; empty in rows without.
    """

    figures: dict[str, Table] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    training: Figures = field(default_factory=dict)
    evaluation_s: Figures = field(default_factory=dict)
    trained_by: list[str] = field(default_factory=list)


def measure(job: Job, config: Config, out: Path) -> Measured:
    """Do a job in this process: its store, its training where its row trains, and the suites of its corpus. Raises PydreamingError."""
    torch.set_num_threads(1)
    given = open_stores(job, config, out)
    result = Measured()
    networks: list[Networks] = []
    if job.row in TRAINED:
        checkpoints = [train(part, out / job.name / "checkpoints" / part.name) for part in given]
        result.training = training_figures(checkpoints, [part.store for part in given])
        result.trained_by = sorted({signed(path.parent) for path in checkpoints})
        networks = [load_networks(path, CPU)[:2] for path in checkpoints]
    elif job.row in NETWORKS:
        networks = [_untrained(part) for part in given]
    first = given[0]
    clips = read_clips(first.recordings.heard, first.recordings.held_out, Catalogue.open(first.store.catalogue))
    subject = Subject(job, first.config, read_stats(first.store), first.recordings, clips, networks)
    for name, suite in SUITES[job.corpus].items():
        begin = time.process_time()
        table, notes = suite(subject)
        result.evaluation_s[name] = time.process_time() - begin
        print(f"{name}: {result.evaluation_s[name]:.0f} s", flush=True)
        result.figures |= {name: table} if table else {}
        result.notes |= {name: notes} if notes else {}
    return result


def recognition(subject: Subject) -> tuple[Table, list[str]]:
    """Probes on frozen features, under every protocol that the clips allow; parts and poolings under the first of them only."""
    protocols, notes = plan_protocols(subject.clips)
    if not protocols:
        return {}, notes
    if subject.job.row == CEILING:
        return _supervised(subject, [p for p in protocols if p.label == "label" and not p.shots]), notes
    vectors = subject.vectors()
    shown = vectors if not subject.networks else {subject.job.row: vectors.pop(subject.job.row)}
    told = (subject.clips.speakers != "").all()
    centred = [speaker_centred(p, subject.clips) for p in protocols if told and p.label == "label" and p.shots]
    rows = probe_rows([*protocols, *centred], shown)
    rows += probe_rows(protocols[:1], vectors) if subject.networks else []
    if subject.job.row == "log-mel" and subject.clips.folds is not None:
        statistics = log_mel_quantiles(subject.clips.tokens, subject.config.features.n_mels)
        rows += [run_forest(statistics, p) for p in protocols[:1]]
    return _table(rows), notes


def never_heard(subject: Subject) -> tuple[Table, list[str]]:
    """Probes trained on the clips of the other speakers, tested on those of the one whom neither model nor statistics have heard."""
    protocol = strict_protocol(subject.clips, subject.job.left_out)
    if isinstance(protocol, str):
        return {}, [protocol]
    if subject.job.row == CEILING:
        return _supervised(subject, [protocol]), []
    # A speaker who was never heard is of none of the groups that scenes were put into: what each clip says by itself.
    vectors = {name: dataclasses.replace(x, without_scene=None) if isinstance(x, Views) else x for name, x in subject.vectors().items()}
    return _table(probe_rows([protocol], {name: x for name, x in vectors.items() if not name.endswith("without scene")})), []


def imagination(subject: Subject) -> tuple[Table, list[str]]:
    """Open-loop prediction on held-out recordings, beside copies and n-grams of the model's own codes."""
    if not subject.networks:
        return {}, []
    batches = sequences(subject.recordings.held_out, subject.config, CPU)
    evaluation = evaluate_world(*subject.networks[0], batches, subject.config, subject.clips)
    if (found := evaluation.open_loop) is None:
        return {}, evaluation.notes
    figures: Figures = {}
    for what in ("retrieval", "gain"):
        for beside in ("", "_copy", "_bigram", "_trigram"):
            figures |= {f"{what}{beside.replace('_', ' of ')}, k = {k}": value for k, value in getattr(found, what + beside).items()}
    figures |= {"next window, error": found.error, "next window, of copy": found.error_copy, "next window, of mean": found.error_mean}
    return {subject.job.row: figures | {f"predictions, k = {k}": float(count) for k, count in found.count.items()}}, evaluation.notes


def surprise(subject: Subject) -> tuple[Table, list[str]]:
    """Boundaries, sounds out of distribution, ABX and codes on held-out clips.

    `boundaries, F1` is of the model's score that did best on joined *training* clips.
    """
    if not subject.networks:
        return {}, []
    model, objective = subject.networks[0]
    front_end, root = FrontEnd(subject.config.features, subject.stats), source_root(subject.config.source)
    sounds = [decode(resolve_inside(root, path)) for path in subject.clips.paths[subject.clips.held_out].tolist()]
    found = world_figures(model, objective, front_end, subject.clips, sounds, subject.listening, SEED)
    notes, figures = list(found.notes), Figures()
    if found.boundaries is not None:
        own = [row for name, row in found.boundaries.rows.items() if name not in MODEL_FREE]
        figures |= {"boundaries, F1": max(own, key=lambda row: row.f1_training).f1} if own else {}
        figures |= {f"boundaries, F1, {name}": row.f1 for name, row in found.boundaries.rows.items()}
    if found.out_of_distribution is not None:
        o = found.out_of_distribution
        figures |= {"unusual, worst kind": o.worst[1]} | {f"unusual, {kind}": value for kind, value in o.typicality.items()}
        figures |= {f"unusual, raw KL, {kind}": value for kind, value in o.kl.items()}
        notes += [o.warning] if o.warning else []
    if found.abx is not None:
        judged = {name: error for name, error in found.abx.error.items() if objective.trains_latents or name not in LATENT}
        figures |= {f"ABX error, {name}": error for name, error in judged.items()}
    if found.codes is not None:
        c = found.codes
        bits = {"bits/s": c.bitrate, "bits/s deduplicated": c.bitrate_deduplicated, "bits/s predicted": c.bitrate_predicted}
        figures |= {f"code, {name}": value for name, value in bits.items()}
        figures |= {f"code, perplexity of {c.classes}": float(np.mean(c.perplexity))}
    return {subject.job.row: figures} if figures else {}, notes


def reader_changes(subject: Subject) -> tuple[Table, list[str]]:
    """Changes of the reader in one long recording; the table beside it has the samples where they begin."""
    if not subject.networks:
        return {}, []
    path = Path(subject.config.source.path)
    samples, rate = decode(path)
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        changes = [int(row["start_sample"]) / rate for row in csv.DictReader(file)][1:]
    tokens = FrontEnd(subject.config.features, subject.stats).tokens_of(samples, rate)
    found = speaker_changes(subject.networks[0][0], subject.config.features, tokens, changes, subject.listening, SEED)
    if isinstance(found, str):
        return {}, [found]
    figures = {f"found of {found.changes}, {name}": float(count) for name, count in found.found.items()}
    return {subject.job.row: figures | {f"missed share, {name}": value for name, value in found.missed_share.items()}}, []


def machine_anomalies(subject: Subject) -> tuple[Table, list[str]]:
    """Anomalous machines by surprise; frame models of the same size, with as many seconds in all as the world model, beside it."""
    order = np.argsort(subject.clips.paths)  # the order in which the folds were dealt
    paths, labels = subject.clips.paths[order], subject.clips.labels[order]
    machines = np.array([path.partition("/")[0] for path in paths.tolist()])
    tokens = [subject.clips.tokens[i] for i in order]
    alone = subject.job.row == FRAME_MODELS_BESIDE
    seconds = subject.config.training.seconds / len(set(machines.tolist())) if alone else 0.0
    f = subject.config.features
    found = anomalies(subject.networks, f, tokens, labels == NORMAL, machines, subject.listening, seconds, FOLDS_SEED)
    if isinstance(found, str):
        return {}, [found]
    own = {"typicality": subject.job.row, "mean surprise": f"{subject.job.row}, mean surprise"}
    table: Table = {}
    for name, row in found.rows.items():
        if name in own or alone:
            figures = {"AUC, harmonic mean": row.auc_mean, "from": row.auc_interval[0], "to": row.auc_interval[1]}
            figures |= {"pAUC, harmonic mean": row.partial_auc_mean} | {f"AUC, {machine}": value for machine, value in row.auc.items()}
            table[own.get(name, name)] = figures | {f"pAUC, {machine}": value for machine, value in row.partial_auc.items()}
    return table, found.notes


def _supervised(subject: Subject, protocols: Sequence[Protocol]) -> Table:
    """The ceiling: each protocol has the seconds of a training, which its splits share."""
    seconds = subject.config.training.seconds
    rows = [supervised_row(subject.config, subject.clips, p, seconds / len(p.splits), CPU) for p in protocols]
    return {CEILING: {name: value for line in _table(rows).values() for name, value in line.items()}}


def _table(rows: Sequence[ProbeRow]) -> Table:
    """`<label>, <protocol>` is the linear probe; the other classifiers stand beside it."""
    table: Table = {}
    for row in rows:
        name, figures = f"{row.label}, {row.protocol}", table.setdefault(row.features, {})
        beside = {"": row.linear, ", kNN": row.knn, ", nearest mean": row.nearest_mean if "shot" in row.protocol else None}
        figures |= {f"{name}{kind}": value for kind, value in beside.items() if value is not None}
    return table


def _untrained(part: Given) -> Networks:
    """The networks of a row with their first weights."""
    meta = part.index().meta
    assert meta is not None  # `open_stores` has seen to it that there are episodes
    model = untrained_like(part.config, meta.token_dim, meta.action_dim, CPU)
    return model, make_objective(part.config.objective, model).eval()


SUITES: dict[str, dict[str, Suite]] = {
    "fsdd": {"recognition": recognition, "imagination": imagination, "surprise": surprise},
    "strict": {"recognition": never_heard},
    "esc10": {"recognition": recognition, "imagination": imagination, "surprise": surprise},
    "long": {"reader changes": reader_changes},
    "machines": {"anomalies": machine_anomalies},
}
