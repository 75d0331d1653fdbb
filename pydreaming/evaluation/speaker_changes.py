"""Where the speaker changes in a long recording, from how different the seconds before and after a moment are.

    curve(t) = distance of the means of two spans, SPAN_S before t and SPAN_S after t, in units of the deviation over the recording

A recording of a few changes allows no choice of parameters, and this makes none: as many peaks are taken as there are changes (which a
detector would not know), at least SPAN_S apart. Two figures for each row: how many changes have a peak within the tolerance, and
`missed_share`, the share of the recording that scores higher than a change's best moment within the tolerance (mean over changes, 0 is
best), which also says how near a miss was. Being the best of many moments it is small by chance already: compare it with `random`, and
the smooth curves with one another. It is a smoke test where changes are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pydreaming.audio.tokens import join_tokens
from pydreaming.config import FeatureConfig
from pydreaming.evaluation.boundaries import Picker, Scores
from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array
from pydreaming.models.world_model import WorldModelNet

SPAN_S = 5.0
TOLERANCE_S = 1.0


@dataclass(frozen=True)
class SpeakerChanges:
    """Figures by row: `found` of `changes` changes, and `missed_share`; within TOLERANCE_S seconds."""

    found: dict[str, int]
    missed_share: dict[str, float]
    changes: int


def speaker_changes(
    model: WorldModelNet, features: FeatureConfig, tokens: Array, changes_s: Sequence[float], action: Array, seed: int
) -> SpeakerChanges | str:
    """Figures on one recording, or a sentence that says why there are none.

    Args:
      tokens: (T, D) of the whole recording. changes_s: true changes, in seconds from its start.
    """
    token_s = features.token_stride_samples / features.sample_rate
    span = max(1, round(SPAN_S / token_s))
    inside = [round(second / token_s) for second in changes_s if span <= round(second / token_s) < len(tokens) - span]
    if not inside:
        return f"No speaker changes: none lies {SPAN_S:.0f} s from both ends of the recording."
    tolerance = max(1, round(TOLERANCE_S / token_s))
    found, missed = {}, {}
    for name, curve in _curves(model, features, tokens, action, span, np.random.default_rng(seed)).items():
        ranked = Picker(span, 1.0)(curve)
        peaks = ranked[np.argsort(-curve[ranked], kind="stable")[: len(inside)]]
        found[name] = sum(bool((abs(peaks - at) <= tolerance).any()) for at in inside)
        best = [curve[at - tolerance : at + tolerance + 1].max() for at in inside]
        missed[name] = float(np.mean([(curve[span:-span] > value).mean() for value in best]))
    return SpeakerChanges(found, missed, len(inside))


@torch.no_grad()
def _curves(
    model: WorldModelNet, features: FeatureConfig, tokens: Array, action: Array, span: int, random: np.random.Generator
) -> dict[str, Scores]:
    (heard,) = listen(model, [tokens], [np.tile(action, (len(tokens), 1))])
    observed = heard.observed
    parts = {
        "world model": observed.context[0],
        "world model, embed only": observed.embed[0],
        "world model, codes only": observed.post.logits[0].exp().flatten(1),
    }
    curves = {name: _distance(part.double().cpu().numpy(), span) for name, part in parts.items()}
    curves["log-mel"] = _distance(tokens.astype(np.float64), span)
    frames = join_tokens(tokens, features).astype(np.float64)
    flux = np.sqrt(np.square(np.diff(frames, axis=0, prepend=frames[:1])).mean(1))
    curves["spectral flux"] = flux[: len(tokens) * features.token_hop : features.token_hop]
    return curves | {"random": random.standard_normal(len(tokens))}


def _distance(values: Scores, span: int) -> Scores:
    """(T, F) -> (T,) distance of the means over `span` steps before and after each, in deviations; 0 at the ends."""
    scaled = (values - values.mean(0)) / (values.std(0) + 1e-6)
    sums = np.cumsum(np.concatenate([np.zeros((1, scaled.shape[1])), scaled]), 0)
    means = (sums[span:] - sums[:-span]) / span  # of the steps t .. t + span - 1
    curve = np.zeros(len(values))
    curve[span : len(values) - span + 1] = np.linalg.norm(means[span:] - means[:-span], axis=1)
    return curve
