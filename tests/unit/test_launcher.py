"""What launch.py answers before and around the processes that it starts; none is started here."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import launch
from pydreaming import cli
from pydreaming.audio.sources.fsdd_download import bundled_digits
from pydreaming.errors import PydreamingError
from workers import supervisor


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervisors end at once, with code 3; logging that is set up ends with the test."""
    monkeypatch.setattr(supervisor.Supervisor, "run", lambda self: 3)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)


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


def test_a_name_that_is_taken_comes_with_a_command_to_copy(nothing_runs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--configs", "defaults", "--source.path", str(bundled_digits()), "--run.dir", str(tmp_path / "my runs"), "--run.name", "a"]
    assert launch.main(words) == 3
    assert launch.main(words) == 2
    assert f"go on with --resume '{tmp_path / 'my runs' / 'a'}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "defaults"], "unknown option --config; did you mean --configs?"),
        (["--preset", "fsdd"], "unknown option --preset; did you mean --configs?"),
        (["--help-me"], "unknown option --help-me; did you mean --help?"),
        (["-r", "runs/a"], "unknown option -r; did you mean --role?"),
        (["--configs", "defaults", "fsdd", "--AUDIO", "x"], "unknown option --AUDIO; --help lists them"),
        (["--configs", "defaults", "fsdd", "--steps=5"], "unknown option --steps; did you mean --training.steps?"),
        (["--configs", "defaults", "fsdd", "--run.name", "--odd", "--Roles=all"], "unknown option --Roles; did you mean --role?"),
        (["--configs", "defaults", "fsdd", "--source", "x"], "unknown key 'source'; 'source' is a section, its keys are: kind, path, "),
        (["--configs", "defaults", "fsdd", "--a\nb"], "unknown option --a\\nb; --help lists them"),
        (["defaults", "fsdd"], "name the presets"),
    ],
)
def test_a_misspelt_option_gets_the_one_that_was_meant(words: list[str], said: str) -> None:
    with pytest.raises(PydreamingError) as caught:
        launch.resolve(*launch.parse(words))
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def test_the_help_takes_keys_from_where_the_keys_command_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["keys", "init", "keys"]) == cli.main(["keys", "add", "keys", "host-b"]) == 0
    said = capsys.readouterr().err
    assert "copy keys/peers/host-b to that host" in said
    assert "--coordinator.keys of launch.py, --keys of workers.audio_worker" in said
    assert "--coordinator.keys keys/peers/host-b " in launch.DESCRIPTION
