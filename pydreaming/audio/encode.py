"""Sound files that appear complete, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from pydreaming.audio.decode import cause_of
from pydreaming.errors import PydreamingError


def write_wav(path: Path, samples: npt.NDArray[Any], sample_rate: int) -> None:
    """Write (num_samples,) float samples in [-1, 1] as 16-bit PCM, atomically; values beyond are clipped. The folder is made.

    Raises:
      ValueError: not one-dimensional, or not finite. PydreamingError: the place cannot be written.
    """
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise ValueError(f"samples must be (num_samples,) finite numbers, got shape {samples.shape}")
    scaled = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            soundfile.write(str(temporary), scaled, sample_rate, format="WAV", subtype="PCM_16")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (soundfile.SoundFileError, OSError) as e:
        raise PydreamingError(f"cannot write {path}: {cause_of(e)}") from e


def write_pcm(path: Path, frames: npt.NDArray[Any], sample_rate: int, container: str, subtype: str) -> None:
    """Write (num_samples, channels) integers or floats as they are, and flush them to the disk.

    Args:
      container, subtype: libsndfile's names, such as FLAC and PCM_16.
    Raises:
      PydreamingError: the place cannot be written.
    """
    try:
        soundfile.write(str(path), frames, sample_rate, format=container, subtype=subtype)
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except (soundfile.SoundFileError, OSError) as e:
        raise PydreamingError(f"cannot write {path}: {cause_of(e)}") from e
