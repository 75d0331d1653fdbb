import io
import os

import numpy as np
import pytest
import soundfile

from pydreaming.audio import decode as decoding
from pydreaming.audio.decode import (
    decode,
    expand_channels,
    open_audio,
    probe,
    read_blocks,
    read_stdin,
    resolve_inside,
    seconds_to_samples,
)
from pydreaming.audio.sources.item import AudioItem
from pydreaming.errors import DecodeError


def item(**fields):
    return AudioItem(index=0, path="x.wav", group="recording:x.wav", **fields)


def tone(num_samples=8000, rate=8000):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(num_samples) / rate)).astype(np.float32)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 8000, subtype="PCM_16")
    return path


def test_sixteen_bit_samples_are_the_same_as_libsndfiles_floats(wav):
    samples, rate = decode(wav)
    expected, _ = soundfile.read(wav, dtype="float32")
    assert rate == 8000
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE"])
def test_other_encodings(tmp_path, subtype):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 8000, subtype=subtype)
    np.testing.assert_allclose(decode(path)[0], tone(), atol=0.01 if subtype == "PCM_U8" else 1e-6)


@pytest.mark.parametrize("block_s", [0.0001, 0.013, 0.5, 100.0])
def test_the_size_of_blocks_does_not_change_the_samples(tmp_path, block_s):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, (3000, 3)), 8000, subtype="PCM_16")
    blocks = list(read_blocks(path, item(), "mix", block_s))
    np.testing.assert_array_equal(np.concatenate(blocks), decode(path)[0])
    assert max(len(block) for block in blocks) == max(1, min(3000, int(block_s * 8000)))


def test_blocks_of_a_header_with_many_channels_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK_VALUES", 640)
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros((1000, 16)), 8000)
    assert max(len(block) for block in read_blocks(path, item(), "mix")) == 40


def test_channels(tmp_path):
    path = tmp_path / "x.wav"
    left, right = tone(), -0.25 * tone()
    soundfile.write(path, np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(decode(path, item(), "mix")[0], (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(decode(path, item(), "first")[0], left)
    np.testing.assert_array_equal(decode(path, item(channel=1), "each")[0], right)
    np.testing.assert_array_equal(decode(path, item(channel=1), "mix")[0], right)
    with pytest.raises(DecodeError, match="names none of the 2 channels"):
        decode(path, item(), "each")
    with pytest.raises(DecodeError, match="channel 2 asked for; it has 2"):
        decode(path, item(channel=2), "mix")


def test_each_channel_becomes_a_group_of_its_own(wav, tmp_path):
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.zeros((10, 2)), 8000)
    pair = expand_channels(item(), probe(stereo), "each")
    assert [(i.channel, i.group) for i in pair] == [(0, "recording:x.wav#ch1"), (1, "recording:x.wav#ch2")]
    assert [(i.channel, i.group) for i in expand_channels(item(), probe(wav), "each")] == [(0, "recording:x.wav")]
    assert expand_channels(item(), probe(stereo), "mix") == [item()]
    assert expand_channels(item(channel=1), probe(stereo), "each") == [item(channel=1)]


def test_probe(wav):
    info = probe(wav)
    assert (info.sample_rate, info.num_samples, info.channels, info.format, info.subtype) == (8000, 8000, 1, "WAV", "PCM_16")
    assert info.duration_s == 1.0


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
@pytest.mark.parametrize("offset_s", [0.0, 0.1234, 0.5, 0.9, 0.97])
def test_a_segment_is_the_same_as_that_part_of_the_whole(tmp_path, form, subtype, offset_s):
    path = tmp_path / "x"
    noise = np.random.default_rng(1).standard_normal(40_000) * 0.1
    soundfile.write(path, noise, 16_000, format=form, subtype=subtype)
    whole, rate = decode(path)
    segment, _ = decode(path, item(offset_s=offset_s * 2.5, duration_s=0.05), "mix")
    begin = seconds_to_samples(offset_s * 2.5, rate)
    np.testing.assert_array_equal(segment, whole[begin : begin + len(segment)])
    assert len(segment) == 800


def test_segment_without_duration_goes_to_the_end(wav):
    assert len(decode(wav, item(offset_s=0.75), "mix")[0]) == 2000


def test_segment_may_end_a_rounding_error_after_the_recording(wav):
    assert len(decode(wav, item(offset_s=0.5, duration_s=0.54), "mix")[0]) == 4000


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"offset_s": 1.0}, r"begins at 1 s, after the end \(1 s\)"),
        ({"offset_s": 0.5, "duration_s": 0.6}, r"ends at 1.1 s, after the end \(1 s\)"),
        ({"offset_s": -0.1}, "makes no sense"),
        ({"offset_s": float("nan")}, "makes no sense"),
        ({"duration_s": 0.0}, "makes no sense"),
        ({"duration_s": float("inf")}, "makes no sense"),
    ],
)
def test_impossible_segments(wav, fields, cause):
    with pytest.raises(DecodeError, match=cause):
        decode(wav, item(**fields), "mix")


def test_seconds_are_rounded_to_the_nearest_sample_halves_up():
    assert [seconds_to_samples(s, 10) for s in (0.0, 0.04, 0.05, 0.15, 0.25, 1.0)] == [0, 0, 1, 2, 3, 10]
    assert seconds_to_samples(36_000.0, 44_100) == 1_587_600_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(tmp_path, bad):
    path = tmp_path / "x.wav"
    samples = tone()
    samples[5000] = bad
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    with pytest.raises(DecodeError, match="1 samples are not finite numbers") as caught:
        decode(path)
    assert caught.value.path == str(path)


def test_absurdly_large_samples(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.full(100, 1e30), 8000, subtype="FLOAT")
    with pytest.raises(DecodeError, match="absurdly large"):
        decode(path)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2_000_000])
def test_absurd_rates(tmp_path, rate):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(100), rate)
    with pytest.raises(DecodeError, match=f"a sample rate of {rate} Hz"):
        probe(path)


def test_absurd_channels(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros((10, 65)), 8000)
    with pytest.raises(DecodeError, match="65 channels"):
        probe(path)


@pytest.mark.parametrize(("subtype", "cause"), [("PCM_24", r"truncated: \d+ of 8000 samples"), ("PCM_16", "changed while it was read")])
def test_a_file_that_loses_samples_while_it_is_read(tmp_path, subtype, cause):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 8000, subtype=subtype)
    with open_audio(path, item(), "mix") as stream:
        blocks = stream.blocks(block_s=0.1)
        next(blocks)
        os.truncate(path, 6000)
        with pytest.raises(DecodeError, match=cause):
            list(blocks)


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "empty"), (b"not audio at all" * 100, "not recognised"), (b"RIFF\x24\0\0\0WAVE", "No 'fmt ' chunk|No 'data' chunk")],
)
def test_not_audio(tmp_path, content, cause):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=cause) as caught:
        decode(path)
    assert "\n" not in str(caught.value)


def test_headerless_raw_is_not_guessed(tmp_path):
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(DecodeError):
        decode(path)


def test_what_is_not_a_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for a writer
    for path in (tmp_path / "pipe.wav", tmp_path):
        with pytest.raises(DecodeError, match="not a regular file"):
            decode(path)
    with pytest.raises(DecodeError, match="No such file"):
        decode(tmp_path / "vanished.wav")
    with pytest.raises(DecodeError, match="null byte"):
        decode(tmp_path / "a\0b.wav")


def test_wav_without_samples(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(0), 8000)
    with pytest.raises(DecodeError, match="holds no samples"):
        decode(path)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_standard_input(tmp_path, form):
    path = tmp_path / "x"
    soundfile.write(path, tone(16_000, 16_000), 16_000, format=form)
    samples, rate = read_stdin(io.BytesIO(path.read_bytes()))
    assert rate == 16_000
    np.testing.assert_array_equal(samples, decode(path)[0])


def test_standard_input_beyond_memory_goes_through_a_file(wav, monkeypatch):
    monkeypatch.setattr(decoding, "SPOOL_MEMORY", 1000)
    np.testing.assert_array_equal(read_stdin(io.BytesIO(wav.read_bytes()))[0], decode(wav)[0])


def test_standard_input_that_is_too_long_empty_damaged_or_not_audio(wav):
    content = wav.read_bytes()
    assert len(read_stdin(io.BytesIO(content), limit=len(content))[0]) == 8000
    for given, limit, cause in [
        (content, len(content) - 1, f"<stdin>: more than {len(content) - 1} bytes"),
        (b"", 100, "<stdin>: empty"),
        (content[:5000], 10_000, "<stdin>: truncated"),
        (b"hello" * 100, 10_000, "<stdin>: Format not recognised"),
    ]:
        with pytest.raises(DecodeError, match=cause):
            read_stdin(io.BytesIO(given), limit=limit)


def test_paths_stay_inside_the_root(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.wav"
    (root / "sub").mkdir(parents=True)
    outside.touch()
    inside = root / "sub" / "a.wav"
    inside.touch()
    (root / "good").symlink_to(inside)
    (root / "bad").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    assert resolve_inside(root, "sub/a.wav") == inside.resolve()
    assert resolve_inside(root, "./sub//a.wav") == inside.resolve()
    assert resolve_inside(root, "good") == inside.resolve()
    for relative in ("../outside.wav", "sub/../../outside.wav", str(outside), "bad", "missing.wav", "loop", "", ".", "a\0b"):
        with pytest.raises(DecodeError):
            resolve_inside(root, relative)


def test_an_mp3_that_is_none_is_not_said_to_be_missing(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_text("these are words, and not a sound\n")
    with pytest.raises(DecodeError, match="not audio that can be decoded"):
        decode(path)
