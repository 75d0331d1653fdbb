"""Pictures of units: a grid of small log-mels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pydreaming.analysis.reports.pictures import WIDTH, hz_ticks
from pydreaming.config import FeatureConfig

COLUMNS = 4
_SMALL = 9  # points


class UnitPanel(NamedTuple):
    """One unit: title and mean log-mel (F, n_mels) around its window; not a number where nothing was heard."""

    title: str
    log_mel: npt.NDArray[np.float32]


def unit_grid(panels: Sequence[UnitPanel], features: FeatureConfig, before: int) -> Figure:
    """Panels side by side on one colour scale; white lines bound the unit's window, `before` frames into each."""
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.15 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True)
    hop_s = features.hop_length / features.sample_rate
    low, high = (float(value) for value in np.nanpercentile(np.concatenate([panel.log_mel for panel in panels]), (1, 99.8)))
    edges = (0.0, features.token_frames * hop_s)
    for ax, panel in zip(axes.flat, panels, strict=False):
        extent = (-before * hop_s, (len(panel.log_mel) - before) * hop_s, -0.5, features.n_mels - 0.5)
        image = ax.imshow(
            panel.log_mel.T,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma",
            vmin=low,
            vmax=max(high, low + 1e-3),
            interpolation="nearest",
        )
        for edge in edges:
            ax.axvline(edge, color="white", linewidth=0.9)
        ax.set_title(panel.title, fontsize=_SMALL, loc="left", pad=2)
        ax.tick_params(labelsize=_SMALL - 1)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    bands, labels = hz_ticks(features)
    axes[0, 0].set_yticks(bands[::2], labels[::2])
    figure.supxlabel("s from the window's start", fontsize=_SMALL)
    figure.supylabel("Hz", fontsize=_SMALL)
    figure.colorbar(image, ax=axes, pad=0.01, aspect=40).set_label("log-mel power (nats)", fontsize=_SMALL)
    return figure
