import io

import numpy as np
import pytest
import soundfile

from pydreaming.audio import flac
from pydreaming.audio.decode import decode
from pydreaming.audio.integrity import MP3_SLACK, DamageError, Length, check
from pydreaming.errors import DecodeError


def encoded(form, subtype=None, num_samples=40_000):
    noise = np.random.default_rng(0).standard_normal(num_samples) * 0.1
    target = io.BytesIO()
    soundfile.write(target, noise, 16_000, format=form, subtype=subtype)
    return target.getvalue()


FORMATS = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "FLAC", "OGG", "MP3"]


@pytest.mark.parametrize("form", FORMATS)
def test_intact_files_pass(tmp_path, form):
    content = encoded(form)
    assert check(io.BytesIO(content)) == Length(MP3_SLACK if form == "MP3" else 0)
    (tmp_path / "x").write_bytes(content)
    assert len(decode(tmp_path / "x")[0]) == 40_000


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
def test_truncated_files_never_pass_silently(tmp_path, form, share):
    content = encoded(form)
    path = tmp_path / "x"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError):
        decode(path)


def test_truncated_opus(tmp_path):
    content = encoded("OGG", "OPUS")
    (tmp_path / "x").write_bytes(content[:-100])
    with pytest.raises(DecodeError, match="truncated: the last Ogg page has"):
        decode(tmp_path / "x")


@pytest.mark.parametrize("placeholder", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
def test_wav_written_to_a_pipe_has_no_length_and_still_decodes(tmp_path, placeholder):
    content = bytearray(encoded("WAV"))
    place = content.index(b"data") + 4
    content[place : place + 4] = placeholder.to_bytes(4, "little")
    (tmp_path / "x.wav").write_bytes(content)
    assert len(decode(tmp_path / "x.wav")[0]) == 40_000


def test_chunks_before_and_after_the_samples(tmp_path):
    content = encoded("WAV", num_samples=1000)
    place = content.index(b"data")
    extra = b"LIST\x05\0\0\0abcde\0"  # an odd size is padded
    (tmp_path / "x.wav").write_bytes(content[:place] + extra + content[place:] + extra)
    assert len(decode(tmp_path / "x.wav")[0]) == 1000


SAMPLES = 40_000


def test_mp3_without_a_xing_header_announces_only_an_estimate():
    content = encoded("MP3")
    first = content.index(b"Info") if b"Info" in content else content.index(b"Xing")
    length = check(io.BytesIO(content.replace(content[first : first + 4], b"none")))
    assert length.slack is None
    assert SAMPLES <= length.least <= SAMPLES + 3 * 1152


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_mp3_of_which_only_a_part_would_be_read_are_refused(tmp_path, rate):
    """A quiet beginning has small frames, from which libsndfile takes the length where no header counts them."""
    noise = np.random.default_rng(0).standard_normal(20 * rate) * np.linspace(0, 0.5, 20 * rate) ** 2
    soundfile.write(tmp_path / "x.mp3", noise, rate)
    content = (tmp_path / "x.mp3").read_bytes()
    assert len(decode(tmp_path / "x.mp3")[0]) == 20 * rate
    (tmp_path / "x.mp3").write_bytes(content.replace(b"Xing", b"none", 1))
    with pytest.raises(DecodeError, match=r"only \d+ of \d+ samples could be read, as no header counts its frames; encode it again"):
        decode(tmp_path / "x.mp3")


def test_chained_ogg_streams_are_refused_because_only_the_first_would_be_read():
    with pytest.raises(DamageError, match="a second Ogg stream"):
        check(io.BytesIO(encoded("OGG") + encoded("OGG")))


def test_joined_mp3_files_are_refused_because_only_the_first_would_be_read():
    content = encoded("MP3")
    with pytest.raises(DamageError, match=f"a second MP3 stream is chained at byte {len(content)}"):
        check(io.BytesIO(content + content))
    assert check(io.BytesIO(content + b"TAG" + bytes(125))) == Length(MP3_SLACK)
    assert check(io.BytesIO(content + b"APETAGEX" + bytes(50_000))) == Length(MP3_SLACK)  # a cover picture


def test_hole_in_an_ogg_file():
    content = encoded("OGG")
    pages = [i for i in range(len(content)) if content.startswith(b"OggS", i)]
    holed = content[: pages[3] - 50] + content[pages[3] :]
    with pytest.raises(DamageError, match="no Ogg page at byte"):
        check(io.BytesIO(holed))


def test_tags_behind_an_ogg_stream_are_left_alone():
    assert check(io.BytesIO(encoded("OGG") + b"TAG" + bytes(125))) == Length(0)


def streaminfo(content, total=None, rate=None):
    """The FLAC with another number of samples in its header."""
    info = int.from_bytes(content[18:26], "big")
    info = (info >> 36 << 36) | total
    return content[:18] + info.to_bytes(8, "big") + content[26:]


def test_flac_that_holds_more_than_it_announces():
    content = encoded("FLAC", num_samples=100_000)
    assert flac.problem(io.BytesIO(content), len(content)) is None
    lying = streaminfo(content, total=30_000)
    assert "more than the 30000 samples" in flac.problem(io.BytesIO(lying), len(lying))


def test_flac_of_unknown_length_decodes(tmp_path):
    (tmp_path / "x.flac").write_bytes(streaminfo(encoded("FLAC"), total=0))
    assert len(decode(tmp_path / "x.flac")[0]) == 40_000


def test_flac_whose_rate_changes():
    first = streaminfo(encoded("FLAC"), total=0)
    target = io.BytesIO()
    soundfile.write(target, np.random.default_rng(1).standard_normal(40_000) * 0.1, 48_000, format="FLAC")
    second = target.getvalue()
    joined = first + second[second.index(b"\xff\xf8") :]
    assert flac.problem(io.BytesIO(joined), len(joined)) == "changes within the stream: 16000 Hz 16 bit, 48000 Hz 16 bit"


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"R", b"RIFF", b"OggS", b"NIST", b"fLaC", b".snd", b"ID3", b"RF64", b"riff\x2e\x91\xcf\x11"]
)
def test_stumps_are_damaged_or_left_to_the_decoder(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DecodeError):
        decode(tmp_path / "x")


@pytest.mark.parametrize("head", [b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"caff\0\1\0\0"])
def test_endless_empty_chunks_are_given_up(head):
    assert check(io.BytesIO(head + bytes(10_000_000))) == Length(0)


def test_a_chunk_that_claims_more_than_any_disk_holds():
    assert check(io.BytesIO(b"caff\0\1\0\0free" + b"\xff" * 8 + bytes(100))) == Length(0)
