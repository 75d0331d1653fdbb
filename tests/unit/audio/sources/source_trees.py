"""Tiny true trees of every layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import soundfile

from pydreaming.audio.sources import AudioItem, iter_source, layout_of
from pydreaming.config import SourceConfig

BASE = SourceConfig(kind="auto", path="", root="", labels="auto", channels="mix", held_out=0.1, held_out_speakers=[], max_files=0)


def config_of(path: Path | str, **changes: object) -> SourceConfig:
    return dataclasses.replace(BASE, path=str(path), **changes)  # type: ignore[arg-type]


def audio(path: Path, seconds: float = 0.05) -> Path:
    """A quiet 440 Hz tone at 8 kHz, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 8000
    samples = (0.1 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    soundfile.write(path, samples, rate)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def read(path: Path | str, columns: tuple[str, ...] = (), **changes: object) -> tuple[str, list[AudioItem]]:
    """(kind, items) of a source."""
    config = config_of(path, **changes)
    return layout_of(config), list(iter_source(config, columns))
