"""What of a configuration others see."""

from __future__ import annotations

import dataclasses

import pytest

from pydreaming.config import Config, config_from_dict, load_config
from pydreaming.config_public import without_host, without_password


@pytest.fixture
def config() -> Config:
    found = load_config(["defaults"], ["--source.path", "a"])
    return dataclasses.replace(found, tracking=dataclasses.replace(found.tracking, uri="https://alice:s3cret@mlflow.example:5000"))


def test_the_password_of_the_server_stays_here_and_everything_else_goes(config: Config) -> None:
    shown = without_password(config)
    assert shown["tracking"]["uri"] == "https://mlflow.example:5000"
    back = config_from_dict(shown)
    assert dataclasses.replace(back, tracking=config.tracking) == config


def test_strangers_see_no_server_at_all(config: Config) -> None:
    assert without_host(config)["tracking"]["uri"] == ""
