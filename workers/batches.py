"""Batches drawn one ahead, by a thread of their own, so that training does not wait for them.

    training   | step n        | step n + 1        | ...            take() gives n + 1, and orders n + 2
    drawing    | look, draw n+1| learn n, draw n+2 | ...

What a step has shown (`learn`) is told to the sampler with the next order, whatever the threads do: batches depend on the store, the seed
and the steps alone. The thread is the only one that touches the store while training goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pydreaming.config import Config
from pydreaming.errors import ReplayError
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.priority import Curiosity
from pydreaming.replay.sampler import Batch, ReplaySampler

MEANWHILE_S = 1.0

Losses = NDArray[np.float32] | None


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept beside the sampler's state: losses of steps that it has not been told of; None in the place of what is not finite."""

    told: list[list[float | None] | None] = []


def make_sampler(index: ReplayIndex, config: Config) -> ReplaySampler:
    """Draws the batches that a run of this configuration trains on."""
    t, r = config.training, config.replay
    return ReplaySampler(index, t.batch_size, t.batch_length, r.group_share, r.cut_share, config.run.seed, Curiosity.of(r))


class Batches:
    """Draws ahead from a sampler, which is not to be used otherwise in the meantime.

    Args:
      look: called before each draw: the time to look for new files.
      prepare: called with each batch, on the drawing thread.
      meanwhile: called every MEANWHILE_S while the drawing thread is waited for: a distant store may keep it for minutes.
    Every method raises what `look`, the sampler, `prepare` or `meanwhile` raise.
    """

    def __init__(
        self,
        sampler: ReplaySampler,
        look: Callable[[], None] = lambda: None,
        prepare: Callable[[Batch], Batch] = lambda batch: batch,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self._sampler, self._look, self._prepare, self._meanwhile = sampler, look, prepare, meanwhile
        self._thread = ThreadPoolExecutor(1, "batches")
        self._told: list[Losses] = []
        self._ahead: Future[Batch] | None = None
        self._sampled = False  # a draw has reached the sampler whose batch is not taken: it is ahead, or has failed
        self._given: Batch | None = None  # kept while it is trained on: a GPU may still be reading its memory

    def take(self) -> Batch:
        """The next batch; waits for it where it is not ready."""
        # The first is drawn before anything is told, also after a resume: the uninterrupted run had drawn it before the step ended.
        ahead, self._ahead = self._ahead or self._thread.submit(self._draw, []), None
        self._wait_for(ahead)
        self._given = ahead.result()
        self._ahead = self._thread.submit(self._draw, self._told)
        self._told = []
        return self._given

    def learn(self, losses: Losses) -> None:
        """What the step on the batch taken last has shown, see `ReplaySampler.learn`."""
        self._told.append(losses)

    def look(self) -> None:
        """Look for new files now, while there is nothing to train on."""
        looking = self._thread.submit(self._look)
        self._wait_for(looking)
        looking.result()

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state from which `take` goes on as it would have; ready for JSON."""
        if self._ahead is not None:
            self._wait_for(self._ahead)
        told = [None if losses is None else [float(x) if np.isfinite(x) else None for x in losses] for losses in self._told]
        return self._sampler.state_dict(before_last=self._sampled) | ({"told": told} if told else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, before the first `take`. Raises ReplayError: it is not one."""
        self._sampler.load_state_dict({name: value for name, value in state.items() if name != "told"})
        try:
            told = msgspec.convert({name: value for name, value in state.items() if name == "told"}, Told).told
        except msgspec.ValidationError as e:
            raise ReplayError(f"not a sampler state: {e}") from e
        self._told = [None if losses is None else np.array(losses, np.float32) for losses in told]

    def close(self) -> None:
        """End the thread, after what it is doing."""
        self._thread.shutdown()

    def _wait_for(self, future: Future[Any]) -> None:
        while wait([future], MEANWHILE_S).not_done:
            self._meanwhile()

    def _draw(self, told: list[Losses]) -> Batch:
        self._sampled = False
        for losses in told:
            self._sampler.learn(losses)
        self._look()
        self._sampled = True
        return self._prepare(self._sampler.sample())
