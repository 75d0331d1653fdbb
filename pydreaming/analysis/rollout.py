"""How a model listens to one recording: windows in chunks with carried state, the latents' noise, and when each window is.

    for values in run(Rechunk(CHUNK_TOKENS), parts):
        observed = listening.hear(values)

Source of the rollout itself: `pydreaming.models.dynamics`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from pydreaming.audio.tokens import Frames, token_start_samples
from pydreaming.config import ActionConfig, FeatureConfig
from pydreaming.errors import UsageError
from pydreaming.models.latents import CATEGORICAL, Latents
from pydreaming.models.state import Observed, State, join_states
from pydreaming.models.world_model import WorldModelNet

CHUNK_TOKENS = 512
LEAST_STEPS = 4  # of a chunk, so that short chunks give the same bits as long ones (as LEAST_ROWS of `audio.buffer`; measured likewise)


class Listening:
    """A posterior rollout over one recording that goes on chunk by chunk, with carried state.

    Args:
      listening_on: (A,) the action of windows that are given none.
      noise: of the latents' samples, drawn step by step, so that they are the same whatever the chunks; None takes modes.
    """

    def __init__(self, net: WorldModelNet, listening_on: npt.NDArray[np.float32], noise: NoiseStream | None = None) -> None:
        self._net, self._listening_on, self._noise = net, listening_on, noise
        self._carry: State | None = None

    def hear(self, values: Frames, action: npt.NDArray[Any] | None = None) -> Observed:
        """The next windows (t, token_dim), t >= 1, with their actions (t, A), or (A,) for all. Gives Observed with B = 1."""
        t, net, device = len(values), self._net, self._net.device
        # Steps behind the last change nothing before them. A core with a memory would keep them in it, and is left to round as it likes.
        more = 0 if net.dynamics.initial(1, device).memory is not None else max(0, LEAST_STEPS - t)
        tokens = pad(torch.from_numpy(values).to(device), (0, 0, 0, more))
        given = torch.from_numpy(self._listening_on if action is None else action).float().to(device)
        actions = pad(given.expand(t, -1), (0, 0, 0, more))
        is_first = torch.zeros(1, t + more, dtype=torch.bool, device=device)
        is_first[0, 0] = self._carry is None
        noise = None if self._noise is None else pad(self._noise.draw(1, t), (0, 0, 0, 0, 0, more)).to(device)
        with torch.inference_mode():
            observed = net.observe(tokens[None], actions[None], is_first, self._carry, noise)
            observed = observed.steps(t) if more else observed
        self._carry = observed.carry
        return observed


class NoiseStream:
    """The latents' noise in an order that does not depend on how many steps are drawn at a time (with one sequence), nor on the device.

    Args:
      variables, values: S and K of `latents`.
    """

    def __init__(self, seed: int, variables: int, values: int, latents: Latents = CATEGORICAL) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._shape = (variables, values)
        self._latents = latents

    def draw(self, batch: int, steps: int) -> Tensor:
        """(batch, steps, S, K) float32."""
        return self._latents.numpy_noise((batch, steps, *self._shape), self._random)


def neutral_action(action: ActionConfig) -> list[float]:
    """The action of listening on: zeros (for controls: their mean), or the one-hot stride of one window.

    Raises:
      UsageError: the model was trained with strides that leave out 1.
    """
    if action.kind != "stride":
        return [0.0] * action.dim
    if 1 not in action.strides:
        raise UsageError(f"the model was trained with action.strides {action.strides}; without 1 it cannot follow adjacent windows")
    return [float(stride == 1) for stride in action.strides]


def token_times(count: int, features: FeatureConfig, first: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Start and centre of `count` tokens from the token `first` on in seconds, (count,) each."""
    start = token_start_samples(count, features, first)
    return start / features.sample_rate, (start + features.token_span_samples / 2) / features.sample_rate


class Rechunk:
    """The same rows in chunks of `size`, the last one shorter; a stage."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pending: list[Frames] = []
        self._held = 0

    def push(self, part: Frames) -> Iterator[Frames]:
        """See `Stage`."""
        while self._held + len(part) >= self._size:
            take = self._size - self._held
            chunk = np.concatenate([*self._pending, part[:take]])
            part, self._pending, self._held = part[take:], [], 0
            yield chunk
        if len(part):
            self._pending.append(part)
            self._held += len(part)

    def finish(self) -> Iterator[Frames]:
        """See `Stage`."""
        if self._pending:
            yield np.concatenate(self._pending)


def join_observed(parts: list[Observed]) -> Observed:
    """Rollouts of successive chunks as one."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], 1)

    return Observed(
        embed=joined("embed"),
        action=joined("action"),
        is_first=joined("is_first"),
        post=join_states([part.post for part in parts]),
        prior_logits=joined("prior_logits"),
        context=joined("context"),
        previous=joined("previous"),
        carry=parts[-1].carry,
    )
