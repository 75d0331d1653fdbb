"""A link between two network namespaces that delays and loses packets, and can be cut: `python lossy_link.py NS_A NS_B DELAY_S LOSS CUT`.

It carries the IP packets of two tunnel devices (10.77.0.1 in the first namespace, 10.77.0.2 in the second), each after DELAY_S seconds; a
share LOSS of them never arrives, and none while the file CUT exists. It does what `tc netem` would, where the kernel has none. Needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
DEVICE = "lossy0"


def enter(namespace: str) -> None:
    """Move this process into a named network namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(handle)


def tunnel(namespace: str, address: str) -> int:
    """A tunnel device in a namespace, which is up."""
    enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    for words in (["addr", "add", f"{address}/24", "dev", DEVICE], ["link", "set", DEVICE, "up"], ["link", "set", "lo", "up"]):
        subprocess.run(["ip", *words], check=True)
    return device


def main() -> None:
    first, second, delay_s, loss, cut = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5])
    ends = [tunnel(first, "10.77.0.1"), tunnel(second, "10.77.0.2")]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    chance, count = random.Random(0), 0
    waiting: list[tuple[float, int, int, bytes]] = []
    print("up", flush=True)
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        for end in select.select(ends, [], [], timeout)[0]:
            packet = os.read(end, 65536)
            if chance.random() >= loss and not cut.exists():
                count += 1
                heapq.heappush(waiting, (time.monotonic() + delay_s, count, other[end], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            if not cut.exists():
                os.write(end, packet)


if __name__ == "__main__":
    main()
