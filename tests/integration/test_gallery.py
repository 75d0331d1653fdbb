"""The gallery's script runs every command for real, on a few bundled digits and with a tiny model."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import make_checkpoint, write_sweep

from benchmarks.exhibits.live import STATUS
from benchmarks.exhibits.scene import arguments
from benchmarks.gallery import main
from pydreaming import cli

DIGITS = Path(__file__).resolve().parents[2] / "pydreaming" / "samples" / "digits"
PICTURES = {"inspect", "surprise", "anomaly", "horizon", "dream", "inpaint"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("gallery-data")
    (data / "fsdd").mkdir()
    for path in DIGITS.iterdir():  # sixty clips in all are the fewest among which scenes are told
        if re.fullmatch(r"[347]_(alan|beth|carl)_(0|1|2|3|4|9)\.flac", path.name):
            shutil.copy(path, data / "fsdd" / path.name.replace("_9.", "_10."))
    for digit, speaker, index in itertools.product(range(3), ("alan", "beth"), (0, 1, 2)):  # long enough for a gap, and for a detector
        write_sweep(data / f"fsdd/{digit}_{speaker}_{index}.wav", 2.0, seed=digit)
    write_sweep(data / "esc10/008 - Chainsaw/1-1-A.wav", 2.0, rate=44100)
    for i in range(2):
        write_sweep(data / f"machines/pump/normal_{i}.wav", 1.5, rate=16000, seed=i)
    return data


@pytest.fixture(scope="module")
def page(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("gallery")
    make_checkpoint(place / "run", steps=2)
    words = ["--model", str(place / "run"), "--data", str(data), "--out", str(place / "gallery"), "--no-status", "--no-pages"]
    assert main(words) == 0
    return place / "gallery.md"


def test_every_picture_is_there_and_small(page: Path) -> None:
    addresses = re.findall(r"!\[.+\]\((.+)\)", page.read_text(encoding="utf-8"))
    assert {Path(address).stem for address in addresses} == PICTURES
    assert all(0 < (page.parent / address).stat().st_size < 150_000 for address in addresses)


def test_every_command_is_one_of_the_program(page: Path) -> None:
    lines = re.findall(r"^\$ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {shlex.split(line)[1] for line in lines} >= {"inspect", "surprise", "segment", "anomaly", "horizon", "units", "search", "report"}
    for line in [*lines, *STATUS.lines]:
        assert callable(cli.make_parser().parse_args(arguments(line)).run)


def test_figures_are_those_of_the_tables(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "| rank | score | source | label | speaker |" in text
    assert re.search(r"^\| 1 \| -?[\d.]+ \| digits/\S+ \| \d \| (alan|beth|carl) \|$", text, re.MULTILINE)
    assert re.search(r"^\| 1 \| [\d.]+ \| voices/\S+ \| [\d.]+ \| [\d.]+ \|$", text, re.MULTILINE)  # no path of this machine


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "x"), "--no-pages"]) == 1
    assert f"{tmp_path}: neither a run with checkpoints nor a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "x.md").exists()
