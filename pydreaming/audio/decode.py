"""Audio files to mono float32 blocks; the only user of soundfile.

Every failure is a `DecodeError` with path and cause: libsndfile shortens damaged files silently, so the containers are checked first
(`integrity`) and the samples counted afterwards. Memory is bounded by one block, whatever the length of the recording.
"""

from __future__ import annotations

import io
import math
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile

from pydreaming.audio import integrity
from pydreaming.audio.integrity import MP3_SLACK, Identity, Length, identity_of
from pydreaming.audio.plain_wave import PlainWave, read_plain
from pydreaming.audio.sources.item import AudioItem
from pydreaming.errors import DecodeError

Samples = npt.NDArray[np.float32]

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; beyond them a header is taken for damaged
MAX_CHANNELS = 64
BLOCK_VALUES = 1 << 22  # samples x channels in one block at most, so that odd headers cannot claim gigabytes
SEGMENT_SLACK_S = 0.05  # s; manifests round durations, so a segment may end this far after the recording does
STDIN_LIMIT = 1 << 31  # bytes
STDIN_SAMPLES = 1 << 28  # a GiB once decoded (93 min at 48 kHz), of which a megabyte of FLAC may hold many; a file would be read in parts
ESTIMATE_ERROR = 0.01  # of an MP3's length that may be lost where its frames are not counted: constant bit rates are estimated a little off
SPOOL_MEMORY = 1 << 26  # bytes of standard input kept in memory; more goes to a temporary file
_UNKNOWN_FRAMES = 1 << 62  # libsndfile reports SF_COUNT_MAX where a stream does not say its length
_INT16_SCALE = np.float32(1 / 32768)
STDIN_NAME = "<stdin>"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `num_samples` is per channel, None where the header does not say (a streamed FLAC)."""

    sample_rate: int  # Hz
    num_samples: int | None
    channels: int
    format: str  # libsndfile's names, such as WAV and PCM_16
    subtype: str

    @property
    def duration_s(self) -> float | None:
        """Length in seconds, None where unknown."""
        return None if self.num_samples is None else self.num_samples / self.sample_rate


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Sequential reads only: soundfile would seek after every read, which is slow and fails on a FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


class AudioStream:
    """One open recording (or segment): `sample_rate` in Hz, `info`, and `blocks()` once, front to back."""

    def __init__(
        self, file: _SoundFile | PlainWave, path: str, item: AudioItem, channels: str, length: Length, identity: Identity | None = None
    ) -> None:
        self._file = file
        self._path = path
        self._identity = identity  # of the file on disk, before it was looked at
        self._slack = length.slack
        self.info = _info(file, path)
        if self.info.num_samples is not None and self.info.num_samples + max(MP3_SLACK, ESTIMATE_ERROR * length.least) < length.least:
            cause = f"only {self.info.num_samples} of {length.least} samples could be read, as no header counts its frames"
            raise DecodeError(path, f"{cause}; encode it again")
        self.sample_rate = self.info.sample_rate
        self._channel = _channel(self.info, path, item, channels)
        self._begin, self._length = _segment(self.info, path, item)

    @property
    def num_samples(self) -> int | None:
        """Samples that `blocks` will give, at `sample_rate`; None where the header does not say; an estimate for MP3."""
        return self._length

    def blocks(self, block_s: float = 10.0) -> Iterator[Samples]:
        """Mono blocks (num_samples,) float32 of about `block_s` seconds.

        Raises:
          DecodeError: damaged, truncated, empty, samples that are not finite numbers, or a file that changed while it was read.
        """
        size = max(1, min(int(block_s * self.sample_rate), BLOCK_VALUES // self.info.channels))
        got = 0
        try:
            self._seek(size)
            while self._length is None or got < self._length:
                want = size if self._length is None else min(size, self._length - got)
                block = self._mono(want)
                got += len(block)
                if len(block):
                    yield block
                if len(block) < want:
                    break
        except (soundfile.SoundFileError, OSError) as e:
            raise DecodeError(self._path, cause_of(e)) from e
        self._check_length(got)
        now = None if self._identity is None else identity_of(Path(self._path))
        # One that was removed, or replaced by another file, is still read whole. One that grows is not finished yet.
        if now is not None and self._identity is not None and now.inode == self._identity.inode and now != self._identity:
            raise DecodeError(self._path, "changed while it was read; the next pass reads it again")

    def _seek(self, size: int) -> None:
        if self._begin == 0:
            return
        if self.info.subtype != "VORBIS" and self.info.num_samples is not None:
            self._file.seek(self._begin)
            return
        left = self._begin  # libsndfile's seek in Vorbis lands elsewhere near the end, and cannot work without a length: read and discard
        while left:
            read = len(self._file.read(min(size, left), dtype="float32"))
            left -= read
            if not read:
                raise DecodeError(self._path, _beyond("begins", self._begin, self._begin - left, self.sample_rate))

    def _mono(self, want: int) -> Samples:
        integers = self.info.subtype == "PCM_16"  # twice as fast as libsndfile's float conversion, and the same values
        block = self._file.read(want, dtype="int16" if integers else "float32", always_2d=True)
        samples = mono(block, self._channel)
        if samples is None:
            bad = len(block) - int(np.isfinite(block).all(1).sum())
            raise DecodeError(self._path, f"{bad} samples are not finite numbers" if bad else "samples are absurdly large")
        return samples

    def _check_length(self, got: int) -> None:
        if self._slack is not None and self._length is not None and got + self._slack < self._length:
            raise DecodeError(self._path, f"truncated: {got} of {self._length} samples")
        if got == 0:
            raise DecodeError(self._path, "holds no samples")


@contextmanager
def open_audio(path: Path, item: AudioItem, channels: str) -> Iterator[AudioStream]:
    """Open one recording for reading.

    Args:
      path: the file (see `resolve_inside`); `item` gives the segment and channel, `channels` is `source.channels`.
    Raises:
      DecodeError: not there, not a regular file, not audio, damaged, or a segment or channel that it does not have.
    """
    name = str(path)
    identity = identity_of(path)
    file: _SoundFile | PlainWave | None = None
    length = Length(0)
    try:
        if identity is not None and identity.regular:
            file = read_plain(name, identity.size)
        if file is None:
            length = _inspect(path)
            file = _SoundFile(name)
    except (soundfile.SoundFileError, OSError, TypeError) as e:  # TypeError: a headerless .raw
        raise DecodeError(name, cause_of(e)) from e
    with file:
        yield AudioStream(file, name, item, channels, length, identity)


def read_blocks(path: Path, item: AudioItem, channels: str, block_s: float = 10.0) -> Iterator[Samples]:
    """Mono blocks (num_samples,) float32 at the file's own rate. Raises DecodeError. See `open_audio` for the rate."""
    with open_audio(path, item, channels) as stream:
        yield from stream.blocks(block_s)


def decode(path: Path, item: AudioItem | None = None, channels: str = "mix") -> tuple[Samples, int]:
    """A whole (short) recording or segment.

    Returns:
      samples (num_samples,) float32 mono, and the sample rate in Hz.
    Raises:
      DecodeError: see `open_audio`.
    """
    with open_audio(path, item or AudioItem(index=-1, path=str(path), group=""), channels) as stream:
        return np.concatenate(list(stream.blocks())), stream.sample_rate


def probe(path: Path) -> AudioInfo:
    """What the header says, without decoding. Raises DecodeError."""
    with open_audio(path, AudioItem(index=-1, path=str(path), group=""), "mix") as stream:
        return stream.info


def expand_channels(item: AudioItem, info: AudioInfo, channels: str) -> list[AudioItem]:
    """One item per stream: for `each`, every channel of a multichannel file with its own group suffix "#ch1", "#ch2", ...

    The held-out split is made by the group before this, so the channels of a recording never fall on both sides of it.
    """
    if channels != "each" or item.channel >= 0:
        return [item]
    if info.channels == 1:
        return [msgspec.structs.replace(item, channel=0)]
    return [msgspec.structs.replace(item, channel=c, group=f"{item.group}#ch{c + 1}") for c in range(info.channels)]


def read_stdin(stream: IO[bytes] | None = None, limit: int = STDIN_LIMIT, channels: str = "mix") -> tuple[Samples, int]:
    """Decode an audio file (wav, flac, ogg, mp3, ...) from a pipe; `stream` defaults to standard input.

    The bytes are spooled (to memory, then to a temporary file), because containers need seeking.

    Returns:
      samples (num_samples,) float32 mono, and the sample rate in Hz.
    Raises:
      DecodeError: more than `limit` bytes, more than STDIN_SAMPLES, or not audio.
    """
    source = stream if stream is not None else sys.stdin.buffer
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY) as spool:
        total = 0
        while piece := source.read(min(1 << 20, limit + 1 - total)):
            total += len(piece)
            if total > limit:
                raise DecodeError(STDIN_NAME, f"more than {limit} bytes")
            spool.write(piece)
        if not total:
            raise DecodeError(STDIN_NAME, "empty")
        return _decode_open(cast(IO[bytes], spool), STDIN_NAME, channels, most=STDIN_SAMPLES)


def decode_bytes(data: bytes, name: str, channels: str = "mix", max_s: float = math.inf) -> tuple[Samples, int]:
    """Decode an audio file that is in memory; `name` is what it is called in messages.

    Returns:
      samples (num_samples,) float32 mono, and the sample rate in Hz.
    Raises:
      DecodeError: not audio, damaged, or longer than `max_s` seconds (of which a few compressed bytes can claim hours).
    """
    return _decode_open(io.BytesIO(data), name, channels, max_s)


def _decode_open(opened: IO[bytes], name: str, channels: str, max_s: float = math.inf, most: float = math.inf) -> tuple[Samples, int]:
    try:
        known = integrity.check(opened)
        opened.seek(0)
        file = _SoundFile(opened)
    except integrity.DamageError as e:
        raise DecodeError(name, str(e)) from e
    except (soundfile.SoundFileError, OSError, TypeError) as e:
        raise DecodeError(name, cause_of(e)) from e
    with file:
        stream = AudioStream(file, name, AudioItem(index=-1, path=name, group=""), channels, known)
        blocks, length = [], 0
        for block in stream.blocks():
            blocks.append(block)
            length += len(block)
            if length > max_s * stream.sample_rate:
                raise DecodeError(name, f"longer than {max_s:g} s")
            if length > most:
                raise DecodeError(name, f"longer than {most / stream.sample_rate:.0f} s; give it as a file, which is read in parts")
        return np.concatenate(blocks), stream.sample_rate


def mono(block: npt.NDArray[np.int16] | npt.NDArray[np.float32], channel: int | None) -> Samples | None:
    """One channel of (num_samples, channels) as (num_samples,) float32, or the mean of all where it is None; int16 is brought to [-1, 1].

    None where samples are not finite numbers, or so large that their squares are not.
    """
    integers = block.dtype == np.int16
    if channel is None:
        mixed = block[:, 0].astype(np.float32)
        for other in range(1, block.shape[1]):  # column sums: the same bits for any block size
            mixed += block[:, other]
        scale = np.float32(1 / block.shape[1])
    else:
        mixed = block[:, channel].astype(np.float32)
        scale = np.float32(1)
    if integers:
        scale *= _INT16_SCALE
    if scale != 1:
        mixed *= scale
    with np.errstate(over="ignore", invalid="ignore"):
        finite = integers or bool(np.isfinite(np.dot(mixed, mixed)))  # one pass; only an odd sum deserves the exact count
    return mixed if finite else None


def resolve_inside(root: Path, relative: str) -> Path:
    """The file that a manifest's POSIX path names, which must lie under `root`.

    Raises:
      DecodeError: an absolute path, "..", a symbolic link out of the root, or no such file.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\0" in relative or not pure.parts:
        raise DecodeError(relative, "not a relative path inside the source's root")
    try:
        base = root.resolve(strict=True)
        if (direct := _without_links(base, pure)) is not None:
            return direct
        path = (base / pure).resolve(strict=True)
    except (OSError, RuntimeError) as e:  # RuntimeError: a loop of links
        raise DecodeError(relative, f"not found under {root}") from e
    if not path.is_relative_to(base):
        raise DecodeError(relative, f"a symbolic link that leads out of {root}")
    return path


def _without_links(base: Path, pure: PurePosixPath) -> Path | None:
    """The path below `base`, if no part of it is a link. Raises OSError: it is not there."""
    path = str(base)
    for part in pure.parts:
        path = f"{path}/{part}"
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return None
    return Path(path)


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """The one rounding from seconds to samples: to the nearest, halves up."""
    return math.floor(seconds * sample_rate + 0.5)


def _inspect(path: Path) -> Length:
    """Refuse what must not be opened (a pipe would hang) or is damaged; see `integrity.check` for the result."""
    try:
        with path.open("rb", buffering=0) if stat.S_ISREG(path.stat().st_mode) else _not_regular(path) as raw:
            return integrity.check(raw)
    except integrity.DamageError as e:
        raise DecodeError(str(path), str(e)) from e
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise DecodeError(str(path), cause_of(e)) from e


def _not_regular(path: Path) -> IO[bytes]:
    raise DecodeError(str(path), "not a regular file")


def _info(file: _SoundFile | PlainWave, path: str) -> AudioInfo:
    rate, channels, frames = int(file.samplerate), int(file.channels), int(file.frames)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise DecodeError(path, f"a sample rate of {rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise DecodeError(path, f"{channels} channels; at most {MAX_CHANNELS} are read")
    if frames <= 0:
        raise DecodeError(path, "holds no samples")
    return AudioInfo(rate, frames if frames < _UNKNOWN_FRAMES else None, channels, str(file.format), str(file.subtype))


def _channel(info: AudioInfo, path: str, item: AudioItem, channels: str) -> int | None:
    """The channel to read; None: the mean of all."""
    if item.channel >= info.channels:
        raise DecodeError(path, f"channel {item.channel} asked for; it has {info.channels}")
    if item.channel >= 0:
        return item.channel
    if channels == "each" and info.channels > 1:
        raise DecodeError(path, f"source.channels is 'each', but the item names none of the {info.channels} channels")
    return 0 if channels == "first" or info.channels == 1 else None


def _beyond(does: str, sample: int, total: int, rate: int) -> str:
    """What is wrong with a segment that leaves its recording of `total` samples, in the seconds that segments are given in."""
    return f"the segment {does} at {sample / rate:.10g} s, after the end ({total / rate:.10g} s)"


def _segment(info: AudioInfo, path: str, item: AudioItem) -> tuple[int, int | None]:
    """First sample and number of samples (None: to an unknown end) of the item's segment."""
    rate, total = info.sample_rate, info.num_samples
    valid = math.isfinite(item.offset_s) and item.offset_s >= 0
    if not valid or (item.duration_s is not None and not (math.isfinite(item.duration_s) and item.duration_s > 0)):
        raise DecodeError(path, f"a segment of {item.duration_s} s at {item.offset_s} s makes no sense")
    begin = seconds_to_samples(item.offset_s, rate)
    end = None if item.duration_s is None else seconds_to_samples(item.offset_s + item.duration_s, rate)
    if total is None:
        return begin, None if end is None else end - begin
    if begin >= total:
        raise DecodeError(path, _beyond("begins", begin, total, rate))
    if end is not None and end > total + seconds_to_samples(SEGMENT_SLACK_S, rate):
        raise DecodeError(path, _beyond("ends", end, total, rate))
    return begin, (total if end is None else min(end, total)) - begin


def cause_of(error: BaseException) -> str:
    """One line, without the path that libsndfile puts before its reason."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    if "possibly a pipe?" in text:  # of an MP3 that is none; that the file is there was looked at before
        return "not audio that can be decoded"
    return " ".join(str(text).removeprefix("Error : ").split()).rstrip(".")
