"""PCM that is still being made: bytes from a pipe, and files that grow.

Nothing about the bytes is believed: rates and channels are bounded, samples must be finite, and a file may be cut anywhere, also in the
middle of a sample or of its header.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pydreaming.audio.decode import MAX_CHANNELS, MAX_RATE, MIN_RATE, Samples, mono
from pydreaming.audio.integrity import STREAMED
from pydreaming.errors import DecodeError, UsageError

ENCODINGS = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}  # bytes of a sample
PIECE = 1 << 16  # bytes read at once
MAX_HEADER = 1 << 16  # bytes of a WAV before its samples
POLL_S = 0.02  # s between two looks at a file that grows
_WAV = {(1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le"}  # format tag and bits
_EXTENSIBLE = 0xFFFE


@dataclass(frozen=True)
class RawFormat:
    """How samples lie in bytes, the channels side by side. Raises UsageError for what is none: an unknown encoding, an absurd rate."""

    sample_rate: int
    encoding: str = "s16le"
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise UsageError(f"there is no sample format '{self.encoding}'; there are {', '.join(ENCODINGS)}")
        if not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise UsageError(f"a sample rate of {self.sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UsageError(f"{self.channels} channels; 1 to {MAX_CHANNELS} are read")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return ENCODINGS[self.encoding] * self.channels


class RawDecoder:
    """Bytes of one stream to mono samples (num_samples,), the same bits as libsndfile's and `decode`'s for the same sound; a stage.

    Args:
      channels: `mix` or `first`. name: of the stream, for messages.
    """

    def __init__(self, layout: RawFormat, channels: str, name: str) -> None:
        self._layout, self._name = layout, name
        self._channel = 0 if channels == "first" or layout.channels == 1 else None
        self._rest = b""
        self._read = 0  # samples

    @property
    def left(self) -> int:
        """Bytes that have come and are no whole sample (of every channel) yet."""
        return len(self._rest)

    def push(self, part: bytes) -> Iterator[Samples]:
        """See `Stage`. Raises DecodeError when samples are no finite numbers."""
        data = self._rest + part
        whole = len(data) - len(data) % self._layout.frame_bytes
        self._rest = data[whole:]
        if not whole:
            return
        block = _values(data[:whole], self._layout.encoding).reshape(-1, self._layout.channels)
        samples = mono(block, self._channel)
        if samples is None:
            raise DecodeError(self._name, f"samples from {self._read} on are not finite numbers, or absurdly large")
        self._read += len(samples)
        yield samples

    def finish(self) -> Iterator[Samples]:
        """See `Stage`; what is `left` is dropped."""
        return iter(())


@dataclass(frozen=True)
class WavHeader:
    """Where the samples of a WAV begin and how they lie; `size_at` is the position of the four bytes that announce theirs."""

    layout: RawFormat
    data_at: int

    @property
    def size_at(self) -> int:
        """Position of the announced size."""
        return self.data_at - 4


def parse_wav(data: bytes, name: str) -> WavHeader | None:
    """The header of a WAV of which these are the first bytes; None while more are needed. Raises DecodeError: it is none that is read."""
    if not b"RIFF".startswith(data[:4]) or (len(data) >= 12 and data[8:12] != b"WAVE"):
        raise DecodeError(name, "not a WAV; give --rate (and --format, --channels) for raw PCM")
    position, layout = 12, None
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        if kind == b"data":
            if layout is None:
                raise DecodeError(name, "a WAV whose samples come before their format")
            return WavHeader(layout, position)
        if kind == b"fmt " and position + size <= len(data):
            layout = _wav_format(data[position : position + size], name)
        position += size + size % 2
    if len(data) >= MAX_HEADER:
        raise DecodeError(name, f"no samples in the first {MAX_HEADER} bytes")
    return None


def read_format(read: Callable[[int], bytes], name: str) -> tuple[RawFormat, bytes]:
    """Format of a WAV on a pipe, and the bytes of samples that were read with its header. Raises DecodeError."""
    data = b""
    while (header := parse_wav(data, name)) is None:
        piece = read(PIECE)
        if not piece:
            raise DecodeError(name, "ends within its header" if data else "empty")
        data += piece
    return header.layout, data[header.data_at :]


class GrowingFile:
    """A file that another program is writing; `layout` is known as soon as its header has come (one may wait for that).

    Args:
      layout: of raw PCM; None: a WAV, whose header says it.
      idle_s: give up when nothing has come for so long; None: never.
    Raises:
      DecodeError: not there, not a regular file, no WAV; or nothing of its header came in `idle_s`.
    """

    def __init__(self, path: Path, layout: RawFormat | None = None, idle_s: float | None = None) -> None:
        self._path, self._idle_s = path, idle_s
        self._size_at: int | None = None
        self._at = 0
        self._changed = 0.0  # when the last bytes came
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DecodeError(str(path), "not a regular file; pipe it into - instead")
            self._file = path.open("rb", buffering=0)
        except OSError as e:
            raise DecodeError(str(path), e.strerror or str(e)) from e
        self.layout = self._wait_for_header() if layout is None else layout

    def pieces(self) -> Iterator[bytes]:
        """Bytes of samples as they come, until none have come for `idle_s`. Raises DecodeError when the file shrinks."""
        with self._file as file:
            for size in self._looks():
                end = self._end(size)
                file.seek(self._at)
                while self._at < end:
                    piece = file.read(min(PIECE, end - self._at))
                    if not piece:
                        break  # it became shorter: the next look says so
                    self._at += len(piece)
                    self._changed = time.monotonic()
                    yield piece

    def _wait_for_header(self) -> RawFormat:
        for _ in self._looks():
            self._file.seek(0)
            header = parse_wav(self._file.read(MAX_HEADER), str(self._path))
            if header is not None:
                self._size_at, self._at = header.size_at, header.data_at
                return header.layout
        raise DecodeError(str(self._path), f"no WAV header came in {self._idle_s:g} s")

    def _looks(self) -> Iterator[int]:
        """The file's size again and again, until nothing has come for too long."""
        self._changed = time.monotonic()
        while self._idle_s is None or time.monotonic() - self._changed < self._idle_s:
            size = os.fstat(self._file.fileno()).st_size
            if size < self._at:
                raise DecodeError(str(self._path), f"became shorter while it was read: {size} bytes, {self._at} were read")
            yield size
            time.sleep(POLL_S)

    def _end(self, size: int) -> int:
        """Where the samples end for now: a writer that knows their size may put other chunks behind them."""
        if self._size_at is None:
            return size
        self._file.seek(self._size_at)
        announced = int.from_bytes(self._file.read(4), "little")
        return min(size, self._size_at + 4 + announced) if 0 < announced < STREAMED else size


def _values(data: bytes, encoding: str) -> npt.NDArray[np.int16] | npt.NDArray[np.float32]:
    if encoding == "s24le":
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2.0**-31)
    if encoding == "s32le":
        return np.frombuffer(data, dtype="<i4").astype(np.float32) * np.float32(2.0**-31)
    if encoding == "s16le":
        return np.frombuffer(data, dtype="<i2").astype(np.int16)
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _wav_format(chunk: bytes, name: str) -> RawFormat:
    if len(chunk) < 16:
        raise DecodeError(name, "a WAV whose format is cut off")
    tag, channels, rate, bits = (int.from_bytes(chunk[i:j], "little") for i, j in ((0, 2), (2, 4), (4, 8), (14, 16)))
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = int.from_bytes(chunk[24:26], "little")
    if (tag, bits) not in _WAV:
        raise DecodeError(name, f"a WAV of format {tag} with {bits} bits; PCM of 16, 24 or 32 bits and 32-bit floats can be followed")
    try:
        return RawFormat(rate, _WAV[tag, bits], channels)
    except UsageError as e:
        raise DecodeError(name, str(e)) from e
