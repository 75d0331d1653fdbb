"""Pictures: log-mel panels, surprise, code usage, probes, open-loop curves. Axes in seconds, Hz, bits; readable at 400 pixels.

Colours are those of Okabe and Ito (distinguishable with any colour vision), and no line is told apart by colour alone.
Figures are made without pyplot, so nothing here has state or needs a display.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pydreaming.analysis.files import replacing
from pydreaming.config import FeatureConfig

Array = npt.NDArray[Any]

BLUE, ORANGE, GREEN, VERMILION, SKY, GREY, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#8A8F98", "#222222"
WIDTH = 5.8  # inches; at a phone's 340 pixels the labels are still 8 pixels high
DPI = 150
_MAX_COLUMNS = 2000  # of a log-mel image; more would only be thrown away by the renderer
STYLES = ((BLUE, "-", "o"), (VERMILION, "--", "s"), (GREY, ":", "^"), (GREEN, "-.", "D"), (ORANGE, (0, (5, 1)), "v"))
LABEL, SMALL = 10, 9  # points
_SMOOTH_PARTS = 100  # a curve of more values than four times this is smoothed over a hundredth of its length


@dataclass(frozen=True)
class Panel:
    """One log-mel panel: title and frames (F, n_mels), natural log-mel; `mark_s` draws a line there, e.g. where a dream begins."""

    title: str
    log_mel: Array
    mark_s: float | None = None


@dataclass(frozen=True)
class Curve:
    """One named curve over k."""

    name: str
    values: Sequence[float] | Array


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all. Raises PydreamingError when it cannot be written."""
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(str(temporary), format="png", dpi=DPI, facecolor="white")
    return path


def mel_panels(panels: Sequence[Panel], features: FeatureConfig, title: str = "") -> Figure:
    """Log-mel panels below each other on one colour scale and one time axis (real | one-step predicted | imagined)."""
    figure = new_figure(1.45 * len(panels) + 0.6, title)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    low, high = colour_range([panel.log_mel for panel in panels])
    image = None
    for ax, panel in zip(axes, panels, strict=True):
        image = draw_mel(ax, panel.log_mel, features, 0.0, low, high)
        ax.set_title(panel.title, fontsize=LABEL, loc="left", parse_math=False)
        if panel.mark_s is not None:
            _mark(ax, panel.mark_s)
    axes[-1].set_xlabel("time (s)", fontsize=LABEL)
    if image is not None:
        colour_bar(figure, image, list(axes), "log-mel power (nats)")
    return figure


def dream_picture(context: Array, imagined: Array, features: FeatureConfig, begins_s: float, real: Array | None = None) -> Figure:
    """What was heard and K continuations.

    Args:
      context: (F, n_mels) log-mel before the dream. imagined: (K, F', n_mels).
      begins_s: time at which the dream begins. real: (F'', n_mels) what really followed, where it is known.
    """
    F, hop_s = len(context), features.hop_length / features.sample_rate
    start_s = begins_s - F * hop_s
    mean, spread = imagined.mean(0), imagined.std(0).mean(1)
    rows = [Panel("heard | one continuation", np.concatenate([context, imagined[0]]), begins_s)]
    if real is not None and len(real):
        rows.insert(0, Panel("what really happened", np.concatenate([context, real[: imagined.shape[1]]]), begins_s))
    K = len(imagined)
    if K > 1:
        rows.append(Panel(f"heard | mean of {K} continuations", np.concatenate([context, mean]), begins_s))
    figure = new_figure(1.45 * len(rows) + (1.2 if K > 1 else 0.0) + 0.4, "")
    heights = [1.0] * len(rows) + ([0.7] if K > 1 else [])
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    low, high = colour_range([row.log_mel for row in rows])
    image = None
    for ax, row in zip(axes, rows, strict=False):
        image = draw_mel(ax, row.log_mel, features, start_s, low, high)
        ax.set_title(row.title, fontsize=LABEL, loc="left")
        _mark(ax, begins_s)
    if image is not None:
        colour_bar(figure, image, list(axes[: len(rows)]), "log-mel power (nats)")
    if K > 1:
        times = begins_s + (np.arange(len(spread)) + 0.5) * hop_s
        axes[-1].plot(times, spread, color=BLUE, linewidth=1.5)
        axes[-1].fill_between(times, 0, spread, color=BLUE, alpha=0.2, linewidth=0)
        axes[-1].set_ylim(bottom=0)
        axes[-1].set_title(f"disagreement of the {K} continuations (std, mean over bands)", fontsize=LABEL, loc="left")
        curve_axes(axes[-1], "nats")
        _mark(axes[-1], begins_s)
    axes[-1].set_xlabel("time (s)", fontsize=LABEL)
    return figure


def surprise_picture(
    log_mel: Array,
    times_s: Array,
    curves: Mapping[str, Array],
    features: FeatureConfig,
    title: str = "",
    spans: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Log-mel above, curves in bits below (one panel each, for their scales differ), on one time axis.

    Args:
      log_mel: (F, n_mels) from time 0. times_s: (T,) centres of the windows. curves: label to (T,) bits.
      spans: (start, end) in seconds of what is to be marked: a bar above the log-mel, a band behind the curves.
    """
    end_s = len(log_mel) * features.hop_length / features.sample_rate
    shown = times_s <= max(end_s, float(times_s[0]))
    figure = new_figure(1.9 + 1.1 * len(curves), title)
    axes = figure.subplots(1 + len(curves), 1, sharex=True, squeeze=False, height_ratios=[1.5] + [1.0] * len(curves))[:, 0]
    low, high = colour_range([log_mel])
    image = draw_mel(axes[0], log_mel, features, 0.0, low, high)
    colour_bar(figure, image, [axes[0]], "nats")
    for ax, (name, values), colour in zip(axes[1:], curves.items(), (BLUE, VERMILION, GREEN, ORANGE), strict=False):
        _curve(ax, times_s[shown], values[shown], colour)
        ax.set_title(name, fontsize=LABEL, loc="left")
        ax.set_ylim(bottom=min(0.0, float(values[shown].min())))  # differential entropies may lie below zero
        curve_axes(ax, "bits")
        for start_s, stop_s in spans:
            ax.axvspan(start_s, stop_s, color=ORANGE, alpha=0.3, linewidth=0)
    for span in spans:
        axes[0].plot(span, (1.04, 1.04), transform=axes[0].get_xaxis_transform(), color=ORANGE, linewidth=5, clip_on=False)
    if spans:
        axes[0].annotate(  # in points, above the bars: events may begin where the words stand
            "orange: events", (0.0, 1.04), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL - 1, color=INK
        )
    axes[-1].set_xlabel("time (s)", fontsize=LABEL)
    axes[-1].set_xlim(0, end_s)
    return figure


def code_usage(marginal: Array, title: str = "Code usage") -> Figure:
    """How often each class of each group is used, with the perplexity of each group beside it.

    Args:
      marginal: (S, K) probabilities of the codes over a corpus; each row sums to 1.
    """
    S, K = marginal.shape
    ordered = -np.sort(-marginal, axis=1)  # classes have no order of their own; sorted, the shape of the usage shows
    perplexity = np.exp(-(marginal * np.log(np.maximum(marginal, 1e-12))).sum(1))
    figure = new_figure(max(2.4, 0.15 * S + 1.2), title)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1.0])
    image = left.imshow(ordered * 100, aspect="auto", cmap="cividis", vmin=0, interpolation="nearest")
    left.set_xlabel("class, most used first", fontsize=LABEL)
    left.set_ylabel("group", fontsize=LABEL)
    left.set_yticks(np.arange(0, S, max(1, S // 8)))
    left.set_xticks(np.arange(0, K, max(1, K // 8)))
    left.tick_params(labelsize=SMALL)
    figure.colorbar(image, ax=left, pad=0.02).set_label("share of windows (%)", fontsize=SMALL)
    right.barh(np.arange(S), perplexity, color=BLUE, height=0.7)
    right.axvline(K, color=GREY, linestyle=":", linewidth=1.5)
    right.set_xlim(0, K * 1.04)
    right.set_xlabel(f"perplexity (of {K})", fontsize=LABEL)
    curve_axes(right, "")
    return figure


def probe_bars(scores: Mapping[str, Mapping[str, float | tuple[float, float, float]]], ylabel: str = "accuracy (%)") -> Figure:
    """Bars per task: the model beside its baselines.

    Args:
      scores: task -> method -> percent, or (percent, low, high) with its 95 % interval. Name ours first, then log-mel, then untrained.
    """
    tasks = list(scores)
    methods = list(dict.fromkeys(method for values in scores.values() for method in values))
    colours = (BLUE, ORANGE, GREY, GREEN, SKY)
    hatches = ("", "//", "..", "xx", "--")
    figure = new_figure(3.0, "")
    ax = figure.subplots()
    width = 0.8 / max(1, len(methods))
    for m, method in enumerate(methods):
        for t, task in enumerate(tasks):
            if method not in scores[task]:
                continue
            value, low, high = _interval(scores[task][method])
            x = t + (m - (len(methods) - 1) / 2) * width
            label = method if not any(method in scores[earlier] for earlier in tasks[:t]) else None
            fill: dict[str, Any] = {"color": colours[m % 5], "hatch": hatches[m % 5], "edgecolor": "white", "label": label}
            ax.bar(x, value, width * 0.94, yerr=[[value - low], [high - value]], error_kw={"ecolor": INK, "elinewidth": 1.2}, **fill)
            ax.text(x, high + 1.2, f"{value:.0f}", ha="center", va="bottom", fontsize=SMALL, color=INK)
    ax.set_xticks(range(len(tasks)), [_wrap(task, max(10, 64 // max(1, len(tasks)))) for task in tasks])
    ax.set_ylim(0, 112)
    ax.set_yticks(range(0, 101, 20))
    curve_axes(ax, ylabel)
    legend(figure, ax)
    return figure


def open_loop_curves(steps: Sequence[int], curves: Sequence[Curve], token_s: float, ylabel: str, zero: str = "") -> Figure:
    """Curves over k windows ahead (ours beside copy-last and the marginal).

    Args:
      steps: common values of k. token_s: length of a window in seconds.
      zero: what the value 0 means, for the legend of its line; empty: no such line.
    """
    figure = new_figure(3.0, "")
    ax = figure.subplots()
    x = np.asarray(steps, dtype=float)
    for curve, (colour, dash, marker) in zip(curves, STYLES, strict=False):
        y = np.asarray(curve.values, dtype=float)
        ax.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.8, label=curve.name)
    if zero:
        ax.axhline(0, color=INK, linewidth=1.0, label=zero)
    ax.set_xlabel(f"windows ahead, k (of {1000 * token_s:g} ms)", fontsize=LABEL)
    if x.min() >= 1 and x.max() >= 8 * x.min():
        ax.set_xscale("log", base=2)
    if len(x) <= 12:
        ax.set_xticks(x, [f"{value:g}" for value in x])
    curve_axes(ax, ylabel)
    legend(figure, ax)
    return figure


def draw_mel(ax: Axes, log_mel: Array, features: FeatureConfig, start_s: float, low: float, high: float) -> AxesImage:
    """A log-mel image on `ax`, frequency in Hz, time in seconds from `start_s`."""
    end_s = start_s + len(log_mel) * features.hop_length / features.sample_rate
    extent = (start_s, end_s, -0.5, features.n_mels - 0.5)
    shown = _thin(log_mel)
    image = ax.imshow(
        shown.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high, interpolation="nearest", rasterized=True
    )
    bands, labels = hz_ticks(features)
    ax.set_yticks(bands, labels)
    ax.set_ylabel("Hz", fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    return image


def hz_ticks(features: FeatureConfig) -> tuple[list[float], list[str]]:
    """Round frequencies on the axis of mel bands: positions in bands, and labels in Hz."""

    def mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)  # the HTK scale, as in the front end

    top = features.f_max or features.sample_rate / 2
    low, high = mel(features.f_min), mel(top)

    def band(hz: float) -> float:
        return (mel(hz) - low) / (high - low) * (features.n_mels + 1) - 1

    wanted = [hz for hz in (100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000) if -0.5 <= band(hz) <= features.n_mels - 0.5]
    wanted = [hz for hz in wanted if hz in (500, 2000, 8000, 32000) or hz == wanted[0]] if len(wanted) > 5 else wanted
    return [band(hz) for hz in wanted], [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in wanted]


def new_figure(height: float, title: str) -> Figure:
    """An empty figure of the common width, `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=LABEL + 1, fontweight="bold", x=0.01, ha="left", parse_math=False)
    return figure


def colour_range(images: Sequence[Array]) -> tuple[float, float]:
    """Colour limits that a few extreme values do not stretch."""
    values = np.concatenate([image.reshape(-1) for image in images])
    low, high = (float(v) for v in np.percentile(values, (1, 99.8)))
    return low, max(high, low + 1e-3)


def _thin(log_mel: Array) -> Array:
    """Frames averaged in groups, so that at most _MAX_COLUMNS are left."""
    group = -(-len(log_mel) // _MAX_COLUMNS)
    if group <= 1:
        return log_mel
    starts = np.arange(0, len(log_mel), group)
    counts = np.diff(np.append(starts, len(log_mel)))[:, None]
    thinned: Array = np.add.reduceat(log_mel, starts, axis=0) / counts
    return thinned


def _interval(score: float | tuple[float, float, float]) -> tuple[float, float, float]:
    return score if isinstance(score, tuple) else (score, score, score)


def _curve(ax: Axes, times_s: Array, values: Array, colour: str) -> None:
    """A filled curve; of a long one, the peaks matter too: a thin line, and the moving average on top."""
    width = len(values) // _SMOOTH_PARTS
    if width < 4:
        ax.plot(times_s, values, color=colour, linewidth=1.3, marker="." if len(values) < 80 else None)
        ax.fill_between(times_s, 0, values, color=colour, alpha=0.15, linewidth=0)
        return
    ax.plot(times_s, values, color=colour, linewidth=0.6, alpha=0.6)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    first = (width - 1) // 2
    ax.plot(times_s[first : first + len(smooth)], smooth, color=INK, linewidth=1.2)
    ax.annotate(f"black: mean of {width} windows", (1.0, 1.02), xycoords="axes fraction", ha="right", fontsize=SMALL - 1, color=INK)


def _mark(ax: Axes, at_s: float) -> None:
    """A white line with dark edges is seen on any colour."""
    ax.axvline(at_s, color=INK, linewidth=2.6)
    ax.axvline(at_s, color="white", linewidth=1.2)


def colour_bar(figure: Figure, image: AxesImage, axes: list[Axes], label: str) -> None:
    """The colours of an image, right of the axes that share them."""
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=18 * max(1, len(axes)))
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


def curve_axes(ax: Axes, ylabel: str) -> None:
    """Label, grid and frame of axes for curves."""
    ax.set_ylabel(ylabel, fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    ax.grid(axis="both", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, ax: Axes) -> None:
    """The legend of one axes above the figure, where it covers nothing."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=SMALL, frameon=False)


def _wrap(text: str, width: int) -> str:
    """Break a label at spaces and hyphens so that neighbours do not run into each other."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=False))
