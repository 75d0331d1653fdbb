"""A filled gap to look at: what was recorded, what was heard, and what was imagined in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pydreaming.analysis.gaps.inpaint import Fill, Inpainting
from pydreaming.analysis.reports.pictures import BLUE, INK, Array, draw_mel, save
from pydreaming.analysis.world_model import WorldModel
from pydreaming.config import FeatureConfig

SHOWN_S = 1.0  # on either side of the gaps
_WIDTH, _LABEL, _SMALL = 5.8, 10, 9


def draw_inpainting(path: Path, model: WorldModel, result: Inpainting) -> Path:
    """Draw a filled recording. Raises PydreamingError when the picture cannot be written."""
    return save(inpainting_picture(model, result), path)


def inpainting_picture(model: WorldModel, result: Inpainting) -> Figure:
    """Panels of log-mel on one colour scale: recorded, the particles' mean, and the likeliest; below, how much the kept fills disagree."""
    f = model.features
    stride_s = f.token_stride_samples / f.sample_rate
    margin = round(SHOWN_S / stride_s)
    begin, end = max(0, result.fills[0].gap.first - margin), min(len(result.tokens), result.fills[-1].gap.stop + margin)
    versions = [
        ("recorded (the model did not hear what lies between the lines)", result.tokens),
        ("gap filled: mean of the particles", _filled(result, [fill.mean for fill in result.fills])),
        ("gap filled: the likeliest particle", _filled(result, [fill.samples[0] for fill in result.fills])),
    ]
    images = [(title, model.log_mel(tokens[begin:end])) for title, tokens in versions]
    several = len(result.fills[0].samples) > 1
    figure = Figure(figsize=(_WIDTH, 1.45 * len(images) + (1.1 if several else 0) + 0.4), layout="constrained")
    heights = [1.0] * len(images) + ([0.7] if several else [])
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    low, high = (float(v) for v in np.percentile(np.concatenate([image for _, image in images]), (1, 99.8)))
    for ax, (title, image) in zip(axes, images, strict=False):
        shown = draw_mel(ax, image, f, begin * stride_s, low, max(high, low + 1e-3))
        ax.set_title(title, fontsize=_LABEL, loc="left")
        _lines(ax, result.fills, stride_s)
    bar = figure.colorbar(shown, ax=list(axes[: len(images)]), pad=0.01, aspect=18 * len(images))
    bar.set_label("log-mel power (nats)", fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL)
    if several:
        _disagreement(axes[-1], model, result, f)
    axes[-1].set_xlabel("time (s)", fontsize=_LABEL)
    return figure


def _filled(result: Inpainting, fills: list[Array]) -> Array:
    tokens = result.tokens.copy()
    for fill, values in zip(result.fills, fills, strict=True):
        part = tokens[fill.gap.first : fill.gap.stop]
        part[:] = values[: len(part)]
    return tokens


def _disagreement(ax: Axes, model: WorldModel, result: Inpainting, features: FeatureConfig) -> None:
    hop_s = features.hop_length / features.sample_rate
    for fill in result.fills:
        frames = np.stack([model.log_mel(sample) for sample in fill.samples])
        spread = frames.std(0).mean(1)
        times = fill.gap.first * features.token_stride_samples / features.sample_rate + (np.arange(len(spread)) + 0.5) * hop_s
        ax.plot(times, spread, color=BLUE, linewidth=1.5)
        ax.fill_between(times, 0, spread, color=BLUE, alpha=0.2, linewidth=0)
    ax.set_title(f"disagreement of {len(frames)} fills (std, mean over bands)", fontsize=_LABEL, loc="left")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("nats", fontsize=_LABEL)
    ax.tick_params(labelsize=_SMALL)
    ax.grid(axis="both", color="#dddddd", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _lines(ax: Axes, fills: list[Fill], stride_s: float) -> None:
    """White lines with dark edges at the windows' edges of each gap."""
    for fill in fills:
        for at in (fill.gap.first, fill.gap.stop):
            ax.axvline(at * stride_s, color=INK, linewidth=2.6)
            ax.axvline(at * stride_s, color="white", linewidth=1.2)
