from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tiny_model import make_checkpoint

from pydreaming.analysis.locate import checkpoint_folder, newest_run
from pydreaming.errors import CheckpointError


def test_the_newest_run_is_the_one_that_wrote_a_checkpoint_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="make demo trains a model"):
        newest_run(tmp_path / "runs")
    for name, written in (("old", 1000), ("new", 3000), ("between", 2000)):
        (tmp_path / name / "checkpoints" / "step-00000001").mkdir(parents=True)
        os.utime(tmp_path / name / "checkpoints", (written, written))
    (tmp_path / "nothing yet" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path) == tmp_path / "new"


def test_a_folder_without_a_model_is_told_why(tmp_path: Path) -> None:
    def cause(folder: Path) -> str:
        with pytest.raises(CheckpointError, match=re.escape(str(folder))) as caught, checkpoint_folder(folder):
            pass
        return str(caught.value)

    (tmp_path / "of runs").mkdir()
    assert "no model in" in cause(tmp_path / "of runs")
    young = tmp_path / "my run"
    young.mkdir()
    (young / "config.yaml").touch()
    assert f"has no checkpoint yet; how that run is doing says: pydreaming status '{young}'" in cause(young)
    checkpoint = make_checkpoint(young, steps=1)
    (checkpoint / "model.safetensors").write_bytes(b"")
    for folder in (young, young / "checkpoints"):
        assert f"none of the 1 checkpoints in {folder} is intact; the newest is {checkpoint.name}" in cause(folder)
