"""What a user hands over: files, folders, data sets, manifests, arrays with their rate, standard input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pydreaming.audio.decode import Samples, open_audio, read_stdin, resolve_inside
from pydreaming.audio.sources import LAYOUTS, AudioItem, iter_source, layout_of, source_root
from pydreaming.audio.sources.walk import is_audio
from pydreaming.config import SourceConfig
from pydreaming.errors import DecodeError, UsageError

STDIN = "-"
_FRAGMENT = re.compile(r"(.+)#t=(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Recording:
    """One recording (or segment of one) that a user named, by itself or with its folder or manifest.

    Attributes:
      name: its path as the user would write it, "-" for standard input; of a segment with its seconds as a media fragment: `a.wav#t=1.5,3`.
      item: segment, labels and controls.
      root: folder that the file must lie in, as a manifest is not trusted; None for a file that the user named.
    """

    name: str
    item: AudioItem
    root: Path | None = None

    @property
    def path(self) -> Path:
        """The file. Raises DecodeError when it is not in `root`."""
        return Path(self.item.path) if self.root is None else resolve_inside(self.root, self.item.path)

    @property
    def labels(self) -> dict[str, str]:
        """What is known of it: "label", "speaker" and other metadata."""
        return self.item.labels

    @property
    def stem(self) -> str:
        """Name without folders and ending, for files made of it."""
        return "stdin" if self.name == STDIN else Path(self.item.path).stem


Source = str | Path | Recording | tuple[npt.NDArray[Any], int]
Failed = Callable[[DecodeError], None]  # told of each recording that cannot be read, which is then left out
Result = TypeVar("Result")


def find_recordings(inputs: Sequence[str | Path], columns: Sequence[str] = ()) -> Iterator[Recording]:
    """Recordings of all inputs, in order.

    A folder gives its audio files (with those of its folders) and a known data set or manifest its rows, with labels, as in training;
    an audio file and "-" give themselves. Paths that do not exist are given too: they are reported with their cause where they are read.

    Args:
      columns: numeric columns of the metadata to take as controls.
    Raises:
      SourceError: a broken manifest; the message names file and line.
    """
    for entry in inputs:
        path = Path(entry)
        if str(entry) != STDIN and (path.is_dir() or _is_manifest(path)):
            config = _source_config(path)
            root = source_root(config)
            yield from (Recording(_name(root, item), item, root) for item in iter_source(config, columns))
        else:
            yield named_file(entry)


def attempt(work: Callable[[], Result], failed: Failed | None) -> Result | None:
    """What `work` on a recording gives; of one that cannot be read None, once `failed` was told. Without it, raises its DecodeError."""
    try:
        return work()
    except DecodeError as e:
        if failed is None:
            raise
        failed(e)
        return None


def layout_name(path: str | Path) -> str:
    """The layout that a folder, data set or manifest is read as, see `audio.sources`; "file" for an audio file. Raises SourceError."""
    path = Path(path)
    return layout_of(_source_config(path)) if path.is_dir() or _is_manifest(path) else "file"


def named_file(path: str | Path) -> Recording:
    """A file (or "-") that a user named, whether it is there or not; or a part of one, as tables name it: `a.wav#t=1.5,3`."""
    name = str(path)
    found = None if Path(name).exists() else _FRAGMENT.fullmatch(name)
    if found is None:
        return Recording(name, AudioItem(index=-1, path=name, group=""))
    file, begin, end = found.groups()
    duration = None if end is None else float(end) - float(begin)
    return Recording(name, AudioItem(index=-1, path=file, group="", offset_s=float(begin), duration_s=duration))


def name_of(source: Source) -> str:
    """What a source is called in tables and messages."""
    return source.name if isinstance(source, Recording) else "<array>" if isinstance(source, tuple) else str(source)


@contextmanager
def open_source(source: Source, channels: str) -> Iterator[tuple[Iterable[Samples], int]]:
    """Mono chunks (num_samples,) float32 of a source, and its sample rate in Hz.

    Args:
      source: recording, path, "-" (an audio file on standard input) or (samples, sample_rate).
      channels: `mix` or `first`, for files with several.
    Raises:
      DecodeError: not readable as audio. UsageError: an array without a rate, of another shape, or of integers.
    """
    if isinstance(source, tuple):
        yield [checked_samples(*source)], source[1]
    elif isinstance(source, str | Path):
        with open_source(named_file(source), channels) as opened:
            yield opened
    elif not isinstance(source, Recording):
        raise UsageError(f"a {type(source).__name__} is no audio source; give a path or the pair (samples, sample_rate)")
    elif source.name == STDIN:
        samples, rate = read_stdin(channels=channels)
        yield [samples], rate
    else:
        try:
            with open_audio(source.path, source.item, channels) as stream:
                yield stream.blocks(), stream.sample_rate
        except DecodeError as e:
            raise DecodeError(source.name, e.cause) from e  # as the user wrote it, and as tables name it


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


def _is_manifest(path: Path) -> bool:
    return path.is_file() and not is_audio(path.name) and any(layout.matches(path) for layout in LAYOUTS.values())


def _source_config(path: Path) -> SourceConfig:
    return SourceConfig(kind="auto", path=str(path), root="", labels="auto", channels="mix", held_out=0.0, max_files=0)


def _name(root: Path, item: AudioItem) -> str:
    name = str(root / item.path)
    if not item.offset_s and item.duration_s is None:
        return name
    end = "" if item.duration_s is None else f",{item.offset_s + item.duration_s:.10g}"
    return f"{name}#t={item.offset_s:.10g}{end}"
