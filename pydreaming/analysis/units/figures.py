"""What an inventory of units is worth on a set of recordings: each figure beside log-mel clusters of the same number, and beside chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pydreaming.analysis.reports.page import format_value
from pydreaming.analysis.units.inventory import Transcriber, about
from pydreaming.errors import UsageError
from pydreaming.evaluation.unit_statistics import Agreement, Repeated, Runs, SequenceStatistics, agreement, repeated, sequence_statistics
from pydreaming.replay.tables import write_table

LABELS = ("label", "speaker")
LENGTHS = (1, 2, 3, 4)  # runs in what may repeat
SHOWN = 5  # most frequent sequences of each length


class Figure(NamedTuple):
    """A figure of the units, of the log-mel clusters, and what chance or a bound gives; None where there is none. With what it means."""

    name: str
    units: float | None
    baseline: float | None
    reference: float | None
    meaning: str


class Repeat(NamedTuple):
    """A frequent sequence of runs, such as "u3 u17": how often, in how many recordings, and where first (source, s)."""

    units: str
    runs: int
    times: int
    recordings: int
    source: str
    start_s: float


@dataclass(frozen=True)
class UnitFigures:
    """All figures of a transcription. `agreements`: of units and baseline, by label column, where labels exist."""

    figures: list[Figure]
    repeats: list[Repeat]
    agreements: dict[str, tuple[Agreement, Agreement]]


def unit_figures(transcriber: Transcriber, seed: int = 0) -> UnitFigures:
    """Figures of what was transcribed. Raises UsageError when nothing was."""
    transcripts = transcriber.transcripts
    if not transcripts:
        raise UsageError("no recording was written down in units")
    units, baseline = [t.runs for t in transcripts], [t.baseline for t in transcripts]
    size = len(transcriber.inventory)
    of_units, of_baseline = (sequence_statistics(sequences, size, transcriber.token_s, seed) for sequences in (units, baseline))
    figures = _sequences(of_units, of_baseline, size, transcriber.token_s)
    agreements = {}
    for key in LABELS:
        labels = [t.recording.labels.get(key, "") for t in transcripts]
        ours, theirs = agreement(units, labels, seed), agreement(baseline, labels, seed)
        if ours is not None and theirs is not None:
            agreements[key] = (ours, theirs)
            figures += _agreements(key, ours, theirs)
    return UnitFigures(figures + _codes(transcriber), _repeats(transcriber), agreements)


def write_figures(path: Path, result: UnitFigures, transcriber: Transcriber) -> None:
    """One row per figure: figure, units, log_mel, reference (nan where there is none), meaning. Raises UsageError for the ending."""
    rows = result.figures
    columns = {name: [math.nan if v is None else v for v in values] for name, values in _numbers(rows).items()}
    about_it = {"what": "pydreaming figures of units", **about(transcriber)}
    write_table(path, {"figure": [row.name for row in rows], **columns, "meaning": [row.meaning for row in rows]}, about_it)


def figure_lines(result: UnitFigures) -> list[str]:
    """The figures and what repeats as aligned lines."""
    rows = [(f.name, *(format_value(v) if v is not None else "" for v in (f.units, f.baseline, f.reference))) for f in result.figures]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':<{width}}  {'units':>9} {'log-mel':>9} {'reference':>9}"]
    lines += [
        f"{name:<{width}}  {ours:>9} {theirs:>9} {reference:>9}  {figure.meaning}"
        for (name, ours, theirs, reference), figure in zip(rows, result.figures, strict=True)
    ]
    if not result.repeats:
        return lines
    lines += ["", "what repeats (runs: times, in how many recordings, first at)"]
    wide = max(len(r.units) for r in result.repeats)
    return lines + [f"  {r.units:<{wide}}  {r.times:>7} {r.recordings:>7}  {r.source} {r.start_s:.2f} s" for r in result.repeats]


def _sequences(ours: SequenceStatistics, theirs: SequenceStatistics, count: int, token_s: float) -> list[Figure]:
    even = math.log2(count)

    def row(name: str, key: str, reference: float | None, meaning: str) -> Figure:
        return Figure(name, getattr(ours, key), getattr(theirs, key), reference, meaning)

    found = [
        row("units used", "used", count, "of the inventory; reference: its size"),
        row("perplexity", "perplexity", count, "of the units of windows; reference: all alike often"),
        row("bitrate (bit/s)", "bitrate", even / token_s, "a unit each window; reference: all alike often"),
        row("bitrate, deduplicated (bit/s)", "bitrate_deduplicated", None, "a unit each run; how long it lasts is not counted"),
        row("run (s)", "run_s", token_s, "mean; reference: one window"),
    ]
    if ours.next_bits is not None and theirs.next_bits is not None:
        for n, after in enumerate(("nothing", "1 run", "2 runs")):
            meaning = "of the next run's unit, foreseen by counts in the other half of the recordings"
            found.append(Figure(f"entropy after {after} (bit)", ours.next_bits[n], theirs.next_bits[n], even, meaning))
    return found


def _agreements(key: str, ours: Agreement, theirs: Agreement) -> list[Figure]:
    vote = f"recordings whose {key} a vote of their windows tells, by counts in the other half; reference: commonest {key}"
    return [
        Figure(f"{key}: NMI", ours.nmi, theirs.nmi, ours.nmi_shuffled, f"of unit and {key}, 0 to 1; reference: {key}s dealt at random"),
        Figure(
            f"{key}: purity",
            ours.purity,
            theirs.purity,
            ours.purity_least,
            f"windows with their unit's commonest {key}; reference: commonest {key}",
        ),
        Figure(f"{key}: vote", ours.vote, theirs.vote, ours.vote_least, vote),
    ]


def _codes(transcriber: Transcriber) -> list[Figure]:
    if transcriber.counter is None:
        return []
    found, S = transcriber.counter.statistics(transcriber.token_s), len(transcriber.counter.used)
    most = S * math.log2(found.classes) / transcriber.token_s
    return [
        Figure(
            "code: bitrate (bit/s)",
            found.bitrate,
            None,
            most,
            f"the model's own code, {S} groups of {found.classes}; reference: most possible",
        ),
        Figure("code: bitrate, deduplicated (bit/s)", found.bitrate_deduplicated, None, most, "a group's symbol sent when it changes"),
        Figure(
            "code: bitrate, predicted (bit/s)", found.bitrate_predicted, None, most, "for a receiver with the same model, who predicts it"
        ),
        Figure(
            "code: perplexity", float(np.mean(found.perplexity)), None, found.classes, "mean of the groups; reference: classes of a group"
        ),
    ]


def _repeats(transcriber: Transcriber) -> list[Repeat]:
    transcripts = transcriber.transcripts
    sequences: Sequence[Runs] = [t.runs for t in transcripts]

    def place(found: Repeated, length: int) -> Repeat:
        recording, run = found.first
        start = float(transcripts[recording].times(transcriber.model)[0][run])
        name = transcripts[recording].recording.name
        return Repeat(" ".join(f"u{unit}" for unit in found.units), length, found.count, found.recordings, name, start)

    return [place(found, length) for length in LENGTHS for found in repeated(sequences, length, SHOWN)]


def _numbers(rows: Sequence[Figure]) -> dict[str, list[float | None]]:
    return {"units": [r.units for r in rows], "log_mel": [r.baseline for r in rows], "reference": [r.reference for r in rows]}
