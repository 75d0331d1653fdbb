"""What the processes of a run log: one event, one line, with the ids of the run and of the process (`tracking.logs`).

    text   timestamp=2026-11-29T12:58:10.123456Z level=warning role=coordinator run=digits event="lease 12 of pass 1 is lost" lease=12 ...
    json   {"timestamp":"2026-11-29T12:58:10.123456Z","level":"warning","role":"coordinator","run":"digits","event":...,"lease":12,...}

The event is a sentence for people; what a program may want to know of it stands beside it (`extra=` of the logging call). Launcher and
learner also talk to whoever started them: with `text` in plain lines on the console, beside the log file; with `json` the console gets
the log itself, which is what a container engine collects.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from pydreaming.errors import ConfigError
from workers.layout import RunDir

Style = Literal["text", "json"]
Fields = MutableMapping[str, Any]

_ORDER = ["timestamp", "level", "role", "run", "worker", "event"]
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_TEXT_EVENT = re.compile(r'(?:^| )event=(?:"((?:[^"\\]|\\.)*)"|(\S*))')
_ids: dict[str, str] = {}


def begin(role: str, run: RunDir | None = None, *, worker: str = "", style: Style | None = None, console: TextIO | None = None) -> None:
    """Log from now on, to standard error.

    Args:
      role: of this process. run: whose id and `tracking.logs` are taken; None where the process is told later (`identify`).
      worker: id of an audio worker. style: in the place of the run's.
      console: where people read along: plain lines for them there, and the log in RUN/logs/<role>.log; with `json` it gets the log itself.
    """
    style = style or _style_of(run)
    _ids.clear()
    identify(role=role, run="" if run is None else run.path.resolve().name, worker=worker)
    handlers: list[logging.Handler]
    if console is not None and style == "text":
        handlers = [_Console(console), *([_File(run.logs / f"{role}.log", style)] if run is not None and run.path.is_dir() else [])]
    else:
        handlers = [_stream(console or sys.stderr, style)]
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    sys.excepthook = _log_bug


def identify(**ids: str) -> None:
    """Put ids on every line from now on; empty ones are left out."""
    _ids.update({name: value for name, value in ids.items() if value})


def event_of(line: str) -> str:
    """The sentence of a line in either style; the line itself where it is of neither."""
    if line.startswith("{"):
        try:
            return str(json.loads(line)["event"])
        except (ValueError, KeyError, TypeError):
            return line
    found = _TEXT_EVENT.search(line)
    if found is None:
        return line
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], found[1]) if found[1] is not None else found[2]


def formatter(style: Style) -> logging.Formatter:
    """Renders records of `logging`, whoever made them."""
    render: Processor
    if style == "json":
        render = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    else:
        render = structlog.processors.LogfmtRenderer(key_order=_ORDER, drop_missing=True, bool_as_flag=False)
    before: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    after: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _with_ids, _without_secrets, render]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=after)


def _with_ids(_: object, __: str, event: Fields) -> Fields:
    found = {**event, **_ids}
    return {name: found[name] for name in _ORDER if name in found} | {**event}


def _without_secrets(_: object, __: str, event: Fields) -> Fields:
    """User names and passwords of addresses; control characters cannot break a line in either style."""
    return {name: _clean(value) if isinstance(value, str) else value for name, value in event.items()}


def _clean(text: str) -> str:
    return "".join(ch if ch.isprintable() or ch == "\n" else " " for ch in _USERINFO.sub("", text))


def _style_of(run: RunDir | None) -> Style:
    try:
        return "text" if run is None else run.read_config().tracking.logs
    except ConfigError:  # the role says so itself, as its first event
        return "text"


def _stream(stream: TextIO, style: Style) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(style))
    return handler


class _Console(logging.Handler):
    """Plain lines for people: news with the time; errors without, on standard error."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        error = record.levelno >= logging.ERROR
        line = record.getMessage() if error else f"{time.strftime('%H:%M:%S')} {record.getMessage()}"
        if record.exc_info:
            line += f"\n{logging.Formatter().formatException(record.exc_info)}"
        try:
            print(_USERINFO.sub("", line), file=sys.stderr if error else self._stream, flush=True)
        except (OSError, ValueError):  # whoever read it has gone, or closed it
            self.handleError(record)


class _File(logging.FileHandler):
    """A log file beside a console that has every line too: where it cannot be written, that is said once."""

    def __init__(self, path: Path, style: Style) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(formatter(style))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            Path(self.baseFilename).parent.mkdir(exist_ok=True)
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        del record
        logging.root.removeHandler(self)
        logging.root.warning("the log %s cannot be written any more: %s", self.baseFilename, sys.exc_info()[1])


def _log_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last event of a process that ends by an exception nobody expected, with its traceback, on one line."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger().critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
