"""What an inspection found, as aligned lines for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydreaming.analysis.inspect.audio import AudioReport, Levels
from pydreaming.analysis.inspect.model import CheckpointReport, RunReport
from pydreaming.analysis.inspect.path import Inspection
from pydreaming.analysis.inspect.store import StoreReport
from pydreaming.analysis.names import MEASURED_S

LISTED = 10  # classes or files that are named; --json has all
Row = tuple[str, str]
_WIDTH = 12  # of the names of rows
_SPLITS = {"official": " (the official split)", "speaker": " (whole speakers)", "recording": " (whole recordings)"}


def inspection_lines(found: Inspection) -> list[str]:
    """All that was found."""
    report = found.report
    if isinstance(report, AudioReport):
        return _audio(report)
    if isinstance(report, StoreReport):
        return [f"{report.path}: a replay store", *_rows(_store(report))]
    if isinstance(report, CheckpointReport):
        return [f"{report.path}: a checkpoint", *_rows(_checkpoint(report))]
    return list(_run(report))


def _audio(report: AudioReport) -> list[str]:
    lines = [f"{report.path}: audio, read as '{report.layout}'"]
    rows: list[Row] = [
        ("recordings", f"{report.recordings} in {_count(report.files, 'file')} of {_bytes(report.bytes)}"),
        ("duration", f"{_span(report.seconds)}; each {report.least_s:.2f} to {report.most_s:.2f} s, median {report.median_s:.2f} s")
        if report.recordings > 1
        else ("duration", _span(report.seconds)),
        ("rates", _counts({f"{rate} Hz": count for rate, count in report.rates.items()})),
        ("channels", _counts({_count(channels, "channel"): count for channels, count in report.channels.items()})),
        ("formats", _counts(report.formats)),
    ]
    rows += _labels(report.labels, "recordings")
    if report.levels is not None:
        rows += _levels(report.levels, report.recordings - len(report.unreadable), report.levels.partly)
    lines += _rows([row for row in rows if row[1]])
    lines += _broken(report.unreadable, "cannot be read")
    if not report.command:
        return [*lines, "", "nothing here can be read, so there is nothing to train on"]
    if report.warnings:
        lines += ["", "to know before training", *(f"  - {warning}" for warning in report.warnings)]
    return [*lines, "", "train on it", f"  {report.command}"]


def _levels(levels: Levels, of: int, partly: bool) -> list[Row]:
    def spread(values: tuple[float, float, float]) -> str:
        low, middle, high = (round(value, 1) + 0.0 for value in values)  # -0.0 becomes 0.0
        return f"{middle} dBFS (5 % below {low}, 5 % above {high})"

    measured = "all recordings" if levels.recordings >= of else f"{levels.recordings} of {of} recordings, drawn at random"
    part = f" (the first {_span(MEASURED_S)} of each)" if partly else ""
    return [
        ("level, RMS", spread(levels.rms_dbfs)),
        ("level, peak", spread(levels.peak_dbfs)),
        ("", f"silent {levels.silent}, clipped {levels.clipped}; measured on {measured}{part}"),
    ]


def _store(report: StoreReport) -> list[Row]:
    rows = [
        ("files", f"{report.files} of {_bytes(report.bytes)}" + (f", {report.unfinished} unfinished" if report.unfinished else "")),
        ("episodes", f"{report.episodes} of {report.least} to {report.most} tokens, median {report.median:g}"),
        ("tokens", f"{report.tokens} ({_span(report.seconds)} of sound) in {_count(report.clips, 'clip')}"),
        ("sources", f"{_count(report.recordings, 'recording')}, {_count(report.groups, 'group')} (speakers or recordings)"),
    ]
    rows += _labels(report.labels, "tokens")
    rows += [("features", _features(report.features))] if report.features else []
    rows += [("actions", str(report.action["kind"]))] if report.action else []
    return rows + [("damaged", f"{name}: {cause}") for name, cause in report.damaged[:LISTED]]


def _checkpoint(report: CheckpointReport) -> list[Row]:
    if not report.objective:
        return [("intact", f"no: {report.problem}")]
    m = report.model
    core = m["core"] if m["core"] != "transformer" else f"transformer over {m['window']} tokens"
    latents = f"{m['groups']} groups of {m['classes']} classes" if m["latents"] == "categorical" else f"{m['latents']}"
    written = datetime.datetime.fromtimestamp(report.written, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        ("intact", "yes" if report.intact else f"no: {report.problem}"),
        ("trained", f"{report.step} steps, {_span(report.seconds)}, {report.trained_tokens} tokens"),
        ("written", f"{written}, {_bytes(report.bytes)}"),
        ("objective", report.objective),
        ("model", f"{m['dynamics']}, {core}, deter {m['deter']}, embed {m['embed']}, latents: {latents}"),
        ("parameters", f"{report.parameters} and {report.heads} in the objective's heads"),
        ("features", _features(report.features)),
        ("actions", str(report.action["kind"])),
        ("source", f"{report.source['path']} ({report.source['kind']})"),
    ]


def _run(report: RunReport) -> Iterator[str]:
    yield f"{report.path}: a run"
    catalogue = report.catalogue
    if catalogue:
        items, speakers, held_out = (int(catalogue.get(key, 0)) for key in ("items", "speakers", "held_out"))
        known = [_count(speakers, "speaker")] if speakers else []
        split = f"{held_out} held out{_SPLITS.get(catalogue.get('split', ''), '')}" if held_out else "none held out"
        yield from _rows([("catalogue", ", ".join([_count(items, "recording"), *known, split]))])
    if report.unreadable:
        yield from _rows([("unreadable", f"{_count(report.unreadable, 'recording')}, see quarantine.jsonl")])
    yield from _rows([("problem", problem) for problem in report.problems])
    for checkpoint in report.checkpoints[:-1]:
        state = "intact" if checkpoint.intact else f"NOT intact: {checkpoint.problem}"
        yield from _rows([("checkpoint", f"step {checkpoint.step}, {state}")])
    if report.checkpoints:
        yield from ("", f"newest checkpoint, {report.checkpoints[-1].path}", *_rows(_checkpoint(report.checkpoints[-1])))
    if report.store is not None:
        yield from ("", f"replay store, {report.store.path}", *_rows(_store(report.store)))
    if report.evaluation:
        yield from ("", f"newest evaluation, {report.evaluated}", *(f"  {line}" for line in report.evaluation))
    if not (catalogue or report.checkpoints or report.store):
        yield from _rows([("", "no checkpoint, store or catalogue yet")])


def _labels(labels: Mapping[str, Mapping[str, int]], of: str) -> list[Row]:
    rows = []
    for key, counts in labels.items():
        known = {name or "(none)": count for name, count in counts.items()}
        kinds = len([name for name in counts if name])
        rows.append((f"{key}s", f"{kinds}; {of}: {_counts(known)}"))
    return rows


def _broken(files: Sequence[tuple[str, str]], what: str) -> list[str]:
    if not files:
        return []
    more = [f"  ... and {len(files) - LISTED} more (--json lists all)"] if len(files) > LISTED else []
    return ["", f"{_count(len(files), 'file')} {what}", *(f"  {name}: {cause}" for name, cause in files[:LISTED]), *more]


def _features(features: Mapping[str, Any]) -> str:
    f, rate = features, features["sample_rate"]
    window = ((f["token_frames"] - 1) * f["hop_length"] + f["win_length"]) / rate
    stride = f["token_hop"] * f["hop_length"] / rate
    frames = f"{f['n_mels']} mel bands every {1000 * f['hop_length'] / rate:g} ms at {rate} Hz"
    return f"{frames}; tokens of {f['token_frames']} frames ({1000 * window:g} ms) every {1000 * stride:g} ms"


def _rows(rows: Sequence[Row]) -> list[str]:
    return [f"  {name:<{_WIDTH}}{value}" for name, value in rows]


def _counts(counts: Mapping[str, int]) -> str:
    """Values with their counts, the largest first."""
    shown = ", ".join(f"{name} ({count})" if len(counts) > 1 else name for name, count in list(counts.items())[:LISTED])
    return shown + (f", and {len(counts) - LISTED} more" if len(counts) > LISTED else "")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _span(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.2f} s"


def _bytes(size: int) -> str:
    """A size in the unit that suits it (powers of 1000)."""
    value, units = float(size), ("B", "kB", "MB", "GB", "TB")
    place = 0
    while value >= 1000 and place < len(units) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.3g} {units[place]}"
