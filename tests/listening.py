"""Where processes listen, as the system sees it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that one of the processes listens on, and of every UDP socket that is bound."""
    found = set()
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.laddr and connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def beyond_this_host(sockets: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those that other hosts could reach."""
    return [(address, port) for address, port in sockets if not ipaddress.ip_address(address).is_loopback]
