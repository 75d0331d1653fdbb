"""Plain WAV files are read without libsndfile: whatever is taken must be what libsndfile reads, whatever is odd must be left to it."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from pydreaming.audio.decode import decode, open_audio
from pydreaming.audio.plain_wave import LARGEST, PlainWave, parse_plain, read_plain
from pydreaming.audio.sources.item import AudioItem
from pydreaming.errors import DecodeError

ITEM = AudioItem(index=0, path="", group="g")


def wave(samples: np.ndarray, rate: int = 8000, subtype: str = "PCM_16") -> bytes:
    with io.BytesIO() as file:
        soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
        return file.getvalue()


def noise(count: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32767, (count, channels), np.int16, endpoint=True)


@given(st.integers(1, 3000), st.integers(1, 3), st.sampled_from([8000, 16000, 44100]), st.integers(0, 99))
def test_a_plain_file_is_what_libsndfile_reads(count, channels, rate, seed):
    samples = noise(count, channels, seed)
    found = parse_plain(wave(samples, rate))
    assert found is not None
    assert (found.samplerate, found.frames, found.channels, found.format, found.subtype) == (rate, count, channels, "WAV", "PCM_16")
    parts = [found.read(7), found.read(100_000)]
    assert np.array_equal(np.concatenate(parts), samples)
    found.seek(count // 2)
    assert np.array_equal(found.read(5), samples[count // 2 : count // 2 + 5])


@given(st.integers(0, 43), st.integers(0, 255), st.integers(0, 8), st.integers(0, 6))
@example(22, 2, 0, 0)  # two channels announced in a file for one
@example(40, 0, 0, 0)  # another length
@example(16, 18, 0, 0)  # a longer fmt chunk
def test_a_changed_header_is_taken_only_as_libsndfile_takes_it(place, value, cut, more):
    content = bytearray(wave(noise(64)))
    content[place] = value
    data = bytes(content[: len(content) - cut]) + b"\0" * more
    found = parse_plain(data)
    if found is None:
        return
    theirs, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert (found.samplerate, found.channels) == (rate, theirs.shape[1])
    assert np.array_equal(found.read(1000), theirs)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_U8", "FLOAT", "ULAW"])
def test_other_encodings_are_left(subtype):
    assert parse_plain(wave(noise(64).astype(np.float64) / 32768, subtype=subtype)) is None


def test_other_contents_are_left():
    plain = wave(noise(64))
    assert parse_plain(plain) is not None
    assert parse_plain(plain[:44]) is None
    assert parse_plain(b"") is None
    assert parse_plain(b"RIFX" + plain[4:]) is None
    chunk = b"LIST\x04\0\0\0abcd"
    size = (len(plain) - 8 + len(chunk)).to_bytes(4, "little")
    assert parse_plain(plain[:4] + size + plain[8:12] + chunk + plain[12:]) is None
    behind = parse_plain(plain[:4] + size + plain[8:] + chunk)  # as ffmpeg writes tags
    assert behind is not None
    assert behind.frames == 64


def test_a_file_on_disk(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wave(noise(500, 2)))
    size = path.stat().st_size
    assert isinstance(read_plain(str(path), size), PlainWave)
    assert read_plain(str(path), size - 1) is None  # it has grown since its size was asked for
    assert read_plain(str(path), LARGEST + 1) is None
    for channels, expected in (("mix", noise(500, 2).mean(1) / 32768), ("first", noise(500, 2)[:, 0] / 32768)):
        samples, rate = decode(path, ITEM, channels)
        assert rate == 8000
        np.testing.assert_allclose(samples, expected, atol=1e-6)


@pytest.mark.parametrize("count", [400, LARGEST])  # read at once, and in parts
def test_both_ways_give_the_same_bits(tmp_path, count):
    path, item = tmp_path / "a.wav", AudioItem(index=0, path="", group="g", offset_s=0.01, duration_s=0.02)
    path.write_bytes(wave(noise(count)))
    with open_audio(path, item, "mix") as stream:
        blocks = np.concatenate(list(stream.blocks(0.007)))
    with soundfile.SoundFile(str(path)) as file:
        file.seek(80)
        assert np.array_equal(blocks, file.read(160, dtype="float32"))


def test_damage_has_the_same_words(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wave(noise(500))[:-100])
    with pytest.raises(DecodeError, match="truncated: 900 of 1000 bytes"):
        decode(path)
    path.unlink()
    with pytest.raises(DecodeError, match="No such file"):
        decode(path)
    os.mkfifo(path)
    with pytest.raises(DecodeError, match="not a regular file"):
        decode(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wave(noise(500)))
    with open_audio(path, ITEM, "mix") as stream:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(DecodeError, match="changed while it was read"):
            list(stream.blocks())
