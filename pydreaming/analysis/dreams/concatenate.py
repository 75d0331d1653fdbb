"""Sound made of real windows: for each imagined one the bank's that fits best, in an order that joins well.

Unit selection: the windows u_1 .. u_N that minimise

    sum_n  target(q_n, u_n)  +  JOIN * sum_n  join(u_{n-1}, u_n)

target  squared distance of keys (see `bank`), in which log-mel error per normalised value counts 1
join    0 where u_n follows u_{n-1} in its recording; else the mean squared difference of the last frame of one and the first of the other,
        and BREAK

by Viterbi over the CANDIDATES nearest windows of each step and the successors of those of the step before. Runs of successive windows play
as they were recorded; between runs the sound is shifted into phase by at most a frame and cross-faded.

Source: A. Hunt, A. Black, "Unit selection in a concatenative speech synthesis system using a large speech database", ICASSP 1996,
section 2. The distances are this project's own, and JOIN and BREAK are set by hand, not trained as in its section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.dreams.bank import Bank, Indices, fade_samples, imagined_keys, tokens_of, unit_samples
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.buffer import Samples
from pydreaming.audio.crossfade import best_shift, overlap_add
from pydreaming.audio.tokens import Frames
from pydreaming.config import FeatureConfig
from pydreaming.errors import UsageError
from pydreaming.models.state import State
from pydreaming.replay.tables import write_table

CANDIDATES = 32
JOIN, BREAK = 0.1, 2.0  # on spoken digits as near as without joins, in runs of four windows instead of one
_ROWS = 8192  # of the bank compared at a time

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Selection:
    """Windows of a bank that stand for N imagined ones: windows (N,) indices, distances (N,) of their keys."""

    windows: Indices
    distances: npt.NDArray[np.float64]


def imagine_sound(
    model: WorldModel, bank: Bank, states: State, exclude: str | None = None, before: Frames | None = None, after: Frames | None = None
) -> tuple[Samples, Selection]:
    """Concatenative sound of imagined states, and what it was made of.

    Args:
      states: (N, ...) of successive windows. exclude: a recording whose file is not to be used, see `origin_of`.
      before, after: (token_dim,) normalised windows that the sound is put between.
    Returns:
      samples ((N - 1) * stride + span,) float32 at the model's rate, which begin with the first window; and the selection.
    Raises:
      UsageError: another model made the bank, or nothing of it is left.
    """
    bank.check(model)
    selection = select(bank, imagined_keys(model, states), model.features, exclude, before, after)
    return concatenate(bank, selection.windows, model.features), selection


def select(
    bank: Bank,
    queries: Array,
    features: FeatureConfig,
    exclude: str | None = None,
    before: Frames | None = None,
    after: Frames | None = None,
) -> Selection:
    """The windows that fit N queries (N, D) and each other best; see `imagine_sound`."""
    allowed = bank.without(exclude)
    if not allowed.any():
        raise UsageError(f"the bank holds nothing but {exclude}, which is left out because it is what the model heard")
    nearest = _nearest(bank, queries, allowed)
    candidates = [nearest[0]]
    for n in range(1, len(queries)):
        next_ones = bank.follows[nearest[n - 1]]
        candidates.append(np.unique(np.concatenate([nearest[n], next_ones[next_ones >= 0]])))
    costs = [np.square(bank.keys[c].astype(np.float32) - queries[n]).sum(1).astype(np.float64) for n, c in enumerate(candidates)]
    path = _viterbi(_Joins(bank, features), candidates, costs, before, after)
    windows = np.array([candidates[n][k] for n, k in enumerate(path)])
    return Selection(windows, np.sqrt([costs[n][k] for n, k in enumerate(path)]))


def concatenate(bank: Bank, windows: Indices, features: FeatureConfig) -> Samples:
    """Sound of windows in a row: ((N - 1) * stride + span,) float32 at the model's rate; sample 0 is the first of the first window."""
    stride, fade = features.token_stride_samples, fade_samples(features)
    runs = np.split(windows, np.flatnonzero(windows[1:] != bank.follows[windows[:-1]]) + 1)
    sound = np.empty(0, np.float32)
    for number, run in enumerate(runs, 1):
        length = (len(run) - 1) * stride + (unit_samples(features) if number == len(runs) else stride + fade)
        room, begin = bank.sound(int(bank.stretch[run[0]]))
        begin += int(bank.place[run[0]]) * stride
        if len(sound):
            low, high = max(0, begin - features.hop_length), min(begin + features.hop_length, len(room) - length)
            begin = low + best_shift(sound[-fade:], room[low : max(high, begin) + fade])
        piece = room[begin : begin + length]
        sound = overlap_add(sound, piece, fade) if len(sound) else piece
    return sound[: (len(windows) - 1) * stride + features.token_span_samples]


def provenance(bank: Bank, selection: Selection, features: FeatureConfig, begins_s: float) -> dict[str, Array]:
    """Where each window of a concatenative sound comes from, as columns (N,).

    Args:
      begins_s: time of the first window in the recording that the sound goes on from.
    Returns:
      time_s: start of the window, s. source, source_start_s: recording, and start in it, s. distance: of the keys, see `bank`.
    """
    stride_s = features.token_stride_samples / features.sample_rate
    windows = selection.windows
    return {
        "time_s": begins_s + np.arange(len(windows)) * stride_s,
        "source": np.array(bank.sources)[bank.source[windows]],
        "source_start_s": bank.window[windows] * stride_s,
        "distance": selection.distances,
    }


def write_provenance(path: Path, parts: Sequence[dict[str, Array]]) -> None:
    """One row a window: sample (1, 2, ... of the parts), and the columns of `provenance`. Raises UsageError, ReplayError."""
    columns = {"sample": np.concatenate([np.full(len(part["time_s"]), k) for k, part in enumerate(parts, 1)])}
    columns |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_table(path, columns, {"what": "pydreaming: the real windows that a sound was made of"})


@dataclass(frozen=True)
class _Joins:
    """Join costs between windows of a bank, and to frames outside it."""

    bank: Bank
    features: FeatureConfig

    def between(self, old: Indices, new: Indices) -> Array:
        """(M, M')."""
        cost = JOIN * (_frames_apart(self._frame(old, -1), self._frame(new, 0)) + BREAK)
        cost[self.bank.follows[old][:, None] == new[None]] = 0.0
        return cost

    def after_token(self, token: Frames, new: Indices) -> Array:
        """(M',) from a window outside the bank."""
        cost: Array = JOIN * _frames_apart(token[None, -self.features.n_mels :], self._frame(new, 0))[0]
        return cost

    def before_token(self, old: Indices, token: Frames) -> Array:
        """(M,) to a window outside the bank."""
        cost: Array = JOIN * _frames_apart(self._frame(old, -1), token[None, : self.features.n_mels])[:, 0]
        return cost

    def _frame(self, windows: Indices, which: int) -> Frames:
        tokens = tokens_of(self.bank.keys[windows], self.features)
        frames: Frames = tokens.reshape(len(windows), self.features.token_frames, self.features.n_mels)[:, which]
        return frames


def _viterbi(joins: _Joins, candidates: list[Indices], costs: list[Array], before: Frames | None, after: Frames | None) -> list[int]:
    """Index of the chosen candidate of each step."""
    total = costs[0] + (0.0 if before is None else joins.after_token(before, candidates[0]))
    back: list[Array] = []
    for n in range(1, len(candidates)):
        through = total[:, None] + joins.between(candidates[n - 1], candidates[n])
        back.append(through.argmin(0))
        total = through.min(0) + costs[n]
    if after is not None:
        total = total + joins.before_token(candidates[-1], after)
    path = [int(total.argmin())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return path[::-1]


def _nearest(bank: Bank, queries: Array, allowed: Array) -> list[Indices]:
    """The CANDIDATES nearest allowed windows of each query, in rising order of index."""
    rows = np.flatnonzero(allowed)
    best = np.full((len(queries), 0), np.inf)
    index = np.empty((len(queries), 0), np.int64)
    norms = np.square(queries).sum(1)[:, None]
    for at in range(0, len(rows), _ROWS):
        part = rows[at : at + _ROWS]
        keys = bank.keys[part].astype(np.float32)
        apart = norms - 2 * queries @ keys.T + np.square(keys).sum(1)
        best = np.concatenate([best, apart], 1)
        index = np.concatenate([index, np.broadcast_to(part, apart.shape)], 1)
        if best.shape[1] > CANDIDATES:
            keep = np.argpartition(best, CANDIDATES - 1, 1)[:, :CANDIDATES]
            best, index = np.take_along_axis(best, keep, 1), np.take_along_axis(index, keep, 1)
    return list(np.sort(index, 1))


def _frames_apart(a: Frames, b: Frames) -> Array:
    """Mean squared difference of frames: (M, n_mels), (M', n_mels) -> (M, M')."""
    squared = np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)
    apart: Array = np.maximum(squared, 0).astype(np.float64) / a.shape[1]
    return apart
