"""Bad input, for every command that takes recordings: each file that cannot be used ends in a line that names it, and the rest is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming import cli

STRANGE = ("silent.wav", "clipped.wav", "short.wav", "wide.wav")  # unusual, but sound
BAD = ("nan.wav", "truncated.flac", "text.wav")
FILES, READABLE = 15, 12

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("bad-input-run")
    make_checkpoint(run, steps=3)
    return run


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same form with other weights."""
    run = tmp_path_factory.mktemp("bad-input-stranger")
    make_checkpoint(run, steps=1)
    return run


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 good recordings, 4 strange ones and 3 that are broken."""
    folder = tmp_path_factory.mktemp("bad-input-sounds")
    for i in range(8):
        write_sweep(folder / f"good{i}.wav", 0.5, seed=i)
    soundfile.write(folder / "silent.wav", np.zeros(RATE // 2), RATE)
    soundfile.write(folder / "clipped.wav", np.clip(8 * sweep(0.5), -1, 1), RATE)
    write_sweep(folder / "short.wav", 0.01)
    write_sweep(folder / "wide.wav", 0.4, rate=192_000, channels=8)
    broken = sweep(0.5).copy()
    broken[1000] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    whole = write_sweep(folder / "truncated.flac", 1.0).read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("not audio")
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in `tmp_path`; exit code, and what it told the user."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str]:
        code = cli.main([str(word) for word in words])
        text = capfd.readouterr().err
        assert "Traceback" not in text
        return code, text

    return call


def assert_line(text: str, *words: str) -> None:
    assert any(all(word in line for word in words) for line in text.splitlines()), text


@pytest.fixture(scope="module")
def made(model: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what is made once of good recordings, and bound to the model."""
    folder = tmp_path_factory.mktemp("bad-input-made")
    good = sorted(sounds.glob("good*.wav")) + [sounds / name for name in STRANGE]

    def make(*words: object) -> None:
        assert cli.main([str(word) for word in words]) == 0

    make("anomaly", "fit", model, *good, "--out", folder / "detector.safetensors", "--piece", 0.2)
    make("calibrate", model, *good, "--out", folder / "calibration.json")
    make("bank", model, *good, "--out", folder / "bank.safetensors")
    make("units", model, *good, "--units", 4, "--save", folder / "units.safetensors")
    make("search", model, good[0], *good, "--index", folder / "index.parquet", "--out", folder / "hits.csv")
    return folder


MANY = {
    "embed": "embed MODEL SOUNDS --out out.npz",
    "embed moments": "embed MODEL SOUNDS --out out.npz --per moment --moment 0.2",
    "embed windows": "embed MODEL SOUNDS --out out.npz --per window --part deter",
    "search": "search MODEL GOOD SOUNDS --out out.csv --page out.html --index out.parquet",
    "units": "units MODEL SOUNDS --units 4 --out out.csv --text out.txt --book out.html --save out.safetensors",
    "units of an inventory": "units MODEL SOUNDS --inventory MADE/units.safetensors --out out.csv",
    "surprise": "surprise MODEL SOUNDS --calibration MADE/calibration.json --out out.csv --events events.csv --labels labels",
    "calibrate": "calibrate MODEL SOUNDS --out out.json",
    "segment": "segment MODEL SOUNDS --out out.csv",
    "anomaly fit": "anomaly fit MODEL SOUNDS --out out.safetensors --piece 0.2",
    "anomaly score": "anomaly score MODEL MADE/detector.safetensors SOUNDS --out out.csv --false-alarms 0.3",
    "horizon": "horizon MODEL SOUNDS --out out.csv --samples 2 --steps 1 --context 2",
    "bank": "bank MODEL SOUNDS --out out.safetensors",
    "inpaint": "inpaint MODEL SOUNDS --evaluate 20 --particles 8 --gap-s 0.1 --out out.csv",
    "dream": "dream MODEL GOOD --out out.wav --seconds 0.1 --render concatenative --bank SOUNDS",
    "report": "report MODEL GOOD --out out.html --normal SOUNDS",
}


@pytest.mark.parametrize("line", MANY.values(), ids=MANY)
def test_broken_files_are_named_and_counted_and_the_others_done(line: str, run: Run, model: Path, made: Path, sounds: Path) -> None:
    places = {"MODEL": model, "SOUNDS": sounds, "MADE": made, "GOOD": sounds / "good0.wav"}
    words = [word.replace("MADE", str(made)) if word.startswith("MADE") else places.get(word, word) for word in line.split()]
    code, text = run(*words)
    for name in BAD:
        assert_line(text, f"{sounds / name}: ")
    assert_line(text, f"{len(BAD)} of {FILES} files", "could not be read")
    assert code == 1
    out = Path(words[words.index("--out") + 1])
    assert out.stat().st_size > 0
    if out.suffix == ".npz":
        with np.load(out) as table:
            assert {Path(source).name for source in table["source"]} == {path.name for path in sounds.iterdir()} - set(BAD)
    elif out.suffix == ".csv":
        assert not any(name in out.read_text() for name in BAD)


ONE = {
    "dream": "dream MODEL FILE --out out.wav --seconds 0.1",
    "inpaint": "inpaint MODEL FILE --gap 0.2:0.25 --particles 8 --out out.wav",
    "report": "report MODEL FILE --out out.html",
    "search": "search MODEL FILE --index MADE/index.parquet --out out.csv",
    "stream": "stream MODEL FILE --chunk 16",
    "surprise": "surprise MODEL FILE --out out.csv",
}


@pytest.mark.parametrize("line", ONE.values(), ids=ONE)
def test_one_recording_that_is_broken_or_strange(line: str, run: Run, model: Path, made: Path, sounds: Path) -> None:
    def on(name: str) -> tuple[int, str]:
        places = {"MODEL": model, "FILE": sounds / name, "MADE/index.parquet": made / "index.parquet"}
        return run(*(places.get(word, word) for word in line.split()))

    for name in BAD:
        code, text = on(name)
        assert code == 1, name
        assert_line(text, f"{sounds / name}: ")
        assert not list(Path().glob("out.*"))
    strange = ("wide.wav",) if line.startswith("report") else STRANGE  # a page takes a second
    for name in strange:
        code, text = on(name)
        if line.startswith("inpaint") and name == "short.wav":
            assert code == 2
            assert_line(text, name, "beyond the end")
        else:
            assert code == 0, text


BOUND = {
    "search": ("search MODEL GOOD --index", "index.parquet"),
    "units": ("units MODEL GOOD --out out.csv --inventory", "units.safetensors"),
    "surprise": ("surprise MODEL GOOD --out out.csv --calibration", "calibration.json"),
    "segment": ("segment MODEL GOOD --out out.csv --calibration", "calibration.json"),
    "stream": ("stream MODEL GOOD --calibration", "calibration.json"),
    "anomaly": ("anomaly score MODEL --out out.csv", "detector.safetensors"),
    "dream": ("dream MODEL GOOD --out out.wav --render concatenative --bank", "bank.safetensors"),
    "inpaint": ("inpaint MODEL GOOD --gap 0.2:0.25 --out out.wav --render concatenative --bank", "bank.safetensors"),
}


@pytest.mark.parametrize(("line", "file"), BOUND.values(), ids=BOUND)
class TestWhatBelongsToAModel:
    def words(self, line: str, made: object, model: Path, sounds: Path) -> list[object]:
        good = sounds / "good0.wav"
        words = [{"MODEL": model, "GOOD": good}.get(word, word) for word in line.split()]
        return [*words, made] if "anomaly" not in line else [*words[:3], made, good, *words[3:]]

    def test_of_another_model(self, line: str, file: str, run: Run, stranger: Path, made: Path, sounds: Path) -> None:
        code, text = run(*self.words(line, made / file, stranger, sounds))
        assert code == 2
        assert_line(text, str(made / file), "another model")
        assert not list(Path().glob("out.*"))

    def test_missing_or_damaged(self, line: str, file: str, run: Run, model: Path, made: Path, sounds: Path) -> None:
        damaged = Path(file)
        if not line.startswith("search"):  # which makes a missing index
            code, text = run(*self.words(line, damaged.absolute(), model, sounds))
            assert code == 1
            assert_line(text, str(damaged.absolute()), "No such file")
        content = (made / file).read_bytes()
        for part in (content[: len(content) // 2], b"nonsense"):
            damaged.write_bytes(part)
            code, text = run(*self.words(line, damaged.absolute(), model, sounds))
            assert code == 1
            assert_line(text, str(damaged.absolute()))
            assert not list(Path().glob("out.*"))


@pytest.mark.parametrize("line", [*MANY.values(), *ONE.values()], ids=[*MANY, *(f"{name} one" for name in ONE)])
def test_an_output_that_cannot_be_written(line: str, run: Run, model: Path, made: Path, sounds: Path) -> None:
    Path("file").touch()
    places = {"MODEL": model, "SOUNDS": sounds / "good0.wav", "GOOD": sounds / "good0.wav", "FILE": sounds / "good0.wav"}
    words = [word.replace("MADE", str(made)) if word.startswith("MADE") else places.get(word, word) for word in line.split()]
    if line.startswith("stream"):
        words += ["--calibration", made / "calibration.json", "--labels", "file/out.txt"]
    words = [f"file/{word}" if str(word).startswith("out.") else word for word in words]
    code, text = run(*words)
    assert code == 1
    assert_line(text, "cannot write file/out.")


def test_a_broken_recording_is_damage_that_inspect_finds(run: Run, sounds: Path) -> None:
    code, text = run("inspect", sounds, "--all")
    assert code == 1
    assert_line(text, f"{len(BAD)} broken in {sounds}")
