"""Units: a small inventory of sounds, found by the model without labels, and recordings written down in it.

The model's own code of a window is a tuple of `groups` symbols (16 of 16 classes, say), and hardly any tuple occurs twice: it is no unit.
A *unit* here is a cluster of windows by one part of the model's state, an inventory of N of them being fitted by k-means on recordings;
HuBERT's units are made in the same way. Beside each stands a cluster of the same number by the log-mel of the window alone: the baseline.

    unit        cluster of `part`, by default `deter`: what was heard up to now, so that one sound may be several units by what led to it
    baseline    cluster of the normalised log-mel of the window
    code        (S,) classes of the latents' groups, the posterior's modes; for those who want the model's own symbols

Which part: docs/use.md has the figures behind the default. Numbers of units are ranks: u0 is the most frequent where it was fitted.

Source: Hsu et al., "HuBERT" (arXiv 2106.07447), k-means units; Lakhotia et al. (arXiv 2102.01192), deduplicated units with bitrates.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from pydreaming.analysis.files import replacing
from pydreaming.analysis.inputs import STDIN, Failed, Recording, attempt
from pydreaming.analysis.names import UNIT_PARTS
from pydreaming.analysis.requirements import require_latents, require_same_model
from pydreaming.analysis.rollout import token_times
from pydreaming.analysis.tensor_file import Tensors, read_tensors, write_tensors
from pydreaming.analysis.vectors.embedder import take_part
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError
from pydreaming.evaluation.clustering import Clusters, Ids, Reservoir, fit_clusters
from pydreaming.evaluation.codes import CodeCounter
from pydreaming.evaluation.unit_statistics import Runs
from pydreaming.models.state import Observed
from pydreaming.replay.tables import TableWriter

FIT_WINDOWS = 50_000  # windows that an inventory is fitted on, at most: an even sample of all
MAX_UNITS = 5000
EXEMPLARS = 4  # windows kept of each unit, from different recordings
WHAT, FORMAT = "inventory of units", 2

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inventory:
    """A fitted inventory of N units.

    Attributes:
      part: what was clustered, see `names.UNIT_PARTS`. units: N clusters of it. baseline: N clusters of the log-mel tokens.
      fingerprint: of the model it belongs to (`WorldModel.fingerprint`). windows: how many it was fitted on. seed: of sample and k-means.
    """

    part: str
    units: Clusters
    baseline: Clusters
    fingerprint: str
    windows: int
    seed: int

    def __len__(self) -> int:
        return len(self.units.centres)

    def save(self, path: Path) -> None:
        """Write .safetensors, whole or not at all. Raises PydreamingError when the place cannot be written."""
        clusters = {"units": self.units, "baseline": self.baseline}
        tensors: Tensors = {f"{name}.{key}": value for name, c in clusters.items() for key, value in vars(c).items()}
        write_tensors(path, WHAT, FORMAT, _About(self.part, self.fingerprint, self.windows, self.seed), tensors)

    @staticmethod
    def load(path: Path, model: WorldModel) -> Inventory:
        """Read an inventory of this model. Raises UsageError: of another one. PydreamingError: missing, damaged, no inventory."""
        found = read_tensors(path, WHAT, FORMAT, _About, _inventory)
        require_same_model(model, found.fingerprint, str(path))
        return found


class _About(msgspec.Struct, forbid_unknown_fields=True):
    """What is no array."""

    part: str
    model: str
    windows: int
    seed: int


def _inventory(about: _About, tensors: Tensors) -> Inventory:
    """Raises KeyError for a missing part."""
    units, baseline = (Clusters(*(tensors[f"{name}.{key}"] for key in ("mean", "std", "centres"))) for name in ("units", "baseline"))
    return Inventory(about.part, units, baseline, about.model, about.windows, about.seed)


class Fitter:
    """Gathers windows to fit an inventory on, recording by recording; memory is that of FIT_WINDOWS windows.

    Raises UsageError: a part that there is not, that the model's objective does not train, or a number of units out of range.
    """

    def __init__(self, model: WorldModel, units: int = 100, part: str = "deter", seed: int = 0) -> None:
        if not 2 <= units <= MAX_UNITS:
            raise UsageError(f"{units} units: an inventory has 2 to {MAX_UNITS}")
        if part not in UNIT_PARTS:
            raise UsageError(f"units cannot be made of '{part}'; they can of {', '.join(UNIT_PARTS)}")
        if part in ("stoch", "feat"):
            require_latents(model, f"take deter or embed, not {part}")
        self._model, self._count, self._part, self._seed = model, units, part, seed
        self._sample = Reservoir(FIT_WINDOWS, seed)

    def add(self, recording: Recording) -> None:
        """Listen to a recording. Raises DecodeError; what was heard before the damage stays in the sample."""
        if recording.name == STDIN:
            raise UsageError("standard input can be heard once only: fit an inventory on files, and use it for -")
        for tokens, observed in self._model.hear(recording):
            self._sample.add(np.concatenate([_vectors(observed, self._part), tokens], 1))

    def fit(self) -> Inventory:
        """Cluster what was heard. Raises UsageError when there are fewer windows than units."""
        seen = self._sample.seen
        if seen < self._count:
            raise UsageError(f"{self._count} units need at least as many windows; the recordings have {seen}")
        rows = self._sample.sample()
        width = rows.shape[1] - self._model.net.token_dim
        units, baseline = (fit_clusters(part, self._count, self._seed) for part in (rows[:, :width], rows[:, width:]))
        return Inventory(self._part, units, baseline, self._model.fingerprint, len(rows), self._seed)


def fit_units(
    model: WorldModel,
    recordings: Iterable[Recording],
    units: int = 100,
    part: str = "deter",
    seed: int = 0,
    failed: Failed | None = None,
) -> Inventory:
    """An inventory of `units` units of the sounds in recordings; see `Fitter` for errors.

    Args:
      failed: told of each unreadable file, which is then left out; None raises its DecodeError.
    """
    fitter = Fitter(model, units, part, seed)
    for recording in recordings:
        attempt(partial(fitter.add, recording), failed)
    return fitter.fit()


def require_codes(model: WorldModel) -> None:
    """Raises UsageError when the model has no codes of its own that mean something."""
    if not model.net.dynamics.latents.discrete:
        raise UsageError(f"raw codes need categorical latents, and the model's are {model.config.model.latents}: ask for units only")
    require_latents(model, "it has no codes, ask for units only")


@dataclass(frozen=True)
class Exemplar:
    """A window of a unit, near its centre: `distance` (squared, standardised features), number of the recording, index of the window."""

    distance: float
    recording: int
    window: int


@dataclass(frozen=True)
class Transcript:
    """One recording in units: runs of the units and of the baseline; `codes` (T, S) of all windows where they were asked for."""

    recording: Recording
    runs: Runs
    baseline: Runs
    codes: npt.NDArray[np.uint16] | None

    @property
    def windows(self) -> int:
        """T."""
        return int(self.runs.windows.sum())

    def times(self, model: WorldModel) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(R,) start and end of each run in seconds: a run ends where the next begins, the last with its last window."""
        f = model.features
        begins = np.cumsum(self.runs.windows, dtype=np.int64) - self.runs.windows
        start = begins * f.token_stride_samples / f.sample_rate
        last = ((self.windows - 1) * f.token_stride_samples + f.token_span_samples) / f.sample_rate
        return start, np.append(start[1:], last)


@dataclass
class Transcriber:
    """Writes recordings down in the units of an inventory, one after the other.

    Memory grows by 16 bytes a run, 12 bytes a window of the recording at hand, and 2 S bytes a window with `codes`.

    Attributes:
      transcripts: of the recordings so far. exemplars: of each unit the windows nearest to its centre, each of another recording.
      counter: of the model's own codes; None where it has none.
    Raises:
      UsageError: codes are asked for and the model has none.
    """

    model: WorldModel
    inventory: Inventory
    codes: bool = False
    transcripts: list[Transcript] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.codes:
            require_codes(self.model)
        coded = self.model.net.dynamics.latents.discrete and self.model.objective.trains_latents
        self.counter = self._new_counter() if coded else None
        self.exemplars: list[list[Exemplar]] = [[] for _ in range(len(self.inventory))]

    @property
    def token_s(self) -> float:
        """Seconds from one window to the next."""
        return self.model.features.token_stride_samples / self.model.features.sample_rate

    def add(self, recording: Recording) -> None:
        """Write one recording down. Nothing is added when it fails (DecodeError)."""
        parts: dict[str, list[Any]] = {"units": [], "distance": [], "baseline": [], "codes": []}
        counter = None if self.counter is None else self._new_counter()
        for tokens, observed in self.model.hear(recording):
            ids, distance = self.inventory.units.nearest(_vectors(observed, self.inventory.part))
            parts["units"].append(ids)
            parts["distance"].append(distance.astype(np.float32))
            parts["baseline"].append(self.inventory.baseline.nearest(tokens)[0])
            if counter is not None:
                modes, nats = _codes(observed)
                counter.add(modes.astype(np.int64), nats, begins=not counter.windows)
                parts["codes"] += [modes] if self.codes else []
        units, baseline = np.concatenate(parts["units"]), np.concatenate(parts["baseline"])
        if self.counter is not None and counter is not None:
            self.counter.merge(counter)
        codes = np.concatenate(parts["codes"]) if self.codes else None
        if recording.name != STDIN:  # it cannot be heard again
            self._keep_nearest(units, np.concatenate(parts["distance"]), len(self.transcripts))
        self.transcripts.append(Transcript(recording, Runs.of(units), Runs.of(baseline), codes))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The rows of all recordings, see `columns_of`."""
        tables = [self.columns_of(transcript) for transcript in self.transcripts]
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    def columns_of(self, transcript: Transcript) -> dict[str, npt.NDArray[Any]]:
        """A recording's rows of a table, one a run: source, index (of the run in it), unit, windows, start_s, end_s, label, speaker."""
        runs, recording = transcript.runs, transcript.recording
        count = len(runs.units)
        start, end = transcript.times(self.model)
        return {
            "source": np.full(count, recording.name),
            "index": np.arange(count),
            "unit": runs.units,
            "windows": runs.windows,
            "start_s": start,
            "end_s": end,
            **{key: np.full(count, recording.labels.get(key, "")) for key in ("label", "speaker")},
        }

    def _new_counter(self) -> CodeCounter:
        return CodeCounter(self.model.config.model.groups, self.model.config.model.classes)

    def _keep_nearest(self, units: Ids, distance: Vectors, recording: int) -> None:
        order = np.lexsort((distance, units))
        first = order[np.flatnonzero(np.diff(units[order], prepend=-1))]  # of each unit in the recording, its nearest window
        for window in first.tolist():
            kept = self.exemplars[units[window]]
            bisect.insort(kept, Exemplar(float(distance[window]), recording, window), key=lambda exemplar: exemplar.distance)
            del kept[EXEMPLARS:]


def write_units(path: Path, transcriber: Transcriber) -> None:
    """One row per run, see `Transcriber.columns`. Raises UsageError for another ending than .parquet, .csv or .npz."""
    with TableWriter(path, {"what": "pydreaming units, one row per run of a unit", **about(transcriber)}) as table:
        for transcript in transcriber.transcripts:
            table.append(transcriber.columns_of(transcript))


def write_text(path: Path, transcripts: Sequence[Transcript]) -> None:
    """One line per recording: `path|u12 u7 u31`, runs in order. The path ends at the last `|`; line breaks in it become spaces."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for t in transcripts:
            file.write(f"{' '.join(t.recording.name.splitlines())}|{' '.join(f'u{unit}' for unit in t.runs.units.tolist())}\n")


def write_codes(path: Path, transcriber: Transcriber) -> None:
    """One row per window with the model's own symbols: source, window, start_s, centre_s, codes (S,). Raises UsageError for the ending."""
    classes = transcriber.model.config.model.classes
    with TableWriter(path, {"what": f"pydreaming codes, one class of {classes} for each group", **about(transcriber)}) as table:
        for t in transcriber.transcripts:
            if t.codes is not None:
                start, centre = token_times(t.windows, transcriber.model.features)
                table.append(
                    {
                        "source": np.full(t.windows, t.recording.name),
                        "window": np.arange(t.windows),
                        "start_s": start,
                        "centre_s": centre,
                        "codes": t.codes,
                    }
                )


def about(transcriber: Transcriber) -> dict[str, Any]:
    """Where a table comes from."""
    inventory, model = transcriber.inventory, transcriber.model
    return {
        "units": len(inventory),
        "part": inventory.part,
        "window_stride_s": transcriber.token_s,
        "model": inventory.fingerprint,
        "model_step": int(model.state.counters["step"]),
    }


def transcribe(
    model: WorldModel,
    recordings: Iterable[Recording],
    inventory: Inventory,
    codes: bool = False,
    failed: Failed | None = None,
) -> Transcriber:
    """Write recordings down in units; `failed` as in `fit_units`. `codes` keeps the model's own symbols too, 2 S bytes a window."""
    transcriber = Transcriber(model, inventory, codes)
    for recording in recordings:
        attempt(partial(transcriber.add, recording), failed)
    return transcriber


def _vectors(observed: Observed, part: str) -> Vectors:
    """(t, D) float32."""
    return cast(Vectors, take_part(observed, part)[0].float().cpu().numpy())


def _codes(observed: Observed) -> tuple[npt.NDArray[Any], Vectors]:
    """Modes (t, S) of the posterior, and what they cost under the prior, (t,) nats."""
    modes = observed.post.logits[0].argmax(-1)
    nats = -observed.prior_logits[0].gather(-1, modes.unsqueeze(-1)).squeeze(-1).sum(-1)
    return modes.cpu().numpy().astype(np.uint16), cast(Vectors, nats.float().cpu().numpy())
