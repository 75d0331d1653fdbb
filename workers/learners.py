"""A learner of several processes on this host (`training.processes`): `python -m workers.learners --run RUN_DIR [--resume]`.

torchrun's agent as a library: it starts the ranks of `workers.learner`, and, when one is lost, ends the others and starts all again, from
the newest checkpoint. Three things differ from the `torchrun` command: every port is on loopback (torchrun's store listens on all
addresses); an error that another start would not mend ends the learner at once; a signal ends it with exit code 0, after a last checkpoint.
Exit codes as of `workers.learner`.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from pydreaming.errors import ConfigError, PydreamingError
from workers import learner, logs
from workers.layout import RunDir

log = logging.getLogger("learners")

MAX_RESTARTS = 30
LOOPBACK = "127.0.0.1"


class LoopbackRendezvous(RendezvousHandler):
    """Where the ranks of one host meet: a store that listens on loopback only; a new one for every start, as the ranks' keys would be found
    again in an old one."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex

    def get_backend(self) -> str:
        """A name for logs."""
        return "loopback"

    @property
    def use_agent_store(self) -> bool:
        """The ranks are clients of this process's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """One agent, this one."""
        listener = socket.socket()
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port, timeout = int(listener.getsockname()[1]), timedelta(seconds=300)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            LOOPBACK, port, None, True, timeout, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(LOOPBACK, port))

    def is_closed(self) -> bool:
        """Never."""
        return False

    def set_closed(self) -> None:
        """Nobody else may join anyway."""

    def num_nodes_waiting(self) -> int:
        """No other host joins."""
        return 0

    def get_run_id(self) -> str:
        """Random."""
        return self._id

    def shutdown(self) -> bool:
        """The store ends with the process."""
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m workers.learners", description="training.processes learner processes on this host")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, with config.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    run = RunDir(parser.parse_args(words).run)
    logs.begin("learner", run, console=sys.stdout)
    _be_quiet()
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, "lo")
    try:
        training = run.read_config().training
        count, gpus = training.processes, torch.cuda.device_count()
        if training.device in ("auto", "cuda") and 0 < gpus < count:
            raise ConfigError(f"training.processes is {count}, but this host has {gpus} GPUs: set it to {gpus}, or training.device to cpu")
        spec = WorkerSpec("learner", count, LoopbackRendezvous(), entrypoint=learner.main, args=(words,), max_restarts=MAX_RESTARTS)
        result = LocalElasticAgent(spec, DefaultLogsSpecs(), start_method="spawn").run()
    except PydreamingError as e:
        log.error("error: %s", e)
        return e.exit_code
    except SignalException:  # all ranks were told; the leader has written its checkpoint
        return 0
    if result.is_failed():
        log.error("error: processes of the learner were lost %d times; it is given up", MAX_RESTARTS + 1)
        return 1
    return max(int(code) for code in result.return_values.values())


def _be_quiet() -> None:
    """The agent prints tracebacks of ranks that were killed, and each rank warns that its first step left no parameter unused."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


if __name__ == "__main__":
    sys.exit(main())
