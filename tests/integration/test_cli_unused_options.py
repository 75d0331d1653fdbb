"""Options that have an effect beside another one only: left alone they are refused, before a model is loaded or a file is read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from tiny_model import write_sweep

from pydreaming import cli

RAW = "is of raw PCM, which needs --rate"
EVENTS = "is about events, which need"

# The command, an option that needs something, what is said, and what it needs.
CASES = [
    ("anomaly fit MODEL a.wav --out d.safetensors", "--label machine", "--label names the column of --normal", "--normal good"),
    ("anomaly score MODEL d.safetensors a.wav", "--label machine", "--label names the column of --normal", "--normal good"),
    ("dream MODEL a.wav --out d.wav", "--own", "--own is for --bank", "--bank b.safetensors --render both"),
    ("embed MODEL a.wav --out e.csv", "--moment 0.2", "--moment is for --per moment, not clip", "--per moment"),
    ("embed MODEL a.wav --out e.csv --per window", "--pooling thirds", "--pooling does nothing with --per window", "--per moment"),
    ("embed MODEL a.wav --out e.csv --part scene", "--pooling thirds", "--pooling does nothing with", "--part feat"),
    ("inpaint MODEL a.wav --gap 1:2 --out f.wav", "--samples 2", "--samples is for --fill samples and --picture", "--fill samples"),
    ("inpaint MODEL a.wav --gap 1:2 --out f.wav", "--samples 2", "--samples is for --fill samples and --picture", "--picture f.png"),
    ("inpaint MODEL a.wav --gap 1:2 --out f.wav", "--own", "--own is for --bank", "--bank b.safetensors --render both"),
    ("search MODEL a.wav sounds", "--moment 2", "--moment is for --per moment, not clip", "--per moment"),
    ("search MODEL a.wav sounds --part scene", "--pooling thirds", "--pooling does nothing with --part scene", "--part deter"),
    ("segment MODEL a.wav", "--p 0.05", "--p needs a --calibration", "--calibration c.json"),
    ("stream MODEL -", "--format s24le", f"--format {RAW}", "--rate 8000"),
    ("stream MODEL -", "--channels 2", f"--channels {RAW}", "--rate 8000"),
    *(
        (command, option, f"{option.split()[0]} {EVENTS} {needed}", beside)
        for option in ("--by nll", "--onset 0.01", "--offset 0.1", "--minimum 0", "--gap 0")
        for command, needed, beside in (
            ("surprise MODEL a.wav", "--events, --labels or --picture", "--events e.csv"),
            ("stream MODEL a.wav", "--calibration", "--calibration c.json"),
        )
    ),
]  # fmt: skip


def words_of(line: str, folder: Path) -> list[str]:
    return [str(folder / word) if word in ("MODEL", "a.wav", "sounds", "d.safetensors") else word for word in line.split()]


@pytest.mark.parametrize(("command", "option", "said", "beside"), CASES)
def test_one_that_does_nothing_is_refused(
    command: str, option: str, said: str, beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "a.wav", 0.1)
    assert cli.main(words_of(f"{command} {option}", tmp_path)) == 2
    assert capsys.readouterr().err.startswith(f"pydreaming: {said}")
    assert (
        cli.main(words_of(f"{command} {option} {beside}", tmp_path)) == 1
    )  # all is well, but for the model (or detector), that is not there
    missing = tmp_path / ("d.safetensors" if "d.safetensors" in command and "score" in command else "MODEL")
    assert str(missing) in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--normal a.wav", "--seed 0"])
def test_the_page_of_a_run_is_of_no_recording(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_of(f"report MODEL --out {tmp_path}/r.html {option}", tmp_path)) == 2
    assert f"{option.split()[0]} is for a page about a recording: name it as INPUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["--gap 1:2", "--picture f.png", "--fill mean", "--samples 4", "--render both", "--bank b.safetensors", "--provenance p.csv", "--own"],
)
def test_an_evaluation_of_gaps_fills_none(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_of(f"inpaint MODEL a.wav --evaluate 2 --out - {option}", tmp_path)) == 2
    assert f"it takes no {option.split()[0]}" in capsys.readouterr().err


def test_the_length_of_gaps_is_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_of("inpaint MODEL a.wav --gap 1:2 --out f.wav --gap-s 0.3", tmp_path)) == 2
    assert "--gap-s is for --evaluate" in capsys.readouterr().err


def test_a_sample_of_all_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["inspect", str(tmp_path), "--all", "--measure", "5"])
    assert "not allowed with argument --all" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--format s24le", "--channels 2"])
def test_a_recorded_wav_says_what_it_is(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"RIFF"))))
    assert cli.main(["record", str(tmp_path / "live"), *option.split()]) == 2
    assert f"{option.split()[0]} {RAW}" in capsys.readouterr().err
