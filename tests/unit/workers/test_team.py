"""Ranks that are started again by an agent whose store still has the addresses of those before."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from torch import distributed as dist

from pydreaming.errors import UsageError
from workers.team import meeting_place

Environment = pytest.MonkeyPatch


@pytest.fixture
def agent(monkeypatch: Environment) -> dist.TCPStore:
    """torchrun's store, and the environment of its ranks."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "RANK": "0"}
    for name, value in (found | {"TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo"}).items():
        monkeypatch.setenv(name, value)
    return store


def meet(start: int, first: int, monkeypatch: Environment) -> None:
    """Both ranks of a start find each other, one of them long before the other is there."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(start))
    groups: dict[int, object] = {}

    def join(rank: int, store: dist.Store) -> None:
        groups[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=15))

    threads = []
    for rank in (first, 1 - first):
        monkeypatch.setenv("RANK", str(rank))
        threads.append(threading.Thread(target=join, args=(rank, meeting_place()), daemon=True))
        threads[-1].start()
        time.sleep(0.5)
    for thread in threads:
        thread.join(60)
    assert groups.keys() == {0, 1}


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_that_is_back_first_waits_for_its_new_peer(first: int, agent: dist.TCPStore, monkeypatch: Environment) -> None:
    meet(0, 0, monkeypatch)
    meet(1, first, monkeypatch)


def test_on_several_hosts_the_agents_store_is_refused(agent: dist.TCPStore, monkeypatch: Environment) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        meeting_place()
