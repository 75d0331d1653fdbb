"""`pydreaming surprise --calibration`, `calibrate`, `segment` and `stream` as a user runs them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming import cli

Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]


@pytest.fixture(scope="session")
def surprise_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-surprise-run")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def normal(tmp_path_factory: pytest.TempPathFactory, surprise_run: Path) -> Path:
    """A calibration on half a minute of sweeps."""
    folder = tmp_path_factory.mktemp("normal")
    for i in range(30):
        write_sweep(folder / f"{i}.wav", 1.0, seed=i)
    assert cli.main(["calibrate", str(surprise_run), str(folder), "--out", str(folder / "normal.json")]) == 0
    return folder / "normal.json"


@pytest.fixture
def pydreaming(surprise_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in `tmp_path`, with bytes on standard input where given."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *words: object, stdin: bytes | None = None, model: object = None) -> Result:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        line = [command, str(model or surprise_run), *map(str, words)]
        code = cli.main(line)
        return Result(line, code, *capfd.readouterr())

    return run


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def assert_line(result: Result, code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert any(all(word in line for word in words) for line in result.stderr.splitlines()), result.stderr


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


class TestSurprise:
    def test_calibrated_with_events_labels_and_pictures(self, pydreaming: Command, normal: Path, tmp_path: Path) -> None:
        for i in range(2):
            soundfile.write(tmp_path / f"{i}.wav", np.concatenate([sweep(0.8, seed=j) for j in range(8)]), RATE)
        words = ("--calibration", normal, "--onset", 0.1, "--offset", 0.3, "--events", "e.csv", "--labels", "l", "--picture", "p")
        assert_line(pydreaming("surprise", "0.wav", "1.wav", "--out", "s.csv", *words), 0, "events by p-values")
        rows = rows_of((tmp_path / "s.csv").read_text())
        assert [*rows[0]][-3:] == ["kl_p", "prior_entropy_p", "nll_p"]
        assert all(0 < float(row["kl_p"]) <= 1 for row in rows)
        events = [event for event in rows_of((tmp_path / "e.csv").read_text()) if event["source"] == "0.wav"]
        assert events
        for event in events:
            inside = [
                float(row["kl_p"])
                for row in rows
                if row["source"] == "0.wav" and float(event["start_s"]) <= float(row["centre_s"]) <= float(event["end_s"])
            ]
            assert min(inside) == float(event["min_p"]) < 0.1
        labels = (tmp_path / "l/00001-0.txt").read_text().splitlines()
        assert [line.split("\t")[0] for line in labels] == [f"{float(event['start_s']):.6f}" for event in events]
        assert (tmp_path / "p/00002-1.png").exists()

    def test_without_calibration_it_says_what_the_measure_is(self, pydreaming: Command, tmp_path: Path) -> None:
        write_sweep(tmp_path / "a.wav", 3.0)
        assert_line(pydreaming("surprise", "a.wav", "--out", "s.npz", "--labels", "a.txt"), 0, "own quantiles", "no --calibration")
        assert (tmp_path / "a.txt").read_text().endswith(" bits\n")
        assert_line(pydreaming("surprise", "a.wav", "b.wav", "--out", "s.npz", "--labels", "a.txt"), 2, "--labels a.txt", "name a folder")

    def test_refusals(self, pydreaming: Command, normal: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        write_sweep(tmp_path / "a.wav", 0.5)
        other = tmp_path_factory.mktemp("other-run")
        make_checkpoint(other, steps=1)
        words = ("surprise", "a.wav", "--calibration")
        assert_line(pydreaming(*words, normal, model=other), 2, "normal.json was made by another model")
        assert_line(pydreaming(*words, "none.json"), 1, "cannot read none.json")
        assert_line(pydreaming(*words, "a.wav"), 1, "a.wav: no calibration")
        assert_line(pydreaming(*words, normal, "--seed", 1), 2, "--seed 1")
        assert_line(pydreaming("surprise", "a.wav", "--events", "e.csv", "--onset", 2), 2, "onset")
        assert_line(pydreaming(*words, normal, "--events", "e.csv", "--out", "s.csv"), 0, "too few windows to find events")


class TestCalibrate:
    def test_bad_files_are_named_and_the_others_heard(self, pydreaming: Command, tmp_path: Path) -> None:
        for i in range(8):
            write_sweep(tmp_path / f"n/{i}.wav", 0.8, seed=i)
        (tmp_path / "n/text.wav").write_text("not audio")
        assert_line(pydreaming("calibrate", "n", "--out", "c.json"), 1, "1 of 9 files could not be read")
        assert json.loads((tmp_path / "c.json").read_text())["clips"] == 8
        assert_line(pydreaming("calibrate", "n/text.wav", "--out", "d.json"), 1, "no file could be read")
        assert_line(pydreaming("calibrate", "n/0.wav", "--out", "d.json"), 2, "19 windows", "too few")
        assert_line(pydreaming("calibrate", "n", "--out", "c.csv"), 2, ".json")
        assert not (tmp_path / "d.json").exists()


class TestSegment:
    def test_table_and_labels(self, pydreaming: Command, normal: Path, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", np.concatenate([sweep(0.5, seed=i) for i in range(8)]), RATE)
        for words in ((), ("--sensitivity", 0.52), ("--calibration", normal, "--p", 0.3)):
            assert_line(pydreaming("segment", "a.wav", "--out", "s.csv", "--labels", "a.txt", *words), 0, "segments from 1 of 1 files")
            rows = rows_of((tmp_path / "s.csv").read_text())
            assert len(rows) > 1
            assert [row["end_s"] for row in rows[:-1]] == [row["start_s"] for row in rows[1:]]
            assert len((tmp_path / "a.txt").read_text().splitlines()) == len(rows)
            assert ("p" in rows[0]) == ("--calibration" in words)

    def test_wrong_wishes(self, pydreaming: Command, tmp_path: Path) -> None:
        write_sweep(tmp_path / "a.wav", 0.5)
        assert_line(pydreaming("segment", "a.wav", "--sensitivity", 2), 2, "sensitivity")
        assert_line(pydreaming("segment", "a.wav", "--minimum", -1), 2, "least length")
        assert_line(pydreaming("segment", "b.wav"), 1, "b.wav")


class TestStream:
    def test_rows_are_those_of_surprise(self, pydreaming: Command, normal: Path, tmp_path: Path) -> None:
        samples = np.concatenate([sweep(0.8, 16_000, seed=i) for i in range(4)])
        soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
        raw = soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tobytes()
        whole = rows_of(pydreaming("surprise", "a.wav", "--calibration", normal).stdout)
        for row in whole:
            del row["source"]
        for result in (
            pydreaming("stream", "-", "--rate", 16_000, "--calibration", normal, stdin=raw),
            pydreaming("stream", "-", "--calibration", normal, stdin=(tmp_path / "a.wav").read_bytes()),
            pydreaming("stream", "a.wav", "--calibration", normal, "--chunk", 9),
            pydreaming("stream", "a.wav", "--calibration", normal, "--follow", "--idle", 0.1),
        ):
            assert_line(result, 0, f"{len(whole)} windows of 3.20 s of sound", "x real time")
            assert_line(result, 0, "a row comes at most", "ms")
            rows = rows_of(result.stdout)
            assert {row.pop("event") for row in rows} <= {"0", "1"}
            assert list(rows[0]) == list(whole[0])
            found, expected = ([[float(value) for value in row.values()] for row in table] for table in (rows, whole))
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)

    def test_json_events_and_labels(self, pydreaming: Command, normal: Path, tmp_path: Path) -> None:
        raw = np.concatenate([sweep(0.8, seed=i) for i in range(8)]).astype("<f4").tobytes()
        words = ("--rate", RATE, "--format", "f32le", "--json", "--calibration", normal, "--onset", 0.1, "--offset", 0.3)
        result = pydreaming("stream", "-", *words, "--labels", "l.txt", stdin=raw)
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row["window"] for row in rows] == list(range(len(rows)))
        labels = (tmp_path / "l.txt").read_text().splitlines()
        assert labels
        assert result.stderr.count("event ") == len(labels)
        assert any(row["event"] for row in rows)

    def test_untrusted_bytes_and_wrong_wishes(self, pydreaming: Command, tmp_path: Path) -> None:
        write_sweep(tmp_path / "a.wav", 0.5)
        half = pydreaming("stream", "-", "--rate", RATE, stdin=pcm(sweep(0.5)) + b"x")
        assert_line(half, 1, "standard input ends within a sample", "1 bytes")
        assert len(rows_of(half.stdout)) == 12
        nan = pydreaming("stream", "-", "--rate", RATE, "--format", "f32le", stdin=np.array([0.1] * 9 + [np.nan], "<f4").tobytes())
        assert_line(nan, 1, "standard input: samples from 0 on are not finite")
        assert_line(pydreaming("stream", "-", "--rate", RATE, stdin=b""), 1, "standard input: holds no samples")
        assert_line(pydreaming("stream", "-", stdin=b"text, not sound"), 1, "not a WAV", "--rate")
        assert_line(pydreaming("stream", "-", "--rate", 10**12, stdin=b""), 2, "1000000000000 Hz")
        assert_line(pydreaming("stream", "-", "--rate", RATE, "--format", "u8", stdin=b""), 2, "u8", "s16le")
        assert_line(pydreaming("stream", "-", "--rate", RATE, "--channels", 1000, stdin=b""), 2, "1000 channels")
        assert_line(pydreaming("stream", "a.wav", "--chunk", 0), 2, "chunk")
        assert_line(pydreaming("stream", "a.wav", "--rate", RATE), 2, "--rate")
        assert_line(pydreaming("stream", "-", "--follow"), 2, "--follow")
        assert_line(pydreaming("stream", "a.wav", "--idle", 3), 2, "--idle")
        assert_line(pydreaming("stream", "a.wav", "--labels", "l.txt"), 2, "--calibration")
        assert_line(pydreaming("stream", "none.wav", "--follow"), 1, "none.wav")

    def test_rows_come_while_a_file_grows_and_ctrl_c_finishes_them(self, surprise_run: Path, tmp_path: Path) -> None:
        sound, path = pcm(sweep(2.0)), tmp_path / "x.raw"
        path.write_bytes(sound[: len(sound) // 2])
        line = [sys.executable, "-m", "pydreaming.cli", "stream", str(surprise_run), str(path), "--follow", "--rate", str(RATE)]
        with running(line) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            head = [process.stdout.readline() for _ in range(2 + 24)]
            assert head[-1].startswith("23,")
            with path.open("ab") as file:
                file.write(sound[len(sound) // 2 :])
            assert [process.stdout.readline().split(",")[0] for _ in range(25)][-1] == "48"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stdout.read() == ""
            assert "49 windows of 2.00 s of sound" in process.stderr.read()

    def test_a_pipe_is_not_waited_for(self, surprise_run: Path) -> None:
        line = [sys.executable, "-m", "pydreaming.cli", "stream", str(surprise_run), "-", "--rate", str(RATE)]
        with running(line) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.buffer.write(pcm(sweep(0.1)))
            process.stdin.flush()
            assert [process.stdout.readline().split(",")[0] for _ in range(4)][2:] == ["0", "1"]
            process.stdin.close()
            assert process.wait(60) == 0


@contextlib.contextmanager
def running(line: list[str]) -> Iterator[subprocess.Popen[str]]:
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, env=environment, text=True, **pipes) as process:
        watchdog = threading.Timer(90, process.kill)  # a row that never comes must not hang the suite
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()
