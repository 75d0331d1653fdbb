"""`pydreaming record` as a user runs it."""

from __future__ import annotations

import fcntl
import io
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def record(folder: Path, *words: str, stdin: bytes) -> tuple[int, str]:
    command = [sys.executable, "-m", "pydreaming.cli", "record", str(folder), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode()


def test_raw_and_wav_give_the_same_recordings(tmp_path):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 2 * RATE, np.int16)
    wav = io.BytesIO()
    soundfile.write(wav, samples, RATE, format="WAV")
    code, said = record(tmp_path / "raw", "--rate", str(RATE), "--segment", "0.75", stdin=samples.tobytes())
    assert (code, "3 recordings" in said) == (0, True)
    code, _ = record(tmp_path / "wav", "--segment", "0.75", stdin=wav.getvalue())
    assert code == 0
    for folder in ("raw", "wav"):
        files = sorted((tmp_path / folder).glob("*.flac"))
        assert [path.name[:6] for path in files] == ["000001", "000002", "000003"]
        assert np.array_equal(np.concatenate([soundfile.read(path, dtype="int16")[0] for path in files]), samples)


def test_a_signal_ends_it_before_a_header_has_come(tmp_path):
    command = [sys.executable, "-m", "pydreaming.cli", "record", str(tmp_path / "new")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"RIFF")
    process.stdin.flush()
    unread = struct.pack("i", 1)
    while unread != bytes(4) and process.poll() is None:  # until it has read what there is, and waits for more
        time.sleep(0.05)
        unread = fcntl.ioctl(process.stdin, termios.FIONREAD, unread)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    process.stdin.close()


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for words, stdin, code, text in (
        (["--rate", "8000"], b"", 1, "holds no samples"),
        ([], b"", 1, "empty"),
        ([], b"not a wav at all", 1, "give --rate"),
        (["--rate", "7"], b"xx", 2, "sample rate of 7 Hz"),
        (["--rate", "8000", "--format", "mp3"], b"xx", 2, "no sample format 'mp3'"),
        (["--rate", "8000"], b"xxx", 1, "last 1 bytes were left out"),
    ):
        got, said = record(tmp_path / "new", *words, stdin=stdin)
        assert (got, text in said) == (code, True), said
    code, said = record(tmp_path / "file" / "x", "--rate", "8000", stdin=b"xx")
    assert (code, "is not a folder" in said) == (1, True)
