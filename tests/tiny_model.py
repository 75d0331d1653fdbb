"""A checkpoint of a tiny model over generated sounds, for tests of what is done with models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.features import FrontEnd, StatsAccumulator
from pydreaming.config import Config, load_config
from pydreaming.objectives import TensorBatch
from pydreaming.training.checkpoint import save_checkpoint
from pydreaming.training.trainer import Trainer

RATE = 8000
SMALL = {
    "features.sample_rate": RATE, "features.n_fft": 256, "features.win_length": 200, "features.hop_length": 80, "features.n_mels": 16,
    "training.device": "cpu",
}  # fmt: skip


def tiny_config(**changes: object) -> Config:
    """The debug preset at 8 kHz; keys as `model__dynamics="rssm"`."""
    values = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(["defaults", "debug"], [word for key, value in values.items() for word in (f"--{key}", str(value))])


def sweep(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """(num_samples,) float32: a gliding tone with a seeded start and end, the same sound at every rate."""
    begin, end = np.random.default_rng(seed).uniform(200, 2000, 2)
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (begin * time + (end - begin) * time**2 / (2 * seconds)))).astype(np.float32)


def write_sweep(path: Path, seconds: float, rate: int = RATE, seed: int = 0, channels: int = 1) -> Path:
    """Write `sweep` as a 16-bit file, the same in every channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(sweep(seconds, rate, seed)[:, None], channels, 1), rate, subtype="PCM_16")
    return path


def make_checkpoint(run: Path, steps: int = 20, **changes: object) -> Path:
    """Train for some steps on sweeps and save `run/checkpoints/step-XXXXXXXX`, which is returned."""
    torch.manual_seed(0)
    config = tiny_config(**changes)
    sounds = [sweep(0.6, seed=seed) for seed in range(8)]
    accumulator = StatsAccumulator(config.features.n_mels)
    for sound in sounds:
        for frames in FrontEnd(config.features).frames([sound], RATE):
            accumulator.add(frames)
    stats = accumulator.finish()
    front_end = FrontEnd(config.features, stats)
    tokens = torch.from_numpy(np.stack([front_end.tokens_of(sound, RATE)[:9] for sound in sounds]))
    B, T, D = tokens.shape
    trainer = Trainer(config, D, config.action.dim)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True
    action = torch.zeros(B, T, config.action.dim)
    batch = TensorBatch(tokens, is_first, action, torch.arange(B * T).reshape(B, T), torch.ones(B, T, dtype=torch.bool))
    for step in range(steps):
        trainer.train_step(batch, step / steps)
    return save_checkpoint(run / "checkpoints", trainer, stats, {}, 1.0, keep=3)


def trained(run: Path, **changes: object) -> WorldModel:
    """The model of a checkpoint after 3 steps."""
    make_checkpoint(run, steps=3, **changes)
    return WorldModel.load(run, "cpu")
