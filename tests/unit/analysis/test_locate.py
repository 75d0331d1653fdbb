from __future__ import annotations

import os
from pathlib import Path

import pytest

from pydreaming.analysis.locate import newest_run
from pydreaming.errors import CheckpointError


def test_the_newest_run_is_the_one_that_wrote_a_checkpoint_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="make demo trains a model"):
        newest_run(tmp_path / "runs")
    for name, written in (("old", 1000), ("new", 3000), ("between", 2000)):
        (tmp_path / name / "checkpoints" / "step-00000001").mkdir(parents=True)
        os.utime(tmp_path / name / "checkpoints", (written, written))
    (tmp_path / "nothing yet" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path) == tmp_path / "new"
