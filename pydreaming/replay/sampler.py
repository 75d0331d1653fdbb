"""Draws batches of token sequences from a replay index: seeded, resumable, and by groups.

Shapes: B sequences of T steps, D values of a token, A of an action.

For the drawing all tokens stand on one line, the episodes sorted by group (`_Line`), so that a group is an interval of it:

    |  group 0               |  group 1      |  group 2 …
    |episode 0 |episode 3    |episode 1      |episode 2 …
    |clip|clip |clip   |clip |clip           |clip|clip
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pydreaming.errors import DamagedError, ReplayError
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.priority import Curiosity, Layout, Priorities
from pydreaming.replay.schema import ACTION_DTYPE, ID_STEPS, MAX_START_SAMPLE, START_DTYPE, TOKEN_DTYPE
from pydreaming.replay.shard import Raw

_ROUNDS = 8  # of random drawing before sequences are laid side by side
_REDRAWS = 10  # when files are evicted faster than they can be fetched, something is wrong


@dataclass(frozen=True)
class Batch:
    """B sequences of consecutive steps, each of one episode.

    tokens (B, T, D) float16 (float32 once `Trainer.prepared`); is_first (B, T) bool, always True at step 0; action (B, T, A) float32;
    token_id (B, T) int64, where a window begins: its item times MAX_START_SAMPLE, and ID_STEPS for each stride of tokens from the item's
    beginning (windows of one item less than half of ID_STEPS apart are the same audio, though perhaps augmented otherwise), -1 on padding;
    group (B,) int32, equal where the groups are, valid within this batch only; mask (B, T) bool, False on padding, where tokens and actions
    are 0 and is_first is False; mixed (B,) bool, all True where the sequences are drawn from all groups together, all False where from one.
    """

    tokens: NDArray[np.float16 | np.float32]
    is_first: NDArray[np.bool_]
    action: NDArray[np.float32]
    token_id: NDArray[np.int64]
    group: NDArray[np.int32]
    mask: NDArray[np.bool_]
    mixed: NDArray[np.bool_]


class PriorityState(msgspec.Struct, forbid_unknown_fields=True):
    """See `Priorities.state`; `open`: cells of each batch whose losses are not told yet."""

    files: dict[str, Annotated[int, msgspec.Meta(ge=0, le=2**31)]]
    visits: str
    loss: str
    open: list[list[int]]


class SamplerState(msgspec.Struct, forbid_unknown_fields=True):
    """PCG64's state; the two 128-bit numbers are hexadecimal, as JSON readers may not hold them."""

    state: str
    inc: str
    has_uint32: int
    uinteger: int
    priority: PriorityState | None = None


@dataclass(frozen=True)
class _Line:
    """The index on one line. Positions are int64 tokens from its beginning; E episodes, C clips, G groups."""

    episode: NDArray[np.int64]  # (E,) number in the index
    base: NDArray[np.int64]  # (E + 1,) position of each episode
    cells: NDArray[np.int64]  # (E + 1,) before each episode: sequences that fit side by side
    group: NDArray[np.int32]  # (E,)
    group_base: NDArray[np.int64]  # (G + 1,) position of each group
    clip: NDArray[np.int64]  # (C,) position of each clip
    item: NDArray[np.int32]  # (C,)
    is_first: NDArray[np.bool_]  # (tokens,) True where a clip begins

    @property
    def tokens(self) -> int:
        return int(self.base[-1])


@dataclass(frozen=True)
class _Cells:
    """Cells in the order of the line: position (N + 1,) of each, and its number (N,) in the order of the index."""

    base: NDArray[np.int64]
    table: NDArray[np.int64]


class ReplaySampler:
    """Draws batches, in an order that depends on the index's content and the seed only.

    One batch:

    1. With probability `group_share` it comes from one group, drawn in proportion to the groups' tokens; else from all groups together.
    2. A sequence is drawn as a token, uniformly. With probability `cut_share` the sequence begins at that token; else at the start of
       the token's clip, or, in a clip longer than `batch_length`, a whole number of `batch_length` after that start, so that every
       part of a long recording is seen equally often. Where the episode ends too early the sequence is moved back to fit.
       An episode shorter than `batch_length` is one sequence with padding.
    3. Sequences of a batch do not overlap as long as the chosen group has room for `batch_size` of them side by side (an episode of n
       tokens has room for n // batch_length, at least one). Where chance leaves too little room, they are laid side by side.
       A group with too little room gives all that it has, and further groups, drawn in the same way, fill up the batch. Only when the
       whole store has too little room do sequences overlap or repeat.
    4. The sequences are shuffled within the batch.

    With `curiosity` a share of step 2's tokens is drawn within cells that are themselves drawn by priority (`replay.priority`), and every
    batch must be answered with `learn`. Groups are drawn as without it.

    Args:
      index: refreshed by the caller, at any time between batches.
      batch_size: B. batch_length: T, at least 1. group_share, cut_share: probabilities. seed: any natural number.
    """

    def __init__(
        self,
        index: ReplayIndex,
        batch_size: int,
        batch_length: int,
        group_share: float,
        cut_share: float,
        seed: int,
        curiosity: Curiosity | None = None,
    ) -> None:
        if batch_size < 1 or batch_length < 1 or not 0 <= group_share <= 1 or not 0 <= cut_share <= 1:
            raise ValueError("batch_size and batch_length must be at least 1, group_share and cut_share in [0, 1]")
        self._index, self._size, self._length = index, batch_size, batch_length
        self._group_share, self._cut_share = group_share, cut_share
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._version = -1
        self._line: _Line
        self._curiosity = curiosity
        self._priorities: Priorities | None = None
        self._cells: _Cells
        self._open = deque[NDArray[np.int64]]()  # cells of the sequences of each batch that `learn` has not answered
        self._before = (self._random(), 0)  # and open batches, when the last one was begun

    def sample(self) -> Batch:
        """The next batch. What is evicted from a distant store before it was fetched is drawn anew, after a look at the store; so is
        what turns out to be damaged, without that file.

        Raises:
          ReplayError: the store is empty, or nothing in it can be read. UnreachableError: the store does not answer.
        """
        self._before = (self._random(), len(self._open))
        vanished = 0
        while vanished < _REDRAWS:
            if self._index.tokens == 0:
                damage = f"; {len(self._index.damaged)} files are damaged" if self._index.damaged else ""
                raise ReplayError(f"the replay store {self._index.location} holds no episode yet{damage}")
            if self._version != self._index.version:
                self._renew()
            start, mixed = self._plan()
            try:
                return self._read(start[self._rng.permutation(len(start))], mixed)
            except DamagedError as e:
                self._index.leave_out(e)
            except FileNotFoundError:
                vanished += 1
                self._index.refresh(patient=True)
        raise ReplayError(f"the files of {self._index.location} vanish before they can be read")

    def learn(self, losses: NDArray[np.float32] | None) -> None:
        """Take in what training on the oldest unanswered batch has shown: (B,) losses, not finite where not known; None: nothing."""
        if self._priorities is not None:
            self._priorities.hear(self._open.popleft(), losses)

    def state_dict(self, before_last: bool = False) -> dict[str, Any]:
        """The state, ready for JSON. With it and an index of the same content the next batches are the same.

        Args:
          before_last: as it was before the last call of `sample`, which is then the next one; nothing may have been learnt since.
        """
        random, count = self._before if before_last else (self._random(), len(self._open))
        if self._priorities is None:
            return random
        return random | {"priority": self._priorities.state() | {"open": [cells.tolist() for cells in list(self._open)[:count]]}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Priorities are taken over where both have them. Raises ReplayError: it is not one."""
        try:
            s = msgspec.convert(state, SamplerState)
            inner = {"state": int(s.state, 16), "inc": int(s.inc, 16)}
            self._rng.bit_generator.state = {
                "bit_generator": "PCG64",
                "state": inner,
                "has_uint32": s.has_uint32,
                "uinteger": s.uinteger,
            }
            self._open.clear()
            self._priorities, self._version = None, -1
            if s.priority is not None and self._curiosity is not None:
                self._priorities = Priorities.of_state(self._curiosity, s.priority.files, s.priority.visits, s.priority.loss)
                self._open.extend(self._priorities.checked(cells) for cells in s.priority.open)
        except (msgspec.MsgspecError, ValueError, OverflowError, TypeError) as e:
            raise ReplayError(f"not a sampler state: {e}") from e

    def _random(self) -> dict[str, Any]:
        """State of the random numbers."""
        state: dict[str, Any] = dict(self._rng.bit_generator.state)
        inner = state["state"]
        return {
            "state": hex(inner["state"]),
            "inc": hex(inner["inc"]),
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }

    def _renew(self) -> None:
        """Follow the index."""
        self._line, self._version = _line(self._index, self._length), self._index.version
        if self._curiosity is None:
            return
        layout = _layout(self._index, self._line, self._length)
        within = np.arange(len(layout.line)) - np.repeat(self._line.cells[:-1], np.diff(self._line.cells))
        base = np.repeat(self._line.base[:-1], np.diff(self._line.cells)) + within * self._length
        self._cells = _Cells(np.append(base, self._line.tokens), np.argsort(layout.line))
        if self._priorities is None:
            self._priorities = Priorities(self._curiosity, layout)
        else:
            self._open = deque(self._priorities.move(layout, self._open))

    def _plan(self) -> tuple[NDArray[np.int64], bool]:
        """(B,) positions of the sequences on the line, and whether they are drawn from all of it."""
        whole = (0, self._line.tokens)
        mixed = self._rng.random() >= self._group_share
        pools = iter([whole]) if mixed else self._groups()
        starts: list[int] = []
        for low, high in pools:
            starts += self._draw(low, high, self._size - len(starts))
            if len(starts) == self._size:
                break
        if len(starts) < self._size:
            starts += self._candidates(*whole, self._size - len(starts))[0].tolist()
        return np.array(starts, np.int64), mixed

    def _groups(self) -> Iterator[tuple[int, int]]:
        """The intervals of all groups, each once, drawn in proportion to their tokens without replacement."""
        base, used = self._line.group_base, set[int]()
        count, draws = len(base) - 1, 1
        while len(used) < count and draws <= 4096:  # beyond that a few large groups hide the rest
            for group in (np.searchsorted(base, self._rng.integers(0, base[-1], draws), side="right") - 1).tolist():
                if group not in used:
                    used.add(group)
                    yield int(base[group]), int(base[group + 1])
            draws *= 4
        rest = np.array(sorted(set(range(count)) - used), np.int64)
        for group in self._rng.permutation(rest).tolist():
            yield int(base[group]), int(base[group + 1])

    def _draw(self, low: int, high: int, count: int) -> list[int]:
        """Up to `count` sequences of the interval that do not overlap; fewer only where there is no room for them."""
        line = self._line
        first, last = line.base.searchsorted((low, high)).tolist()
        room = int(line.cells[last] - line.cells[first])
        if room >= count:
            begins, ends = list[int](), list[int]()
            curious = self._by_priority(first, last, count)
            for turn in range(_ROUNDS):
                begin, end = self._candidates(low, high, count, () if turn else curious)
                if not turn:  # mostly there is room for all of them
                    order = begin.argsort()
                    if (end[order[:-1]] <= begin[order[1:]]).all():
                        found: list[int] = begin[order].tolist()
                        return found
                for interval in zip(begin.tolist(), end.tolist(), strict=True):
                    _insert(begins, ends, *interval)
                    if len(begins) == count:
                        return begins
        return self._side_by_side(first, last, count)

    def _by_priority(self, first: int, last: int, count: int) -> Sequence[int] | NDArray[np.int64]:
        """Tokens (n,) of the episodes `first` to `last` of the line for as many of `count` sequences as are drawn by priority."""
        if self._priorities is None or self._curiosity is None:
            return ()
        low, high, n = int(self._line.cells[first]), int(self._line.cells[last]), int(self._curiosity.share * count)
        chance, within = self._rng.random((2, n))
        # One draw from each nth of the mass (as in arXiv 1511.05952, appendix B.2.1): the same shares, and seldom a cell twice in a batch.
        cell = self._priorities.draw(low, high, (np.arange(n) + chance) / max(1, n))
        begin = self._cells.base[cell]
        token: NDArray[np.int64] = begin + (within * (self._cells.base[cell + 1] - begin)).astype(np.int64)
        return token

    def _candidates(
        self, low: int, high: int, count: int, given: Sequence[int] | NDArray[np.int64] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where `count` sequences in an interval begin and end, for the `given` tokens and then for random ones; they may overlap."""
        line = self._line
        token = self._rng.integers(low, high, count)
        token[: len(given)] = given
        cut = self._rng.random(count) < self._cut_share
        clip = line.clip[line.clip.searchsorted(token, "right") - 1]
        episode = line.base.searchsorted(token, "right") - 1
        base, end = line.base[episode], line.base[episode + 1]
        begin = np.where(cut, token, token - (token - clip) % self._length)
        begin = np.maximum(np.minimum(begin, end - self._length), base)
        return begin, np.minimum(begin + self._length, end)

    def _side_by_side(self, first: int, last: int, count: int) -> list[int]:
        """Up to `count` of the cells of the episodes `first` to `last` of the line, cut from each episode's start or, with
        probability `cut_share`, from a random step that costs no cell."""
        line, length = self._line, self._length
        cells = np.diff(line.cells[first : last + 1])
        base, steps = line.base[first:last], np.diff(line.base[first : last + 1])
        cut = self._rng.random(len(cells)) < self._cut_share
        spare = np.maximum(steps - cells * length, 0)
        origin = base + np.where(cut, self._rng.integers(0, spare + 1), 0)
        number = np.arange(cells.sum()) - np.repeat(np.cumsum(cells) - cells, cells)
        begin = np.repeat(origin, cells) + number * length
        chosen: list[int] = self._rng.permutation(begin)[:count].tolist()
        return chosen

    def _read(self, position: NDArray[np.int64], mixed: bool) -> Batch:
        """The batch of sequences that begin at the given positions (B,) of the line."""
        line, meta, shape = self._line, self._index.meta, (len(position), self._length)
        assert meta is not None  # the index holds episodes
        place = line.base.searchsorted(position, "right") - 1
        start = position - line.base[place]
        count = np.minimum(line.base[place + 1] - position, self._length)
        steps = np.arange(self._length)
        mask = steps < count[:, None]
        whole = bool((count == self._length).all())
        fill = np.empty if whole else np.zeros
        obs = fill((*shape, meta.token_dim), TOKEN_DTYPE)
        action = fill((*shape, meta.action_dim), ACTION_DTYPE)
        begin = fill(shape, START_DTYPE)
        self._index.read_into(line.episode[place], start, count, Raw(_bytes(obs), _bytes(action), _bytes(begin)))

        # (B, T); a position behind the sequence's end, which belongs to another episode, is replaced by its own beginning
        step = position[:, None] + steps
        is_first = line.is_first[step if whole else np.where(mask, step, position[:, None])]
        is_first[:, 0] = False
        first_clip = line.clip.searchsorted(position, "right") - 1
        if not whole:
            is_first &= mask
        item = line.item[first_clip[:, None] + is_first.cumsum(1)].astype(np.int64)
        stride = meta.token_stride
        token_id = item * MAX_START_SAMPLE + begin * ID_STEPS // stride
        if not whole:
            token_id[~mask] = -1
        # Not on padding: every reset is a row of its own to a fused recurrent kernel, and padding would make thousands.
        is_first[:, 0] = True
        if self._priorities is not None:
            self._open.append(self._cells.table[self._cells.base.searchsorted(position + (count - 1) // 2, "right") - 1])
        return Batch(obs, is_first, action, token_id, line.group[place], mask, np.full(len(position), mixed))


def _line(index: ReplayIndex, length: int) -> _Line:
    """Put the index on one line, group by group."""
    order = np.argsort(index.group_ids, kind="stable")
    steps, group = index.lengths[order].astype(np.int64), index.group_ids[order]
    base = np.concatenate([[0], np.cumsum(steps)])
    counts = np.diff(index.clip_offsets)[order]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    clip = np.repeat(index.clip_offsets[:-1][order], counts) + within  # clips of the index in the order of the line
    position = np.repeat(base[:-1], counts) + index.clip_start[clip]
    is_first = np.zeros(int(base[-1]), np.bool_)
    is_first[position] = True
    return _Line(
        episode=order,
        base=base,
        cells=np.concatenate([[0], np.cumsum(_cells(index, length)[order])]),
        group=group,
        group_base=base[np.searchsorted(group, np.arange(len(index.groups) + 1))],
        clip=position,
        item=index.clip_item[clip],
        is_first=is_first,
    )


def _layout(index: ReplayIndex, line: _Line, length: int) -> Layout:
    """Where the cells of the index are."""
    cells, begin = _cells(index, length), np.empty(index.episodes, np.int64)
    begin[line.episode] = line.cells[:-1]
    within = np.arange(cells.sum()) - np.repeat(np.cumsum(cells) - cells, cells)
    before = np.concatenate([[0], np.cumsum(cells)])
    return Layout(index.names, np.diff(before[index.first]), np.repeat(begin, cells) + within)


def _cells(index: ReplayIndex, length: int) -> NDArray[np.int64]:
    """(E,) sequences that fit side by side into each episode, in the order of the index."""
    return np.maximum(index.lengths // length, 1).astype(np.int64)


def _insert(begins: list[int], ends: list[int], begin: int, end: int) -> None:
    """Add the interval to the sorted, disjoint ones unless it overlaps one of them."""
    at = bisect_left(begins, begin)
    if (at == 0 or ends[at - 1] <= begin) and (at == len(begins) or end <= begins[at]):
        begins.insert(at, begin)
        ends.insert(at, end)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """(B, …) as (B, bytes), sharing memory."""
    return array.reshape(len(array), -1).view(np.uint8)
