"""Which stretches of a store deserve another look: those seldom heard, and those badly predicted.

A *cell* is as much of an episode as one sequence holds; what is left at the episode's end belongs to its last cell. Cells have two orders:

    table   as the index has them: file by file, so that what is known of a file moves with it when others come and go
    line    as the sampler has them: group by group, so that a group is an interval

A draw takes a random part of an interval's mass. Sums are kept of blocks of cells, not of a tree of pairs: numpy adds a block of some
hundred numbers in the time of one call, and a draw has two levels to go.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pydreaming.config import ReplayConfig

_ONCE = np.float32(1)
EPSILON = 0.01  # added to a loss, so that what is predicted perfectly keeps a chance


@dataclass(frozen=True)
class Curiosity:
    """Priority of a cell that was heard v times, at the last of them with loss L: min(cap, visits * decay^v + (|L| + EPSILON)^power).

    Source: Kauvar et al. 2023, "Curious Replay for Model-based Adaptation" (arXiv 2306.15934), eq. 1.

    share: of a batch's sequences that are drawn by priority, at most half; the others are uniform, so whatever priorities come to, each
      token keeps at least half of its chance.
    """

    share: float
    visits: float
    decay: float
    power: float
    cap: float

    @staticmethod
    def of(config: ReplayConfig) -> Curiosity | None:
        """What the configuration asks for; None for uniform drawing."""
        c = config
        if c.priority == "uniform":
            return None
        return Curiosity(c.priority_share, c.priority_visits, c.priority_decay, c.priority_power, c.priority_cap)

    def priority(self, visits: NDArray[np.float32], loss: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of cells with these counts and losses, any shape."""
        priority = self.visits * self.decay**visits  # float32, as the arrays are
        priority += (np.abs(loss) + EPSILON) ** self.power
        return cast(NDArray[np.float32], np.minimum(priority, self.cap, out=priority))


class Sums:
    """Positive weights (N,) of which one can be drawn, by any interval, and changed.

    Sums are made anew from the weights, never by adding differences: they depend on the weights alone, not on how these came about.
    """

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self._count = len(weights)
        self._shift = max(4, (max(1, self._count).bit_length() - 1) // 2)  # blocks of about the square root of N
        blocks = (self._count >> self._shift) + 1
        self._blocks = np.zeros((blocks, 1 << self._shift), np.float32)
        self._flat = self._blocks.reshape(-1)
        self._flat[: self._count] = weights
        self._sums = self._blocks.sum(1, dtype=np.float64)
        self._before = np.zeros(blocks + 1)
        self._before[1:] = np.cumsum(self._sums)
        self._before[-1] = np.inf  # so that no rounding leads beyond the last block

    def change(self, places: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        """Give new weights to places (n,); of a place named twice, the last counts."""
        self._flat[places] = weights
        blocks = places >> self._shift
        self._sums[blocks] = np.add.reduce(self._blocks[blocks], 1, np.float64)
        self._sums.cumsum(out=self._before[1:])
        self._before[-1] = np.inf

    def draw(self, low: int, high: int, chance: NDArray[np.float64]) -> NDArray[np.int64]:
        """Places (n,) in [low, high), in proportion to their weights; `chance` (n,) in [0, 1) decides."""
        begin = self._mass(low)
        mass = begin + chance * (self._mass(high) - begin)
        block = self._before.searchsorted(mass, "right") - 1
        within = np.add.accumulate(self._blocks[block], 1, np.float64)
        place = (block << self._shift) + np.add.reduce(within <= (mass - self._before[block])[:, None], 1)
        return cast(NDArray[np.int64], np.minimum(np.maximum(place, low), high - 1))  # sums of another order differ by rounding

    def _mass(self, place: int) -> float:
        """Of all before a place."""
        block, rest = place >> self._shift, place & ((1 << self._shift) - 1)
        return self._before.item(block) + float(np.add.reduce(self._blocks[block, :rest], None, np.float64))


@dataclass(frozen=True)
class Layout:
    """Where cells are. names: of the files, in the index's order; counts (F,) cells of each; line (N,) place of each cell on the line."""

    names: Sequence[str]
    counts: NDArray[np.int64]
    line: NDArray[np.int64]

    @property
    def begins(self) -> NDArray[np.int64]:
        """(F + 1,) first cell of each file in the table."""
        return np.concatenate([[0], np.cumsum(self.counts)])


class Priorities:
    """What is known of the cells of a store, and draws by it.

    Attributes:
      curiosity: the rule. visits (N,) float32 times that a sequence's middle was in the cell. loss (N,) float32 of the last of them that
      told one, 0 before.
    """

    def __init__(self, curiosity: Curiosity, layout: Layout) -> None:
        self.curiosity = curiosity
        self._gone = False  # cells that somebody still has to ask about may be
        self._place(layout, *np.zeros((2, int(layout.counts.sum())), np.float32))

    def move(self, layout: Layout, cells: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """The store has changed: what is known of files that stay goes with them. Cells are brought to the new table; -1: gone."""
        old, new = self._layout, layout
        place = {name: number for number, name in enumerate(new.names)}
        to = np.array([place.get(name, -1) for name in old.names], np.int64)
        to[(to >= 0) & (old.counts != new.counts[to])] = -1  # another file of the same name
        shift = np.where(to >= 0, new.begins[to] - old.begins[:-1], 0)
        stays = np.repeat(to >= 0, old.counts)
        target = (np.arange(len(stays)) + np.repeat(shift, old.counts))[stays]
        visits, loss = np.zeros((2, int(new.counts.sum())), np.float32)
        visits[target], loss[target] = self.visits[stays], self.loss[stays]
        self._gone = True
        file = [np.searchsorted(old.begins, cell, "right") - 1 for cell in cells]
        moved = [
            np.where((cell >= 0) & (to[number] >= 0), cell + shift[number], -1) if len(to) else np.full_like(cell, -1)
            for cell, number in zip(cells, file, strict=True)
        ]
        self._place(layout, visits, loss)
        return moved

    def draw(self, low: int, high: int, chance: NDArray[np.float64]) -> NDArray[np.int64]:
        """Places on the line, see `Sums.draw`."""
        return self._sums.draw(low, high, chance)

    def hear(self, cells: NDArray[np.int64], losses: NDArray[np.float32] | None) -> None:
        """Sequences whose middles lie in these cells (n,) of the table (-1: gone) were trained on.

        losses: (n,) of each; not finite where it was not told; None: of none.
        """
        if self._gone:
            there = cells >= 0
            losses, cells = None if losses is None else losses[there], cells[there]
        np.add.at(self.visits, cells, _ONCE)
        if losses is not None and math.isfinite(np.add.reduce(losses)):
            self.loss[cells] = losses
        elif losses is not None:
            told = np.isfinite(losses)
            self.loss[cells[told]] = losses[told]
        self._sums.change(self._layout.line[cells], self.curiosity.priority(self.visits[cells], self.loss[cells]))

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "files": dict(zip(self._layout.names, self._layout.counts.tolist(), strict=True)),
            "visits": base64.b64encode(self.visits.astype("<f4").tobytes()).decode("ascii"),
            "loss": base64.b64encode(self.loss.astype("<f4").tobytes()).decode("ascii"),
        }

    @staticmethod
    def of_state(curiosity: Curiosity, files: Mapping[str, int], visits: str, loss: str) -> Priorities:
        """What `state` gave, of the store as it was then; `move` brings it to the present one. Raises ValueError."""
        heard, told = _floats(visits, sum(files.values())), _floats(loss, sum(files.values()))
        made = Priorities(curiosity, Layout([], np.empty(0, np.int64), np.empty(0, np.int64)))
        made._place(Layout(list(files), np.array(list(files.values()), np.int64), np.arange(len(heard))), heard, told)
        made._gone = True
        return made

    def checked(self, cells: Sequence[int]) -> NDArray[np.int64]:
        """Cells of the table, or -1 for none. Raises ValueError: they are not."""
        found = np.array(cells, np.int64)
        if found.size and not -1 <= found.min() <= found.max() < len(self.visits):
            raise ValueError(f"cells outside of the {len(self.visits)} that there are")
        return found

    def _place(self, layout: Layout, visits: NDArray[np.float32], loss: NDArray[np.float32]) -> None:
        self._layout, self.visits, self.loss = layout, visits, loss
        weights = np.empty(len(visits), np.float32)
        weights[layout.line] = self.curiosity.priority(visits, loss)
        self._sums = Sums(weights)


def _floats(text: str, count: int) -> NDArray[np.float32]:
    """Raises ValueError."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except binascii.Error as e:
        raise ValueError(f"priorities are no numbers: {e}") from e
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"priorities of {len(values)} cells for {count}, or not finite")
    return values
