"""Real files in every codec, and long ones, through a process of their own: a crash or a hang of libsndfile would be seen."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from pydreaming.replay.index import ReplayIndex
from workers.serial import collect

DECODE_ALL = """
import json, sys
from pathlib import Path
from pydreaming.audio.decode import decode, probe
from pydreaming.errors import DecodeError
for path in sys.argv[1:]:
    try:
        samples, rate = decode(Path(path))
        result = [len(samples), rate, float(abs(samples).max())]
    except DecodeError as e:
        assert e.path == path, e.path
        result = e.cause
    print(json.dumps([path, result]), flush=True)
"""

DAMAGE = """
import io, sys
from pathlib import Path
import numpy as np, soundfile
from pydreaming.audio.decode import decode
from pydreaming.errors import DecodeError
rng, path, outcomes = np.random.default_rng(0), Path(sys.argv[1]), {}
for form, subtype in [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", None), ("CAF", None)]:
    intact = io.BytesIO()
    soundfile.write(intact, rng.standard_normal(8000) * 0.1, 16000, format=form, subtype=subtype)
    for trial in range(60):
        content = bytearray(intact.getvalue())
        reach = len(content) if trial % 2 else 120
        for place in rng.integers(0, reach, rng.integers(1, 12)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            outcome = "decoded" if np.isfinite(decode(path)[0]).all() else "not finite"
        except DecodeError:
            outcome = "refused"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes.get("decoded", 0), outcomes.get("refused", 0), outcomes.get("not finite", 0))
"""

PEAK_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from pydreaming.audio.decode import open_audio
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.sources.item import AudioItem
from pydreaming.config import load_config
torch.set_num_threads(1)
front_end = FrontEnd(load_config(["defaults", "fsdd"]).features)
with open_audio(Path(sys.argv[1]), AudioItem(index=0, path="", group=""), "mix") as stream:
    count = sum(len(part) for part in front_end.tokens(stream.blocks(), stream.sample_rate))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(code, *arguments, timeout=120):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def decoded():
    root = os.environ.get("PYDREAMING_DATA")
    if not root:
        pytest.skip("PYDREAMING_DATA is not set: no real files to decode")
    folder = Path(root) / "codecs"
    paths = sorted(path for path in folder.glob("*/*") if path.suffix != ".txt")
    lines = [json.loads(line) for line in run(DECODE_ALL, *paths).splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in paths]
    return {Path(path).relative_to(folder).as_posix(): result for path, result in lines}


def test_every_usual_file_decodes(decoded):
    refused = {
        name: result for name, result in decoded.items() if isinstance(result, str) and name.split("/")[0] not in ("faulty", "uncommon")
    }
    # libsndfile 1.2 reads FLAC of 8, 16 and 24 bits only, and says so
    unsupported = ("flac/22 - 12 bit per sample.flac", "flac/37 - 20 bit per sample.flac")
    assert refused == dict.fromkeys(unsupported, "File contains data in an unimplemented format")
    for name, result in decoded.items():
        if name not in refused and name.split("/")[0] not in ("faulty", "uncommon"):
            count, rate, peak = result
            assert count > 100, name
            assert 8000 <= rate <= 48_000, name
            assert 0.001 < peak <= 1.2, name


def test_known_lengths(decoded):
    for name, count in {
        "flac/45 - no total number of samples set.flac": 336_410,  # the header does not say
        "mp3/common_voice_en_651325.mp3": 114_048,  # the header's estimate is 114,246
        "mp3/stereo.mp3": 8000,
        "opus/mono_c0.opus": 4043,
        "sph/stereo.sph": 8000,
        "ogg/sorohanro_-_solo-trumpet-06.ogg": 117_601,
        "wav/real_8ch.wav": 1600,
    }.items():
        assert decoded[name][0] == count, name


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("faulty/04 - wrong number of channels.flac", "channel"),
        ("faulty/05 - wrong total number of samples.flac", "more than the 39842 samples"),
        ("faulty/08 - blocksize 65536.flac", "sync"),
        ("uncommon/01 - changing samplerate.flac", "changes within the stream: 32000 Hz 16 bit, 24000 Hz"),
        ("uncommon/02 - increasing number of channels.flac", "channel"),
        ("uncommon/03 - decreasing number of channels.flac", "channel"),
        ("uncommon/04 - changing bitdepth.flac", "changes within the stream: 44100 Hz 16 bit, 44100 Hz 8 bit"),
        ("uncommon/10 - file starting at frame header.flac", "not recognised"),
    ],
)
def test_what_cannot_be_read_rightly_says_why(decoded, name, cause):
    assert isinstance(decoded[name], str), decoded[name]
    assert cause in decoded[name]


@pytest.mark.parametrize("channels", ["mix", "each"])
def test_every_file_is_stored_whole_or_quarantined_with_its_cause(decoded, data_dir, make_run, channels):
    run = make_run(data_dir / "codecs", "--workers.passes", "1", "--source.channels", channels)
    collection = collect(run, run.read_config())
    index = ReplayIndex(run.replay(run.read_config()))
    index.refresh()
    stored = {clip.path for number in range(index.episodes) for clip in index.episode(number).clips}
    listed = {entry["path"]: entry["cause"] for entry in map(json.loads, run.quarantine.read_text().splitlines())}
    assert stored.isdisjoint(listed)
    assert stored | listed.keys() == decoded.keys()
    assert listed == {name: result for name, result in decoded.items() if isinstance(result, str)}
    assert collection.exhausted
    assert collection.stored_tokens == index.tokens


def test_damaged_bytes_end_in_samples_or_in_an_error_and_never_in_a_crash(tmp_path):
    decoded, refused, not_finite = map(int, run(DAMAGE, tmp_path / "damaged").split())
    assert decoded + refused == 420
    assert decoded > 50
    assert refused > 100
    assert not_finite == 0


def long_wav(path, hours):
    """Silence at 8 kHz in a file that takes no room on the disk."""
    count = round(hours * 3600 * 8000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.setnframes(count)
        file.writeframes(b"")
    header = bytearray(path.read_bytes()[:44])
    header[4:8] = (36 + 2 * count).to_bytes(4, "little")
    header[40:44] = (2 * count).to_bytes(4, "little")
    path.write_bytes(header)
    os.truncate(path, 44 + 2 * count)
    return count


def test_ten_hours_take_no_more_memory_than_ten_minutes(tmp_path):
    peaks = []
    for hours in (1 / 6, 10):
        path = tmp_path / "long.wav"
        samples = long_wav(path, hours)
        tokens, peak_kib = map(int, run(PEAK_MEMORY, path).split())
        assert tokens == (1 + (samples - 256) // 80) // 4
        peaks.append(peak_kib)
    assert peaks[1] - peaks[0] < 8 * 1024, peaks  # KiB; the ten hours as float32 would be a gigabyte
