"""The checkpoints of a run, as its learner writes them and takes them up again."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from pydreaming.audio.controls import ControlScale
from pydreaming.audio.stats import FeatureStats
from pydreaming.training.checkpoint import latest_intact, list_checkpoints, read_state, recover, save_checkpoint
from pydreaming.training.trainer import Trainer
from workers.protocol import Progress

log = logging.getLogger("learner")


class Saves:
    """Writes a run's checkpoints, and knows the newest.

    Args:
      folder: of the checkpoints. resume: begin with the newest intact one. keep: so many of the last ones.

    Attributes:
      begun: what the run has behind it. newest: path of the last checkpoint, "" for none. written: when, s since the epoch, 0 for none.
    """

    def __init__(self, folder: Path, resume: bool, keep: int) -> None:
        self.folder, self.resume, self.keep = folder, resume, keep
        if resume:
            recover(folder)
        self.begun = saved_progress(folder) if resume else Progress(0, 0)
        self.newest, self.written = self.begun.checkpoint, written_at(self.begun.checkpoint)

    @property
    def age_s(self) -> float:
        """Since the newest was written; 0 for none."""
        return max(0.0, time.time() - self.written) if self.newest else 0.0

    def to_resume(self) -> Path | None:
        """The checkpoint to go on from; None: begin anew."""
        if not self.resume:
            return None
        path = latest_intact(self.folder)
        if path is None:
            log.info("no checkpoint in %s yet: training begins anew", self.folder)
        elif path != (newest := list_checkpoints(self.folder)[-1]):
            log.warning("%s is damaged and left aside", newest)
        return path

    def save(self, trainer: Trainer, stats: FeatureStats, sampler: dict[str, Any], seconds: float, controls: ControlScale) -> Path:
        """Write a checkpoint (see `save_checkpoint`). Raises CheckpointError."""
        path = save_checkpoint(self.folder, trainer, stats, sampler, seconds, self.keep, controls)
        self.newest, self.written = str(path), time.time()
        return path


def saved_progress(checkpoints: Path) -> Progress:
    """What the newest intact checkpoint has behind it."""
    newest = latest_intact(checkpoints)
    if newest is None:
        return Progress(0, 0)
    counters = read_state(newest).counters
    return Progress(int(counters["trained_tokens"]), int(counters["step"]), str(newest))


def written_at(checkpoint: str) -> float:
    """When a checkpoint was written, s since the epoch; 0 for none."""
    try:
        return Path(checkpoint).stat().st_mtime if checkpoint else 0.0
    except OSError:  # removed since
        return 0.0
