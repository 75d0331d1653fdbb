"""What launch.py answers before and around the processes that it starts; none is started here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch
from pydreaming.audio.sources.fsdd_download import bundled_digits
from workers import supervisor


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Supervisors end at once, with code 3; logging is as before afterwards."""
    handlers, level = logging.root.handlers[:], logging.root.level
    monkeypatch.setattr(supervisor.Supervisor, "run", lambda self: 3)
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(
    ("kind", "words", "warns"),
    [("librispeech", [], True), ("librispeech", ["--workers.count", "0"], False), ("fsdd", [], False), ("auto", [], False)],
)
def test_a_layout_that_does_not_fit_is_said_once_on_the_console(
    kind: str, words: list[str], warns: bool, nothing_runs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--source.kind", kind, "--source.path", str(bundled_digits()), "--run.dir", str(tmp_path), "--run.name", "a"]
    assert launch.main(["--configs", "defaults", *where, *words]) == 3
    assert launch.main(["--resume", str(tmp_path / "a")]) == 3
    said = capsys.readouterr().err
    assert said.count("<speaker>-<chapter>-<utterance>.flac") == said.count("pydreaming inspect") == warns
