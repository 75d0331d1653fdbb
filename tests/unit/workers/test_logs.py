"""Logs: one event a line in both styles, with ids, and nothing that should not be read."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from workers import logs
from workers.children import Child
from workers.layout import RunDir

SENTENCES = [
    "plain",
    'a "quoted" word = 1',
    "back\\slash and\nnew line",
    "error: cannot write x: No space left",
    "ünïcode",
    "",
    "a\tb\x1b[31m\u2028c",
]
log = logging.getLogger("anything")


@pytest.mark.parametrize("style", ["text", "json"])
def test_every_event_is_one_line_with_ids_and_can_be_read_back(style: logs.Style, capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin("worker", worker="host-0", style=style)
    logs.identify(run="digits")
    for sentence in SENTENCES:
        log.warning("%s", sentence, extra={"lease": 7})
    lines = capsys.readouterr().err.splitlines()
    printable = [s.replace("\t", " ").replace("\x1b", " ").replace("\u2028", " ") for s in SENTENCES]
    assert [logs.event_of(line) for line in lines] == printable
    for line in lines:
        if style == "json":
            found = json.loads(line)
            assert list(found)[:6] == ["timestamp", "level", "role", "run", "worker", "event"]
            assert (found["level"], found["role"], found["run"], found["worker"], found["lease"]) == (
                "warning",
                "worker",
                "digits",
                "host-0",
                7,
            )
        else:
            assert line.startswith("timestamp=20")
            assert " level=warning role=worker run=digits worker=host-0 event=" in line
            assert line.endswith(" lease=7")


@pytest.mark.parametrize("style", ["text", "json"])
def test_passwords_of_addresses_are_left_out(style: logs.Style, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for console in (None, sys.stdout):
        logs.begin("tracker", RunDir(tmp_path) if console else None, style=style, console=console)
        log.info("http://user:secret@host/x refused", extra={"uri": "http://secret@host"})
        log.error("no answer from https://user:secret@host")
        try:
            raise ValueError("cannot use http://user:secret@host")
        except ValueError:
            log.exception("a bug at http://user:secret@host")
    logging.shutdown()
    said = capsys.readouterr()
    written = said.out + said.err + "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert written.count("host") >= 10
    assert "secret" not in written
    assert "ValueError" in written


def test_people_get_plain_lines_and_the_file_gets_the_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    logs.begin("learner", RunDir(tmp_path / "digits"), console=sys.stdout)
    log.info("step 3", extra={"loss": 1.5})
    log.error("error: no such thing")
    said = capsys.readouterr()
    assert said.out.endswith(" step 3\n")
    assert len(said.out.splitlines()) == 1
    assert said.err == "error: no such thing\n"
    first, second = (tmp_path / "digits" / "logs" / "learner.log").read_text().splitlines()
    assert first.endswith('level=info role=learner run=digits event="step 3" loss=1.5')
    assert logs.event_of(second) == "error: no such thing"


def test_a_log_file_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "logs" / "learner.log").mkdir(parents=True)
    logs.begin("learner", RunDir(tmp_path), console=sys.stdout)
    for _ in range(3):
        log.info("step")
    said = capsys.readouterr()
    assert said.out.count("cannot be written any more") == 1
    assert said.out.count(" step\n") == 3
    assert said.err == ""


def test_a_bug_is_one_line_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    logs.begin("worker")
    try:
        raise RuntimeError("it broke")
    except RuntimeError as e:
        sys.excepthook(type(e), e, e.__traceback__)
    (line,) = capsys.readouterr().err.splitlines()
    assert logs.event_of(line) == "RuntimeError: it broke"
    assert "level=critical" in line
    assert "Traceback" in line
    (tmp_path / "log").write_text(f"{line}\n")
    assert Child("w", [], tmp_path / "log").last_words() == "RuntimeError: it broke"


def test_lines_of_others_are_their_own_event() -> None:
    for line in ("Segmentation fault", "{torn", '{"no": "event"}', "", "[1]"):
        assert logs.event_of(line) == line


def test_objects_in_fields_do_not_break_json() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter("json"))
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s at %s", (Path("/a"), 1), None)
    record.path = Path("/a")
    handler.emit(record)
    assert json.loads(stream.getvalue())["path"] == "/a"
