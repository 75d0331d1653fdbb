"""The processes of one learner: rank 0 leads, the others follow its orders.

    leader      replay, coordinator, metrics, checkpoints ── order + rows of the batch ──> followers      each trains on its own rows
                                                                 (gloo, CPU memory)

Only the leader draws batches, as a learner alone would, and deals row i to rank i mod R: so no two ranks have the same row, the next batch
after a resume is the one it would have been, and the number of processes may change in between. Batches are small beside what a GPU makes
of them. A rank that is lost ends all others; `workers.learners` (or torchrun) starts them again, from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist

from pydreaming.config import Config
from pydreaming.errors import ConfigError, PydreamingError
from pydreaming.models.ranks import ALONE, Ranks
from pydreaming.replay.sampler import Batch
from pydreaming.replay.schema import ACTION_DTYPE, TOKEN_DTYPE
from pydreaming.training.checkpoint import restore
from pydreaming.training.trainer import Trainer

IDLE, SET_UP, STEP, END = range(4)  # orders
SILENCE = timedelta(minutes=5)  # without an order, or in the middle of a step, after which a rank takes the others to be lost
AGAIN = timedelta(seconds=1)  # between two looks for who leads
IDLE_S = 30.0  # between two orders to go on waiting


class LostRankError(PydreamingError):
    """Another process of this learner has died or hangs."""


@dataclass(frozen=True)
class SetUp:
    """Make a trainer for data of these widths; weights and optimisers from `checkpoint`, unless it is None."""

    token_dim: int
    action_dim: int
    checkpoint: Path | None


@dataclass(frozen=True)
class Step:
    """Train on these rows; `progress` is the share of the run that is over."""

    batch: Batch
    progress: float


class Team:
    """This process's place among the learner's; alone, all orders are for nobody.

    Args:
      config: of the run. ranks: as torchrun's environment has them (`ranks_of_environment`).
    Raises:
      ConfigError: the ranks cannot share a batch evenly. LostRankError: (all methods) another rank is gone.
    """

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        # torchrun has the last word on their number, so this is not among the configuration's checks.
        if config.training.batch_size % ranks.size:
            raise ConfigError(
                f"training.batch_size {config.training.batch_size} must be a multiple of the {ranks.size} processes that share it"
            )
        self._shape = (config.training.batch_size // ranks.size, config.training.batch_length)
        self._widths = (0, 0)
        self._said = time.monotonic()
        if ranks.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with others_there():
                dist.init_process_group(backend, timeout=SILENCE, **_meeting_place(ranks))

    # -- the leader's side --------------------------------------------------------------------------------------------------------------

    def set_up(self, token_dim: int, action_dim: int, checkpoint: Path | None) -> None:
        """Everybody makes a trainer now; so does the caller."""
        self._widths = (token_dim, action_dim)
        path = np.frombuffer(str(checkpoint.absolute()).encode() if checkpoint else b"", np.uint8)
        self._order(SET_UP, token_dim, action_dim, len(path))
        if self.ranks.size > 1 and len(path):
            with others_there():
                dist.broadcast(torch.from_numpy(path.copy()), 0)

    def share(self, batch: Batch, progress: float) -> Batch:
        """Everybody trains on rows of a batch of B; the caller's own are returned (all of them, when alone)."""
        if self.ranks.size == 1:
            return batch
        parts = [_rows(batch, rank, self.ranks.size) for rank in range(self.ranks.size)]
        self._order(STEP, progress)
        buffers = [_pack(part) for part in parts]
        with others_there():
            dist.scatter(torch.empty_like(buffers[0]), buffers, 0)
        return parts[0]

    def spread(self, own: torch.Tensor) -> NDArray[np.float32]:
        """Values of the caller's rows of a batch of B, (B / R,), as (B,) of all of it: nan where a row is another's."""
        values = np.full(len(own) * self.ranks.size, np.nan, np.float32)
        values[self.ranks.rank :: self.ranks.size] = own.cpu().numpy()
        return values

    def idle(self) -> None:
        """Nothing to train on yet: keeps the others waiting."""
        if time.monotonic() - self._said > IDLE_S:
            self._order(IDLE)

    def dismiss(self) -> None:
        """Training is over."""
        self._order(END)

    def _order(self, kind: int, *numbers: float) -> None:
        self._said = time.monotonic()
        if self.ranks.size > 1:
            with others_there():
                dist.broadcast(torch.tensor([kind, *numbers, *[0] * (3 - len(numbers))], dtype=torch.float64), 0)

    # -- the others' side ---------------------------------------------------------------------------------------------------------------

    def follow(self, config: Config) -> int:
        """Do as the leader says until it dismisses; the exit code."""
        trainer: Trainer | None = None
        for order in self._orders():
            if isinstance(order, SetUp):
                with others_there():
                    trainer = Trainer(config, order.token_dim, order.action_dim, self.ranks)
                if order.checkpoint is not None:
                    restore(order.checkpoint, trainer)
            else:
                assert trainer is not None, "a step before the trainer is set up"
                with others_there():
                    trainer.train_step(trainer.to_device(order.batch), order.progress)
        return 0

    def _orders(self) -> Iterator[SetUp | Step]:
        while True:
            numbers = torch.zeros(4, dtype=torch.float64)
            with others_there():
                dist.broadcast(numbers, 0)
            kind, a, b, c = numbers.tolist()
            if kind == END:
                return
            if kind == SET_UP:
                self._widths = (int(a), int(b))
                yield SetUp(*self._widths, self._hear_path(int(c)))
            elif kind == STEP:
                empty = _empty(*self._shape, *self._widths)
                buffer = _pack(empty)
                with others_there():
                    dist.scatter(buffer, None, 0)
                yield Step(_unpack(buffer, empty), a)

    @staticmethod
    def _hear_path(length: int) -> Path | None:
        if not length:
            return None
        buffer = torch.empty(length, dtype=torch.uint8)
        with others_there():
            dist.broadcast(buffer, 0)
        return Path(buffer.numpy().tobytes().decode())


@contextmanager
def others_there() -> Iterator[None]:
    """PyTorch reports a lost peer, and one that is silent for too long, in several ways; here it is LostRankError."""
    try:
        yield
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "gloo" not in str(e):
            raise
        raise LostRankError(f"another process of this learner is lost: {str(e).splitlines()[0][:200]}") from e


def ranks_of_environment() -> Ranks:
    """Where torchrun (or `workers.learners`) has put this process; alone without either."""
    found = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not all(value.isdecimal() for value in found.values()):
        return ALONE
    return Ranks(int(found["RANK"]), int(found["WORLD_SIZE"]), int(found["LOCAL_RANK"]))


def _meeting_place(ranks: Ranks) -> dict[str, Any]:
    """Where the ranks learn each other's addresses, as arguments of `init_process_group`.

    torchrun (2.11) keeps one store for all its starts, though PyTorch takes it for a new one each time: a rank that is quick would find the
    address of a predecessor, and both would wait for each other for `5 * SILENCE`. So each start has names of its own in it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}  # a store of rank 0, which is new
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False, SILENCE)  # type: ignore[attr-defined]
    name = _name_of_start(store, ranks)
    return {"store": dist.PrefixStore(name, store), "rank": ranks.rank, "world_size": ranks.size}  # type: ignore[attr-defined]


def _name_of_start(store: Any, ranks: Ranks) -> str:
    """A name that the leader has made up, and that each of the others has had confirmed: one of an earlier start answers nobody.

    Not the number of the start: the agent of a host that has come in for another begins to count at 0.
    """
    mine = uuid.uuid4().hex
    if ranks.rank == 0:
        store.set("leader", mine)
        for rank in range(1, ranks.size):
            store.set(f"{store.get(f'{mine}/{rank}').decode()}/seen", "")
        return mine
    end = time.monotonic() + SILENCE.total_seconds()
    while time.monotonic() < end:
        leader = str(store.get("leader").decode())
        store.set(f"{leader}/{ranks.rank}", mine)
        with contextlib.suppress(dist.DistStoreError):  # it was not there yet: perhaps that leader was an earlier one
            store.wait([f"{mine}/seen"], AGAIN)
            return leader
    raise LostRankError("the first process of this learner does not answer")


def started_again() -> bool:
    """Whether this process takes the place of one that died, so that training goes on from its checkpoint."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_start_again() -> bool:
    """Whether the processes will be started again when one ends with an error."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def _fields(batch: Batch) -> list[NDArray[np.generic]]:
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


def _rows(batch: Batch, rank: int, size: int) -> Batch:
    return Batch(*(np.ascontiguousarray(array[rank::size]) for array in _fields(batch)))


def _empty(batch: int, length: int, token_dim: int, action_dim: int) -> Batch:
    B, T = batch, length
    return Batch(
        tokens=np.zeros((B, T, token_dim), TOKEN_DTYPE),
        is_first=np.zeros((B, T), np.bool_),
        action=np.zeros((B, T, action_dim), ACTION_DTYPE),
        token_id=np.zeros((B, T), np.int64),
        group=np.zeros(B, np.int32),
        mask=np.zeros((B, T), np.bool_),
        mixed=np.zeros(B, np.bool_),
    )


def _pack(batch: Batch) -> torch.Tensor:
    """All arrays one after the other, as bytes: (N,) uint8."""
    return torch.from_numpy(np.concatenate([array.reshape(-1).view(np.uint8) for array in _fields(batch)]))


def _unpack(buffer: torch.Tensor, like: Batch) -> Batch:
    """The arrays of `_pack`, with the shapes and types of `like`."""
    raw, arrays, at = buffer.numpy(), [], 0
    for array in _fields(like):
        arrays.append(raw[at : at + array.nbytes].view(array.dtype).reshape(array.shape))
        at += array.nbytes
    return Batch(*arrays)
