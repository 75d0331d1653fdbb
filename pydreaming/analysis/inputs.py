"""What a user hands over: files, folders, arrays with their rate, standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.audio.decode import Samples, open_audio, read_stdin
from pydreaming.audio.sources.item import AudioItem
from pydreaming.audio.sources.walk import audio_files
from pydreaming.errors import UsageError

STDIN = "-"
Source = str | Path | tuple[npt.NDArray[Any], int]


def expand_inputs(inputs: Sequence[str | Path]) -> Iterator[str]:
    """Files of all inputs, in order: a folder gives its audio files (with those of its folders), sorted; a file and "-" give themselves.

    Paths that do not exist are given too, so that they are reported with their cause where they are read.
    """
    for entry in inputs:
        path = Path(entry)
        if str(entry) != STDIN and path.is_dir():
            yield from (str(path / below) for below in audio_files(path))
        else:
            yield str(entry)


@contextmanager
def open_source(source: Source, channels: str) -> Iterator[tuple[Iterable[Samples], int]]:
    """Mono chunks (num_samples,) float32 of a source, and its sample rate in Hz.

    Args:
      source: path, "-" (an audio file on standard input) or (samples, sample_rate).
      channels: `mix` or `first`, for files with several.
    Raises:
      DecodeError: not readable as audio. UsageError: an array without a rate, of another shape, or of integers.
    """
    if isinstance(source, tuple):
        yield [checked_samples(*source)], source[1]
    elif isinstance(source, str | Path) and str(source) == STDIN:
        samples, rate = read_stdin(channels=channels)
        yield [samples], rate
    elif isinstance(source, str | Path):
        item = AudioItem(index=-1, path=str(source), group="")
        with open_audio(Path(source), item, channels) as stream:
            yield stream.blocks(), stream.sample_rate
    else:
        raise UsageError(f"a {type(source).__name__} is no audio source; give a path or the pair (samples, sample_rate)")


def checked_samples(samples: npt.NDArray[Any], sample_rate: int) -> Samples:
    """Samples as (num_samples,) float32.

    Raises:
      UsageError: not one-dimensional, empty, integers (whose scale is not known), not finite, or a rate that is none.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or not array.size or array.dtype.kind != "f":
        raise UsageError(f"samples must be (num_samples,) floats in [-1, 1], got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise UsageError("samples must be finite numbers")
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer) or sample_rate <= 0:
        raise UsageError(f"the sample rate must be a positive whole number of Hz, got {sample_rate!r}")
    return array.astype(np.float32)
