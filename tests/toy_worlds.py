"""Small worlds with a known answer, and a few hundred steps of training on them."""

from __future__ import annotations

import torch
from tiny_models import STRIDES, TOKEN_DIM, one_hot_actions
from torch import Tensor

from pydreaming.config import Config
from pydreaming.objectives import TensorBatch
from pydreaming.replay.schema import ID_STEPS
from pydreaming.training.trainer import StepResult, Trainer

B, T = 8, 16


def _batch(codes: Tensor, action: Tensor, seed: int, count: int) -> TensorBatch:
    """Tokens that show codes (B, T) through a fixed random codebook, with a little noise."""
    codebook = torch.randn(count, TOKEN_DIM, generator=torch.Generator().manual_seed(99))
    noise = 0.1 * torch.randn(*codes.shape, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))
    is_first = torch.zeros(codes.shape, dtype=torch.bool)
    is_first[:, 0] = True
    ids = ID_STEPS * torch.arange(codes.numel()).reshape(codes.shape)
    return TensorBatch(codebook[codes] + noise, is_first, action, ids, torch.ones_like(is_first))


def action_world(seed: int) -> TensorBatch:
    """x_t = f(a_t), and the actions are independent: nothing but a_t tells anything about x_t."""
    action = one_hot_actions(B, T, seed)
    return _batch(action.argmax(-1), action, seed, STRIDES)


def chain_world(seed: int) -> TensorBatch:
    """Eight codes in a ring; the next follows with probability 0.7, else any. The actions say nothing."""
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(8, (B,), generator=generator)]
    for _ in range(T - 1):
        other = torch.randint(8, (B,), generator=generator)
        codes.append(torch.where(torch.rand(B, generator=generator) < 0.7, (codes[-1] + 1) % 8, other))
    return _batch(torch.stack(codes, 1), torch.zeros(B, T, STRIDES), seed, 8)


def new_trainer(config: Config) -> Trainer:
    """A fresh trainer for these worlds."""
    return Trainer(config, TOKEN_DIM, STRIDES)


def train(trainer: Trainer, batches: list[TensorBatch], steps: int) -> StepResult:
    """So many steps over the batches in turn; the last result."""
    for step in range(steps):
        result = trainer.train_step(batches[step % len(batches)], progress=0.0)
    return result
