"""`pydreaming units` as a user runs it."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas
import pytest
from tiny_model import make_checkpoint, write_sweep

from pydreaming import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("units-run")
    make_checkpoint(folder, steps=3)
    return str(folder)


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for i in range(4):
        write_sweep(tmp_path / f"sounds/{'xy'[i % 2]}/{i}.wav", 0.5, seed=i)
    monkeypatch.chdir(tmp_path)
    return "sounds"


def test_all_that_it_writes(run: str, sounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--units", "6", "--out", "u.parquet", "--text", "u.txt", "--book", "u.html", "--codes", "c.csv", "--save", "u.safetensors"]
    assert cli.main(["units", run, sounds, *words]) == 0
    out, err = capsys.readouterr()
    assert "label: NMI" in out
    assert "wrote u.html" in err
    first = pandas.read_parquet("u.parquet")
    assert set(first.label) == {"x", "y"}
    assert Path("u.txt").read_text().count("\n") == 4
    assert cli.main(["units", run, f"{sounds}/x/0.wav", "--inventory", "u.safetensors", "--out", "-"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(line for line in out.splitlines() if not line.startswith("#")))
    assert [int(row["unit"]) for row in rows] == first.unit[first.source == "sounds/x/0.wav"].tolist()
    assert "bitrate" in err


def test_bad_files_are_named_once_and_the_others_done(run: str, sounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(sounds, "x/text.wav").write_text("not audio")
    assert cli.main(["units", run, sounds, "--units", "4", "--out", "u.csv"]) == 1
    err = capsys.readouterr().err
    assert err.count("text.wav") == 1
    assert "1 of 5 files could not be read" in err
    assert cli.main(["units", run, "missing.wav", "--out", "v.csv"]) == 1
    assert "no file could be read" in capsys.readouterr().err
    assert not Path("v.csv").exists()


def test_wrong_wishes(run: str, sounds: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def complaint(*words: str) -> str:
        assert cli.main(["units", run, sounds, *words]) == 2
        return capsys.readouterr().err

    assert "one table only" in complaint("--out", "-", "--codes", "-")
    assert "leave out --units" in complaint("--inventory", "u.safetensors", "--units", "5")
    assert "windows" in complaint("--units", "999")
    assert ".html" in complaint("--book", "book.pdf")
    make_checkpoint(tmp_path / "other", steps=1, objective__name="cpc")
    assert cli.main(["units", run, sounds, "--units", "4", "--save", "u.safetensors"]) == 0
    capsys.readouterr()
    assert cli.main(["units", str(tmp_path / "other"), sounds, "--inventory", "u.safetensors"]) == 2
    assert "another model" in capsys.readouterr().err
    assert cli.main(["units", str(tmp_path / "other"), sounds, "--units", "4", "--codes", "c.csv"]) == 2
    assert "'cpc', which trains no latents" in capsys.readouterr().err
