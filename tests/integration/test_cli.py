"""The `pydreaming` command as a user runs it: a process of its own, on generated recordings and a tiny model."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, write_sweep

from pydreaming import cli

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-run")
    make_checkpoint(folder)
    return folder


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for i in range(3):
        write_sweep(tmp_path / f"sounds/deep/{i}.wav", 0.4 + 0.2 * i, seed=i)
    return tmp_path / "sounds"


@pytest.fixture
def pydreaming(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run the command in `tmp_path`: in a process of its own with `stdin`, in this one (which saves seconds) without."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *words: object, stdin: bytes | None = None, model: object = None) -> subprocess.CompletedProcess[bytes]:
        line = [command, str(model or run_folder), *map(str, words)]
        if stdin is not None:
            program = [sys.executable, "-m", "pydreaming.cli"]
            return subprocess.run([*program, *line], input=stdin, capture_output=True, env=environment(), timeout=120)
        code = cli.main(line)
        return subprocess.CompletedProcess(line, code, *capfdbinary.readouterr())

    return run


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in io.StringIO(text, newline="") if not line.startswith("#")))


def assert_one_line(result: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """No traceback: lines for people, of which one holds the words."""
    text = result.stderr.decode()
    assert result.returncode == code, text
    assert "Traceback" not in text
    assert any(all(word in line for word in words) for line in text.splitlines()), text


class TestEmbed:
    def test_folder_to_table(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        result = pydreaming("embed", sounds, "--out", "new/out.csv", "--per", "window", "--part", "deter")
        assert_one_line(result, 0, "wrote new/out.csv", "3 of 3 files")
        rows = rows_of((tmp_path / "new/out.csv").read_text())
        assert [Path(row["source"]).name for row in rows if row["window"] == "0"] == ["0.wav", "1.wav", "2.wav"]
        assert len([key for key in rows[0] if key.startswith("embedding_")]) == 32

    def test_a_moment_that_would_not_be_used_is_refused(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        assert_one_line(pydreaming("embed", sounds, "--out", "out.csv", "--moment", 0.2), 2, "--moment is for --per moment, not clip")
        assert not (tmp_path / "out.csv").exists()
        assert_one_line(pydreaming("embed", sounds, "--out", "out.csv", "--per", "moment", "--moment", 0.2), 0, "wrote out.csv")

    def test_same_clip_alone_among_others_and_through_a_pipe(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        clip = sounds / "deep/1.wav"
        pydreaming("embed", sounds, "--out", "many.npz")
        pydreaming("embed", clip, "--out", "one.npz")
        pydreaming("embed", "-", "--out", "pipe.npz", stdin=clip.read_bytes())
        vectors = []
        for name in ("many", "one", "pipe"):
            with np.load(tmp_path / f"{name}.npz") as table:
                chosen = (table["source"] == str(clip)) | (table["source"] == "-")
                vectors.append(table["embedding"][chosen])
        assert vectors[0].shape == (1, 48)
        np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
        assert np.array_equal(vectors[1], vectors[2])

    def test_other_rate_and_channels_of_the_same_sound(self, pydreaming: Command, tmp_path: Path) -> None:
        write_sweep(tmp_path / "a.wav", 1.0, seed=3)
        write_sweep(tmp_path / "b.flac", 1.0, rate=44_100, seed=3, channels=2)
        write_sweep(tmp_path / "c.wav", 1.0, seed=4)
        assert pydreaming("embed", "a.wav", "b.flac", "c.wav", "--out", "out.npz", "--part", "deter").returncode == 0
        with np.load(tmp_path / "out.npz") as table:
            a, b, c = table["embedding"]
        assert np.linalg.norm(a - b) < 0.25 * np.linalg.norm(a - c)

    def test_bad_files_are_named_and_the_others_done(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        (sounds / "text.wav").write_text("not audio")
        (sounds / "empty.flac").touch()
        soundfile.write(sounds / "nan.wav", np.full(800, np.nan), RATE, subtype="FLOAT")
        result = pydreaming("embed", sounds, "missing.wav", "--out", "out.npz")
        for name in ("text.wav", "empty.flac", "nan.wav", "missing.wav"):
            assert_one_line(result, 1, name, ":")
        assert_one_line(result, 1, "4 of 7 files could not be read")
        with np.load(tmp_path / "out.npz") as table:
            assert len(table["source"]) == 3

    def test_nothing_readable_writes_nothing(self, pydreaming: Command, tmp_path: Path) -> None:
        assert_one_line(pydreaming("embed", "missing.wav", "--out", "out.csv"), 1, "no file could be read")
        assert not (tmp_path / "out.csv").exists()


class TestSurprise:
    def test_pipe_to_pipe(self, pydreaming: Command, sounds: Path) -> None:
        result = pydreaming("surprise", "-", stdin=(sounds / "deep/2.wav").read_bytes())
        rows = rows_of(result.stdout.decode())
        assert len(rows) == 19
        assert set(rows[0]) == {"source", "window", "start_s", "centre_s", "kl_bits", "prior_entropy_bits", "nll_bits"}
        assert all(float(row["kl_bits"]) >= 0 for row in rows)
        assert float(rows[1]["start_s"]) == pytest.approx(0.04)

    def test_pictures(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        assert pydreaming("surprise", sounds, "--out", "s.parquet", "--picture", "pictures").returncode == 0
        assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["00001-0.png", "00002-1.png", "00003-2.png"]
        assert_one_line(pydreaming("surprise", sounds, "--out", "s.csv", "--picture", "one.png"), 2, "name a folder")

    def test_closed_pipe_is_quiet(self, run_folder: Path, tmp_path: Path) -> None:
        write_sweep(tmp_path / "long.wav", 200.0)
        line = [sys.executable, "-m", "pydreaming.cli", "surprise", str(run_folder), str(tmp_path / "long.wav")]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(60) == 141
            assert process.stderr.read() == b""


class TestDream:
    def test_sound_picture_and_seed(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            words = (sounds / "deep/2.wav", "--seconds", 0.5, "--seed", seed, "--out", f"{name}.wav", "--picture", f"{name}.png")
            assert pydreaming("dream", *words).returncode == 0
        a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
        assert a == b
        assert a != c
        info = soundfile.info(tmp_path / "a.wav")
        assert info.samplerate == RATE
        assert info.duration == pytest.approx(0.76 + 0.3 + 0.535, abs=0.02)  # 19 windows heard, the tick, 13 windows and a window's tail
        assert (tmp_path / "a.png").stat().st_size > 10_000

    def test_wrong_wishes(self, pydreaming: Command, sounds: Path) -> None:
        clip = sounds / "deep/0.wav"
        assert_one_line(pydreaming("dream", clip, "--out", "x.wav", "--samples", 0), 2, "samples")
        assert_one_line(pydreaming("dream", clip, "--out", "x.mp3"), 2, ".wav")
        assert_one_line(pydreaming("dream", "missing.wav", "--out", "x.wav"), 1, "missing.wav")


class TestUsage:
    def test_unusable_places(self, pydreaming: Command, sounds: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert_one_line(pydreaming("embed", sounds, "--out", "out.xlsx"), 2, "out.xlsx", ".parquet")
        assert_one_line(pydreaming("embed", sounds, "--out", "file/out.csv"), 1, "cannot write file/out.csv")
        assert_one_line(pydreaming("embed", sounds, "--out", "sounds"), 2, "sounds")
        result = pydreaming("export", "file")
        assert_one_line(result, 1, f"cannot write file: {tmp_path / 'file'} is not a folder")

    def test_no_model(self, pydreaming: Command, sounds: Path) -> None:
        assert_one_line(pydreaming("embed", sounds, "--out", "o.csv", model="nowhere"), 1, "no model at nowhere")
        result = pydreaming("embed", sounds, "--out", "o.csv", "--tracking", "sqlite:///nowhere.db", model="runs:/abc")
        assert_one_line(result, 1, "no MLflow store", "nowhere.db")

    def test_empty_folder(self, pydreaming: Command, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert_one_line(pydreaming("embed", "empty", "--out", "o.csv"), 2, "no audio files in empty")

    @pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
    def test_help_says_what_comes_out(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert "example:" in text
        usage = text if command == "anomaly" else text.split("\n\n")[0]  # its two steps have a usage of their own
        assert "MODEL" in usage or command in ("status", "inspect", "keys", "record")  # they look at runs, data and hosts, without a model

    @pytest.mark.parametrize("command", ["surprise", "segment"])
    def test_times_are_those_of_windows_also_where_a_recording_is_shorter(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "A recording shorter than a window is heard as one, followed by silence" in capsys.readouterr().out

    def test_version_and_wrong_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith("pydreaming 0.")
        for words in ([], ["sing"], ["embed"], ["embed", "m", "a.wav", "--out", "o.csv", "--seed", "-1"]):
            with pytest.raises(SystemExit) as end:
                cli.main(words)
            assert end.value.code == 2

    def test_interrupt_ends_cleanly(self, run_folder: Path, tmp_path: Path) -> None:
        write_sweep(tmp_path / "x.wav", 0.3)
        line = [sys.executable, "-m", "pydreaming.cli", "embed", str(run_folder), "-", "--out", str(tmp_path / "o.csv")]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(b"RIFF")  # it now waits for the rest
            process.stdin.flush()
            wait_until_loaded(process.pid)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr.read().decode().strip() == "pydreaming: interrupted"
        assert not (tmp_path / "o.csv").exists()


def wait_until_loaded(pid: int) -> None:
    """Until the process sleeps in a read of its standard input."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        call = Path(f"/proc/{pid}/syscall")
        try:
            if call.read_text().startswith("0 0x0 "):  # read(0, ...)
                return
        except OSError:
            pytest.skip("/proc/<pid>/syscall cannot be read here")
        time.sleep(0.05)
    raise AssertionError("the command never came to read its standard input")
