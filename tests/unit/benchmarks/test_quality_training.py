"""What the trainings of one job share."""

from __future__ import annotations

import pytest

from benchmarks.figures.training import part_of
from pydreaming.config import load_config


@pytest.mark.parametrize(("steps", "each"), [(0, 0), (2700, 900), (2701, 901)])
def test_folds_share_seconds_and_steps(steps: int, each: int) -> None:
    whole = load_config(["defaults"], ["--training.seconds=300", f"--training.steps={steps}"]).training
    part = part_of(whole, 3)
    assert (part.seconds, part.steps) == (100.0, each)
