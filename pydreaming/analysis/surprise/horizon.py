"""How far ahead a model can foresee recordings: predictability against steps ahead, beside copying and counting.

The model listens to `context` windows, imagines with several samples, and is asked which of up to 256 windows came k windows later
(retrieval), and how much better its imagined distribution fits the code that came than the average of all codes does (gain). The same is
asked of *copy*, which takes the last window for the one to come; the unigram, which knows the average only, finds a window by chance
and gains 0. See `pydreaming.evaluation.open_loop`, whose figures these are.

Recordings are heard as sequences of SEQUENCE_S, at most MAX_SEQUENCES of each, evenly spaced, and each from the initial state. Rivals and
the average come from the sequences heard together, BATCH at a time in a seeded order, so that they are of all kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pydreaming.analysis.anomaly.pieces import thinned
from pydreaming.analysis.inputs import Failed, Recording, attempt
from pydreaming.analysis.names import STEPS_AHEAD
from pydreaming.analysis.requirements import require_latents
from pydreaming.analysis.rollout import Rechunk
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.stages import run
from pydreaming.audio.tokens import Frames
from pydreaming.errors import UsageError
from pydreaming.evaluation.bootstrap import TAILS, resampled_sums
from pydreaming.evaluation.open_loop import Tallies, tally
from pydreaming.objectives import TensorBatch
from pydreaming.replay.schema import ID_STEPS
from pydreaming.replay.tables import write_table

SEQUENCE_S = 2.0  # s of a recording that are heard in one go, or what the largest step needs where that is more
MAX_SEQUENCES = 8  # of a recording
BATCH = 32  # sequences heard together: enough windows for 256 rivals, and no more, as each costs time
ALL = "all"
_ID_BITS = 36  # of a window's number within its recording, in its identity

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """Figures of a group at one number of steps ahead; intervals hold 95 % of bootstrap resamples of its recordings.

    Attributes:
      k, ahead_s: windows ahead, and the same in seconds. predictions, recordings: behind the figures.
      retrieval, retrieval_copy, chance: share of windows found. retrieval_low, retrieval_high: interval; nan with nothing to resample.
      gain_bits, gain_copy_bits: bits won over the average of all codes, and gain_low_bits, gain_high_bits.
      better: by the lower ends of the intervals of the differences, the model beats copy, chance and average in both figures.
    """

    k: int
    ahead_s: float
    retrieval: float
    retrieval_low: float
    retrieval_high: float
    retrieval_copy: float
    chance: float
    gain_bits: float
    gain_low_bits: float
    gain_high_bits: float
    gain_copy_bits: float
    better: bool
    predictions: int
    recordings: int


@dataclass(frozen=True)
class Horizon:
    """Steps by group, ALL first. `recordings` were heard; `too_short`: how many of them reach no prediction at k windows ahead."""

    groups: dict[str, list[Step]]
    recordings: int
    too_short: dict[int, int]
    token_s: float

    def columns(self) -> dict[str, list[Any]]:
        """The columns of a table, a row a group and step: `group`, and the fields of `Step`."""
        rows = [(name, step) for name, steps in self.groups.items() for step in steps]
        table: dict[str, list[Any]] = {"group": [name for name, _ in rows]}
        return table | {name: [getattr(step, name) for _, step in rows] for name in Step.__dataclass_fields__}

    def reach(self, group: str = ALL) -> Step | None:
        """The furthest step up to which the model is better than all baselines at every step; None where it is not at the first."""
        reached = None
        for step in self.groups[group]:
            if not step.better:
                break
            reached = step
        return reached

    def sentence(self, group: str = ALL) -> str:
        """What `reach` found, in words."""
        reached = self.reach(group)
        if reached is None:
            first = self.groups[group][0]
            return f"{group}: not better than copying the last window and the average code, even {_ahead(first)}"
        return f"{group}: better than copying the last window and the average code up to {_ahead(reached)}"


def _ahead(step: Step) -> str:
    return f"{step.k} window{'s' if step.k > 1 else ''} ahead ({step.ahead_s:g} s)"


@dataclass
class Measuring:
    """Hears recordings one after the other (in a mixed order, see `mixed`) and measures them; memory grows by about 1 kB a sequence.

    Args:
      by: column of the metadata to group by, `source` (each file) or `corpus` (folder); empty: only all together.
      context: windows heard before the first prediction; 0: as in the model's own evaluation.
      steps: numbers of windows ahead. samples: imagined futures for each start. seed: of their noise.
    Raises:
      UsageError: the model imagines nothing, or wrong numbers.
    """

    model: WorldModel
    by: str = ""
    context: int = 0
    steps: Sequence[int] = STEPS_AHEAD
    samples: int = 8
    seed: int = 0
    _tallies: Tallies = field(default_factory=Tallies)
    _pending: list[tuple[int, int, Frames, npt.NDArray[np.float32]]] = field(default_factory=list)
    _owner: list[int] = field(default_factory=list)
    _groups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_latents(self.model, "it has nothing to imagine with")
        self.steps = sorted(set(self.steps))
        if not self.steps or self.steps[0] < 1 or self.samples < 1:
            raise UsageError("steps ahead and samples must be whole numbers from 1 on")
        self.context = self.context or self.model.config.evaluation.context_tokens
        stride = self.model.features.token_stride_samples
        self._length = max(
            round(SEQUENCE_S * self.model.features.sample_rate / stride), 2 * self.context, self.context + 2 * self.steps[-1]
        )
        self._generator = torch.Generator(self.model.device).manual_seed(self.seed)

    @property
    def recordings(self) -> int:
        """Heard so far."""
        return len(self._groups)

    def add(self, recording: Recording) -> None:
        """Hear one recording. Nothing is added when it fails (DecodeError, UsageError)."""
        action = self.model.action_of(recording)
        parts = enumerate(run(Rechunk(self._length), self.model.stream_tokens(recording)))
        # A rest that holds no prediction after a whole context says little, but where it is all there is.
        sequences = thinned(((i * self._length, part) for i, part in parts if not i or len(part) > self.context + 1), MAX_SEQUENCES)
        number = len(self._groups)
        self._groups.append(_group_of(recording, self.by))
        self._pending += [(number, start, tokens, action) for start, tokens in sequences if len(tokens) > 1]
        while len(self._pending) >= BATCH:
            self._measure(self._pending[:BATCH])
            self._pending = self._pending[BATCH:]

    def finish(self) -> Horizon:
        """Figures of all that was added. Raises UsageError: nothing is longer than the fewest steps ahead."""
        if self._pending:
            self._measure(self._pending)
            self._pending = []
        if not self._tallies.by_step("retrieval"):
            least = "one window" if self.steps[0] == 1 else f"{self.steps[0]} windows (--steps)"
            raise UsageError(f"no recording is longer than {least}: there is nothing to foresee")
        owner, names = np.array(self._owner), np.array(self._groups, dtype=np.str_)
        groups = {ALL: np.ones(len(names), np.bool_)}
        if self.by:
            groups |= {str(name): names == name for name in np.unique(names)}
        found = {name: self._steps(np.flatnonzero(chosen[owner]), owner) for name, chosen in groups.items()}
        reached = {k: len(set(owner[self._tallies.of("retrieval", k)[0] > 0].tolist())) for k in self.steps}
        too_short = {k: len(names) - count for k, count in reached.items()}
        return Horizon({name: steps for name, steps in found.items() if steps}, len(names), too_short, self._token_s)

    @property
    def _token_s(self) -> float:
        return self.model.features.token_stride_samples / self.model.features.sample_rate

    def _measure(self, sequences: list[tuple[int, int, Frames, npt.NDArray[np.float32]]]) -> None:
        B, T = len(sequences), max(len(tokens) for _, _, tokens, _ in sequences)
        batch = TensorBatch(
            torch.zeros(B, T, self.model.net.token_dim),
            torch.zeros(B, T, dtype=torch.bool),
            torch.zeros(B, T, self.model.net.action_dim),
            torch.full((B, T), -1, dtype=torch.int64),
            torch.zeros(B, T, dtype=torch.bool),
        )
        batch.is_first[:, 0] = True
        for row, (number, start, tokens, action) in enumerate(sequences):
            t = len(tokens)
            batch.tokens[row, :t] = torch.from_numpy(tokens)
            batch.action[row, 1:t] = torch.from_numpy(action)
            batch.token_id[row, :t] = (number << _ID_BITS) + ID_STEPS * (start + torch.arange(t))
            batch.mask[row, :t] = True
        device = self.model.device
        known = (batch.is_first.to(device), batch.action.to(device), batch.token_id.to(device), batch.mask.to(device))
        batch = TensorBatch(batch.tokens.to(device), *known)
        tally(
            self.model.net, self.model.objective, batch, self.samples, self.context, self._generator, self._tallies, steps_ahead=self.steps
        )
        self._owner += [number for number, *_ in sequences]

    def _steps(self, rows: npt.NDArray[np.intp], owner: npt.NDArray[np.int64]) -> list[Step]:
        """Figures of the sequences at `rows`; without the steps that none of them reaches."""
        units = np.unique(owner[rows], return_inverse=True)[1]
        count = int(units.max(initial=-1)) + 1
        if count == 1:  # of a single recording, its sequences are what can be resampled
            units, count = np.arange(len(rows)), len(rows)
        found = []
        for k in self.steps:
            counts = _by_unit(units, self._tallies.of("retrieval", k)[0][rows], count)
            if not counts.sum():
                continue
            sums = {name: _by_unit(units, self._tallies.of(name, k)[1][rows], count) for name in _NAMES}
            recordings = len(set(owner[rows][self._tallies.of("retrieval", k)[0][rows] > 0].tolist()))
            found.append(_step(k, k * self._token_s, counts, sums, recordings, np.random.default_rng(self.seed)))
        return found


def _by_unit(units: npt.NDArray[np.intp], values: Values, count: int) -> Values:
    """Sums of the values (R,) of each of `count` units."""
    sums: Values = np.bincount(units, values, count).astype(np.float64)
    return sums


_NAMES = ("retrieval", "retrieval_copy", "chance", "gain", "gain_copy")


def _step(k: int, ahead_s: float, counts: Values, sums: dict[str, Values], recordings: int, random: np.random.Generator) -> Step:
    """Means and intervals of figures, from counts (U,) and sums (U,) of U units that are resampled."""
    used = counts > 0
    counts, sums = counts[used], {name: values[used] for name, values in sums.items()}
    mean = {name: float(values.sum() / counts.sum()) for name, values in sums.items()}
    if len(counts) > 1:
        totals = resampled_sums(np.stack([counts, *sums.values()], axis=1), random)
        resampled = {name: totals[:, 1 + i] / totals[:, 0] for i, name in enumerate(sums)}
    else:
        resampled = {name: np.full(1, np.nan) for name in sums}
    differences = [
        resampled["retrieval"] - resampled["retrieval_copy"],
        resampled["retrieval"] - resampled["chance"],
        resampled["gain"],
        resampled["gain"] - resampled["gain_copy"],
    ]
    found_low, found_high = np.quantile(resampled["retrieval"], TAILS)
    gain_low, gain_high = np.quantile(resampled["gain"], TAILS)
    bits = 1 / np.log(2)
    return Step(
        k=k,
        ahead_s=round(ahead_s, 6),
        retrieval=mean["retrieval"],
        retrieval_low=float(found_low),
        retrieval_high=float(found_high),
        retrieval_copy=mean["retrieval_copy"],
        chance=mean["chance"],
        gain_bits=mean["gain"] * bits,
        gain_low_bits=float(gain_low * bits),
        gain_high_bits=float(gain_high * bits),
        gain_copy_bits=mean["gain_copy"] * bits,
        better=all(float(np.quantile(difference, 0.025)) > 0 for difference in differences),
        predictions=int(counts.sum()),
        recordings=recordings,
    )


def horizon(
    model: WorldModel,
    recordings: Iterable[Recording],
    by: str = "",
    context: int = 0,
    steps: Sequence[int] = STEPS_AHEAD,
    samples: int = 8,
    seed: int = 0,
    failed: Failed | None = None,
) -> Horizon:
    """How far ahead the model foresees recordings; arguments as for `Measuring`.

    Args:
      failed: told of each unreadable file, which is then left out; None raises its DecodeError.
    """
    measuring = Measuring(model, by, context, steps, samples, seed)
    for recording in mixed(recordings, seed):
        attempt(partial(measuring.add, recording), failed)
    return measuring.finish()


def mixed(recordings: Iterable[Recording], seed: int = 0) -> list[Recording]:
    """The recordings in a seeded order, so that those heard together are of all kinds."""
    every = list(recordings)
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))]


def write_horizon(path: Path, result: Horizon, about: dict[str, Any] | None = None) -> None:
    """One row per group and step; columns are `group` and those of `Step`. Raises UsageError: another ending."""
    known = {
        "what": "pydreaming horizon, one row per group and step ahead",
        "recordings": result.recordings,
        "recordings_too_short": {str(k): count for k, count in result.too_short.items()},
        "verdicts": [result.sentence(name) for name in result.groups],
    }
    write_table(path, result.columns(), known | (about or {}))


def _group_of(recording: Recording, by: str) -> str:
    if by == "source":
        return recording.name
    if by == "corpus":
        return str(recording.root or Path(recording.name).parent)
    return recording.labels.get(by, "unknown") if by else ALL
