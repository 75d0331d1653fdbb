from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import make_checkpoint

from pydreaming.analysis.world_model import WorldModel


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("analysis-run")
    make_checkpoint(run)
    return run


@pytest.fixture(scope="session")
def model(run_folder: Path) -> WorldModel:
    return WorldModel.load(run_folder, "cpu")


@pytest.fixture(scope="session")
def rssm(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    run = tmp_path_factory.mktemp("analysis-rssm")
    make_checkpoint(run, steps=3, model__dynamics="rssm")
    return WorldModel.load(run, "cpu")
