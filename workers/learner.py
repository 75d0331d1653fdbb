"""The learner process: `python -m workers.learner --run RUN_DIR [--resume]`.

    replay index -> sampler -> batch -> Trainer.train_step -> metrics (spool) · checkpoint · evaluation (a process of its own)
         ^                                                          |
         '---- workers write ---- coordinator <---- Progress -------'

It trains while workers write, or, with workers.count 0, from a finished store. SIGINT and SIGTERM end it after the current step with a
last checkpoint. Exit codes: 0 done or stopped · 1 the run failed · 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch

from pydreaming.config import Config
from pydreaming.errors import CheckpointError, PydreamingError, ReplayError
from pydreaming.objectives import TensorBatch
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.replay.schema import StoreMeta, difference
from pydreaming.tracking.live import LearnerNow, Phase, publish
from pydreaming.tracking.spool import SPOOL, Spool, Status
from pydreaming.training.checkpoint import latest_intact, list_checkpoints, read_state, restore, save_checkpoint
from pydreaming.training.diagnostics import Averages, step_metrics, verdict, world_model_metrics
from pydreaming.training.trainer import StepResult, Trainer
from workers.evaluations import Evaluations
from workers.keys import load_client_keys
from workers.layout import RunDir
from workers.link import CoordinatorLink
from workers.lookout import Lookout, Stopping
from workers.protocol import Progress
from workers.protocol import Status as CollectionStatus
from workers.ratio import RatioGate
from workers.transport import read_keys

log = logging.getLogger("learner")

WAIT_LINE_S = 5.0  # between lines about waiting
EVALUATION_DUE_S = 1800.0  # the last evaluation takes minutes, and says nothing on its way
MAX_NON_FINITE = 100  # refused steps in a row after which the run has failed


class Learner:
    """Trains one run.

    Args:
      run: its folder, with config.yaml. resume: go on from the newest intact checkpoint.
    Raises:
      PydreamingError: nothing can be trained on, or a setting cannot be used here.
    """

    def __init__(self, run: RunDir, resume: bool) -> None:
        self.run_dir, self.config, self.resume = run, run.read_config(), resume
        self.checkpoints = run.path / "checkpoints"
        self.spool = Spool(run.path / SPOOL)
        # First of all: the tracker must not take the end of an earlier session for the end of this one.
        self.begun = _saved_progress(self.checkpoints) if resume else Progress(0, 0)
        self.newest = self.begun.checkpoint
        self.spool.start(self.begun.step)
        self.gate = RatioGate.of(self.config.replay)
        self.lookout = Lookout(run, self.config, lambda: bool(self.stopping))
        self.index = self.lookout.index
        self.link = self._connect(self.config)
        self.evaluations = Evaluations(run, self.config)
        self.stopping = ""
        self.train_seconds = 0.0
        self._meter, self._averages = _Meter(), Averages()
        self._logged: dict[str, float] = {}
        torch.set_num_threads(self.config.training.threads or default_threads())

    def run(self) -> Status:
        """Train to the end; how the session ended."""
        self._await_data()
        if self.stopping:
            return "KILLED"
        meta = self.index.meta
        if meta is None:
            raise ReplayError(f"{self.index.location} holds no episodes; collect some first, or set workers.count above 0")
        if found := difference(StoreMeta.of(self.config.features, meta.stats, self.config.action), meta):
            raise ReplayError(f"{self.index.location} was written with other settings than this run's: {found}")
        self.stats, self.controls = meta.stats, meta.controls
        self.trainer = Trainer(self.config, meta.token_dim, meta.action_dim)
        self.sampler = make_sampler(self.index, self.config)
        self._restore_if_asked()
        log.info("training %s on %s, %d tokens stored", _size(self.trainer), self.trainer.device, self.index.tokens)
        self._train()
        return self._finish()

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: end after the current step."""
        del frame
        self.stopping = signal.Signals(number).name

    def _train(self) -> None:
        t = self.config.training
        now = time.monotonic()
        due_log, due_checkpoint = now + min(2.0, t.log_s), now + t.checkpoint_s
        due_evaluation = now + self.config.evaluation.every_s
        refused, logged = 0, -1
        while not self.stopping and self._progress() < 1:
            begin = time.monotonic()
            if not self._may_train():
                self._meter.waited(time.monotonic() - begin)
                continue
            try:
                batch = self.trainer.to_device(self.sampler.sample())
            except Stopping:
                break
            except ReplayError:
                if self.link is None or self.index.tokens:
                    raise
                continue  # somebody has emptied the store, and workers fill it again
            self._meter.waited(time.monotonic() - begin)
            result = self._step(batch)
            now = time.monotonic()
            self.train_seconds += now - begin
            self._meter.stepped()
            self._averages.add(result)
            refused = 0 if result.finite else refused + 1
            if refused >= MAX_NON_FINITE:
                raise PydreamingError(f"{refused} steps in a row were not finite; lower training.learning_rate")
            if now >= due_log:
                self._log(result, batch)
                due_log, logged = now + t.log_s, self.trainer.step
            if now >= due_checkpoint:
                self._save()
                due_checkpoint = now + t.checkpoint_s
            if self.config.evaluation.every_s > 0 and now >= due_evaluation:
                self.evaluations.start(self._save())
                due_evaluation = now + self.config.evaluation.every_s
            self.evaluations.report_finished()
        if logged < self.trainer.step and self._meter.has_steps:
            self._log(result, batch)

    def _step(self, batch: TensorBatch) -> StepResult:
        try:
            return self.trainer.train_step(batch, self._progress())
        except torch.OutOfMemoryError as e:
            raise PydreamingError(f"the memory of {self.trainer.device} is full: lower training.batch_size or training.batch_length") from e

    def _finish(self) -> Status:
        checkpoint = self._save()
        log.info("checkpoint %s after %d steps", checkpoint, self.trainer.step)
        for name in ("model.safetensors", "state.json", "SHA256SUMS"):  # what `runs:/<run id>` is loaded from
            self.spool.artifact(checkpoint / name, "checkpoint")
        if self.stopping:
            log.info("stopped by %s; go on with: python launch.py --resume %s", self.stopping, self.run_dir.path)
            self.evaluations.cancel()
            self._show("stopped", 0.0)
            return "KILLED"
        self._show("evaluating", EVALUATION_DUE_S)
        self.evaluations.finish(checkpoint, lambda: bool(self.stopping))
        self._show("finished", 0.0)
        return "FINISHED"

    def _await_data(self) -> None:
        """Wait, visibly, until there is enough to begin with."""
        said = 0.0
        while not self.stopping:
            self.index.refresh()
            if self.link is None:
                if self.index.episodes == 0:
                    raise ReplayError(f"{self.index.location} holds no episodes to train from{_damage(self.index)}")
                return
            status = self.link.exchange(self.begun)
            if status is not None:
                self._require_readable(status)
                if self.index.episodes and self.gate.may_start(self.index.tokens, status.passes_done):
                    return
            if time.monotonic() - said > WAIT_LINE_S / 2:
                said = time.monotonic()
                log.info("waiting for audio: %s", _collection_line(status, self.config.replay.prefill_tokens))
            time.sleep(0.1)

    def _may_train(self) -> bool:
        """Refresh the view of the store, and hold back while training is too far ahead of collection."""
        now = time.monotonic()
        if self.link is None:
            return True
        self.lookout.look()
        status = self.link.exchange(Progress(self.trainer.trained_tokens, self.trainer.step, self.newest))
        if status is None:
            return True
        self._require_readable(status)
        if not self.index.tokens:
            time.sleep(0.1)
            return False
        if self.gate.may_train(status.written_tokens, self.trainer.trained_tokens, status.exhausted):
            return True
        if now - self._meter.said_waiting > WAIT_LINE_S:
            self._meter.said_waiting = now
            log.info("waiting for workers: %d tokens trained on, %d collected", self.trainer.trained_tokens, status.written_tokens)
        time.sleep(0.05)
        return False

    def _progress(self) -> float:
        t = self.config.training
        by_steps = self.trainer.step / t.steps if t.steps else 0.0
        by_time = self.train_seconds / t.seconds if t.seconds else 0.0
        return max(by_steps, by_time)

    def _log(self, result: StepResult, batch: TensorBatch) -> None:
        metrics = step_metrics(self.trainer, result, batch.mask) | world_model_metrics(self.trainer, result, batch)
        metrics |= self._averages.take() | self._meter.take(int(batch.mask.sum())) | self._store_metrics()
        self.spool.metrics(self.trainer.step, metrics)
        self._logged = metrics
        self._show("training", self.config.training.log_s)
        log.info("%s", _console_line(self.trainer.step, self._progress(), metrics, self.config.model.embed))

    def _show(self, phase: Phase, due_s: float) -> None:
        """Leave what `pydreaming status` shows; the next sign of life comes within `due_s`."""
        metrics = self._logged
        view = LearnerNow(
            time=time.time(),
            due_s=due_s,
            pid=os.getpid(),
            phase=phase,
            step=self.trainer.step,
            progress=min(1.0, self._progress()),
            seconds=self.train_seconds,
            steps_per_s=metrics.get("machine/steps_per_s", 0.0),
            wait_share=metrics.get("machine/data_wait_share", 0.0),
            loss=metrics.get("learning/loss", 0.0),
            replay_ratio=metrics.get("replay/ratio", 0.0),
            checkpoint=self.newest,
        )
        publish(self.run_dir.path, view)

    def _store_metrics(self) -> dict[str, float]:
        metrics = {
            "replay/tokens": float(self.index.tokens),
            "replay/damaged_files": float(len(self.index.damaged)),
            "machine/trained_tokens": float(self.trainer.trained_tokens),
        }
        status = None if self.link is None else self.link.status
        if status is not None:
            rates = [w.clips_per_s for w in status.workers]
            metrics |= {
                "workers/count": float(len(rates)),
                "workers/clips_per_s": sum(rates),
                "workers/audio_s_per_s": sum(w.audio_per_s for w in status.workers),
                "workers/unreadable_files": float(status.unreadable),
                "replay/written_tokens": float(status.written_tokens),
                "replay/ratio": self.trainer.trained_tokens / max(1, status.written_tokens),
            }
        return metrics

    def _save(self) -> Path:
        keep = self.config.training.keep_checkpoints
        sampler = self.sampler.state_dict()
        path = save_checkpoint(self.checkpoints, self.trainer, self.stats, sampler, self.train_seconds, keep, self.controls)
        self.newest = str(path)
        return path

    def _restore_if_asked(self) -> None:
        if not self.resume:
            return
        path = latest_intact(self.checkpoints)
        if path is None:
            log.info("no checkpoint in %s yet: training begins anew", self.checkpoints)
            return
        if path != (newest := list_checkpoints(self.checkpoints)[-1]):
            log.warning("%s is damaged and left aside", newest)
        state = restore(path, self.trainer)
        if state.stats != self.stats:
            raise CheckpointError(f"{path} was trained with other statistics than {self.index.location} holds; start a new run")
        self.sampler.load_state_dict(state.sampler)
        self.train_seconds = state.counters["seconds"]
        log.info("resumed %s at step %d", path, self.trainer.step)
        if self._progress() >= 1:
            log.info("nothing is left to train: raise training.seconds or training.steps to go on; evaluating once more")

    def _connect(self, config: Config) -> CoordinatorLink | None:
        if config.workers.count == 0 and self.run_dir.read_coordinator() is None:
            return None
        folder = read_keys(config.coordinator.keys)
        return CoordinatorLink(self.run_dir, None if folder is None else load_client_keys(folder))

    def _require_readable(self, status: CollectionStatus) -> None:
        if status.all_failed:
            raise PydreamingError(
                f"not one of the recordings in {self.config.source.path} could be read; the causes are in {self.run_dir.quarantine}"
            )


class _Meter:
    """Rates since the last log line."""

    def __init__(self) -> None:
        self._begin, self._steps, self._waiting = time.monotonic(), 0, 0.0
        self.said_waiting = 0.0

    @property
    def has_steps(self) -> bool:
        return self._steps > 0

    def waited(self, seconds: float) -> None:
        self._waiting += seconds

    def stepped(self) -> None:
        self._steps += 1

    def take(self, tokens_per_step: int) -> dict[str, float]:
        elapsed = max(1e-9, time.monotonic() - self._begin)
        rate = self._steps / elapsed
        metrics = {
            "machine/steps_per_s": rate,
            "machine/tokens_per_s": rate * tokens_per_step,
            "machine/data_wait_share": self._waiting / elapsed,
        }
        self._begin, self._steps, self._waiting = time.monotonic(), 0, 0.0
        return metrics


def default_threads() -> int:
    """Half of the processors this process may use: the others belong to workers and evaluation, beside which waiting threads only spin."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // 2)


def _saved_progress(checkpoints: Path) -> Progress:
    """What the newest intact checkpoint has behind it."""
    newest = latest_intact(checkpoints)
    if newest is None:
        return Progress(0, 0)
    counters = read_state(newest).counters
    return Progress(int(counters["trained_tokens"]), int(counters["step"]), str(newest))


def make_sampler(index: ReplayIndex, config: Config) -> ReplaySampler:
    """Draws the batches that a run of this configuration trains on."""
    t, r = config.training, config.replay
    return ReplaySampler(index, t.batch_size, t.batch_length, r.group_share, r.cut_share, config.run.seed)


def _console_line(step: int, progress: float, metrics: dict[str, float], width: int) -> str:
    """One line that a newcomer can read: progress, prediction beside chance, and the verdict."""
    gain, found = metrics.get("world_model/open_loop_gain_k1"), ""
    if "learning/nce_accuracy_k1" in metrics:  # not every objective contrasts the next token
        found = f" | next token found {metrics['learning/nce_accuracy_k1']:.0%} (chance {metrics['learning/chance']:.1%})"
    return (
        f"step {step} ({progress:4.0%}) {metrics['machine/steps_per_s']:.1f}/s | loss {metrics['learning/loss']:.2f}{found}"
        f" | gain {'-' if gain is None else f'{gain:.1f}'} nat | {verdict(metrics, width)}"
    )


def _collection_line(status: CollectionStatus | None, prefill: int) -> str:
    if status is None:
        return "the coordinator is reading the list of recordings"
    if status.phase == "measure":
        return f"measuring loudness statistics, {len(status.workers)} workers"
    return f"{status.written_tokens} of {prefill} tokens, {len(status.workers)} workers, {status.unreadable} unreadable files"


def _size(trainer: Trainer) -> str:
    count = sum(p.numel() for p in trainer.world) + sum(p.numel() for p in trainer.probe)
    return f"{count / 1e6:.2f} M parameters"


def _damage(index: ReplayIndex) -> str:
    if not index.damaged:
        return ""
    name, cause = min(index.damaged.items())
    return f"; {len(index.damaged)} files are damaged, the first: {name}: {cause}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.learner", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, with config.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    spool: Spool | None = None
    try:
        learner = Learner(RunDir(options.run), options.resume)
        spool = learner.spool
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, learner.request_stop)
        status = learner.run()
        spool.end(status)
    except Exception as e:
        if spool is not None:
            spool.end("FAILED")  # whatever it was: MLflow would show the run as running for ever
        if not isinstance(e, PydreamingError):
            raise
        print(f"error: {e}", file=sys.stderr, flush=True)  # noqa: T201
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
