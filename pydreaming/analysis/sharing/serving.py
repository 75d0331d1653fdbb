"""Answers of a model that is asked for by others: over HTTP, in a Spark job, or as an MLflow model in a notebook.

A row is one recording, given in one of three ways, each with a name of its own so that a file's content can never be taken for a path:

    audio                  the bytes of an audio file (in JSON: base64)
    samples, sample_rate   floats in [-1, 1], and their rate in Hz
    path                   a file under `audio_root`, which the operator names; without a root no path is opened

Nothing from a socket is trusted: how much is taken and answered is bounded, and a path leaves the root neither by ".." nor by a link.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pydreaming.analysis.inputs import Source, checked_samples
from pydreaming.analysis.names import CURVES, OUTPUTS
from pydreaming.analysis.surprise.curves import surprise
from pydreaming.analysis.vectors.embed import embed_windows
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import MAX_RATE, MIN_RATE, decode_bytes, resolve_inside
from pydreaming.errors import DecodeError, UsageError

MAX_ROWS = 1024  # of a request
MAX_BYTES = 64 << 20  # of one recording, as a file
MAX_SECONDS = 600.0  # of one recording that comes with the request; longer ones are for `pydreaming embed`
MAX_NUMBERS = 5_000_000  # of an answer: 100 MB of JSON

Columns = dict[str, list[Any]]


class Predictor:
    """Answers requests with one model, one at a time.

    Args:
      folder: checkpoint or exported model.
      settings: `audio_root`, a folder that rows may name files in (empty or missing: none); `device`, as `WorldModel.load` takes it.
    Raises:
      CheckpointError, ConfigError: see `WorldModel.load`. UsageError: the root is no folder.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        root = str(settings.get("audio_root") or "")
        if root and not Path(root).is_dir():
            raise UsageError(f"audio_root '{root}' is not a folder")
        self._root = Path(root).resolve() if root else None
        self._model = WorldModel.load(folder, str(settings.get("device") or "auto"))
        self._one_at_a_time = threading.Lock()  # servers answer from several threads

    def __call__(self, rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> Columns:
        """Columns of the answer, see OUTPUTS; `row` counts the rows of the request from 0.

        Args:
          rows: one recording each, see the head of this file; values that are None or nan are taken for missing.
          params: `output`, a key of OUTPUTS (embed); `part` and `pooling`, as `embed_clip` takes them (feat, mean).
        Raises:
          UsageError, DecodeError: the message names the row. Nothing is answered when one row fails.
        """
        output = str(params.get("output", "embed"))
        if output not in OUTPUTS:
            raise UsageError(f"there is no output '{output}'; there are {', '.join(OUTPUTS)}")
        if output == "surprise" and not self._model.objective.trains_latents:
            raise UsageError(f"the model has no surprise: its objective {self._model.config.objective.name} trains no latents")
        if len(rows) > MAX_ROWS:
            raise UsageError(f"{len(rows)} rows; at most {MAX_ROWS} are taken at once")
        found: Columns = {}
        numbers = 0
        with self._one_at_a_time:
            for number, row in enumerate(rows):
                part = self._answer(_source(row, number, self._root, self._model.channels), output, params)
                count = len(next(iter(part.values())))
                numbers += sum(len(cell) if isinstance(cell, list) else 1 for column in part.values() for cell in column)
                if numbers > MAX_NUMBERS:
                    raise UsageError(f"the answer would hold more than {MAX_NUMBERS:,} numbers: send fewer or shorter recordings")
                for name, values in ({"row": [number] * count} | part).items():
                    found.setdefault(name, []).extend(values)
        return found

    def _answer(self, source: Source, output: str, params: Mapping[str, Any]) -> Columns:
        if output == "surprise":
            curves = surprise(self._model, source)
            times = {"window": list(range(len(curves))), "start_s": curves.start_s.tolist(), "centre_s": curves.centre_s.tolist()}
            return times | {f"{name}_bits": getattr(curves, name).tolist() for name in CURVES}
        part = str(params.get("part", "feat"))
        if output == "windows":
            windows = embed_windows(self._model, source, part)
            T = len(windows.values)
            times = {"window": list(range(T)), "start_s": windows.start_s.tolist(), "centre_s": windows.centre_s.tolist()}
            return times | {"embedding": windows.values.tolist()}
        vector, count = Embedder(self._model, "clip", part, str(params.get("pooling", "mean"))).vector(source)
        f = self._model.features
        covered = ((count - 1) * f.token_stride_samples + f.token_span_samples) / f.sample_rate
        return {"windows": [count], "covered_s": [covered], "embedding": [vector.tolist()]}


def _source(row: Mapping[str, Any], number: int, root: Path | None, channels: str) -> Source:
    """The recording of a row. Raises UsageError, DecodeError."""
    given = {name: value for name, value in row.items() if not _missing(value)}
    ways = [name for name in ("audio", "samples", "path") if name in given]
    if len(ways) != 1:
        said = f"it has {' and '.join(ways)}" if ways else "it has none of them"
        raise UsageError(f"row {number}: give exactly one of audio, samples (with sample_rate) and path; {said}")
    if ways == ["audio"]:
        data = given["audio"]
        if not isinstance(data, bytes):
            raise UsageError(f"row {number}: audio must be the bytes of an audio file (in JSON: base64), not {type(data).__name__}")
        if len(data) > MAX_BYTES:
            raise UsageError(f"row {number}: {len(data)} bytes; at most {MAX_BYTES} are taken")
        return decode_bytes(data, f"row {number}", channels, MAX_SECONDS)
    return _array(given, number) if ways == ["samples"] else _file(str(given["path"]), number, root)


def _array(given: Mapping[str, Any], number: int) -> Source:
    rate = given.get("sample_rate")
    if not isinstance(rate, int | float | np.number) or not MIN_RATE <= float(rate) <= MAX_RATE or not float(rate).is_integer():
        raise UsageError(f"row {number}: samples need a sample_rate in Hz, a whole number in {MIN_RATE}..{MAX_RATE}, got {rate!r}")
    samples = np.asarray(given["samples"])
    if samples.size > MAX_SECONDS * rate:
        raise UsageError(f"row {number}: longer than {MAX_SECONDS:g} s")
    try:
        return checked_samples(samples, int(rate)), int(rate)
    except UsageError as e:
        raise UsageError(f"row {number}: {e}") from e


def _file(path: str, number: int, root: Path | None) -> Source:
    if root is None:
        raise UsageError(
            f"row {number}: paths are not opened, as no folder was named for them; send the file's bytes as audio,"
            " or load the model with model_config={'audio_root': FOLDER}"
        )
    inside = Path(path)
    if inside.is_absolute() and inside.is_relative_to(root):
        inside = inside.relative_to(root)
    try:
        return resolve_inside(root, inside.as_posix())
    except DecodeError as e:
        raise DecodeError(f"row {number}: {path}", "no file under audio_root") from e


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
