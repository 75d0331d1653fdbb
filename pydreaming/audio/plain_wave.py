"""Small WAV files of 16-bit PCM in their plainest form, read at once: a short clip costs its opening, and libsndfile's takes longer than
its spectra.

    |RIFF size WAVE|fmt  16 ...|data length|samples ... |further chunks|

Anything else is left to libsndfile: other chunks in front, sizes that contradict each other, extensible formats, large files. What is read
here are the same integers.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST = 1 << 20  # bytes; of a longer file the opening is a small part
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_PCM = 1


class PlainWave:
    """The samples of such a file; the part of soundfile.SoundFile's interface that `AudioStream` uses."""

    format, subtype = "WAV", "PCM_16"

    def __init__(self, samplerate: int, samples: npt.NDArray[np.int16]) -> None:
        self.samplerate, self._samples, self._at = samplerate, samples, 0  # samples (num_samples, channels)
        self.frames, self.channels = samples.shape

    def read(self, frames: int, dtype: str = "int16", always_2d: bool = True) -> npt.NDArray[np.int16]:
        """The next samples (n, channels), fewer at the end."""
        del dtype, always_2d
        part = self._samples[self._at : self._at + frames]
        self._at += len(part)
        return part

    def seek(self, frame: int) -> None:
        """Go on from this sample."""
        self._at = frame

    def __enter__(self) -> PlainWave:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def read_plain(path: str, size: int) -> PlainWave | None:
    """The file of `size` bytes, or None where it is not a plain one. The caller knows that it is a regular file. Raises OSError."""
    if not _HEADER.size < size <= LARGEST:
        return None
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(handle, size + 1)
    finally:
        os.close(handle)
    return parse_plain(content) if len(content) == size else None


def parse_plain(content: bytes) -> PlainWave | None:
    """The same of bytes in memory."""
    if len(content) <= _HEADER.size:
        return None
    fields: tuple[Any, ...] = _HEADER.unpack_from(content)
    riff, riff_size, wave, fmt, fmt_size, tag, channels, rate, _, align, bits, data, length = fields
    names = (riff, wave, fmt, data) == (b"RIFF", b"WAVE", b"fmt ", b"data")
    if not names or (fmt_size, tag, bits) != (16, _PCM, 16) or riff_size + 8 != len(content):
        return None
    if not channels or align != 2 * channels or not length or length % align or _HEADER.size + length > len(content):
        return None
    samples = np.frombuffer(content, "<i2", length // 2, _HEADER.size)
    return PlainWave(rate, samples.reshape(-1, channels))
