"""Pictures of a single recording's codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pydreaming.analysis.reports.pictures import WIDTH


def code_sequence(codes: npt.NDArray[Any], start_s: npt.NDArray[np.float64], classes: int) -> Figure:
    """The code of every window: a row a group, a colour a class.

    Args:
      codes: (T, S) integers in [0, classes). start_s: (T,) start of each window, seconds.
    """
    T, S = codes.shape
    step = float(start_s[1] - start_s[0]) if T > 1 else 1.0
    figure = Figure(figsize=(WIDTH, 0.11 * S + 1.1), layout="constrained")
    ax = figure.subplots()
    extent = (float(start_s[0]), float(start_s[-1]) + step, -0.5, S - 0.5)
    # Classes have no order: neighbours on a cyclic map of changing brightness are told apart best.
    shown = (codes.T * 7) % classes if classes % 7 else codes.T
    ax.imshow(shown, origin="lower", aspect="auto", extent=extent, cmap="twilight_shifted", vmin=0, vmax=classes, interpolation="nearest")
    ax.set_xlabel("time (s)", fontsize=10)
    ax.set_ylabel("group", fontsize=10)
    ax.tick_params(labelsize=9)
    return figure
