"""A sound that does not end, cut into recordings in a folder: each complete when it appears, and no more than are to be kept."""

from __future__ import annotations

import fcntl
import re
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pydreaming.audio.decode import seconds_to_samples
from pydreaming.audio.encode import write_pcm
from pydreaming.audio.raw import RawFormat
from pydreaming.errors import PydreamingError, UsageError

_NAME = re.compile(r"(\d{6,})-\d{8}T\d{6}Z\.(?:flac|wav)")
_PARTIAL = re.compile(r"\.\d{6,}-\d{8}T\d{6}Z\.(?:flac|wav)\.part")
# Lossless, as small as it goes: the file's ending, and libsndfile's name of the sample format.
_FORMATS = {"s16le": (".flac", "PCM_16"), "s24le": (".flac", "PCM_24"), "s32le": (".wav", "PCM_32"), "f32le": (".wav", "FLOAT")}
_FLAC_CHANNELS, _FLAC_RATE = 8, 655_350  # most that FLAC holds


class Recorder:
    """Writes recordings NUMBER-TIME.flac (or .wav) of `segment_s`, the last one shorter. No sample is lost between two of them.

    Args:
      folder: made when missing. layout: of the bytes. segment_s: s of a recording.
      keep_s: s of sound to keep; older recordings of this kind of name are removed. 0: all.
    Raises:
      UsageError: another recorder is at work in the folder. PydreamingError: it cannot be written; also later.
    """

    def __init__(self, folder: Path, layout: RawFormat, segment_s: float, keep_s: float = 0.0) -> None:
        self._folder, self._layout = folder, layout
        samples = max(1, seconds_to_samples(segment_s, layout.sample_rate))
        self._bytes = samples * layout.frame_bytes
        self._keep = max(1, round(keep_s / segment_s)) if keep_s else 0
        self._pending = bytearray()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".recorder.lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.iterdir():
                if _PARTIAL.fullmatch(path.name):  # of a recorder that was killed
                    path.unlink(missing_ok=True)
            self._number = 1 + max((int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))), default=0)
        except BlockingIOError as e:
            raise UsageError(f"another recorder is at work in {folder}") from e
        except OSError as e:
            raise PydreamingError(f"cannot record to {folder}: {e.strerror}") from e

    def push(self, data: bytes) -> list[Path]:
        """Take in bytes; the recordings that are complete with them."""
        self._pending += data
        written = []
        while len(self._pending) >= self._bytes:
            written.append(self._write(bytes(self._pending[: self._bytes])))
            del self._pending[: self._bytes]
        return written

    def finish(self) -> tuple[list[Path], int]:
        """Write what is left as a last recording, if it is a whole sample at least. Returns that, and the bytes left over; then closes."""
        left = len(self._pending) % self._layout.frame_bytes
        rest = bytes(self._pending[: len(self._pending) - left])
        self._pending.clear()
        written = [self._write(rest)] if rest else []
        self._lock.close()
        return written, left

    def _write(self, data: bytes) -> Path:
        """One recording: under a hidden name, to the disk, and then under its own."""
        layout = self._layout
        suffix, subtype = _FORMATS[layout.encoding]
        if layout.channels > _FLAC_CHANNELS or layout.sample_rate > _FLAC_RATE:
            suffix = ".wav"
        path = self._folder / f"{self._number:06d}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}{suffix}"
        partial = path.with_name(f".{path.name}.part")
        try:
            write_pcm(partial, _frames(data, layout), layout.sample_rate, suffix[1:].upper(), subtype)
            partial.replace(path)
            self._number += 1
            self._remove_old()
        except OSError as e:
            raise PydreamingError(f"cannot write {path}: {e.strerror}") from e
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _remove_old(self) -> None:
        if not self._keep:
            return
        names = [(int(found[1]), path) for path in self._folder.iterdir() if (found := _NAME.fullmatch(path.name))]
        for _, path in sorted(names)[: -self._keep]:
            path.unlink(missing_ok=True)


def _frames(data: bytes, layout: RawFormat) -> npt.NDArray[np.int16] | npt.NDArray[np.int32] | npt.NDArray[np.float32]:
    """(num_samples, channels) as libsndfile takes them without a change of any bit."""
    if layout.encoding == "s24le":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").astype(np.int32).reshape(-1, layout.channels)
    if layout.encoding == "s16le":
        return np.frombuffer(data, "<i2").astype(np.int16).reshape(-1, layout.channels)
    if layout.encoding == "s32le":
        return np.frombuffer(data, "<i4").astype(np.int32).reshape(-1, layout.channels)
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, layout.channels)
