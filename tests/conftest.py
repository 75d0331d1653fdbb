"""What several rooms' tests need: generated recordings, and the folder of a run over them."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from places import Bucket, Folder, Place
from s3_server import S3Server
from tones import RATE, write_tone

from pydreaming.config import load_config
from workers.layout import RunDir

torch.set_num_threads(1)  # tests run side by side; two processes with a thread per core each slow one another down tenfold


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A role whose `main` is called in a test takes the process's logging; the next test gets it back."""
    handlers, level, hook = logging.root.handlers[:], logging.root.level, sys.excepthook
    yield
    logging.root.handlers[:], sys.excepthook = handlers, hook
    logging.root.setLevel(level)


@pytest.fixture
def data_dir() -> Path:
    """Folder of the real recordings, from PYDREAMING_DATA; the test is skipped where it is not set."""
    folder = os.environ.get("PYDREAMING_DATA")
    if not folder:
        pytest.skip("PYDREAMING_DATA is not set: no real recordings here")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server; the test is skipped where moto is not installed."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed: no S3 server here")
    server = S3Server()
    yield server
    server.kill()


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path) -> Bucket:
    """An empty store on S3."""
    return Bucket(s3_server, tmp_path / "copies")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of either kind."""
    return Folder(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")


@pytest.fixture
def recordings(tmp_path: Path) -> Callable[..., Path]:
    """make(count, broken=0, seconds=0.6): a folder of `count` good recordings of 1 to 2 times `seconds`, and `broken` unreadable ones."""

    def make(count: int, broken: int = 0, seconds: float = 0.6, name: str = "audio") -> Path:
        folder = tmp_path / name
        for i in range(count):
            write_tone(folder / f"good-{i:03d}.wav", seconds * (1 + i % 7 / 6), seed=i)
        for i in range(broken):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"broken-{i:03d}.wav").write_bytes(b"RIFF" + bytes(40))
        return folder

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDir]:
    """make(source, *overrides): the folder of a small run over the recordings in `source`, with short times and all files for training."""

    def make(source: Path, *overrides: str, name: str = "run") -> RunDir:
        small = [
            "--features.sample_rate",
            str(RATE),
            "--features.n_fft",
            "256",
            "--features.win_length",
            "200",
            "--features.hop_length",
            "80",
        ]
        fast = ["--workers.lease_ttl_s", "5", "--workers.beat_s", "0.2", "--workers.lease_items", "5", "--workers.passes", "2"]
        all_in = ["--source.path", str(source), "--source.held_out", "0", "--features.n_mels", "16", "--replay.replay_ratio", "0"]
        run = RunDir(tmp_path / name)
        run.path.mkdir(parents=True)
        run.config.write_text(load_config(["defaults", "debug"], [*small, *fast, *all_in, *overrides]).to_yaml(), encoding="utf-8")
        return run

    return make
