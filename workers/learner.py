"""The learner process: `python -m workers.learner --run RUN_DIR [--resume]`.

    replay index -> sampler -> batch -> Trainer.train_step -> metrics (spool) · checkpoint · evaluation (a process of its own)
         ^                                                          |
         '---- workers write ---- coordinator <---- Progress -------'

It trains while workers write, or, with workers.count 0, from a finished store. SIGINT and SIGTERM end it after the current step with a
last checkpoint. Exit codes: 0 done or stopped · 1 the run failed · 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil
import torch

from pydreaming.config import Config
from pydreaming.errors import CheckpointError, PydreamingError, ReplayError, TrackingError
from pydreaming.keys import load_client_keys
from pydreaming.objectives import TensorBatch
from pydreaming.replay.schema import StoreMeta, difference
from pydreaming.tracking.live import LearnerNow, Phase, publish
from pydreaming.tracking.spool import SPOOL, Spool, Status
from pydreaming.training.checkpoint import restore
from pydreaming.training.diagnostics import Averages, step_metrics, world_model_metrics
from pydreaming.training.trainer import StepResult, Trainer, sequence_losses
from workers import logs
from workers.batches import Batches, make_sampler
from workers.due import Due
from workers.evaluations import Evaluations, left_s
from workers.layout import PREDECESSOR_S, RunDir, hold
from workers.life import SignOfLife
from workers.link import CoordinatorLink
from workers.lookout import Lookout, Stopping
from workers.protocol import Progress
from workers.protocol import Status as CollectionStatus
from workers.ratio import RatioGate
from workers.readout import Meter, collection_line, console_line, figures, store_metrics
from workers.saved import Saves
from workers.team import LostRankError, Team, may_start_again, others_there, ranks_of_environment, started_again
from workers.threads import choose_threads, default_threads
from workers.transport import read_keys

log = logging.getLogger("learner")

WAIT_LINE_S = 5.0  # between lines about waiting
EVALUATION_DUE_S = 1800.0  # the last evaluation takes minutes, and says nothing on its way
MAX_NON_FINITE = 100  # refused steps in a row after which the run has failed


class Learner:
    """Trains one run.

    Args:
      run: its folder, with config.yaml. resume: go on from the newest intact checkpoint.
      team: of processes that train together, led by this one; None: it trains alone.
    Raises:
      PydreamingError: nothing can be trained on, or a setting cannot be used here.
    """

    def __init__(self, run: RunDir, resume: bool, team: Team | None = None) -> None:
        self.run_dir, self.config = run, run.read_config()
        self.team = team or Team(self.config)
        self.spool = Spool(run.path / SPOOL)
        self.saves = Saves(run.checkpoints, resume, self.config.training.keep_checkpoints)
        # First of all: the tracker must not take the end of an earlier session for the end of this one.
        self.spool.start(self.saves.begun.step)
        self.gate = RatioGate.of(self.config.replay)
        self._over = False  # nobody waits for another batch
        self.lookout = Lookout(run, self.config, lambda: self._over or bool(self.stopping))
        self.index = self.lookout.index
        self.link = self._connect(self.config)
        self.evaluations = Evaluations(run, self.config)
        with contextlib.suppress(OSError):  # where it cannot be made, SignOfLife says so
            run.learner_alive.parent.mkdir(exist_ok=True)
        self.life = SignOfLife(run.learner_alive)
        self.stopping = ""
        self.train_seconds = 0.0
        self._meter, self._averages, self._first = Meter(), Averages(), True
        self._logged: dict[str, float] = {}

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
        checkpoint = self.saves.to_resume()
        self.team.set_up(meta.token_dim, meta.action_dim, checkpoint)
        with others_there():
            self.trainer = Trainer(self.config, meta.token_dim, meta.action_dim, self.team.ranks)
        on_cpu, live = self.trainer.device.type == "cpu", self.link is not None
        self.threads = choose_threads(self.config.training.threads, self.team.ranks.size, on_cpu, live)
        self.batches = Batches(
            make_sampler(self.index, self.config),
            look=(lambda: None) if self.link is None else self.lookout.look,
            prepare=self.trainer.prepared if self.team.ranks.size == 1 else lambda batch: batch,
            meanwhile=self._idle,
        )
        if checkpoint is not None:
            self._restore(checkpoint)
        log.info("training %s on %s, %d tokens stored", self.trainer.size, self.trainer.device, self.index.tokens)
        try:
            self._train()
        finally:
            self._over = True
            self.batches.close()
        self.team.dismiss()
        return self._finish()

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: end after the current step."""
        del frame
        self.stopping = signal.Signals(number).name

    def _train(self) -> None:
        t, refused = self.config.training, 0
        self._log_due = Due(t.log_s, first_s=min(2.0, t.log_s))
        self._checkpoint_due, self._evaluation_due = Due(t.checkpoint_s), Due(self.config.evaluation.every_s)
        while not self.stopping and (progress := self._progress()) < 1:
            self.life.show()
            begin = time.monotonic()
            try:
                batch = self._next_batch(progress)
            except Stopping:
                break
            if batch is None:
                continue
            result = self._learn(batch, progress)
            last = result, batch
            self.train_seconds += time.monotonic() - begin
            refused = 0 if result.finite else refused + 1
            if refused >= MAX_NON_FINITE:
                raise PydreamingError(f"{refused} steps in a row were not finite; lower training.learning_rate")
            self._between_steps(result, batch)
        if self._meter.has_steps:
            self._log(*last)

    def _next_batch(self, progress: float) -> TensorBatch | None:
        """On the device; None: not yet. Raises Stopping, ReplayError."""
        with self._meter.spend("data_wait"):
            try:
                return self.trainer.to_device(self.team.share(self.batches.take(), progress)) if self._may_train() else None
            except ReplayError:
                if self.link is None or self.index.tokens:
                    raise
                return None  # somebody has emptied the store, and workers fill it again

    def _learn(self, batch: TensorBatch, progress: float) -> StepResult:
        """One gradient step, and what is learnt from it for the next ones."""
        with self._meter.spend("step"):
            begin, trained = time.monotonic(), self.trainer.trained_tokens
            result = self._step(batch, progress)
            self.threads.stepped(time.monotonic() - begin)
        if self.config.replay.priority != "uniform":
            self.batches.learn(self.team.spread(sequence_losses(result.losses, len(batch.mask))) if result.finite else None)
        self._meter.stepped(self.trainer.trained_tokens - trained)
        self._averages.add(result)
        if self._first:
            self._say_first_step()
        return result

    def _between_steps(self, result: StepResult, batch: TensorBatch) -> None:
        """Whatever is due."""
        if self._log_due.now():
            with self._meter.spend("log"):
                self._log(result, batch)
        if self._checkpoint_due.now():
            self._try_to_save()
        if self._evaluation_due.now():
            self._evaluate()
        self.evaluations.report_finished()

    def _evaluate(self) -> None:
        """On the way, unless the final evaluation is near, which would have to wait for this one."""
        if left_s(self.train_seconds, self._progress()) < self.config.evaluation.every_s / 2:
            log.debug("no evaluation now: the final one is near")
        elif (checkpoint := self._try_to_save()) is not None:
            self.evaluations.start(checkpoint)

    def _say_first_step(self) -> None:
        """How long it took from this process's beginning."""
        self._first, taken = False, time.time() - psutil.Process().create_time()
        log.info("first step %.1f s after the learner began", taken)
        with contextlib.suppress(TrackingError):
            self.spool.metrics(self.trainer.step, {"busy/first_step_s": taken, "busy/first_step_cpu_s": time.process_time()})

    def _step(self, batch: TensorBatch, progress: float) -> StepResult:
        try:
            with others_there():
                return self.trainer.train_step(batch, progress)
        except torch.OutOfMemoryError as e:
            raise PydreamingError(f"the memory of {self.trainer.device} is full: lower training.batch_size or training.batch_length") from e

    def _finish(self) -> Status:
        checkpoint = self._save()
        log.info("checkpoint %s after %d steps", checkpoint, self.trainer.step, extra={"step": self.trainer.step})
        for name in ("model.safetensors", "state.json", "SHA256SUMS"):  # what `runs:/<run id>` is loaded from
            self.spool.artifact(checkpoint / name, "checkpoint")
        if self.stopping:
            log.info("stopped by %s; go on with: python launch.py --resume %s", self.stopping, shlex.quote(str(self.run_dir.path)))
            self.evaluations.cancel()
            self._show("stopped", 0.0)
            return "KILLED"
        self._show("evaluating", EVALUATION_DUE_S)
        self.evaluations.finish(checkpoint, self._interrupted)
        self._show("finished", 0.0)
        return "FINISHED"

    def _interrupted(self) -> bool:
        """Asked again and again during the final evaluation."""
        self.life.show()
        return bool(self.stopping)

    def _await_data(self) -> None:
        """Wait, visibly, until there is enough to begin with."""
        said = 0.0
        while not self.stopping:
            if self.link is None:
                self.lookout.refresh()
                if self.index.episodes == 0:
                    raise ReplayError(f"{self.index.location} holds no episodes to train from{self.lookout.damage()}")
                return
            self.lookout.look()
            status = self.link.exchange(self.saves.begun)
            if status is not None:
                self._require_readable(status)
                if self.index.episodes and self.gate.may_start(status.written_tokens, status.passes_done):
                    return
            if time.monotonic() - said > WAIT_LINE_S / 2:
                said = time.monotonic()
                log.info("waiting for audio: %s", collection_line(status, self.config.replay.prefill_tokens))
            self._idle()
            time.sleep(0.1)

    def _may_train(self) -> bool:
        """Hold back while training is too far ahead of collection, or the store is empty."""
        if self.link is None:
            return True
        now = time.monotonic()
        status = self.link.exchange(Progress(self.trainer.trained_tokens, self.trainer.step, self.saves.newest))
        if status is None:
            return True
        self._require_readable(status)
        if not self.index.tokens:
            self.batches.look()
            time.sleep(0.1)
            return False
        if self.gate.may_train(status.written_tokens, self.trainer.trained_tokens, status.exhausted):
            return True
        if now - self._meter.said_waiting > WAIT_LINE_S:
            self._meter.said_waiting = now
            self._show("waiting", WAIT_LINE_S)
            log.info("waiting for workers: %d tokens trained on, %d collected", self.trainer.trained_tokens, status.written_tokens)
        self._idle()
        time.sleep(0.05)
        return False

    def _idle(self) -> None:
        """While there is nothing to do but wait: a sign to the supervisor, and to the other processes of the team."""
        self.life.show()
        self.team.idle()

    def _progress(self) -> float:
        t = self.config.training
        by_steps = self.trainer.step / t.steps if t.steps else 0.0
        by_time = self.train_seconds / t.seconds if t.seconds else 0.0
        return max(by_steps, by_time)

    def _log(self, result: StepResult, batch: TensorBatch) -> None:
        metrics = step_metrics(self.trainer, result, batch.mask) | world_model_metrics(self.trainer, result, batch)
        metrics |= self._averages.take() | self._meter.take() | self._store_metrics()
        metrics["machine/threads"] = self.threads.now
        try:
            begin = time.monotonic()
            self.spool.metrics(self.trainer.step, metrics)
            self._meter.append_s = time.monotonic() - begin
        except TrackingError as e:
            log.warning("%s; these metrics are left out of MLflow", e)
        self._logged = metrics
        self._show("training", self.config.training.log_s)
        line = console_line(self.trainer.step, self._progress(), metrics, self.config.model.embed)
        log.info("%s", line, extra={"step": self.trainer.step, **figures(metrics)})

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
            wait_share=metrics.get("busy/data_wait", 0.0),
            loss=metrics.get("learning/loss", 0.0),
            replay_ratio=metrics.get("replay/ratio", 0.0),
            checkpoint=self.saves.newest,
            checkpoint_time=self.saves.written,
            trained_tokens=self.trainer.trained_tokens,
            tokens_per_s=metrics.get("machine/tokens_per_s", 0.0),
            non_finite_steps=self.trainer.non_finite_steps,
        )
        publish(self.run_dir.path, view)

    def _store_metrics(self) -> dict[str, float]:
        status = None if self.link is None else self.link.status
        metrics = store_metrics(self.index, self.config.replay.capacity_tokens, self.trainer.trained_tokens, status)
        return metrics | {"machine/checkpoint_age_s": self.saves.age_s}

    def _save(self) -> Path:
        with self._meter.spend("save"):
            return self.saves.save(self.trainer, self.stats, self.batches.state_dict(), self.train_seconds, self.controls)

    def _try_to_save(self) -> Path | None:
        """A checkpoint on the way. A disk that refuses one is no reason to end: there may be room before the next is due."""
        try:
            return self._save()
        except CheckpointError as e:
            log.warning("%s; training goes on from memory, the newest checkpoint is %s", e, self.saves.newest or "none")
            return None

    def _restore(self, path: Path) -> None:
        state = restore(path, self.trainer)
        if state.stats != self.stats:
            raise CheckpointError(f"{path} was trained with other statistics than {self.index.location} holds; start a new run")
        self.batches.load_state_dict(state.sampler)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.learner", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, with config.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    options = parser.parse_args(arguments)
    run, ranks = RunDir(options.run), ranks_of_environment()
    if ranks.rank:
        logs.begin("learner", run, worker=f"rank-{ranks.rank}")
    else:
        logs.begin("learner", run, console=sys.stdout)
    try:
        config = run.read_config()
        torch.set_num_threads(config.training.threads or default_threads(ranks.size))
        if ranks.rank:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # the leader says when it is over
            return Team(config, ranks).follow(config)
        return lead(run, options.resume or started_again(), Team(config, ranks))
    except PydreamingError as e:
        log.error("error: %s", e)
        if ranks.rank or isinstance(e, LostRankError):
            sys.exit(e.exit_code)  # not returned: for whoever starts lost processes again, this one is lost, too
        return e.exit_code
    except Exception as e:
        if ranks.size > 1:  # multiprocessing keeps what it raises to itself
            log.critical("%s: %s", type(e).__name__, e, exc_info=True)
        raise


def lead(run: RunDir, resume: bool, team: Team) -> int:
    """Train one run as the only process, or as the first of a team; the exit code. Raises PydreamingError."""
    if started_again():
        log.warning("a process of this learner was lost: training goes on from the newest checkpoint")
    spool: Spool | None = None
    try:
        with hold(run.path, "learner", PREDECESSOR_S):
            learner = Learner(run, resume, team)
            spool = learner.spool
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, learner.request_stop)
            spool.end(learner.run())
    except Exception as e:
        foreseen = isinstance(e, PydreamingError) and not isinstance(e, LostRankError)  # begun again, it would end the same way
        if spool is not None and (foreseen or not may_start_again()):
            with contextlib.suppress(TrackingError):  # whatever it was, MLflow would show the run as running; the disk may be full
                spool.end("FAILED")
        if foreseen:
            with contextlib.suppress(LostRankError):
                team.dismiss()
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
