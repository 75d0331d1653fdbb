"""What is measured of a job, by corpus: each suite is a function from a `Subject` to figures, and says why it has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures.jobs import NETWORKS, TRAINED, Job
from benchmarks.figures.training import open_store, train, training_figures
from pydreaming.config import Config
from pydreaming.evaluation.baselines import log_mel_features
from pydreaming.evaluation.clips import Clips, read_clips
from pydreaming.evaluation.evaluate import evaluate_world
from pydreaming.evaluation.features import PARTS, clip_features, untrained_like
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import Protocol, plan_protocols, run_probe
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective
from pydreaming.training.checkpoint import load_networks
from workers.eval_set import EvalSet
from workers.evaluator import sequences

Figures = dict[str, float]
Table = dict[str, Figures]  # line of a table -> its figures
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """What a job evaluates.

    Attributes:
      job, config: as they are. recordings: stores of what was heard in training and of what was not. clips: the same, put together.
      networks: model and objective; None in rows that have none.
    """

    job: Job
    config: Config
    recordings: EvalSet
    clips: Clips
    networks: tuple[WorldModelNet, Objective] | None

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
      figures: by suite, line of the table and name. notes: sentences on what is missing.
      training: what the training was given (see `training_figures`). evaluation_s: CPU seconds by suite.
    """

    figures: dict[str, Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
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
    clips = read_clips(recordings.heard, recordings.held_out)
    subject = Subject(job, config, recordings, clips, networks)
    for name, suite in SUITES[job.corpus].items():
        begin = time.process_time()
        table, notes = suite(subject)
        result.evaluation_s[name] = time.process_time() - begin
        print(f"{name}: {result.evaluation_s[name]:.0f} s", flush=True)
        result.figures |= {name: table} if table else {}
        result.notes += notes
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
    "fsdd": {"recognition": recognition, "world": world},
    "strict": {"recognition": never_heard},
    "esc10": {"recognition": recognition, "world": world},
    "long": {"world": world},
    "machines": {"world": world},
}
