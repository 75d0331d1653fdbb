"""A look at a corpus: the log-mels of a few recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pydreaming.analysis.inputs import Recording, open_source
from pydreaming.analysis.inspect.advice import features_for
from pydreaming.analysis.inspect.audio import AudioReport
from pydreaming.analysis.inspect.model import RunReport
from pydreaming.analysis.inspect.path import Inspection
from pydreaming.analysis.inspect.store import StoreReport, store_log_mels
from pydreaming.analysis.reports.pictures import WIDTH, draw_mel, hz_ticks, save
from pydreaming.audio.features import FrontEnd
from pydreaming.config import FeatureConfig
from pydreaming.errors import UsageError

SHOWN = 10
LONGEST_S = 5.0  # s of a recording that are shown
_TITLE = 27  # characters; of longer names the end tells more
_SMALL = 9  # points


class Look(NamedTuple):
    """A recording to look at: title and log-mel (F, n_mels), natural logarithm of power."""

    title: str
    log_mel: npt.NDArray[np.float32]


def draw_inspection(path: Path, found: Inspection, seed: int = 0) -> None:
    """Draw ten random recordings of a corpus, or clips of a store.

    Raises:
      UsageError: a checkpoint has no recordings. PydreamingError: nothing can be read, or the picture cannot be written.
    """
    report = found.report
    if isinstance(report, AudioReport):
        looks, features = _recordings(found.recordings, features_for(report), seed), features_for(report)
    else:
        store = report.store if isinstance(report, RunReport) else report
        if not isinstance(store, StoreReport):
            raise UsageError(f"{report.path} has no recordings to draw: a picture is of audio or of a replay store")
        clips, features = store_log_mels(store.path, SHOWN, seed)
        looks = [Look(name, log_mel[: _frames(features)]) for name, log_mel in clips]
    if not looks:
        raise UsageError(f"{report.path} has nothing readable to draw")
    save(log_mel_grid(looks, features), path)


def log_mel_grid(looks: Sequence[Look], features: FeatureConfig) -> Figure:
    """Log-mels in two columns, one colour scale, each with its own time axis."""
    rows = -(-len(looks) // 2)
    figure = Figure(figsize=(WIDTH, 1.3 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    low, high = (float(value) for value in np.percentile(np.concatenate([look.log_mel.ravel() for look in looks]), (1, 99.8)))
    bands, names = hz_ticks(features)
    images = [draw_mel(ax, look.log_mel, features, 0.0, low, max(high, low + 1e-3)) for ax, look in zip(axes.flat, looks, strict=False)]
    for number, (ax, look) in enumerate(zip(axes.flat, looks, strict=False)):
        ax.set_title(look.title if len(look.title) <= _TITLE else f"…{look.title[-_TITLE:]}", fontsize=_SMALL, loc="left", parse_math=False)
        ax.set_yticks(bands[::2], names[::2])
        ax.set_ylabel("Hz" if number % 2 == 0 else "", fontsize=_SMALL)
    for ax in axes.flat[len(looks) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("time (s)", fontsize=_SMALL)
    figure.colorbar(images[0], ax=axes, pad=0.01, aspect=40).set_label("log-mel power (nats)", fontsize=_SMALL)
    return figure


def _recordings(recordings: Sequence[Recording], features: FeatureConfig, seed: int) -> list[Look]:
    chosen = np.random.default_rng(seed).permutation(len(recordings))[:SHOWN]
    looks = [_look(recordings[number], features) for number in sorted(chosen.tolist())]
    return [look for look in looks if len(look.log_mel)]  # one of less than a frame shows nothing


def _look(recording: Recording, features: FeatureConfig) -> Look:
    """The beginning of a recording. Raises DecodeError."""
    parts: list[npt.NDArray[np.float32]] = []
    wanted = _frames(features)
    with open_source(recording, "mix") as (chunks, rate):
        for frames in FrontEnd(features).frames(chunks, rate):
            parts.append(frames[:wanted])
            wanted -= len(parts[-1])
            if wanted <= 0:
                break
    label = recording.labels.get("label", "")
    floor = np.zeros((0, features.n_mels), np.float32)
    return Look(f"{recording.stem}  {label}" if label else recording.stem, np.concatenate([floor, *parts]))


def _frames(features: FeatureConfig) -> int:
    return round(LONGEST_S * features.sample_rate / features.hop_length)
