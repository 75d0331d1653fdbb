"""A checkpoint of a run within a second: collects and trains in the calling process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pydreaming.objectives import TensorBatch
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.training.checkpoint import save_checkpoint
from pydreaming.training.trainer import Trainer
from workers.layout import RunDir
from workers.serial import collect


def train(run: RunDir, steps: int = 3) -> Path:
    """Collect what is not there yet, train for a few steps and save a checkpoint, which is returned."""
    config = run.read_config()
    index = ReplayIndex(run.open_replay(config))
    index.refresh()
    if not index.episodes:
        collect(run, config)
        index.refresh()
    meta = index.meta
    assert meta is not None
    torch.manual_seed(0)
    trainer = Trainer(config, meta.token_dim, meta.action_dim)
    sampler = ReplaySampler(index, config.training.batch_size, config.training.batch_length, 0.5, 0.3, 0)
    for step in range(steps):
        batch = sampler.sample()
        arrays = (batch.tokens.astype(np.float32), batch.is_first, batch.action, batch.token_id, batch.mask)
        trainer.train_step(TensorBatch(*map(torch.from_numpy, arrays)), step / steps)
    return save_checkpoint(run.path / "checkpoints", trainer, meta.stats, sampler.state_dict(), 1.0, 3, meta.controls)
