"""Pictures of a single recording's codes."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from matplotlib.figure import Figure

from pydreaming.analysis.reports.pictures import WIDTH


def code_sequence(codes: npt.NDArray[Any], stride_s: float, classes: int) -> Figure:
    """The code of every window: a row a group, a colour a class.

    Args:
      codes: (T, S) integers in [0, classes). stride_s: seconds from one window to the next.
    """
    T, S = codes.shape
    figure = Figure(figsize=(WIDTH, 0.11 * S + 1.1), layout="constrained")
    ax = figure.subplots()
    extent = (0.0, T * stride_s, -0.5, S - 0.5)
    # Classes have no order: neighbours on a cyclic map of changing brightness are told apart best.
    shown = (codes.T * 7) % classes if classes % 7 else codes.T
    ax.imshow(shown, origin="lower", aspect="auto", extent=extent, cmap="twilight_shifted", vmin=0, vmax=classes, interpolation="nearest")
    ax.set_xlabel("time (s)", fontsize=10)
    ax.set_ylabel("group", fontsize=10)
    ax.tick_params(labelsize=9)
    return figure
