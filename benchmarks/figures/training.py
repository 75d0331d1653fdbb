"""Stores, made by the real pipe before training and shared by the rows of a seed; and training by the clock of one core."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.figures.jobs import MACHINE_FOLDS, Job
from pydreaming.audio.sources import AudioItem, iter_source, source_root
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config
from pydreaming.errors import PydreamingError
from pydreaming.replay.index import ReplayIndex
from pydreaming.training.checkpoint import latest_intact, read_state, save_checkpoint
from pydreaming.training.trainer import Trainer
from workers.collection import SavedState, SavedStats
from workers.eval_set import EvalSet, prepare_eval_set
from workers.layout import RunDir
from workers.learner import MAX_NON_FINITE, make_sampler
from workers.serial import collect

TOKENS_PER_S = 10_000  # trained on in a second of one core, at most: twice what the preset reaches
LINE_S = 30.0  # CPU seconds between lines of the log
STORED = ("source", "features", "action", "augment", "workers", "replay")  # sections that a store depends on
NORMAL = "normal"  # the label of machines that run well


def open_store(job: Job, config: Config, out: Path) -> tuple[RunDir, EvalSet, Config]:
    """The recordings of a job, made where they are missing: a run's folder with the replay store, the evaluation set, and the configuration
    that goes with them. Rows of one corpus and seed share them.

    Raises:
      PydreamingError: as `collect` and `prepare_eval_set` do.
    """
    # A worker stops when it is `slack` ahead of training, which has not begun: so much is collected as training will ask for.
    needed = round(config.training.seconds * TOKENS_PER_S / max(config.replay.replay_ratio, 1.0))
    slack = max(config.replay.slack_tokens, needed)
    collecting = dataclasses.replace(config, replay=dataclasses.replace(config.replay, slack_tokens=slack))
    settings = [
        collecting.run.seed,
        job.left_out,
        collecting.evaluation.max_clips,
        *(dataclasses.asdict(getattr(collecting, name)) for name in STORED),
    ]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    store = RunDir(out / "stores" / "-".join(filter(None, (job.corpus, str(job.seed), job.left_out, digest))))
    if job.corpus == "machines":
        collecting = _normal_clips(job, collecting, store.path.with_name(f"{store.path.name}-lists"))
    done = store.path / "collected"
    with _alone(store.path.with_name(f"{store.path.name}.lock")):
        if not done.is_file():
            shutil.rmtree(store.path, ignore_errors=True)  # of a call that was interrupted
            store.path.mkdir(parents=True)
            if collect(store, collecting).all_failed:
                raise PydreamingError(f"not one recording of {config.source.path} could be read")
            done.touch()
        return store, prepare_eval_set(store, collecting, read_stats(store)), collecting


def read_stats(store: RunDir) -> FeatureStats:
    """What the tokens of a store are normalised by."""
    return msgspec.json.decode(store.stats.read_bytes(), type=SavedStats).stats


def train(config: Config, store: RunDir, folder: Path) -> Path:
    """Train for `training.seconds` of CPU time, which counts sampling and steps and nothing else; the checkpoint.

    A checkpoint of an earlier call with the same settings is taken as it is: only evaluation is done again.

    Raises:
      PydreamingError: too many steps in a row were not finite.
    """
    there = latest_intact(folder)
    if there is not None and read_state(there).config == config:
        return there
    shutil.rmtree(folder, ignore_errors=True)
    index = ReplayIndex(store.replay(config))
    index.refresh()
    assert index.meta is not None  # `open_store` has seen to it
    trainer, sampler = Trainer(config, index.meta.token_dim, index.meta.action_dim), make_sampler(index, config)
    spent, due, refused = 0.0, 0.0, 0
    while spent < config.training.seconds:
        begin = time.process_time()
        result = trainer.train_step(trainer.to_device(sampler.sample()), spent / config.training.seconds)
        spent += time.process_time() - begin
        refused = 0 if result.finite else refused + 1
        if refused >= MAX_NON_FINITE:
            raise PydreamingError(f"{refused} steps in a row were not finite; lower training.learning_rate")
        if spent >= due:
            print(f"step {trainer.step}, {spent:.0f} s: loss {float(result.total):.3f}", flush=True)
            due += LINE_S
    return save_checkpoint(folder, trainer, index.meta.stats, sampler.state_dict(), spent, keep=1)


def training_figures(checkpoint: Path, store: RunDir) -> dict[str, float]:
    """What the training behind a checkpoint was given: CPU seconds, steps, tokens, and how often each collected token was trained on."""
    counters = read_state(checkpoint).counters
    state = msgspec.json.decode(store.coordinator_state.read_bytes(), type=SavedState)
    return {
        **counters,
        "steps_per_s": counters["step"] / counters["seconds"],
        "collected_tokens": float(state.written_tokens),
        "replay_ratio": counters["trained_tokens"] / state.written_tokens,
    }


def _normal_clips(job: Job, config: Config, folder: Path) -> Config:
    """The source as two lists: the normal clips but those of the job's fold, to train on, and all others, held out."""
    apart: dict[bool, list[AudioItem]] = {False: [], True: []}
    fold, count = MACHINE_FOLDS.index(job.left_out), 0
    for item in iter_source(config.source):
        normal = item.labels.get("label") == NORMAL
        apart[not normal or count % len(MACHINE_FOLDS) == fold].append(item)
        count += normal
    folder.mkdir(parents=True, exist_ok=True)
    root = source_root(config.source).absolute()
    for held_out, name in ((False, "train"), (True, "test")):
        lines = [json.dumps({"audio_filepath": str(root / item.path), **item.labels}) for item in apart[held_out]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = dataclasses.replace(config.source, kind="nemo", path=str(folder), root=str(root))
    return dataclasses.replace(config, source=source)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other job makes this store. The system lets go of the lock however a job ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
