"""Small files that are large once decoded, and headers that claim more than there is: memory stays bounded, or the file is refused."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from pydreaming.audio import decode as decoding
from pydreaming.audio.decode import read_stdin
from pydreaming.errors import DecodeError
from workers.layout import RunDir

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 65_535  # samples of a FLAC frame, at most
RATE = 48_000
MakeRun = Callable[..., RunDir]

# A worker's lease under a limit: what it may map beyond its libraries, and what it had at most.
PRODUCE = """
import sys, torch
from pathlib import Path
from benchmarks.hostile.confine import limit_memory, peak_rss
from pydreaming.audio.sources import AudioItem
from pydreaming.audio.stats import FeatureStats
from workers.layout import RunDir
from workers.produce import Producer
torch.set_num_threads(1)
run, audio = RunDir(Path(sys.argv[1])), Path(sys.argv[2])
config = run.read_config()
producer = Producer(config, audio, run.replay(config))
stats = FeatureStats([0.0] * 16, [1.0] * 16, 1)
def produce(lease, name):
    return producer.produce(0, lease, [AudioItem(index=lease, path=name, group=f"recording:{name}")], stats)
produce(0, "short.flac")
begin = peak_rss()
limit_memory(256 << 20)
files, unreadable = produce(1, "bomb.flac")
print(sum(file.tokens for file in files), len(unreadable), (peak_rss() - begin) >> 20)
"""


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top = 0, 1 << bits - 1
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & (1 << bits) - 1
    return value


def silent_flac(path: Path, frames: int, channels: int, announced: int | None = None) -> int:
    """A FLAC of `frames` constant frames, a few bytes each; returns its samples per channel. `announced`: what the header says instead."""
    samples = frames * BLOCK
    info = RATE << 44 | channels - 1 << 41 | 15 << 36 | (samples if announced is None else announced)
    header = BLOCK.to_bytes(2, "big") * 2 + bytes(6) + info.to_bytes(8, "big") + bytes(16)
    with path.open("wb") as file:
        file.write(b"fLaC\x80" + len(header).to_bytes(3, "big") + header)
        for number in range(frames):
            begin = (
                b"\xff\xf8\x70" + bytes([channels - 1 << 4]) + chr(number).encode("utf-8", "surrogatepass") + (BLOCK - 1).to_bytes(2, "big")
            )
            frame = begin + bytes([_crc(begin, 8, 0x07)]) + bytes(3 * channels)
            file.write(frame + _crc(frame, 16, 0x8005).to_bytes(2, "big"))
    return samples


def test_a_worker_streams_a_flac_of_kilobytes_that_decodes_to_gigabytes(make_run: MakeRun, tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    silent_flac(audio / "short.flac", 4, 8)
    samples = silent_flac(audio / "bomb.flac", 600, 8)
    assert (audio / "bomb.flac").stat().st_size < 27_000
    assert samples * 8 * 4 > 1.2e9  # bytes: a quarter of an hour in eight channels
    run = make_run(audio)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PRODUCE, str(run.path), str(audio)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tokens, unreadable, grown = map(int, done.stdout.split())
    assert unreadable == 0
    assert abs(tokens - samples / RATE * 8000 / 80 / 4) < 2
    assert grown < 100  # MiB, where ten seconds of it are 15


@pytest.mark.parametrize("announced", [2**36 - 1, 10 * 3600 * RATE, 5 * BLOCK])
def test_a_header_that_declares_hours_over_four_frames_is_refused(tmp_path: Path, announced: int) -> None:
    silent_flac(tmp_path / "a.flac", 4, 2, announced)
    with pytest.raises(DecodeError):
        decoding.decode(tmp_path / "a.flac")


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (0, 1), (999, 2), (4_000_000_000, 1), (8000, 0), (8000, 65), (8000, 65_535)])
def test_absurd_rates_and_channels_are_refused(tmp_path: Path, rate: int, channels: int) -> None:
    header = b"fmt \x10\0\0\0\x01\0" + channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
    header += (rate * channels * 2 & 0xFFFFFFFF).to_bytes(4, "little") + (channels * 2 & 0xFFFF).to_bytes(2, "little") + b"\x10\0"
    data = b"data" + (400_000).to_bytes(4, "little") + bytes(400_000)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + (4 + len(header) + len(data)).to_bytes(4, "little") + b"WAVE" + header + data)
    with pytest.raises(DecodeError):
        decoding.decode(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0x7FFFFFFF, 0x7FFEFFFF, 0x80000000, 1 << 20])
@pytest.mark.parametrize("where", ["data", "fmt ", "before", "RIFF"])
def test_wav_chunks_that_lie_about_their_size_cost_nothing(tmp_path: Path, where: str, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", [0.1] * 4000, 8000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    if where == "before":
        content[12:12] = b"junk" + size.to_bytes(4, "little")
    else:
        at = content.index(where.encode()) + 4
        content[at : at + 4] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with contextlib.suppress(DecodeError):  # or it is a size that nobody needs, or a placeholder of a program that wrote to a pipe
        samples, _ = decoding.decode(tmp_path / "a.wav")
        assert len(samples) <= 4000


def test_standard_input_that_grows_beyond_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STDIN_SAMPLES", 1 << 20)
    silent_flac(tmp_path / "a.flac", 40, 1)
    with (tmp_path / "a.flac").open("rb") as file, pytest.raises(DecodeError, match=r"longer than .* give it as a file"):
        read_stdin(file)
