"""A stream in recordings: no bit lost, nothing half-written, bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pydreaming.audio.raw import ENCODINGS, RawFormat
from pydreaming.audio.recorder import Recorder
from pydreaming.errors import PydreamingError, UsageError


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def raw_bytes(path: Path, encoding: str) -> bytes:
    if encoding == "f32le":
        return soundfile.read(path, dtype="float32")[0].tobytes()
    if encoding == "s16le":
        return soundfile.read(path, dtype="int16")[0].tobytes()
    wide = soundfile.read(path, dtype="int32")[0]
    return wide.tobytes() if encoding == "s32le" else wide.reshape(-1).view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_bit_comes_back_in_order(tmp_path, encoding, channels):
    layout = RawFormat(8000, encoding, channels)
    rng = np.random.default_rng(0)
    count = 2345 * channels
    data = rng.uniform(-1, 1, count).astype("<f4").tobytes() if encoding == "f32le" else rng.bytes(count * ENCODINGS[encoding])
    recorder, written = Recorder(tmp_path / "new", layout, 0.1), []
    place = 0
    while place < len(data):
        size = int(rng.integers(1, 900))
        written += recorder.push(data[place : place + size])
        place += size
    last, left = recorder.finish()
    assert left == 0
    assert written + last == files(tmp_path / "new")
    assert [soundfile.info(path).frames for path in written + last] == [800, 800, 745]
    assert {path.suffix for path in written} == {".wav" if encoding in ("s32le", "f32le") else ".flac"}
    assert b"".join(raw_bytes(path, encoding) for path in written + last) == data


def test_half_a_sample_is_left_over_and_nothing_is_no_recording(tmp_path):
    recorder = Recorder(tmp_path, RawFormat(8000), 0.1)
    assert recorder.push(b"x") == []
    assert recorder.finish() == ([], 1)
    assert files(tmp_path) == []


def test_numbers_go_on_and_old_recordings_go(tmp_path):
    layout = RawFormat(8000)
    (tmp_path / "mine.flac").write_bytes(b"not the recorder's")
    (tmp_path / ".000007-20260101T000000Z.flac.part").write_bytes(b"of one that was killed")
    for session in range(3):
        recorder = Recorder(tmp_path, layout, 0.1, keep_s=0.45)
        for _ in range(3):
            recorder.push(bytes(1600))
            assert len(files(tmp_path)) <= 5
        recorder.finish()
        assert max(int(path.name[:6]) for path in files(tmp_path) if path.name != "mine.flac") == 3 * (session + 1)
    assert [path.name[:6] for path in files(tmp_path)] == ["000006", "000007", "000008", "000009", "mine.f"]
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == {".recorder.lock"}


def test_two_recorders_do_not_share_a_folder(tmp_path):
    first = Recorder(tmp_path, RawFormat(8000), 1.0)
    with pytest.raises(UsageError, match="another recorder"):
        Recorder(tmp_path, RawFormat(8000), 1.0)
    first.finish()
    Recorder(tmp_path, RawFormat(8000), 1.0).finish()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PydreamingError, match="cannot record to"):
        Recorder(tmp_path / "file" / "x", RawFormat(8000), 1.0)
    recorder = Recorder(tmp_path / "gone", RawFormat(8000), 0.1)
    for path in (tmp_path / "gone").iterdir():
        path.unlink()
    (tmp_path / "gone").rmdir()
    with pytest.raises(PydreamingError, match="cannot write"):
        recorder.push(bytes(1600))
