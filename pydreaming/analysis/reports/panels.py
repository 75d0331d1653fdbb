"""What a clip looks like to the model: log-mel panels and the usage of its codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from pydreaming.analysis.inputs import Source
from pydreaming.analysis.reports.pictures import Panel
from pydreaming.analysis.world_model import Tokens, WorldModel
from pydreaming.audio.tokens import Frames
from pydreaming.errors import UsageError


def prediction_panels(
    model: WorldModel, tokens: Tokens | Frames, context: int, samples: int = 8, seed: int = 0, action: Frames | None = None
) -> list[Panel]:
    """Panels for `pictures.mel_panels`: what was real, predicted one window ahead all along, and imagined from one moment on.

    Args:
      tokens: (T, token_dim) of one clip, T > context. context: windows heard before imagining.
      action: (A,) see `WorldModel.told`.
      samples: of each one-step prediction, of which the mean is shown; the imagined panel is a single continuation.
    Raises:
      UsageError: fewer than context + 1 windows, or no context.
    """
    values = tokens.values if isinstance(tokens, Tokens) else tokens
    if not 1 <= context < len(values):
        raise UsageError(f"{len(values)} windows are too few to imagine from window {context}")
    mark_s = context * model.features.token_stride_samples / model.features.sample_rate
    heard = values[:context]
    state = model.observe(heard, seed, action).carry
    imagined = model.decode(model.imagine(state, len(values) - context, 1, seed=seed, action=action))[0]
    return [
        Panel("real", model.log_mel(values)),
        Panel("predicted, each window from all before it", model.log_mel(one_step(model, values, samples, seed, action))),
        Panel("heard up to the line, imagined after it", model.log_mel(np.concatenate([heard, imagined])), mark_s),
    ]


@torch.inference_mode()
def one_step(model: WorldModel, tokens: Frames, samples: int = 8, seed: int = 0, action: Frames | None = None) -> Frames:
    """The decoder's picture of each window before it was heard: (T, token_dim), mean over `samples`; the first window is itself."""
    if len(tokens) == 1:
        return tokens
    observed = model.observe(tokens, seed, action)
    before = observed.post.at(0, slice(0, -1)).repeat(samples)  # (T - 1) * samples states
    actions = observed.action[0, 1:].repeat_interleave(samples, 0)[:, None]
    generator = torch.Generator(model.device).manual_seed(seed)
    after = model.net.imagine(before, actions, model.net.noise(len(actions), 1, generator))
    decoded = model.decode(after)[:, 0].reshape(len(tokens) - 1, samples, -1)
    return np.concatenate([tokens[:1], decoded.mean(1)])


def code_marginal(model: WorldModel, sources: Iterable[Source]) -> npt.NDArray[np.float64]:
    """Mean probability of each code over the windows of all sources: (S, K), rows sum to 1.

    Raises UsageError without sources, or when the latents are no codes.
    """
    if not model.net.dynamics.latents.discrete:
        raise UsageError(f"code usage needs codes, and the model has {model.config.model.latents} latents")
    total: torch.Tensor | None = None
    count = 0
    for source in sources:
        for values, observed in model.hear(source):
            part = observed.post.logits[0].double().exp().sum(0)
            total = part if total is None else total + part
            count += len(values)
    if total is None:
        raise UsageError("code usage needs at least one recording")
    return cast(npt.NDArray[np.float64], (total / count).cpu().numpy())
