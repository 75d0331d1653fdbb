from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import make_checkpoint, trained

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
    return trained(tmp_path_factory.mktemp("analysis-rssm"), model__dynamics="rssm")


@pytest.fixture(scope="session")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    return trained(tmp_path_factory.mktemp("analysis-gaussian"), model__latents="gaussian", objective__name="dreaming")


@pytest.fixture(scope="session")
def attending(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    """A window shorter than the sounds of the tests."""
    return trained(tmp_path_factory.mktemp("analysis-attending"), model__core="transformer", model__window=6)


@pytest.fixture(scope="session")
def attending_rssm(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    forms = {"model__dynamics": "rssm", "model__posterior": "token", "model__core": "transformer", "model__window": 6}
    return trained(tmp_path_factory.mktemp("analysis-attending-rssm"), **forms, model__latents="gaussian", objective__name="planet")


@pytest.fixture(params=["model", "rssm", "gaussian", "attending", "attending_rssm"])
def each(request: pytest.FixtureRequest) -> WorldModel:
    found: WorldModel = request.getfixturevalue(request.param)
    return found
