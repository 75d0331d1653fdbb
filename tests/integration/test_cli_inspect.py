"""`pydreaming inspect` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_model import make_checkpoint, write_sweep

from pydreaming import cli


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for i in range(4):
        write_sweep(tmp_path / f"sounds/{'xy'[i % 2]}/{i}.wav", 0.5, seed=i)
    monkeypatch.chdir(tmp_path)
    return "sounds"


def test_text_picture_and_json(sounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", sounds, "--picture", "look.png"]) == 0
    out, err = capsys.readouterr()
    assert "4 in 4 files" in out
    assert "python launch.py --configs defaults folder --source.path sounds" in out
    assert "wrote look.png" in err
    assert Path("look.png").stat().st_size > 10_000
    assert cli.main(["inspect", sounds, "--json", "--all"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["broken"], found["levels"]["recordings"]) == ("audio", 0, 4)


def test_broken_files_are_counted(sounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(sounds, "x/text.wav").write_text("not audio")
    assert cli.main(["inspect", sounds]) == 1
    out, err = capsys.readouterr()
    assert "text.wav: Format not recognised" in out
    assert "1 broken in sounds" in err


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_checkpoint(tmp_path / "run", steps=1)
    assert cli.main(["inspect", str(folder)]) == 0
    assert "intact      yes" in capsys.readouterr().out
    model = tmp_path / "model"
    assert cli.main(["export", str(folder), str(model)]) == 0
    assert cli.main(["inspect", str(model)]) == 0
    assert "intact      yes" in capsys.readouterr().out  # what only training needs is not missed
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert cli.main(["inspect", str(model)]) == 1
    assert "model.safetensors is damaged" in capsys.readouterr().out
    (folder / "optimizer.safetensors").write_bytes(b"")
    assert cli.main(["inspect", str(tmp_path / "run")]) == 1
    assert "optimizer.safetensors is damaged" in capsys.readouterr().out


def test_wrong_wishes(sounds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, text in (
        (["nowhere"], 2, "nothing at nowhere"),
        ([sounds, "--picture", "look.pdf"], 2, "must end in .png"),
        ([sounds, "--picture", f"{sounds}/x/0.wav/look.png"], 1, "cannot write"),
    ):
        assert cli.main(["inspect", *words]) == code
        assert text in capsys.readouterr().err
