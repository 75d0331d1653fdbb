"""Tables of the figures that jobs have left: those to reach first, then everything by corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.figures.jobs import CEILING, CORPORA, TRAINED, Job
from benchmarks.figures.row import Row
from benchmarks.figures.version import UNKNOWN

Results = Mapping[Job, Mapping[str, Any]]  # contents of figures.json, of the jobs that are done
OURS, PEER, BASELINE = "world_model", "cpc", "log-mel"


@dataclass(frozen=True)
class Target:
    """One figure to reach: its name for readers, the least value, and where it stands."""

    title: str
    least: float
    corpus: str
    suite: str
    figure: str


TARGETS = (
    Target("digit, speaker never heard, mean of the speakers", 0.88, "strict", "recognition", "label, loso_strict"),
    Target("digit, leave one speaker out, unlabelled clips heard", 0.95, "fsdd", "recognition", "label, leave-one-speaker-out"),
    Target("digit, 5-shot", 0.90, "fsdd", "recognition", "label, 5-shot"),
    Target("digit, 1-shot", 0.55, "fsdd", "recognition", "label, 1-shot"),
    Target("speaker, 5-shot", 0.95, "fsdd", "recognition", "speaker, 5-shot"),
    Target("open-loop retrieval of 256, k = 1", 0.70, "fsdd", "imagination", "retrieval, k = 1"),
    Target("open-loop retrieval of 256, k = 4", 0.40, "fsdd", "imagination", "retrieval, k = 4"),
    Target("open-loop retrieval of 256, k = 8", 0.15, "fsdd", "imagination", "retrieval, k = 8"),
    Target("utterance boundaries, F1", 0.88, "fsdd", "surprise", "boundaries, F1"),
    Target("out of distribution, AUC of the worst kind", 0.95, "fsdd", "surprise", "unusual, worst kind"),
    Target("ESC-10, five folds", 0.87, "esc10", "recognition", "label, official folds"),
)


class Figures:
    """All figures of a plan, in its order. A line of a table is one kind of features of a row, or the row itself.

    A figure has one value for each seed: the mean over what was left out in turn (speakers, folds), once every part of it is done.

    Args:
      planned: all jobs. results: of those that are done. problems: what became of the others.
    """

    def __init__(self, planned: Iterable[Job], results: Results, problems: Mapping[Job, str]) -> None:
        self._planned, self._results, self._problems = list(planned), results, problems
        self._values: dict[tuple[str, str, str, str], dict[int, list[float]]] = {}  # corpus, suite, line, figure -> seed -> by part
        self._rows: dict[tuple[str, str], str] = {}  # corpus, line -> row
        for job in (job for job in self._planned if job in results):
            for suite, table in results[job]["figures"].items():
                for line, figures in table.items():
                    self._rows[job.corpus, line] = job.row
                    for figure, value in figures.items():
                        self._values.setdefault((job.corpus, suite, line, figure), {}).setdefault(job.seed, []).append(value)

    def suites(self, corpus: str) -> list[str]:
        """Suites of which there are figures."""
        return list(dict.fromkeys(suite for name, suite, _, _ in self._values if name == corpus))

    def lines(self, corpus: str, suite: str, row: str = "") -> list[str]:
        """Lines of a suite's table; those of one row, where it is given."""
        found = dict.fromkeys(line for name, other, line, _ in self._values if (name, other) == (corpus, suite))
        return [line for line in found if not row or self._rows[corpus, line] == row]

    def names(self, corpus: str, suite: str) -> list[str]:
        """Figures of a suite's table."""
        return list(dict.fromkeys(figure for name, other, _, figure in self._values if (name, other) == (corpus, suite)))

    def row(self, corpus: str, suite: str, line: str, figure: str) -> Row:
        """Values by seed, none where there are none."""
        row = self._rows.get((corpus, line), line)
        values = []
        for seed, found in sorted(self._values.get((corpus, suite, line, figure), {}).items()):
            parts = sum(job.corpus == corpus and job.row == row and job.seed == seed for job in self._planned)
            values += [sum(found) / parts] if len(found) == parts else []
        return Row(figure, values)

    def best(self, corpus: str, suite: str, row: str, figure: str) -> Row:
        """The line of a row that has the highest mean: chosen with the answers in hand, in favour of the row."""
        found = [self.row(corpus, suite, line, figure) for line in self.lines(corpus, suite, row)]
        return max((each for each in found if each.values), key=lambda each: each.mean, default=Row(figure, []))

    def notes(self, corpus: str, suite: str) -> list[str]:
        """What the jobs say of a suite, each sentence with the jobs that say it."""
        said: dict[str, list[str]] = {}
        for job in (job for job in self._planned if job.corpus == corpus and job in self._results):
            for note in self._results[job]["notes"].get(suite, []):
                said.setdefault(note, []).append(job.name)
        return ["\n".join(f"- {note} ({', '.join(jobs)})" for note, jobs in said.items())] if said else []

    def why_not(self, corpus: str, suite: str, row: str) -> str:
        """Why a row lacks a figure of a suite: its jobs that are not done, else what they say."""
        jobs = [job for job in self._planned if (job.corpus, job.row) == (corpus, row)]
        if not jobs:
            return "not asked for"
        undone = [f"{job.name} {self._problems.get(job, 'not done')}" for job in jobs if job not in self._results]
        said = [note for job in jobs if job in self._results for note in self._results[job]["notes"].get(suite, [])]
        return "; ".join(dict.fromkeys(undone or said)) or f"{suite} gives none for {row}"


def report(figures: Figures, results: Results, seconds: float) -> str:
    """The whole of quality.md."""
    parts = [f"# Figures, at {seconds:g} CPU seconds of training on one core", _targets(figures), _trainings(results)]
    for name, corpus in CORPORA.items():
        for suite in figures.suites(name):
            parts += [f"## {corpus.title}: {suite}", _full(figures, name, suite), *figures.notes(name, suite)]
    evaluated = {str(result["code"]) for result in results.values()}
    trained = {code for job, result in results.items() for code in trained_by(job, result)}
    if len(evaluated | trained) > 1:
        by = ", ".join(sorted(evaluated)), ", ".join(sorted(trained)) or "none"
        parts.append(
            f"This is not all by one version of the code. Evaluated by: {by[0]} (--again evaluates anew, from checkpoints that are there). "
            f"Trained by: {by[1]} (a job without its `checkpoints` folder trains anew). quality.json says which job by which."
        )
    return "\n\n".join(parts) + "\n"


def trained_by(job: Job, result: Mapping[str, Any]) -> list[str]:
    """The versions of the code that trained what a job has evaluated; none for a row without checkpoints."""
    return list(result.get("trained_by", [UNKNOWN])) if job.row in TRAINED else []


def summary(figures: Figures) -> dict[str, Any]:
    """The same for quality.json: corpus -> suite -> line -> figure -> mean, interval, values by seed."""
    return {
        corpus: {
            suite: {line: {name: _plain(figures.row(corpus, suite, line, name)) for name in figures.names(corpus, suite)} for line in lines}
            for suite in figures.suites(corpus)
            if (lines := figures.lines(corpus, suite))
        }
        for corpus in CORPORA
    }


def _targets(figures: Figures) -> str:
    head = ["figure", "to reach", "world model", "by seed", "cpc, best", "log-mel, best", "supervised", "met", "above cpc"]
    rows, missing = [], []
    for t in TARGETS:
        ours = figures.row(t.corpus, t.suite, OURS, t.figure)
        peer, baseline, ceiling = (figures.best(t.corpus, t.suite, row, t.figure) for row in (PEER, BASELINE, CEILING))
        seeds = " ".join(_number(value) for value in ours.values) or "–"
        met = _answer(ours.mean >= t.least if ours.values else None)
        above = _answer(ours.mean > peer.mean if ours.values and peer.values else None)
        rows.append([t.title, f"≥ {_number(t.least)}", _cell(ours), seeds, _cell(peer), _cell(baseline), _cell(ceiling), met, above])
        named = ((OURS, ours), (PEER, peer))
        missing += [f"- {t.title}, {row}: {figures.why_not(t.corpus, t.suite, row)}" for row, found in named if not found.values]
    legend = (
        "± is a 95 % interval of the mean over seeds (Student's t). Of cpc and log-mel the best kind of features is shown for each figure, "
        "of the world model always its one clip vector."
    )
    lines = [_markdown(head, rows), "", legend]
    return "\n".join([*lines, *(["", "Missing:", *missing] if missing else [])])


def _trainings(results: Results) -> str:
    """What the trainings were given, mean over jobs."""
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for job, result in results.items():
        if job.row in TRAINED:
            found.setdefault((job.corpus, job.row), []).append(result["training"])
    names = ["seconds", "step", "steps_per_s", "trained_tokens", "replay_ratio", "non_finite_steps"]
    rows = [
        [corpus, row, str(len(given)), *(f"{sum(g[name] for g in given) / len(given):,.4g}" for name in names)]
        for (corpus, row), given in sorted(found.items())
    ]
    return "## What the trainings were given, mean\n\n" + _markdown(["corpus", "row", "trainings", *names], rows)


def _full(figures: Figures, corpus: str, suite: str) -> str:
    """One table; whatever there is more of goes down the page."""
    lines, names = figures.lines(corpus, suite), figures.names(corpus, suite)
    cells = {(line, name): _cell(figures.row(corpus, suite, line, name)) for line in lines for name in names}
    if len(names) > len(lines):
        return _markdown(["figure", *lines], [[name, *(cells[line, name] for line in lines)] for name in names])
    return _markdown(["", *names], [[line, *(cells[line, name] for name in names)] for line in lines])


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def _cell(row: Row) -> str:
    if not row.values:
        return "–"
    return _number(row.mean) + ("" if math.isnan(row.interval) else f" ± {_number(row.interval)}")


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _answer(holds: bool | None) -> str:
    return {True: "yes", False: "no", None: "–"}[holds]


def _plain(row: Row) -> dict[str, Any]:
    there = bool(row.values)
    interval = None if not there or math.isnan(row.interval) else row.interval
    return {"mean": row.mean if there else None, "interval": interval, "values": row.values}
