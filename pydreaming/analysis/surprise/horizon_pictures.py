"""Predictability against steps ahead: one curve a group, the baselines beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pydreaming.analysis.reports.pictures import INK, LABEL, STYLES, curve_axes, legend, new_figure, save
from pydreaming.analysis.surprise.horizon import ALL, Horizon, Step

MOST = len(STYLES)  # groups drawn: more could not be told apart


def draw_horizon(path: Path, result: Horizon, title: str = "") -> Path:
    """Draw the groups with most predictions, or all together where there are none. Raises PydreamingError when it cannot be written."""
    return save(horizon_picture(result, title), path)


def drawn_groups(result: Horizon) -> list[str]:
    """The groups that the picture shows."""
    named = [name for name in result.groups if name != ALL] or [ALL]
    return sorted(sorted(named, key=lambda name: -sum(step.predictions for step in result.groups[name]))[:MOST])


def horizon_picture(result: Horizon, title: str = "") -> Figure:
    """Above, the share of windows found; below, bits won over the average code. Copy is dotted, in the colour of its group."""
    figure = new_figure(5.4, title)
    found, gained = figure.subplots(2, 1, sharex=True)
    for name, (colour, dash, marker) in zip(drawn_groups(result), STYLES, strict=False):
        steps = result.groups[name]
        how = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 5, "linewidth": 1.8}
        _curve(
            found,
            steps,
            [100 * s.retrieval for s in steps],
            [100 * s.retrieval_low for s in steps],
            [100 * s.retrieval_high for s in steps],
            how,
            name,
        )
        _curve(gained, steps, [s.gain_bits for s in steps], [s.gain_low_bits for s in steps], [s.gain_high_bits for s in steps], how, name)
        copied = {"color": colour, "linestyle": ":", "linewidth": 1.2}
        found.plot([s.k for s in steps], [100 * s.retrieval_copy for s in steps], **copied)
        gained.plot([s.k for s in steps], [s.gain_copy_bits for s in steps], **copied)
    every = result.groups[ALL]
    found.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="copy of the last window")
    found.plot([s.k for s in every], [100 * s.chance for s in every], color=INK, linewidth=1.5, label="chance, average code")
    gained.axhline(0, color=INK, linewidth=1.5)
    found.set_ylim(bottom=0)
    lowest = min(s.gain_bits for name in drawn_groups(result) for s in result.groups[name])
    highest = max(
        s.gain_high_bits if s.gain_high_bits == s.gain_high_bits else s.gain_bits
        for name in drawn_groups(result)
        for s in result.groups[name]
    )
    # A copy may lose very many bits: it is confident and wrong. Its curve may leave the picture below.
    gained.set_ylim(min(0.0, lowest) - 0.35 * max(highest, 1.0), max(highest, 1.0) * 1.1)
    curve_axes(found, "found (%)")
    curve_axes(gained, "gain (bits)")
    ticks = [s.k for s in every]
    gained.set_xscale("log", base=2)
    gained.set_xticks(ticks, [f"{s.k}\n{1000 * s.ahead_s:.0f} ms" for s in every])
    gained.minorticks_off()
    gained.set_xlabel("windows ahead, k", fontsize=LABEL)
    legend(figure, found)
    return figure


def _curve(ax: Axes, steps: list[Step], values: list[float], low: list[float], high: list[float], how: dict[str, Any], name: str) -> None:
    x = [s.k for s in steps]
    ax.plot(x, values, label=name, **how)
    ax.fill_between(x, low, high, color=how["color"], alpha=0.15, linewidth=0)
