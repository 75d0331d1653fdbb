"""Models out of MLflow: a checkpoint is logged as an artifact, and `runs:/<id>` loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import RATE, make_checkpoint, sweep

from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import CheckpointError, TrackingError
from pydreaming.tracking.fetch import fetch_checkpoint
from pydreaming.tracking.store import Store


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """(tracking address, run id, checkpoint)"""
    folder = tmp_path_factory.mktemp("fetch")
    checkpoint = make_checkpoint(folder / "run", steps=2)
    uri = f"sqlite:///{folder}/mlflow.db"
    store = Store(uri)
    run = store.create_run(store.experiment("e"), "r", {})
    for name in ("model.safetensors", "state.json", "SHA256SUMS"):
        store.artifact(run, checkpoint / name, "checkpoint")
    damaged = folder / "model.safetensors"
    damaged.write_bytes(b"damaged")
    store.artifact(run, damaged, "damaged")
    for name in ("state.json", "SHA256SUMS"):
        store.artifact(run, checkpoint / name, "damaged")
    return uri, run, checkpoint


def test_same_model_as_from_the_folder(logged: tuple[str, str, Path]) -> None:
    uri, run, checkpoint = logged
    ours, theirs = WorldModel.load(f"runs:/{run}", "cpu", uri), WorldModel.load(checkpoint, "cpu")
    tokens = theirs.tokens((sweep(0.5), RATE))
    assert ours.observe(tokens).post.deter.equal(theirs.observe(tokens).post.deter)


def test_address_from_the_environment(logged: tuple[str, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, run, _ = logged
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert sorted(p.name for p in fetch_checkpoint(f"runs:/{run}", "", tmp_path).iterdir()) == [
        "SHA256SUMS",
        "model.safetensors",
        "state.json",
    ]


def test_damaged_download(logged: tuple[str, str, Path]) -> None:
    uri, run, _ = logged
    with pytest.raises(CheckpointError, match="checksum"):
        WorldModel.load(f"runs:/{run}/damaged", "cpu", uri)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("runs:/0123456789abcdef", "0123456789abcdef"), ("runs:/", "form"), ("runs:/../../etc", "form"), ("runs:/RUN/none", "checkpoint yet")],
)
def test_what_is_not_there(logged: tuple[str, str, Path], tmp_path: Path, wanted: str, said: str) -> None:
    uri, run, _ = logged
    with pytest.raises(TrackingError, match=said):
        fetch_checkpoint(wanted.replace("RUN", run), uri, tmp_path)


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no MLflow store"):
        fetch_checkpoint("runs:/abc", f"sqlite:///{tmp_path}/none.db", tmp_path)
    assert not list(tmp_path.iterdir())
