"""The report's tables of what a model's surprise and codes are worth."""

from __future__ import annotations

from pydreaming.analysis.reports.page import Table, Value
from pydreaming.evaluation.abx import LOG_MEL, Abx
from pydreaming.evaluation.boundaries import TOLERANCE, Boundaries
from pydreaming.evaluation.codes import CodeStatistics
from pydreaming.evaluation.out_of_distribution import OutOfDistribution
from pydreaming.evaluation.world_figures import WorldFigures


def world_tables(world: WorldFigures) -> list[Table]:
    """A table for each figure that could be had."""
    tables = []
    if world.out_of_distribution is not None:
        tables.append(_unusual(world.out_of_distribution))
    if world.boundaries is not None:
        tables.append(_boundaries(world.boundaries))
    if world.abx is not None:
        tables.append(_abx(world.abx))
    if world.codes is not None:
        tables.append(_codes(world.codes))
    return tables


def _unusual(o: OutOfDistribution) -> Table:
    rows: list[list[Value]] = [
        [kind.replace("_", "-"), f"{value:.3f}", f"{o.kl[kind]:.3f}", "inverted" if kind in o.inverted else ""]
        for kind, value in o.typicality.items()
    ]
    caption = (
        f"Area under the ROC curve (0.5 is chance): {o.clips} held-out recordings as they are against the same changed. The calibrated"
        f" score was fitted on {o.fitted_on} training clips and has seen no changed sound."
    )
    return Table("Does it notice what it never heard", caption, ["changed", "calibrated score", "raw mean KL", ""], rows)


def _boundaries(b: Boundaries) -> Table:
    rows: list[list[Value]] = [[name, f"{found.f1:.3f}", f"{found.f1_training:.3f}"] for name, found in b.rows.items()]
    caption = (
        f"F1 at {b.begins} beginnings in {b.windows} windows of joined held-out clips, of which the model is not told; {TOLERANCE} window"
        " of tolerance. Peak picking was chosen on joined training clips, the same way for each row."
    )
    return Table("Does it hear where something begins", caption, ["score", "held-out clips", "training clips"], rows)


def _abx(a: Abx) -> Table:
    rows: list[list[Value]] = [
        [name, f"{error:.3f} ± {a.interval[name]:.3f}", "{:+.3f} to {:+.3f}".format(*a.difference[name])] for name, error in a.error.items()
    ]
    caption = (
        f"Share of {a.triples} triples in which another label of the same speaker is nearer than the same label of another; 0.5 is chance."
        " 95 % intervals by resampling the clips."
    )
    return Table("Is what sounds alike near (ABX across speakers)", caption, ["representation", "error", f"less that of {LOG_MEL}"], rows)


def _codes(c: CodeStatistics) -> Table:
    rows: list[list[Value]] = [
        ["every window's code", f"{c.bitrate:.0f}"],
        ["only where a symbol changes", f"{c.bitrate_deduplicated:.0f}"],
        ["as predicted by the model", f"{c.bitrate_predicted:.0f}"],
    ]
    used = f"{min(c.perplexity):.1f} to {max(c.perplexity):.1f}"
    caption = (
        f"Over {c.windows} windows, summed over the groups; a group uses as much as {used} of its {c.classes} classes evenly (perplexity)."
    )
    return Table("What the code costs", caption, ["sent", "bits per second"], rows)
