"""The learner's end of the wire: reports progress, hears how collection goes."""

from __future__ import annotations

import os
import socket
import time

from pydreaming.errors import TransportError
from pydreaming.keys import ClientKeys
from workers.layout import RunDir
from workers.protocol import Hello, Progress, ProtocolError, Refused, Rehello, Status, Stop
from workers.transport import Dealer

SILENCE_S = 15.0  # without an answer for so long, look whether the coordinator has come back elsewhere


class CoordinatorLink:
    """Non-blocking exchange of Progress and Status with the coordinator of a run.

    A coordinator that goes away is no reason to stop training: `status` keeps the last word heard, and the link is made again when
    the run folder names a new address.

    Raises:
      TransportError: no coordinator within `timeout_s`, or it refuses this peer.
    """

    def __init__(self, run: RunDir, keys: ClientKeys | None, timeout_s: float = 60.0) -> None:
        self._run, self._keys = run, keys
        self._hello = Hello(role="learner", name=f"learner-{os.getpid()}", host=socket.gethostname(), pid=os.getpid())
        self._address = self._wait_for_address(timeout_s)
        self._dealer = Dealer(self._address, keys)
        self._dealer.handshake(self._hello, timeout_s)
        self._heard = self._said = time.monotonic()
        self.status: Status | None = None

    def exchange(self, progress: Progress, every_s: float = 0.5) -> Status | None:
        """Send progress at most every `every_s` seconds, take in what has arrived, and return the newest status."""
        now = time.monotonic()
        if now - self._said >= every_s:
            self._dealer.send(progress)
            self._said = now
        self._take_in()
        if now - self._heard > SILENCE_S:
            self._reconnect()
        return self.status

    def _take_in(self) -> None:
        while True:
            try:
                message = self._dealer.receive()
            except ProtocolError:
                continue  # one damaged frame is dropped; a silent coordinator shows in `exchange`
            if message is None:
                return
            self._heard = time.monotonic()
            if isinstance(message, Status):
                self.status = message
            elif isinstance(message, Rehello):
                self._dealer.send(self._hello)
            elif isinstance(message, Refused):
                raise TransportError(f"{self._address} refused the learner: {message.reason}")
            elif isinstance(message, Stop):
                continue  # collection is over; training from what is stored goes on

    def _reconnect(self) -> None:
        self._heard = time.monotonic()
        announced = self._run.read_coordinator()
        if announced is None or announced.error or announced.address == self._address:
            return
        self._dealer.close()
        self._address = announced.address
        self._dealer = Dealer(self._address, self._keys)
        self._dealer.send(self._hello)

    def _wait_for_address(self, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while (announced := self._run.read_coordinator()) is None or announced.error:
            if time.monotonic() > deadline:
                raise TransportError(f"no coordinator has announced itself in {self._run.coordinator} within {timeout_s:.0f} s")
            time.sleep(0.1)
        return announced.address
