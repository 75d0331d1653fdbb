"""Several processes give one process's gradients: real processes, gloo, every objective."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rank_process
import safetensors.torch
import torch

from pydreaming.errors import ConfigError
from pydreaming.models.ranks import ALONE, Ranks
from pydreaming.training.trainer import pick_device

SIZE = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have left their gradients in."""
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(Path(rank_process.__file__).parent), str(Path.cwd())])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = [sys.executable, rank_process.__file__]
    processes = [
        subprocess.Popen([*words, str(rank), str(SIZE), str(folder)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(SIZE)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return folder


@pytest.mark.parametrize(("name", "settings", "plain"), list(rank_process.cases()), ids=[case[0] for case in rank_process.cases()])
def test_gradients_are_those_of_the_joined_batch(
    trained: Path, name: str, settings: dict[str, object], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYDREAMING_PLAIN", "")  # `outcome` sets it; this puts it back
    alone = rank_process.outcome(settings, plain)
    for rank in range(SIZE):
        together = safetensors.torch.load_file(trained / f"{name}.{rank}")
        assert together.keys() == alone.keys()
        assert together["tokens"] == alone["tokens"] == 3 * (8 * 10 - 4)
        for key, expected in alone.items():
            if not key.startswith("2."):  # the step that was refused
                torch.testing.assert_close(together[key], expected, rtol=2e-4, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_alone_nothing_is_done() -> None:
    x = torch.ones(3, requires_grad=True)
    assert ALONE.own(x) is ALONE.total(x) is ALONE.sum(x) is ALONE.gather(x) is x


def test_each_rank_has_a_gpu_of_its_own_or_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu", Ranks(1, 2, 1)) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="cuda:7"):
        pick_device("auto", Ranks(7, 8, 7))
