"""`pydreaming bank`, `dream --render` and `inpaint` as a user runs them, on generated recordings and a tiny model."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, write_sweep

from pydreaming import cli

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-dreams-run")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def bank(run_folder: Path, sounds: Path) -> Path:
    path = run_folder / "bank.safetensors"
    assert cli.main(["bank", str(run_folder), str(sounds), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-dreams-sounds")
    for i in range(4):
        write_sweep(folder / f"{i}.wav", 0.9, seed=i)
    return folder


@pytest.fixture
def pydreaming(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *words: object, model: object = None) -> subprocess.CompletedProcess[str]:
        line = [command, str(model or run_folder), *map(str, words)]
        return subprocess.CompletedProcess(line, cli.main(line), *capfd.readouterr())

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def assert_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert any(all(word in line for word in words) for line in result.stderr.splitlines()), result.stderr


class TestBank:
    def test_unreadable_files_are_counted(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        (tmp_path / "noise.wav").write_bytes(b"RIFF nothing")
        result = pydreaming("bank", sounds, "noise.wav", "--out", "new/b.safetensors", "--windows", 50)
        assert_line(result, 1, "noise.wav")
        assert_line(result, 1, "wrote new/b.safetensors: 44 windows from 4 of 5 files")  # two recordings of 22 windows are kept
        assert_line(result, 1, "1 of 5 files could not be read")

    def test_wrong_wishes(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        assert_line(pydreaming("bank", sounds, "--out", "b.npz"), 2, ".safetensors")
        assert_line(pydreaming("bank", sounds, "--out", "b.safetensors", "--windows", 0), 2, "room for windows")
        make_checkpoint(tmp_path / "cpc", steps=1, objective__name="cpc")
        assert_line(pydreaming("bank", sounds, "--out", "b.safetensors", model=tmp_path / "cpc"), 2, "trains no latents")


class TestDream:
    def test_both_renderings_and_where_windows_come_from(self, pydreaming: Command, sounds: Path, bank: Path, tmp_path: Path) -> None:
        clip = sounds / "2.wav"
        words = (clip, "--at", 0.5, "--seconds", 0.4, "--samples", 2, "--render", "both", "--out", "d.wav", "--provenance", "d.csv")
        assert_line(pydreaming("dream", *words, "--bank", bank), 0, "wrote d-concatenative-2.wav")
        assert sorted(p.name for p in tmp_path.glob("*.wav")) == [
            f"d-{r}-{k}.wav" for r in ("concatenative", "griffin-lim") for k in (1, 2)
        ]
        a, b = (soundfile.read(tmp_path / f"d-{render}-1.wav")[0] for render in ("concatenative", "griffin-lim"))
        assert len(a) == len(b)
        rows = rows_of(tmp_path / "d.csv")
        assert len(rows) == 20
        assert str(clip) not in {row["source"] for row in rows}
        # The same from recordings as from a saved bank.
        pydreaming("dream", *words[:-1], "again.csv", "--bank", sounds)
        assert rows_of(tmp_path / "again.csv") == rows

    def test_wrong_wishes(self, pydreaming: Command, sounds: Path, bank: Path, tmp_path: Path) -> None:
        clip = sounds / "2.wav"
        assert_line(pydreaming("dream", clip, "--out", "d.wav", "--render", "both"), 2, "--bank", "go together")
        assert_line(pydreaming("dream", clip, "--out", "d.wav", "--bank", bank), 2, "go together")
        assert_line(pydreaming("dream", clip, "--out", "d.wav", "--provenance", "d.csv"), 2, "--render concatenative")
        real = ("--render", "concatenative", "--bank")
        assert_line(pydreaming("dream", clip, "--out", "d.wav", *real, "no.safetensors"), 1, "cannot read the bank no.safetensors")
        assert_line(pydreaming("dream", clip, "--out", "d.wav", *real, clip), 2, "nothing but")
        make_checkpoint(tmp_path / "other", steps=1)
        assert_line(pydreaming("dream", clip, "--out", "d.wav", *real, bank, model=tmp_path / "other"), 2, "another model")
        assert not (tmp_path / "d.wav").exists()


class TestInpaint:
    def test_fill_picture_and_provenance(self, pydreaming: Command, sounds: Path, bank: Path, tmp_path: Path) -> None:
        words = (sounds / "1.wav", "--gap", "0.3:0.45", "--gap", "0.6:0.7", "--particles", 16)
        result = pydreaming(
            "inpaint", *words, "--out", "f.wav", "--picture", "f.png", "--render", "both", "--bank", bank, "--provenance", "p.csv"
        )
        assert_line(result, 0, "gap 0.6:0.7, 4 windows", "of 16 particles effective")
        before, _ = soundfile.read(sounds / "1.wav", dtype="int16")
        for name in ("f-griffin-lim.wav", "f-concatenative.wav"):
            after, rate = soundfile.read(tmp_path / name, dtype="int16")
            assert rate == RATE
            assert np.array_equal(after[: round(0.29 * RATE)], before[: round(0.29 * RATE)])
            assert not np.array_equal(after, before)
        assert {Path(row["source"]).name for row in rows_of(tmp_path / "p.csv")} <= {"0.wav", "2.wav", "3.wav"}
        assert (tmp_path / "f.png").stat().st_size > 10_000
        assert pydreaming("inpaint", *words, "--out", "s.wav", "--fill", "samples", "--samples", 3).returncode == 0
        assert sorted(p.name for p in tmp_path.glob("s-*.wav")) == ["s-1.wav", "s-2.wav", "s-3.wav"]

    def test_evaluation_prints_a_table(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        write_sweep(tmp_path / "short.wav", 0.1)
        (tmp_path / "noise.wav").write_bytes(b"RIFF nothing")
        words = ("--evaluate", 10, "--gap-s", 0.1, "--particles", 8, "--out", "t.csv")
        result = pydreaming("inpaint", sounds, "short.wav", "noise.wav", *words)
        assert_line(result, 1, "4 clips with a gap of 0.1 s; 1 were too short")
        assert_line(result, 1, "1 of 6 files could not be read")
        for method in ("mean", "prior_sample", "linear", "copy"):
            assert_line(result, 1, f"  {method}  ", " to ")
        rows = rows_of(tmp_path / "t.csv")
        assert len(rows) == 4 * 7
        assert all(
            float(row["mel_error"]) > 0 and float(row["gap_end_s"]) - float(row["gap_begin_s"]) == pytest.approx(0.1) for row in rows
        )
        assert pydreaming("inpaint", sounds, "--evaluate", 2, "--gap-s", 0.1, "--particles", 8, "--out", "two.csv").returncode == 0
        assert len(rows_of(tmp_path / "two.csv")) == 2 * 7

    def test_wrong_wishes(self, pydreaming: Command, sounds: Path, capfd: pytest.CaptureFixture[str]) -> None:
        clip = sounds / "1.wav"
        assert_line(pydreaming("inpaint", clip, "--out", "f.wav"), 2, "--gap 1.2:1.6")
        assert_line(pydreaming("inpaint", clip, "--gap", "0:0.2", "--out", "f.wav"), 2, "no whole window before it")
        assert_line(pydreaming("inpaint", clip, "--gap", "0.5:3", "--out", "f.wav"), 2, "beyond the end")
        assert_line(pydreaming("inpaint", sounds, "--gap", "0.3:0.5", "--out", "f.wav"), 2, "one recording at a time")
        assert_line(pydreaming("inpaint", "missing.wav", "--gap", "0.3:0.5", "--out", "f.wav"), 1, "missing.wav")
        assert_line(pydreaming("inpaint", clip, "--evaluate", 1, "--gap-s", 30, "--out", "f.csv"), 2, "no recording is long enough")
        assert_line(pydreaming("inpaint", clip, "--evaluate", 1, "--gap", "0.3:0.5", "--out", "f.csv"), 2, "takes no --gap")
        for gap in ("1.2", "2:1", "a:b", "nan:1"):
            with pytest.raises(SystemExit) as end:
                cli.main(["inpaint", "m", "a.wav", "--gap", gap, "--out", "f.wav"])
            assert end.value.code == 2
            assert "write its begin and end" in capfd.readouterr().err
