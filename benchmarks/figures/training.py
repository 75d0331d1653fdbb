"""Stores, made by the real pipe before training and shared by the rows of a seed; and training by the clock of one core."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.figures.jobs import Job
from benchmarks.figures.lock import alone
from benchmarks.figures.version import sign
from pydreaming.audio.sources import iter_source, source_root
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config, SourceConfig, TrainingConfig
from pydreaming.errors import PydreamingError
from pydreaming.evaluation.anomaly import FOLDS, normal_folds
from pydreaming.replay.index import ReplayIndex
from pydreaming.training.checkpoint import latest_intact, read_state, save_checkpoint
from pydreaming.training.trainer import Trainer
from workers.batches import make_sampler
from workers.collection import SavedState, SavedStats
from workers.eval_set import EvalSet, prepare_eval_set
from workers.layout import RunDir
from workers.learner import MAX_NON_FINITE
from workers.serial import collect

TOKENS_PER_S = 10_000  # trained on in a second of one core, at most: twice what the preset reaches
LINE_S = 30.0  # CPU seconds between lines of the log
STORED = ("source", "features", "action", "augment", "workers", "replay")  # sections that a store depends on
NORMAL = "normal"  # the label of machines that run well
FOLDS_SEED = 0  # of the folds that their clips are dealt into


@dataclass(frozen=True)
class Given:
    """What one training is given.

    Attributes:
      name: of the fold; empty where there are none. config: what it is made and trained by. store: the run's folder with catalogue,
      statistics and replay store. recordings: what evaluation is done on.
    """

    name: str
    config: Config
    store: RunDir
    recordings: EvalSet

    def index(self) -> ReplayIndex:
        """The replay store, as it is."""
        index = ReplayIndex(self.store.replay(self.config))
        index.refresh()
        return index


def open_stores(job: Job, config: Config, out: Path) -> list[Given]:
    """What the trainings of a job are given, made where it is missing; rows of one corpus and seed share it.

    There is one training but for `machines`: there each fold has its own, without the normal clips of that fold, and its share of the
    seconds, or of the steps. The folds are normalised by the statistics of the first, so that one evaluation can hear all of them.

    Raises:
      PydreamingError: as `collect` and `prepare_eval_set` do.
    """
    if job.corpus != "machines":
        return [_open_store(job, config, out, config, "", None)]
    training = part_of(config.training, FOLDS)
    given: list[Given] = []
    for fold in range(FOLDS):
        lists = _without_fold(config.source, out / "stores" / f"machines-lists-{fold}", fold)
        part = dataclasses.replace(config, source=lists, training=training)
        given.append(_open_store(job, config, out, part, f"fold-{fold}", given[0].store.stats if given else None))
    return given


def part_of(training: TrainingConfig, parts: int) -> TrainingConfig:
    """The seconds and steps of one of so many trainings that share those of one."""
    return dataclasses.replace(training, seconds=training.seconds / parts, steps=-(-training.steps // parts))


def read_stats(store: RunDir) -> FeatureStats:
    """What the tokens of a store are normalised by."""
    return msgspec.json.decode(store.stats.read_bytes(), type=SavedStats).stats


def _open_store(job: Job, asked: Config, out: Path, config: Config, name: str, stats: Path | None) -> Given:
    """One store. `asked`: the configuration that its name is made of. `stats`: of another store, to normalise by."""
    # A worker stops when it is `slack` ahead of training, which has not begun: so much is collected as training will ask for.
    needed = round(config.training.seconds * TOKENS_PER_S / max(config.replay.replay_ratio, 1.0))
    slack = max(config.replay.slack_tokens, needed)
    config = dataclasses.replace(config, replay=dataclasses.replace(config.replay, slack_tokens=slack))
    settings = [config.run.seed, config.evaluation.max_clips, slack, *(dataclasses.asdict(getattr(asked, section)) for section in STORED)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    store = RunDir(out / "stores" / "-".join(filter(None, (job.corpus, str(job.seed), job.left_out or name, digest))))
    done = store.path / "collected"
    with alone(store.path.with_name(f"{store.path.name}.lock")):
        if not done.is_file():
            shutil.rmtree(store.path, ignore_errors=True)  # of a call that was interrupted
            store.path.mkdir(parents=True)
            if stats is not None:
                shutil.copy(stats, store.stats)
            if collect(store, config).all_failed:
                raise PydreamingError(f"not one recording of {config.source.path} could be read")
            done.touch()
        return Given(name, config, store, prepare_eval_set(store, config, read_stats(store)))


def train(given: Given, folder: Path) -> Path:
    """Train for `training.seconds` of CPU time, which counts sampling and steps and nothing else, or for `training.steps`; the checkpoint.

    A checkpoint of an earlier call with the same settings is taken as it is: only evaluation is done again. Which version of the code it is
    from stands beside it (`version.signed`).

    Raises:
      PydreamingError: too many steps in a row were not finite.
    """
    config, there = given.config, latest_intact(folder)
    if there is not None and read_state(there).config == config:
        return there
    shutil.rmtree(folder, ignore_errors=True)
    sign(folder)
    index = given.index()
    assert index.meta is not None  # `open_stores` has seen to it that there are episodes
    trainer, sampler = Trainer(config, index.meta.token_dim, index.meta.action_dim), make_sampler(index, config)
    spent, due, refused, over = 0.0, 0.0, 0, 0.0
    while over < 1:
        begin = time.process_time()
        result = trainer.train_step(trainer.to_device(sampler.sample()), over)
        spent += time.process_time() - begin
        over = trainer.step / config.training.steps if config.training.steps else spent / config.training.seconds
        refused = 0 if result.finite else refused + 1
        if refused >= MAX_NON_FINITE:
            raise PydreamingError(f"{refused} steps in a row were not finite; lower training.learning_rate")
        if spent >= due:
            print(f"step {trainer.step}, {spent:.0f} s: loss {float(result.total):.3f}", flush=True)
            due += LINE_S
    return save_checkpoint(folder, trainer, index.meta.stats, sampler.state_dict(), spent, 1, index.meta.controls)


def training_figures(checkpoints: Sequence[Path], stores: Sequence[RunDir]) -> dict[str, float]:
    """What the trainings of a job were given in all: CPU seconds, steps, tokens, and how often each collected token was trained on."""
    total: dict[str, float] = {"collected_tokens": 0.0}
    for checkpoint, store in zip(checkpoints, stores, strict=True):
        for name, value in read_state(checkpoint).counters.items():
            total[name] = total.get(name, 0.0) + value
        total["collected_tokens"] += msgspec.json.decode(store.coordinator_state.read_bytes(), type=SavedState).written_tokens
    total["steps_per_s"] = total["step"] / total["seconds"]
    total["replay_ratio"] = total["trained_tokens"] / total["collected_tokens"]
    return total


def _without_fold(source: SourceConfig, folder: Path, fold: int) -> SourceConfig:
    """The source as two lists: the normal clips of the other folds, to train on, and all other clips, held out. Raises SourceError."""
    items = sorted(iter_source(source), key=lambda item: item.path)
    machines = np.array([item.path.partition("/")[0] for item in items])
    folds = normal_folds(machines, np.array([item.labels.get("label") == NORMAL for item in items]), FOLDS_SEED)
    root = source_root(source).absolute()
    with alone(folder.with_name(f"{folder.name}.lock")):
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("train", (folds >= 0) & (folds != fold)), ("test", (folds < 0) | (folds == fold))):
            lines = [json.dumps({"audio_filepath": str(root / items[i].path), **items[i].labels}) for i in np.flatnonzero(rows)]
            text, path = "\n".join(lines) + "\n", folder / f"{name}.jsonl"
            if not path.is_file() or path.read_text(encoding="utf-8") != text:  # another job may be reading it
                path.write_text(text, encoding="utf-8")
    return dataclasses.replace(source, kind="nemo", path=str(folder), root=str(root))
