"""`pydreaming export` and `pydreaming report` as a user runs them. (`publish` has its own file: it needs MLflow.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_checkpoint, write_sweep

from pydreaming import cli


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-models")
    make_checkpoint(folder, steps=2)
    return folder


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sweep(tmp_path / "a.wav", 0.5, seed=3)


def test_every_command_takes_an_exported_model(run_folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(run_folder), "model"]) == 0
    assert "wrote model: model.safetensors, config.json" in capsys.readouterr().err
    for name, model in (("a", str(run_folder)), ("b", "model")):
        assert cli.main(["embed", model, str(clip), "--out", f"{name}.npz"]) == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert np.array_equal(a["embedding"], b["embedding"])


def test_a_page_about_a_recording(run_folder: Path, clip: Path, tmp_path: Path) -> None:
    assert cli.main(["report", str(run_folder), "a.wav", "--normal", ".", "--out", "pages/a.html"]) == 0
    text = (tmp_path / "pages/a.html").read_text()
    assert "of 1 recordings do (in .)" in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a.wav", "--out", "a.pdf"], 2, "must end in .html"),
        (["--out", "a.html"], 2, "lies in no run's folder"),
        (["a.wav", "--out", "a.html", "--log"], 2, "no MLflow run to log to"),
        (["missing.wav", "--out", "a.html"], 1, "missing.wav"),
        (["two", "--out", "a.html"], 2, "about one recording"),
    ],
)
def test_what_goes_wrong_is_one_line(
    run_folder: Path, clip: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("two/a.wav", "two/b.wav"):
        write_sweep(Path(name), 0.2)
    assert cli.main(["report", str(run_folder), *words]) == code
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
