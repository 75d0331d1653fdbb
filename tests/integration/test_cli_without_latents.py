"""A model without trained latents (cpc): what needs them is refused in one line, and what does not works."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import make_checkpoint, write_sweep

from pydreaming import cli

REFUSED = (
    "surprise MODEL SOUNDS --out out.csv",
    "dream MODEL GOOD --out out.wav",
    "segment MODEL SOUNDS --out out.csv",
    "inpaint MODEL GOOD --gap 0.2:0.3 --out out.wav",
    "inpaint MODEL SOUNDS --evaluate 2 --out out.csv",
    "horizon MODEL SOUNDS --out out.csv",
    "stream MODEL GOOD",
    "calibrate MODEL SOUNDS --out out.json",
    "bank MODEL SOUNDS --out out.safetensors",
    "units MODEL SOUNDS --part stoch --out out.csv",
    "units MODEL SOUNDS --codes out.csv",
)
DONE = (
    "embed MODEL SOUNDS --out out.csv",
    "search MODEL GOOD SOUNDS --out out.csv",
    "units MODEL SOUNDS --units 4 --out out.csv",
    "anomaly fit MODEL SOUNDS --piece 0.2 --out out.safetensors",
    "report MODEL GOOD --out out.html",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("without-latents")
    make_checkpoint(folder / "run", steps=3, objective__name="cpc")
    for i in range(10):
        write_sweep(folder / f"sounds/{i}.wav", 0.5, seed=i)
    return {"MODEL": f"{folder}/run", "SOUNDS": f"{folder}/sounds", "GOOD": f"{folder}/sounds/0.wav"}


@pytest.mark.parametrize(("line", "code"), [*((line, 2) for line in REFUSED), *((line, 0) for line in DONE)])
def test_refused_or_done(
    line: str, code: int, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([places.get(word, word) for word in line.split()]) == code
    told = capsys.readouterr().err
    assert (code == 2) == ("objective.name 'cpc', which trains no latents" in told), told
    assert len(told.splitlines()) == 1 or code == 0
    assert (code == 0) == any(tmp_path.glob("out.*"))


def test_scores_of_vectors_alone(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["anomaly", "fit", places["MODEL"], places["SOUNDS"], "--piece", "0.2", "--out", "d.safetensors"]) == 0
    assert cli.main(["anomaly", "score", places["MODEL"], "d.safetensors", places["GOOD"], "--false-alarms", "0.2", "--out", "s.csv"]) == 0
    assert "by embedding" in capsys.readouterr().err
    assert "score_surprise" not in Path("s.csv").read_text()
