"""What is in a folder of audio, a data set or a manifest, before anything is trained on it.

Headers of all files are read; levels are measured on an even, seeded sample of recordings (or on all), which decodes them, so that damage
behind the header is found there too. Memory grows by some hundred bytes a recording, whatever their lengths.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from pydreaming.analysis.inputs import Recording, find_recordings, layout_name
from pydreaming.analysis.inspect.advice import audio_warnings, features_for, training_command
from pydreaming.analysis.names import MEASURED, MEASURED_S
from pydreaming.audio.decode import open_audio
from pydreaming.audio.loudness import Loudness, LoudnessMeter
from pydreaming.errors import DecodeError, UsageError

EXAMPLES = 10  # names kept of files that are silent, clipped, short, ...
ESTIMATED = "MP3"  # libsndfile's name of the format whose header gives no exact length
HASHED = 1 << 16  # bytes of a file's middle that are hashed first
LABELS = ("label", "speaker")

Progress = Callable[[Iterable[Recording], str], Iterable[Recording]]


@dataclass(frozen=True)
class Levels:
    """Levels of `recordings` measured recordings, in dBFS: 5th, 50th and 95th percentile of RMS and peak; and how many stand out.

    `silent` and `clipped` count recordings (see `audio.loudness`); `of` names the first of each. `partly`: of some, only the beginning was.
    """

    recordings: int
    rms_dbfs: tuple[float, float, float]
    peak_dbfs: tuple[float, float, float]
    silent: int
    clipped: int
    of: dict[str, list[str]]
    partly: bool


@dataclass
class AudioReport:
    """What was found.

    Attributes:
      layout: of the data set, see `audio.sources`. recordings: rows of it (segments count each). files: different files.
      bytes: of the files. seconds: of audio in readable recordings; `estimated`: in how many the header gives a guess (mp3) or nothing.
      least_s, median_s, most_s: lengths of recordings. short: recordings shorter than one window of `window_s`.
      rates, channels, formats: how many recordings there are of each (Hz; channels; libsndfile's format and subtype).
      folders: how many hold recordings. labels: count by value, by "label" and "speaker". unreadable: path and cause.
      duplicates: groups of files of the same bytes.
      levels: None when nothing was readable. warnings: sentences. command: what trains on it. Both are empty when nothing was readable.
    """

    path: str
    layout: str
    recordings: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    estimated: int = 0
    least_s: float = 0.0
    median_s: float = 0.0
    most_s: float = 0.0
    short: int = 0
    window_s: float = 0.0
    rates: dict[int, int] = field(default_factory=dict)
    channels: dict[int, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    folders: int = 0
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    levels: Levels | None = None
    warnings: list[str] = field(default_factory=list)
    command: str = ""


def inspect_audio(
    path: str | Path, measure: int | None = MEASURED, seed: int = 0, progress: Progress | None = None
) -> tuple[AudioReport, list[Recording]]:
    """Look at a folder, data set, manifest or audio file.

    Args:
      measure: recordings whose level is measured, on the first MEASURED_S seconds of each; None: all, wholly. seed: of that sample.
      progress: wraps the recordings as they are worked through, with what is done; for a bar.
    Returns:
      what was found, and the readable ones of the measured recordings, for a picture.
    Raises:
      SourceError: a broken manifest, or nothing there. UsageError: no audio in it.
    """
    watch = progress or (lambda items, what: items)
    survey, sample = _Survey(), _Sample(measure, seed)
    for recording in watch(find_recordings([path]), "reading headers"):
        if survey.add(recording):
            sample.offer(recording)
    if not survey.recordings:
        raise UsageError(f"no audio files in {path}")
    report = survey.report(str(path), layout_name(path))
    levels, measured = _Levels(MEASURED_S if measure is not None else math.inf), []
    for recording in watch(sample.kept, "measuring levels"):
        try:
            levels.add(recording)
            measured.append(recording)
        except DecodeError as e:
            report.unreadable.append((recording.name, e.cause))
    report.levels = levels.finish()
    report.duplicates = list(_duplicates(survey.sizes))
    if len(report.unreadable) < report.recordings:
        report.warnings, report.command = audio_warnings(report), training_command(report)
    return report, measured


class _Sample:
    """An even sample of at most `most` recordings; None: all."""

    def __init__(self, most: int | None, seed: int) -> None:
        self.kept: list[Recording] = []
        self._most, self._seen, self._random = most, 0, np.random.default_rng(seed)

    def offer(self, recording: Recording) -> None:
        self._seen += 1
        if self._most is None or len(self.kept) < self._most:
            self.kept.append(recording)
        elif (place := int(self._random.integers(self._seen))) < self._most:
            self.kept[place] = recording


class _Survey:
    """Counts what headers say."""

    def __init__(self) -> None:
        self.recordings = 0
        self.sizes: dict[Path, int] = {}
        self._seconds = array("d")
        self._estimated = 0
        self._rates: Counter[int] = Counter()
        self._channels: Counter[int] = Counter()
        self._formats: Counter[str] = Counter()
        self._folders: set[str] = set()
        self._labels: dict[str, Counter[str]] = {key: Counter() for key in LABELS}
        self._unreadable: list[tuple[str, str]] = []

    def add(self, recording: Recording) -> bool:
        """Read a header; returns whether it could be."""
        self.recordings += 1
        self._folders.add(recording.item.path.rpartition("/")[0])
        for key, counts in self._labels.items():
            if value := recording.labels.get(key):
                counts[value] += 1
        try:
            path = recording.path
            self.sizes[path] = path.stat().st_size
            with open_audio(path, recording.item, "mix") as stream:
                info, samples = stream.info, stream.num_samples
        except DecodeError as e:
            self._unreadable.append((recording.name, e.cause))
            return False
        except OSError as e:  # gone since it was listed
            self._unreadable.append((recording.name, e.strerror or str(e)))
            return False
        self._rates[info.sample_rate] += 1
        self._channels[info.channels] += 1
        self._formats[f"{info.format} {info.subtype}"] += 1
        self._estimated += samples is None or info.format == ESTIMATED
        if samples is not None:
            self._seconds.append(samples / info.sample_rate)
        return True

    def report(self, path: str, layout: str) -> AudioReport:
        seconds = np.frombuffer(self._seconds, np.float64) if self._seconds else np.zeros(1)
        report = AudioReport(
            path=path,
            layout=layout,
            recordings=self.recordings,
            files=len(self.sizes),
            bytes=sum(self.sizes.values()),
            seconds=float(seconds.sum()),
            estimated=self._estimated,
            least_s=float(seconds.min()),
            median_s=float(np.median(seconds)),
            most_s=float(seconds.max()),
            rates=_ordered(self._rates),
            channels=_ordered(self._channels),
            formats=_ordered(self._formats),
            folders=len(self._folders),
            labels={key: _ordered(counts) for key, counts in self._labels.items() if counts},
            unreadable=self._unreadable,
        )
        features = features_for(report)
        report.window_s = features.token_span_samples / features.sample_rate
        report.short = int((seconds < report.window_s).sum()) if self._seconds else 0
        return report


class _Levels:
    """Levels of the recordings that were measured, `most_s` seconds from the beginning of each."""

    def __init__(self, most_s: float) -> None:
        self._most_s, self._partly = most_s, False
        self._found: list[Loudness] = []
        self._of: dict[str, list[str]] = {"silent": [], "clipped": []}

    def add(self, recording: Recording) -> None:
        """Decode a recording. Raises DecodeError."""
        meter = LoudnessMeter()
        with open_audio(recording.path, recording.item, "mix") as stream:
            left = self._most_s * stream.sample_rate
            for block in stream.blocks():
                meter.add(block)
                left -= len(block)
                if left <= 0:
                    self._partly = True
                    break
        found = meter.finish()
        self._found.append(found)
        for kind, is_so in (("silent", found.silent), ("clipped", found.clipped > 0)):
            if is_so and len(self._of[kind]) < EXAMPLES:
                self._of[kind].append(recording.name)

    def finish(self) -> Levels | None:
        if not self._found:
            return None
        rms, peak = ([getattr(found, key) for found in self._found] for key in ("rms_dbfs", "peak_dbfs"))
        silent, clipped = sum(found.silent for found in self._found), sum(found.clipped > 0 for found in self._found)
        return Levels(len(self._found), _percentiles(rms), _percentiles(peak), silent, clipped, self._of, self._partly)


def _duplicates(sizes: dict[Path, int]) -> Iterator[list[str]]:
    """Groups of files with the same bytes. Only files of one size are read, and wholly only where their middles agree."""
    groups: dict[tuple[int, bytes], list[Path]] = {}
    by_size = Counter(sizes.values())
    for path, size in sizes.items():
        if size and by_size[size] > 1 and (digest := _digest(path, size // 2, HASHED)) is not None:
            groups.setdefault((size, digest), []).append(path)
    for alike in groups.values():
        if len(alike) == 1:
            continue
        same: dict[bytes | None, list[str]] = {}
        for path in alike:
            same.setdefault(_digest(path, 0, None), []).append(str(path))
        yield from (group for digest, group in same.items() if digest is not None and len(group) > 1)


def _digest(path: Path, begin: int, length: int | None) -> bytes | None:
    """Digest of a file's bytes from `begin` on; None when it can no longer be read, which its decoding reports."""
    try:
        with path.open("rb") as file:
            if length is None:
                return hashlib.file_digest(file, "blake2b").digest()
            file.seek(begin)
            return hashlib.blake2b(file.read(length)).digest()
    except OSError:
        return None


def _percentiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return low, middle, high


Key = TypeVar("Key")


def _ordered(counts: Counter[Key]) -> dict[Key, int]:
    """By count, the largest first."""
    return dict(counts.most_common())
