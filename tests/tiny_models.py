"""Tiny networks and batches for the tests of models, objectives and training."""

from __future__ import annotations

import torch
from torch import Tensor

from pydreaming.config import Config, load_config
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import TensorBatch
from pydreaming.replay.schema import ID_STEPS

TOKEN_DIM = 12
STRIDES = 3
FORMS = [("belief", "filter"), ("belief", "token"), ("rssm", "filter"), ("rssm", "token")]
ATTENDING_FORMS = [(*form, "transformer") for form in FORMS if form != ("rssm", "filter")]
EVERY_FORM = [
    (*form, latents) for form in [*((*form, "gru") for form in FORMS), *ATTENDING_FORMS] for latents in ("categorical", "gaussian")
]
_TINY = {
    "action.kind": "stride",
    "augment.centre": "0",
    "model.scene": "0",
    "model.encoder_layers": "[16]",
    "model.embed": "8",
    "model.deter": "10",
    "model.hidden": "9",
    "model.groups": "3",
    "model.classes": "4",
    "model.gaussians": "5",
    "model.window": "4",
    "model.heads": "5",
    "model.decoder_hidden": "16",
    "objective.horizon": "2",
    "training.batch_size": "4",
    "training.batch_length": "10",
    "training.device": "cpu",
    "training.warmup_steps": "0",
    "training.decay_from": "1",
}


def tiny_config(**overrides: object) -> Config:
    """A tiny configuration; keys as `section__key`."""
    merged = _TINY | {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return load_config(["defaults"], [word for key, value in merged.items() for word in (f"--{key}", value)])


def tiny_model(
    dynamics: str = "belief", posterior: str = "filter", core: str = "gru", latents: str = "categorical", **overrides: object
) -> WorldModelNet:
    """An untrained model with weights from a fixed seed."""
    forms = {"dynamics": dynamics, "posterior": posterior, "core": core, "latents": latents}
    config = tiny_config(**{f"model__{key}": value for key, value in forms.items()}, **overrides)
    torch.manual_seed(0)
    return WorldModelNet(config.model, TOKEN_DIM, config.action.dim)


def one_hot_actions(batch: int, steps: int, seed: int) -> Tensor:
    """(batch, steps, STRIDES) random one-hot actions."""
    choice = torch.randint(STRIDES, (batch, steps), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(choice, STRIDES).float()


def tiny_batch(batch: int = 4, steps: int = 10, seed: int = 0, resets: float = 0.15) -> TensorBatch:
    """Random tokens and actions; each step is a reset with probability `resets`, the first always."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, steps, TOKEN_DIM, generator=generator)
    is_first = torch.rand(batch, steps, generator=generator) < resets
    is_first[:, 0] = True
    ids = ID_STEPS * torch.arange(batch * steps).reshape(batch, steps)
    return TensorBatch(tokens, is_first, one_hot_actions(batch, steps, seed + 1), ids, torch.ones(batch, steps, dtype=torch.bool))
