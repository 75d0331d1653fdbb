"""The report of a run: one HTML file that holds its pictures and sounds, works offline, and says plainly what the figures say."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydreaming.analysis.files import replacing
from pydreaming.analysis.reports.style import STYLE
from pydreaming.analysis.reports.verdicts import Verdict
from pydreaming.errors import PydreamingError

Value = float | int | str | None
MAX_BYTES = 8 << 20  # of one picture or sound: a browser slows down with more text than that in a page
_MARKS = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "–")}
_CSP = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"  # nothing is fetched, nothing runs


class Attachment(NamedTuple):
    """A picture (.png) or sound (.wav) to put into the report, by path."""

    title: str
    caption: str
    path: Path


class Table(NamedTuple):
    """A table: rows of values under the columns; numbers are aligned and shortened."""

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]


@dataclass
class Report:
    """Content of a report, in plain values.

    Attributes:
      title, subtitle: e.g. the run's name, and its date, length and device.
      trained_on: what was trained on, such as {"recordings": 2700, "hours": 0.33, "speakers": 6, "quarantined files": 0}; `facts_title`
        is its heading, for a report of something else.
      verdicts: what the figures say, see `pydreaming.analysis.reports.verdicts`.
      metrics: single figures such as the held-out loss, with their unit in the name.
      quarantined: path and cause of files that could not be read; the first of many are shown.
      settings: the configuration, section -> key -> value. next_commands: what it does, and the command.
    """

    title: str
    subtitle: str = ""
    trained_on: Mapping[str, Value] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    metrics: Mapping[str, Value] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    figures: Sequence[Attachment] = ()
    audio: Sequence[Attachment] = ()
    notes: Sequence[str] = ()
    quarantined: Sequence[tuple[str, str]] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    next_commands: Sequence[tuple[str, str]] = ()
    facts_title: str = "What was trained on"


def write_report(path: Path, report: Report) -> Path:
    """Write the report, whole or not at all.

    Raises:
      PydreamingError: a picture or sound cannot be read or is too large, or `path` cannot be written.
    """
    text = render_report(report)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render_report(report: Report) -> str:
    """The report as one HTML document. Raises PydreamingError, see `write_report`."""
    sections = [
        _section(report.facts_title, _trained_on(report)),
        _section("What the figures say", _verdicts(report.verdicts)),
        _section("Notes", _list(report.notes)),
        _section("Listen", _sounds(report.audio)),
        _section("Look", "".join(_picture(item) for item in report.figures)),
        _section("Figures", "".join(_table(table) for table in report.tables) + _metrics(report.metrics)),
        _section("What to try next", _commands(report.next_commands)),
        _section("Settings", _settings(report.settings)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        f"<title>{_text(report.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="brand">pydreaming</p><h1>{_text(report.title)}</h1><p class="quiet">{_text(report.subtitle)}</p></header>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def format_value(value: object) -> str:
    """A figure in at most about four significant digits; whole numbers in full with thin spaces, None as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", " ")
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    digits = 1 if size >= 100 else 2 if size >= 10 else 3
    text = f"{value:.{digits}f}" if size >= 0.001 or value == 0 else f"{value:.1e}"
    return text.replace("-", "−") if text.startswith("-") else text


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>" if content else ""


def _list(entries: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(entry)}</li>' for entry in entries)}</ul>" if entries else ""


def _trained_on(report: Report) -> str:
    cells = (f"<div><dt>{_text(name)}</dt><dd>{_text(format_value(value))}</dd></div>" for name, value in report.trained_on.items())
    facts = f'<dl class="facts">{"".join(cells)}</dl>' if report.trained_on else ""
    if not report.quarantined:
        return facts
    shown = [f"{path}: {cause}" for path, cause in report.quarantined[:20]]
    left = len(report.quarantined) - len(shown)
    more = f'<p class="quiet">and {left} more, in quarantine.jsonl</p>' if left else ""
    return f"{facts}<details><summary>{_files(len(report.quarantined))} could not be read</summary>{_list(shown)}{more}</details>"


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for verdict in verdicts:
        word, mark = _MARKS[verdict.good]
        rows.append(f'<li class="{word}"><span class="mark" title="{word}">{mark}</span><span>{_text(verdict.text)}</span></li>')
    return f'<ul class="verdicts">{"".join(rows)}</ul>' if rows else ""


def _sounds(items: Sequence[Attachment]) -> str:
    cards = (
        f"<figure><figcaption><b>{_text(item.title)}</b><br>{_text(item.caption)}</figcaption>"
        f'<audio controls preload="metadata" src="{_data(item.path, "audio/wav")}"></audio></figure>'
        for item in items
    )
    return f'<div class="sounds">{"".join(cards)}</div>' if items else ""


def _picture(item: Attachment) -> str:
    return (
        f"<figure><figcaption><b>{_text(item.title)}</b></figcaption>"
        f'<img alt="{_text(item.title)}" src="{_data(item.path, "image/png")}"><p class="quiet">{_text(item.caption)}</p></figure>'
    )


def _data(path: Path, kind: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PydreamingError(f"{path} is too large for a report: {path.stat().st_size} bytes, at most {MAX_BYTES}")
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except OSError as e:
        raise PydreamingError(f"cannot read {path} for the report: {e.strerror or e}") from e


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.columns)
    body = []
    for row in table.rows:
        cells = []
        for value in row:
            kind = ' class="number"' if isinstance(value, int | float) else ""
            cells.append(f"<td{kind}>{_text(format_value(value))}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<h3>{_text(table.title)}</h3>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        f'<p class="quiet">{_text(table.caption)}</p>'
    )


def _metrics(metrics: Mapping[str, Value]) -> str:
    if not metrics:
        return ""
    return _table(Table("Single figures", "", ("figure", "value"), list(metrics.items())))


def _commands(commands: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<p>{_text(meaning)}</p><pre>{_text(command)}</pre>" for meaning, command in commands)


def _settings(settings: Mapping[str, Mapping[str, object]]) -> str:
    if not settings:
        return ""
    lines = [f"{section}.{key}: {value}" for section, values in settings.items() for key, value in values.items()]
    return f"<details><summary>{len(lines)} settings</summary><pre>{_text(chr(10).join(lines))}</pre></details>"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
