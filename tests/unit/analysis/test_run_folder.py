"""How the commands that a run ends with are written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pydreaming.analysis.run_folder import make_ui, program


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bin folder of an environment below the working folder, with a program `sing`, not on the PATH."""
    folder = tmp_path / "my env" / "bin"
    folder.mkdir(parents=True)
    (folder / "sing").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_program_of_an_activated_environment_has_its_name(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin")
    assert program("sing") == "sing"


@pytest.mark.usefixtures("environment")
def test_below_the_working_folder_it_is_called_from_there() -> None:
    assert program("sing") == "'my env/bin/sing'"


def test_elsewhere_it_has_its_whole_path(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert program("sing") == f"'{environment}/sing'"


def test_another_environments_program_on_the_path_is_not_meant(environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sing").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(other))
    assert program("sing") == "'my env/bin/sing'"


def test_make_ui_is_told_where_other_runs_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_ui(Path("runs")) == make_ui(tmp_path / "runs") == "make ui"
    assert make_ui(tmp_path / "my runs") == "make ui RUNS='my runs'"
    assert make_ui(Path("/elsewhere/runs")) == "make ui RUNS=/elsewhere/runs"
