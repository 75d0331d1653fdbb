"""The processes of a learner find each other, also when they were started before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed as dist

from pydreaming.config import load_config
from pydreaming.errors import ConfigError
from pydreaming.models.ranks import Ranks
from workers.team import Team, ranks_of_environment

SIZE, WAIT_S = 2, 60


def member(rank: int, port: int) -> subprocess.Popen[str]:
    """A rank as torchrun would begin it; it meets the other one, and ends."""
    own = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": 1,
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(Path(__file__).parent)]),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, **{name: str(value) for name, value in own.items()}},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nobody_takes_the_address_of_a_rank_of_an_earlier_start_for_a_living_one() -> None:
    """torchrun keeps its store from start to start: a rank that came first met a dead one there, and both waited for each other."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=WAIT_S), wait_for_workers=False)
    for start in range(2):
        members = [member(1, store.port)]
        if start:
            time.sleep(3.0)  # it is at the store, where rank 0 has not been in this start
        members.append(member(0, store.port))
        try:
            for process in members:
                assert process.wait(WAIT_S) == 0, process.stderr and process.stderr.read()
        finally:
            for process in members:
                process.kill()
                process.communicate()


def test_a_batch_that_the_processes_of_torchrun_cannot_share_is_refused_before_they_meet() -> None:
    with pytest.raises(ConfigError, match="batch_size 32 must be a multiple of the 3 processes"):
        Team(load_config(["defaults"], ["--training.batch_size", "32"]), Ranks(0, 3, 0))


if __name__ == "__main__":
    Team(load_config(["defaults", "debug"], []), ranks_of_environment())
    dist.barrier()
    dist.destroy_process_group()
