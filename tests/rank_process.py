"""One of several processes that train together, for tests: `python rank_process.py RANK SIZE FOLDER`.

It trains on its share of the same batches as `reference` does in one process, and leaves gradients and figures in FOLDER.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import safetensors.torch
import torch
from tiny_models import STRIDES, TOKEN_DIM, tiny_batch, tiny_config
from torch import Tensor

from pydreaming.models.ranks import ALONE, Ranks
from pydreaming.objectives import OBJECTIVES, TensorBatch
from pydreaming.training.trainer import Trainer

B, T, STEPS = 8, 10, 3


def cases() -> Iterator[tuple[str, dict[str, object], bool]]:
    """(name, settings, plain): every objective by hand, what else changes the arithmetic, and each collective on the plain paths."""
    for name in sorted(OBJECTIVES):
        yield name, {"objective__name": name, "model__latents": OBJECTIVES[name].latents or "categorical"}, False
    yield "sequence", {"objective__negatives": "sequence"}, False
    yield "rssm", {"model__dynamics": "rssm"}, False
    yield "transformer", {"model__core": "transformer"}, False
    yield "scene", {"model__scene": 16}, False
    yield "plain", {}, True
    yield "plain-sequence", {"objective__negatives": "sequence"}, True


def joined_batch(seed: int) -> TensorBatch:
    """With resets, padding and audio that occurs twice, on two ranks."""
    batch = tiny_batch(B, T, seed)
    mask, is_first, ids = batch.mask.clone(), batch.is_first.clone(), batch.token_id.clone()
    mask[0, 6:], is_first[0, 6:], ids[0, 6:] = False, True, -1
    ids[3, :5] = ids[2, 2:7]
    return dataclasses.replace(batch, mask=mask, is_first=is_first, token_id=ids)


def share(batch: TensorBatch, ranks: Ranks) -> TensorBatch:
    return TensorBatch(*(ranks.own(x) for x in (batch.tokens, batch.is_first, batch.action, batch.token_id, batch.mask)))


def outcome(settings: dict[str, object], plain: bool, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Gradients of the first step, and the losses of all."""
    os.environ["PYDREAMING_PLAIN"] = "1" if plain else ""
    config = tiny_config(
        **{"training__clip": 1e9, "training__batch_size": B, "augment__centre": 0.5, "features__n_mels": TOKEN_DIM // 4, **settings}
    )
    trainer = Trainer(config, TOKEN_DIM, STRIDES, ranks)
    named = {
        f"{prefix}.{n}": p for prefix, m in (("model", trainer.model), ("objective", trainer.objective)) for n, p in m.named_parameters()
    }
    result: dict[str, Tensor] = {}
    for step in range(STEPS):
        batch = joined_batch(step)
        if step == 2:
            batch.tokens[1, 3, 2] = torch.nan  # on one rank alone: both must refuse the step
        found = trainer.train_step(share(batch, ranks), progress=0.0)
        if step == 0:
            result |= {f"grad.{n}": p.grad.clone() for n, p in named.items() if p.grad is not None}
        result |= {f"{step}.total": found.total, f"{step}.decoder": found.decoder, f"{step}.norm": found.grad_norm}
    assert trainer.non_finite_steps == 1
    return result | {"tokens": torch.tensor(trainer.trained_tokens)}


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", store, timedelta(seconds=120), rank=rank, world_size=size)
    for name, settings, plain in cases():
        safetensors.torch.save_file(outcome(settings, plain, Ranks(rank, size, rank)), folder / f"{name}.{rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
