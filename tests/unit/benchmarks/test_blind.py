"""The corpus that no choice was made on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import blind
from pydreaming.audio.sources.fsdd import matches
from pydreaming.samples import make_digits


def test_no_word_and_no_voice_is_among_the_bundled_digits() -> None:
    assert not set(blind.WORDS) & set(make_digits.WORDS)
    assert not set(blind.VOICES.values()) & set(make_digits.VOICES.values())
    assert len(set(blind.WORDS)) == 10


def test_without_espeak_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert blind.main([str(tmp_path / "fsdd")]) != 0
    assert "apt-get install espeak-ng" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_corpus_is_laid_out_as_fsdd_and_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "TAKES", 1)
    monkeypatch.setattr(blind, "VOICES", dict(list(blind.VOICES.items())[:2]))
    assert [blind.make(tmp_path / name) for name in ("one", "two")] == [20, 20]
    assert matches(tmp_path / "one")
    levels = {voice: list[float]() for voice in blind.VOICES}
    for path in sorted((tmp_path / "one/recordings").iterdir()):
        samples, rate = soundfile.read(path)
        assert path.read_bytes() == (tmp_path / "two/recordings" / path.name).read_bytes()
        assert rate == make_digits.SAMPLE_RATE
        levels[path.name.split("_")[1]].append(float(np.abs(samples).max()))
    quieter, louder = sorted(map(np.median, levels.values()))
    assert louder > 1.3 * quieter  # a level of its own for each voice
