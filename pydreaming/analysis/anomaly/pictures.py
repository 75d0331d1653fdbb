"""Where a recording is unusual: its log-mel, and the score below it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pydreaming.analysis.anomaly.scoring import ScoredClip, Scoring
from pydreaming.analysis.inputs import Recording
from pydreaming.analysis.reports.pictures import (
    BLUE,
    INK,
    LABEL,
    SMALL,
    VERMILION,
    colour_bar,
    colour_range,
    curve_axes,
    draw_mel,
    new_figure,
    save,
)  # fmt: skip
from pydreaming.config import FeatureConfig

Array = npt.NDArray[np.float64]


def draw_scores(path: Path, scoring: Scoring, recording: Recording, clips: list[ScoredClip], false_alarms: float, picture_s: float) -> Path:
    """Draw the score of a recording's pieces over time, below the log-mel of its first `picture_s` seconds.

    Raises PydreamingError when the picture cannot be written, DecodeError when the recording can no longer be read.
    """
    features = scoring.model.features
    room = math.ceil(picture_s * features.sample_rate / features.token_stride_samples)
    tokens = [np.empty((0, features.token_dim), np.float32)]
    for part in scoring.model.stream_tokens(recording):
        tokens.append(part[: room - sum(map(len, tokens))])
        if sum(map(len, tokens)) >= room:
            break
    begin, end = (np.concatenate([getattr(clip, f"piece_{name}_s") for clip in clips]) for name in ("start", "end"))
    score = np.concatenate([clip.score.piece_score for clip in clips])
    alarm = np.concatenate([clip.score.piece_p_value for clip in clips]) <= false_alarms
    threshold = scoring.detector.piece_ranks.threshold(false_alarms)
    verdict = ", ".join(f"score {clip.score.score:.1f}, p {clip.score.p_value:.2g}" for clip in clips[:1]) if len(clips) == 1 else ""
    title = f"{Path(recording.name).name}" + (f" ({verdict})" if verdict else "")
    log_mel = scoring.model.log_mel(np.concatenate(tokens))
    return save(score_picture(log_mel, begin, end, score, alarm, threshold, features, title), path)


def score_picture(
    log_mel: npt.NDArray[np.float32],
    begin_s: Array,
    end_s: Array,
    score: Array,
    alarm: npt.NDArray[np.bool_],
    threshold: float,
    features: FeatureConfig,
    title: str = "",
) -> Figure:
    """Log-mel above, the score of each piece below it, drawn at the piece's centre; the time of pieces that are alarms is shaded.

    Args:
      log_mel: (F, n_mels) from time 0. begin_s, end_s, score, alarm: (P,), pieces in order.
      threshold: score above which a piece is an alarm.
    """
    heard_s = len(log_mel) * features.hop_length / features.sample_rate
    figure = new_figure(3.6, title)
    top, ax = figure.subplots(2, 1, height_ratios=[1.3, 1.0], sharex=bool(end_s[-1] <= heard_s * 1.1))
    low, high = colour_range([log_mel])
    image = draw_mel(top, log_mel, features, 0.0, low, high)
    colour_bar(figure, image, [top], "nats")
    if end_s[-1] > heard_s * 1.1:
        top.set_title(f"the first {heard_s:.0f} s", fontsize=SMALL, loc="left")
    centre = (begin_s + end_s) / 2
    ax.plot(centre, score, color=BLUE, linewidth=1.2, marker="." if len(score) < 80 else None, zorder=2)
    for number, (first, last) in enumerate(_joined(begin_s[alarm], end_s[alarm])):
        ax.axvspan(first, last, color=VERMILION, alpha=0.25, linewidth=0, label=None if number else "alarm")
    if math.isfinite(threshold):
        ax.axhline(threshold, color=INK, linestyle="--", linewidth=1.2, label="threshold")
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.set_xlim(0, float(end_s[-1]))
    ax.set_xlabel("time (s)", fontsize=LABEL)
    curve_axes(ax, "score (std)")
    if ax.get_legend_handles_labels()[0]:
        ax.set_ylim(top=ax.get_ylim()[1] + 0.3 * float(np.ptp(ax.get_ylim())))  # room for the legend, above every curve
        ax.legend(loc="upper right", fontsize=SMALL, frameon=False, ncols=2)
    return figure


def _joined(begin_s: Array, end_s: Array) -> list[tuple[float, float]]:
    """Stretches of time in order, those that overlap as one."""
    result: list[tuple[float, float]] = []
    for begin, end in zip(begin_s.tolist(), end_s.tolist(), strict=True):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], end)
        else:
            result.append((begin, end))
    return result
