"""The recordings that the gallery's commands are run on: real ones, put where a reader of the commands would have them.

digits/        clips of FSDD that no training has heard (index 0-4)
sessions/      one recording a speaker: digits of index 1-4, one after another
voices/        clips that were trained on, for concatenative sound
row.wav        the ten digits of one speaker, index 0, one after another
garden.wav     the same, with a chainsaw in the middle
pumps/         machines, of which the model has heard none
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pydreaming.audio.decode import decode
from pydreaming.audio.encode import write_wav
from pydreaming.audio.resample import Resampler
from pydreaming.errors import SourceError

NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.\w+")
HELD_OUT = range(5)  # FSDD's own split
SESSION = (1, 2, 3, 4)
ROW = 0
VOICES = range(10, 20)
SAW_S = 1.0

Samples = npt.NDArray[np.float32]
Clips = dict[tuple[int, str, int], Path]


@dataclass(frozen=True)
class Recordings:
    """What is known about the recordings, to judge by what the commands found.

    Attributes:
      clips: the clips of data/fsdd by digit, speaker and index.
      speakers: sorted.
      starts_s: where each digit of row.wav begins, without the first.
      saw_s: begin and end of the chainsaw in garden.wav.
    """

    clips: Clips
    speakers: list[str]
    starts_s: list[float]
    saw_s: tuple[float, float]

    def speaker(self, number: int) -> str:
        """One of the speakers; numbers go round."""
        return self.speakers[number % len(self.speakers)]

    def clip(self, digit: int, speaker: str, index: int) -> str:
        """A held-out clip as the commands name it. Raises SourceError."""
        if (digit, speaker, index) not in self.clips:
            raise SourceError(f"there is no {digit} of {speaker} with index {index}")
        return f"digits/{self.clips[digit, speaker, index].name}"


def gather(data: Path, place: Path) -> Recordings:
    """Make the recordings in `place` of data/fsdd, data/esc10 and data/machines. Raises SourceError where one is missing."""
    clips = _find_digits(data / "fsdd")
    speakers = sorted({speaker for _, speaker, _ in clips})
    _copy(clips, HELD_OUT, place / "digits")
    _copy(clips, VOICES, place / "voices")
    for speaker in speakers:
        sounds, rate = _spoken(clips, speaker, SESSION)
        write_wav(place / f"sessions/{speaker}.wav", np.concatenate(sounds), rate)
    pumps = data / "machines" / "pump"
    if not pumps.is_dir():
        raise SourceError(f"{pumps}: no such folder")
    shutil.copytree(pumps, place / "pumps", dirs_exist_ok=True)

    row, rate = _spoken(clips, speakers[1 % len(speakers)], (ROW,))
    write_wav(place / "row.wav", np.concatenate(row), rate)
    half = len(row) // 2
    saw = _saw(data / "esc10", rate, peak=float(np.median([np.abs(sound).max() for sound in row])))
    write_wav(place / "garden.wav", np.concatenate([*row[:half], saw, *row[half:]]), rate)
    ends_s = np.cumsum([len(sound) for sound in row]) / rate
    begins = float(ends_s[half - 1])
    return Recordings(clips, speakers, [float(end) for end in ends_s[:-1]], (begins, begins + len(saw) / rate))


def _find_digits(folder: Path) -> Clips:
    clips: Clips = {}
    for path in sorted(folder.rglob("*")):
        if match := NAME.fullmatch(path.name):
            clips[int(match[1]), match[2], int(match[3])] = path
    if not clips:
        raise SourceError(f"{folder}: no spoken digits named like 3_theo_2.wav")
    return clips


def _copy(clips: Clips, indices: Sequence[int], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for (_, _, index), path in clips.items():
        if index in indices:
            shutil.copy(path, folder)


def _spoken(clips: Clips, speaker: str, indices: Sequence[int]) -> tuple[list[Samples], int]:
    """The digits of a speaker in order, index by index, and their sample rate (Hz)."""
    sounds, rate = [], 0
    for index in indices:
        for digit in range(10):
            if path := clips.get((digit, speaker, index)):
                samples, rate = decode(path)
                sounds.append(samples)
    if not sounds:
        raise SourceError(f"no digits of {speaker} with index {', '.join(map(str, indices))}")
    return sounds, rate


def _saw(folder: Path, rate: int, peak: float) -> Samples:
    """The beginning of the first chainsaw, as loud as the digits around it."""
    paths = sorted((folder / "008 - Chainsaw").glob("*"))
    if not paths:
        raise SourceError(f"{folder}: no chainsaw")
    samples, own_rate = decode(paths[0])
    samples = np.concatenate(list(Resampler(own_rate, rate).stream([samples])))
    loudest = float(np.abs(samples).max())
    begin = int(np.argmax(np.abs(samples) > 0.1 * loudest))
    return samples[begin : begin + round(SAW_S * rate)] * np.float32(peak / loudest)
