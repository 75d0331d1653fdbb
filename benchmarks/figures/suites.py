"""What is measured of a job, by corpus: each suite is a function from a `Subject` to figures, and says why it has none."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures.jobs import NETWORKS, TRAINED, Job
from benchmarks.figures.training import open_store, read_stats, train, training_figures
from pydreaming.audio.decode import decode, resolve_inside
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.sources import source_root
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config
from pydreaming.evaluation.abx import abx
from pydreaming.evaluation.baselines import log_mel_features
from pydreaming.evaluation.boundaries import utterance_boundaries
from pydreaming.evaluation.clips import Clips, read_clips
from pydreaming.evaluation.codes import code_statistics
from pydreaming.evaluation.evaluate import evaluate_world
from pydreaming.evaluation.features import PARTS, clip_features, untrained_like
from pydreaming.evaluation.out_of_distribution import out_of_distribution
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import Protocol, plan_protocols, run_probe
from pydreaming.evaluation.speaker_changes import speaker_changes
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective
from pydreaming.training.checkpoint import load_networks
from workers.eval_set import EvalSet
from workers.evaluator import sequences

Figures = dict[str, float]
Table = dict[str, Figures]  # line of a table -> its figures
CPU = torch.device("cpu")
SEED = 0  # of draws in evaluation: the same for every row and seed of training


@dataclass(frozen=True)
class Subject:
    """What a job evaluates.

    Attributes:
      job, config, stats: as they are. recordings: stores of what was heard in training and of what was not. clips: the same, put together.
      networks: model and objective; None in rows that have none.
    """

    job: Job
    config: Config
    stats: FeatureStats
    recordings: EvalSet
    clips: Clips
    networks: tuple[WorldModelNet, Objective] | None

    @property
    def listening(self) -> Array:
        """(A,) the action of listening on."""
        return np.zeros(self.clips.actions[0].shape[1], np.float32)

    def tokens(self, held_out: bool) -> list[Array]:
        """Tokens (T_i, D) of the clips that were held out, or were not."""
        return [self.clips.tokens[i] for i in np.flatnonzero(self.clips.held_out == held_out)]

    def features(self) -> dict[str, Array]:
        """Line of the table -> vectors of the clips (N, D); the row's own name stands for its default vector."""
        if self.networks is None:
            return log_mel_features(self.clips.tokens, self.config.features.n_mels)
        parts = clip_features(self.networks[0], self.clips.tokens, self.clips.actions)
        return {self.job.row: parts["feat"]} | {f"{self.job.row}, {part} only": parts[part] for part in PARTS}


Suite = Callable[[Subject], tuple[Table, list[str]]]  # figures, and a sentence for each protocol that was left out


@dataclass
class Measured:
    """What a job leaves.

    Attributes:
      figures: by suite, line of the table and name. notes: by suite, sentences on what was left out and what to beware of.
      training: what the training was given (see `training_figures`). evaluation_s: CPU seconds by suite.
    """

    figures: dict[str, Table] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    training: Figures = field(default_factory=dict)
    evaluation_s: Figures = field(default_factory=dict)


def measure(job: Job, config: Config, out: Path) -> Measured:
    """Do a job in this process: its store, its training where its row trains, and the suites of its corpus. Raises PydreamingError."""
    torch.set_num_threads(1)
    store, recordings, config = open_store(job, config, out)
    result, networks = Measured(), None
    if job.row in TRAINED:
        checkpoint = train(config, store, out / job.name / "checkpoints")
        result.training = training_figures(checkpoint, store)
        networks = load_networks(checkpoint, CPU)[:2]
    elif job.row in NETWORKS:
        networks = _untrained(config, recordings)
    subject = Subject(job, config, read_stats(store), recordings, read_clips(recordings.heard, recordings.held_out), networks)
    for name, suite in SUITES[job.corpus].items():
        begin = time.process_time()
        table, notes = suite(subject)
        result.evaluation_s[name] = time.process_time() - begin
        print(f"{name}: {result.evaluation_s[name]:.0f} s", flush=True)
        result.figures |= {name: table} if table else {}
        result.notes |= {name: notes} if notes else {}
    return result


def recognition(subject: Subject) -> tuple[Table, list[str]]:
    """Probes on frozen features, under every protocol that the clips allow."""
    clips = subject.clips
    protocols, notes = plan_protocols(clips.labels, clips.speakers, clips.groups, clips.held_out)
    return _probed(subject, {f"{p.label}, {p.name}": p for p in protocols}), notes


def never_heard(subject: Subject) -> tuple[Table, list[str]]:
    """Probes trained on the clips of the speakers that the model has heard, tested on all clips of the one that it never heard."""
    clips, theirs = subject.clips, subject.clips.speakers == subject.job.left_out
    split = (np.flatnonzero(~theirs & ~clips.held_out), np.flatnonzero(theirs))
    return _probed(subject, {"label, speaker never heard": Protocol("label", "speaker never heard", [split], clips.labels, 0.0)}), []


def world(subject: Subject) -> tuple[Table, list[str]]:
    """Open-loop prediction on held-out recordings."""
    if subject.networks is None:
        return {}, []
    model, objective = subject.networks
    store = subject.recordings.held_out if subject.recordings.held_out.episodes else subject.recordings.heard
    found = evaluate_world(model, objective, sequences(store, subject.config, CPU), subject.config)
    if found.open_loop is None:
        return {}, found.notes
    figures: Figures = {}
    for name in ("retrieval", "retrieval_copy", "gain", "gain_copy"):
        figures |= {f"{name}, k = {k}": value for k, value in getattr(found.open_loop, name).items()}
    figures |= {name: getattr(found.open_loop, name) for name in ("error", "error_copy", "error_mean")}
    return {subject.job.row: figures}, found.notes


def boundaries(subject: Subject) -> tuple[Table, list[str]]:
    """Utterance boundaries in joined clips. `F1` is of the score that did best on joined *training* clips."""
    if subject.networks is None:
        return {}, []
    training, held_out = subject.tokens(False), subject.tokens(True)
    found = utterance_boundaries(*subject.networks, subject.config.features, training, held_out, subject.listening, SEED)
    if isinstance(found, str):
        return {}, [found]
    own = {name: row for name, row in found.rows.items() if name not in ("spectral flux", "random")}
    chosen = max(own.values(), key=lambda row: row.f1_training, default=None)
    figures = {} if chosen is None else {"F1": chosen.f1}
    return {subject.job.row: figures | {f"F1, {name}": row.f1 for name, row in found.rows.items()}}, []


def unusual(subject: Subject) -> tuple[Table, list[str]]:
    """Held-out clips against transformed ones: AUC by kind, of the calibrated score and of the mean KL."""
    if subject.networks is None:
        return {}, []
    front_end, root = FrontEnd(subject.config.features, subject.stats), source_root(subject.config.source)
    sounds = [decode(resolve_inside(root, path)) for path in subject.clips.paths[subject.clips.held_out].tolist()]
    found = out_of_distribution(*subject.networks, front_end, subject.tokens(False), sounds, subject.listening, SEED)
    if isinstance(found, str):
        return {}, [found]
    figures = {"worst kind": found.worst[1]} | {f"typicality, {kind}": value for kind, value in found.typicality.items()}
    figures |= {f"mean KL, {kind}": value for kind, value in found.kl.items()}
    notes = [f"Inverted: {kind} surprises the model less than normal clips do (mean KL)." for kind in found.inverted]
    return {subject.job.row: figures}, notes


def geometry(subject: Subject) -> tuple[Table, list[str]]:
    """ABX on labels across speakers: error by representation; no classifier is trained."""
    if subject.networks is None:
        return {}, []
    clips = subject.clips
    found = abx(subject.networks[0], clips.tokens, clips.actions, clips.labels, clips.speakers, SEED)
    if isinstance(found, str):
        return {}, [found]
    kept = found.error if subject.networks[1].trains_latents else {n: e for n, e in found.error.items() if n not in ("stoch", "codes")}
    return {subject.job.row: {f"error, {name}": value for name, value in kept.items()}}, []


def codes(subject: Subject) -> tuple[Table, list[str]]:
    """Bits per second and perplexity of the code of held-out clips."""
    if subject.networks is None:
        return {}, []
    if not subject.networks[1].trains_latents:
        return {}, ["No figures of the code: the objective trains no latents."]
    f, chosen = subject.config.features, np.flatnonzero(subject.clips.held_out)
    tokens, actions = [subject.clips.tokens[i] for i in chosen], [subject.clips.actions[i] for i in chosen]
    found = code_statistics(subject.networks[0], tokens, actions, f.token_stride_samples / f.sample_rate)
    if isinstance(found, str):
        return {}, [found]
    figures = {
        "bits/s": found.bitrate,
        "bits/s, deduplicated": found.bitrate_deduplicated,
        "bits/s, predicted": found.bitrate_predicted,
        f"perplexity of {found.classes}, mean of groups": float(np.mean(found.perplexity)),
    }
    return {subject.job.row: figures}, []


def reader_changes(subject: Subject) -> tuple[Table, list[str]]:
    """Changes of the reader in one long recording; the table beside it has the samples where they begin."""
    if subject.networks is None:
        return {}, []
    path = Path(subject.config.source.path)
    samples, rate = decode(path)
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        changes = [int(row["start_sample"]) / rate for row in csv.DictReader(file)][1:]
    tokens = FrontEnd(subject.config.features, subject.stats).tokens_of(samples, rate)
    found = speaker_changes(subject.networks[0], subject.config.features, tokens, changes, subject.listening, SEED)
    if isinstance(found, str):
        return {}, [found]
    figures = {f"found of {found.changes}, {name}": float(count) for name, count in found.found.items()}
    return {subject.job.row: figures | {f"missed share, {name}": value for name, value in found.missed_share.items()}}, []


def _probed(subject: Subject, protocols: dict[str, Protocol]) -> Table:
    table: Table = {}
    for line, features in subject.features().items():
        for name, protocol in protocols.items():
            result = run_probe(features, protocol)
            table.setdefault(line, {}).update({name: result.linear, f"{name}, kNN": result.knn})
    return table


def _untrained(config: Config, recordings: EvalSet) -> tuple[WorldModelNet, Objective]:
    meta = (recordings.heard if recordings.heard.episodes else recordings.held_out).meta
    assert meta is not None  # one of them holds episodes
    model = untrained_like(config, meta.token_dim, meta.action_dim, CPU)
    return model, make_objective(config.objective, model).eval()


SUITES: dict[str, dict[str, Suite]] = {
    "fsdd": {
        "recognition": recognition,
        "world": world,
        "boundaries": boundaries,
        "out of distribution": unusual,
        "ABX": geometry,
        "codes": codes,
    },
    "strict": {"recognition": never_heard},
    "esc10": {"recognition": recognition, "world": world},
    "long": {"reader changes": reader_changes},
    "machines": {"world": world},
}
