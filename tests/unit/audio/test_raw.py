"""PCM from pipes and from files that grow: equal to libsndfile's, cut anywhere, and bounded."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pydreaming.audio.decode import decode
from pydreaming.audio.raw import MAX_HEADER, PIECE, GrowingFile, RawDecoder, RawFormat, parse_wav, read_format
from pydreaming.audio.stages import run
from pydreaming.errors import DecodeError, UsageError

SUBTYPES = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}


def noise(count: int, channels: int) -> np.ndarray:
    return np.random.default_rng(count).uniform(-1, 1, (count, channels))


def wav_bytes(samples: np.ndarray, subtype: str = "PCM_16", rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format="WAV")
    return file.getvalue()


def decoded(layout: RawFormat, pieces: list[bytes], channels: str = "mix") -> np.ndarray:
    return np.concatenate([np.empty(0, np.float32), *run(RawDecoder(layout, channels, "x"), pieces)])


@pytest.mark.parametrize("encoding", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("which", ["mix", "first"])
def test_the_bits_of_libsndfile_in_pieces_of_any_size(tmp_path: Path, encoding: str, channels: int, which: str) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav_bytes(noise(501, channels), SUBTYPES[encoding]))
    header = parse_wav(path.read_bytes(), "x")
    assert header is not None
    assert header.layout == RawFormat(16_000, encoding, channels)
    data = soundfile.SoundFile(path)
    size = header.layout.frame_bytes * data.frames
    raw = path.read_bytes()[header.data_at : header.data_at + size]
    expected, rate = decode(path, channels=which)
    assert rate == header.layout.sample_rate
    for step in (1, 7, 4096):
        got = decoded(header.layout, [raw[i : i + step] for i in range(0, len(raw), step)], which)
        assert np.array_equal(got, expected)


def test_what_is_no_whole_sample_is_counted_and_left_out() -> None:
    decoder = RawDecoder(RawFormat(8000, "s16le", 2), "mix", "x")
    assert sum(map(len, decoder.push(bytes(11)))) == 2
    assert decoder.left == 3
    assert list(decoder.finish()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_floats_that_are_no_sound_are_refused_with_their_place(bad: float) -> None:
    decoder = RawDecoder(RawFormat(8000, "f32le"), "mix", "pipe")
    list(decoder.push(np.zeros(100, "<f4").tobytes()))
    with pytest.raises(DecodeError, match="pipe: samples from 100 on"):
        list(decoder.push(np.array([0, bad], "<f4").tobytes()))


@pytest.mark.parametrize("words", [(0,), (999,), (10**9,), (8000, "s16be"), (8000, "s16le", 0), (8000, "s16le", 65)])
def test_absurd_formats_are_refused(words: tuple[int, str, int]) -> None:
    with pytest.raises(UsageError):
        RawFormat(*words)


def test_headers() -> None:
    whole = wav_bytes(noise(10, 1))
    assert all(parse_wav(whole[:n], "x") is None for n in (0, 3, 11, 20, 43))
    assert read_format(io.BytesIO(whole).read1, "x")[1] == whole[44:]
    extensible = wav_bytes(noise(10, 8), "PCM_24")
    assert parse_wav(extensible, "x").layout == RawFormat(16_000, "s24le", 8)
    for data, cause in (
        (b"fLaC" + bytes(100), "--rate"),
        (b"RIFF\0\0\0\0AVI " + bytes(100), "--rate"),
        (wav_bytes(noise(10, 1), "ULAW"), "format 7"),
        (whole[:24] + struct.pack("<I", 10**9) + whole[28:], "1000000000 Hz"),
        (b"RIFF\0\0\0\0WAVEdata" + bytes(100), "before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0" + bytes(100), "cut off"),
        (b"RIFF\0\0\0\0WAVE" + (b"junk" + bytes(4)) * (MAX_HEADER // 8), "no samples in the first"),
    ):
        with pytest.raises(DecodeError, match=cause):
            parse_wav(data, "x")
    for data, cause in ((b"", "empty"), (whole[:30], "within its header")):
        with pytest.raises(DecodeError, match=cause):
            read_format(io.BytesIO(data).read1, "x")


def grow(path: Path, data: bytes, step: int) -> Callable[[], None]:
    def write() -> None:
        with path.open("ab", buffering=0) as file:
            for i in range(0, len(data), step):
                file.write(data[i : i + step])
                time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    return thread.join


@pytest.mark.parametrize("announced", [0, 0x7FFFFFFF, None])
def test_a_wav_is_followed_as_it_is_written(tmp_path: Path, announced: int | None) -> None:
    path, samples = tmp_path / "x.wav", noise(3001, 1)
    data = bytearray(wav_bytes(samples))
    if announced is not None:
        data[40:44] = announced.to_bytes(4, "little")
    path.write_bytes(data[:20])
    join = grow(path, bytes(data[20:]) + (b"LIST\4\0\0\0abcd" if announced is None else b""), 501)
    file = GrowingFile(path, None, 0.5)
    got = decoded(file.layout, list(file.pieces()))
    join()
    np.testing.assert_allclose(got, samples[:, 0], atol=2**-15)


def test_raw_files_and_files_that_cannot_be_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(10))
    assert b"".join(GrowingFile(path, RawFormat(8000), 0.05).pieces()) == bytes(10)
    with pytest.raises(DecodeError, match="No such file"):
        GrowingFile(tmp_path / "none", None, 0.05)
    with pytest.raises(DecodeError, match="not a regular file"):
        GrowingFile(tmp_path, None, 0.05)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(DecodeError, match=r"no WAV header came in 0\.05 s"):
        GrowingFile(tmp_path / "empty.wav", None, 0.05)
    pieces = GrowingFile(path, RawFormat(8000), 5.0).pieces()
    next(pieces)
    path.write_bytes(b"")
    with pytest.raises(DecodeError, match="became shorter"):
        next(pieces)
    path.write_bytes(bytes(3 * PIECE))
    pieces = GrowingFile(path, RawFormat(8000), 5.0).pieces()
    next(pieces)  # there is more to catch up with
    path.write_bytes(b"")
    with pytest.raises(DecodeError, match="became shorter"):
        next(pieces)
