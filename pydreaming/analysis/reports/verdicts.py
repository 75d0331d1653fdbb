"""What the figures say, in plain sentences: also when a baseline wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pydreaming.evaluation.evaluate import OURS, WITHOUT_SCENE, Evaluation
from pydreaming.evaluation.open_loop import OpenLoop
from pydreaming.evaluation.probes import ProbeRow
from pydreaming.evaluation.world_figures import WorldFigures

NOTICED = 0.9  # AUC from which a kind of sound counts as noticed
OWN_BOUNDARIES = ("restart", "expectation")  # the score to judge by: the first that an objective gives
LEAST_PREDICTIONS = 30  # behind a figure, for a sentence to lean on it


class Verdict(NamedTuple):
    """A sentence, and whether it is good news (None: neither)."""

    good: bool | None
    text: str


def verdicts(result: Evaluation) -> list[Verdict]:
    """Sentences on open-loop prediction and on each probe, from the figures of one checkpoint."""
    found = [] if result.open_loop is None else _prediction(result.open_loop)
    if found and not result.held_out:
        found.insert(0, Verdict(None, "Its predictions are tested on recordings it was trained on: they say nothing about new ones."))
    if result.world is not None:
        found += _world(result.world)
    for label, protocol in dict.fromkeys((row.label, row.protocol) for row in result.probes):
        rows = [row for row in result.probes if (row.label, row.protocol) == (label, protocol) and " only" not in row.features]
        found += _probe(label, protocol, rows)
    return found


def _prediction(o: OpenLoop) -> list[Verdict]:
    found = []
    # The farthest steps are predicted in few clips, if in any; one step ahead is judged by what there is.
    steps = [k for k in sorted(o.gain) if k == min(o.gain) or o.count[k] >= LEAST_PREDICTIONS]
    ahead = [k for k in steps if o.gain[k] > max(0.0, o.gain_copy.get(k, 0.0))]
    first = min(steps, default=None)
    if first is not None and first in ahead:
        gain, copy = _bits(o.gain[first]), _bits(o.gain_copy[first])
        found.append(
            Verdict(
                True,
                f"It predicts: {_windows(first)} ahead, its guess is worth {gain:.1f} bits more than the corpus average"
                f" (repeating the last window: {copy:+.1f} bits).",
            )
        )
        lost = [k for k in steps if k not in ahead]
        if lost:
            found.append(Verdict(None, f"Its guess is no better than the baselines from {_windows(lost[0])} ahead on."))
        else:
            found.append(Verdict(True, f"It still knows more than both baselines {_windows(max(ahead))} ahead, the farthest tested."))
    elif first is not None:
        gain = _bits(o.gain[first])
        found.append(
            Verdict(
                False,
                f"It does not predict: {_windows(first)} ahead, its guess is worth {gain:+.1f} bits against the corpus average, repeating"
                f" the last window {_bits(o.gain_copy[first]):+.1f} bits.",
            )
        )
    found += [_retrieval(o, k) for k in sorted(o.retrieval)[:1]]
    best = min(o.error_copy, o.error_mean)
    baselines = f"repeating the last window {o.error_copy:.3f}, the corpus mean {o.error_mean:.3f}"
    if o.error < best:
        found.append(
            Verdict(True, f"Its picture of the next window is closer than the baselines: squared error {o.error:.3f} ({baselines}).")
        )
    else:
        found.append(
            Verdict(False, f"Its picture of the next window does not beat the baselines: squared error {o.error:.3f} ({baselines}).")
        )
    return found


def _world(world: WorldFigures) -> list[Verdict]:
    found = []
    if (unusual := world.out_of_distribution) is not None:
        kind, value = unusual.worst
        good = True if value >= NOTICED else False if value < 0.5 + (NOTICED - 0.5) / 2 else None
        said = "It notices sounds that it never heard" if good else "It does not notice every sound that it never heard"
        text = f"{said}: of {len(unusual.typicality)} kinds of changed sounds, {kind.replace('_', '-')} is told worst from real ones"
        found.append(Verdict(good, f"{text} (AUC {value:.2f}, chance 0.50)."))
        if unusual.warning:
            found.append(Verdict(False, unusual.warning))
    if world.boundaries is not None and (rows := {name: row.f1 for name, row in world.boundaries.rows.items()}):
        name = next(name for name in (*OWN_BOUNDARIES, "spectral flux") if name in rows)
        if name != "spectral flux":
            others = f"spectral flux {rows['spectral flux']:.2f}, random {rows['random']:.2f}"
            better = rows[name] > max(rows["spectral flux"], rows["random"])
            said = "hears where clips begin better than" if better else "does not hear where clips begin any better than"
            found.append(Verdict(better, f"It {said} the change of the spectrum tells: F1 {rows[name]:.2f} ({others})."))
    if (abx := world.abx) is not None:
        ours, baseline = abx.error["deter"], abx.error["log-mel"]
        low, high = abx.difference["deter"]
        good = True if high < 0 else False if low > 0 else None
        said = {True: "nearer than", False: "less near than", None: "about as near as"}[good]
        text = f"What different speakers call the same lies {said} in log-mel: ABX error {ours:.1%} against {baseline:.1%}"
        found.append(Verdict(good, f"{text} (difference {low:+.1%} to {high:+.1%})."))
    return found


def _retrieval(o: OpenLoop, k: int) -> Verdict:
    ours, copy, chance = o.retrieval[k], o.retrieval_copy[k], 1 / max(1, o.candidates)
    better = ours > copy
    return Verdict(
        better,
        f"Asked which of {o.candidates} windows comes {'next' if k == 1 else f'{k} windows later'}, it is right {ours:.0%} of the time;"
        f" the most similar to the last window is {'' if better else 'as good or better: '}{copy:.0%}, chance {chance:.1%}.",
    )


def _probe(label: str, protocol: str, rows: Sequence[ProbeRow]) -> list[Verdict]:
    ours = next((row for row in rows if row.features == OURS), None)
    if ours is None:
        return []
    found = []
    task = f"telling the {label} of a clip ({protocol})"
    for name in ("log-mel", "untrained"):
        # Like is compared with like: our row, too, is of the content as it is.
        others = [row for row in rows if row.features.startswith(name) and not row.features.endswith(WITHOUT_SCENE)]
        if not others:
            continue
        other = max(others, key=lambda row: row.linear)
        figures = f"{ours.linear:.1%} against {other.linear:.1%}, ±{max(ours.interval, other.interval):.1%}"
        # Both run on the same clips, so independent intervals are on the careful side.
        margin = math.hypot(ours.interval, other.interval)
        whom = f"the {name} baseline" if name == "log-mel" else "an untrained network"
        if ours.linear - other.linear > margin:
            found.append(Verdict(True, f"It beats {whom} at {task}: {figures}."))
        elif ours.linear >= other.linear - margin:
            found.append(Verdict(None, f"It does not clearly differ from {whom} at {task}: {figures}."))
        else:
            found.append(Verdict(False, f"It does not beat {whom} at {task}: {figures}."))
    return found


def _windows(k: int) -> str:
    return "one window" if k == 1 else f"{k} windows"


def _bits(nats: float) -> float:
    return nats / math.log(2)
