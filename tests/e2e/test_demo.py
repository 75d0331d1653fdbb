"""The demonstration: which presets it picks, and what it does where there is no network."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import launch
from pydreaming.audio.sources.fsdd_download import bundled_digits, ensure_fsdd
from workers import demo

NOWHERE = "http://127.0.0.1:9/archive"  # the discard port: nothing listens


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments with which launch.main would have been called."""
    calls: list[list[str]] = []

    def record(arguments: list[str]) -> int:
        calls.append(arguments)
        return 0

    monkeypatch.setattr(launch, "main", record)
    return calls


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "ensure_fsdd", functools.partial(ensure_fsdd, archive_url=NOWHERE, timeout_s=5.0))
    monkeypatch.setattr(demo, "DOWNLOAD", tmp_path / "data" / "fsdd")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("files", "preset"),
    [
        (("recordings/0_ann_0.wav", "recordings/1_ann_0.wav"), "fsdd"),
        (("cat/one.wav", "dog/two.mp3"), "folder"),
        (("dev-clean/84/121123/84-121123-0000.flac", "dev-clean/84/121123/84-121123.trans.txt"), "librispeech"),
    ],
)
def test_presets_fit_the_layout(files: tuple[str, ...], preset: str, tmp_path: Path, launched: list[list[str]]) -> None:
    audio = touch(tmp_path / "audio", *files)
    assert demo.main([str(audio), "--training.seconds", "9"]) == 0
    assert launched == [["--configs", "defaults", preset, "demo", "--source.path", str(audio), "--training.seconds", "9"]]
    config, _ = launch.resolve(*launch.parse(launched[0]))  # the real ones take them
    assert config.training.seconds == 9
    assert config.source.path == str(audio)


def test_without_network_the_bundled_digits_take_over_in_one_line(
    offline: None, launched: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert demo.main(["--training.seconds", "1"]) == 0
    assert launched[0][:6] == ["--configs", "defaults", "fsdd", "demo", "--source.path", str(bundled_digits())]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "espeak-ng" in said[0]
    assert NOWHERE in said[0]
    assert not (tmp_path / "data" / "fsdd").exists()


def test_a_download_that_is_there_is_taken(
    offline: None, launched: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    touch(tmp_path / "data" / "fsdd", "recordings/0_ann_0.wav", "recordings/1_ann_0.wav")
    assert demo.main([]) == 0
    assert launched[0][-1] == str(tmp_path / "data" / "fsdd")
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_not_there_is_one_line(launched: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert demo.main([str(tmp_path / "nope")]) == 1
    assert not launched
    assert capsys.readouterr().err == f"error: source.path {tmp_path / 'nope'} does not exist\n"
