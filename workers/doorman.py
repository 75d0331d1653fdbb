"""Who may connect to the coordinator: CURVE keys, looked up when a connection is made, and a word in the log about everybody turned away.

    no key at all, another coordinator's key     libzmq refuses by itself; seen in the socket's events
    a stranger's key, a revoked key              refused here, when libzmq asks (ZAP)
    a key that is revoked while it is connected  `lets_in`, asked about every message (coordinator)

Who has no keys may see that first and hang up, and then looks like a health check or a port scan: those have a quieter line. Nor does such
a peer come again and again, by which it could be told: libzmq's side of it gives up for good, and says so to its user (`Dealer.explain`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

import zmq
import zmq.auth.thread
from zmq.utils.monitor import recv_monitor_message

from pydreaming.keys import KeyRing, ServerKeys
from workers.throttle import ThrottledLog

log = logging.getLogger(__name__)

REFRESH_S = 0.5
PROBES_S = 3600.0  # s between two lines about one address that connects and says nothing
_CAUSES = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): "it came without keys",
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): "it has another coordinator's key",
}


class Doorman:
    """Lets peers in at one socket by the keys of a folder. Call before the socket is bound, from the thread that owns it.

    Without a running authenticator, libzmq would let in any key: it runs from here on until `close`.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes], keys: ServerKeys) -> None:
        self._say, self._say_seldom = ThrottledLog(log), ThrottledLog(log, PROBES_S)
        self._ring = KeyRing(keys.folder)
        self._looked, self._version = -REFRESH_S, -1
        self.refresh()
        router.curve_secretkey, router.curve_publickey = keys.secret, keys.public
        router.curve_server = True
        self._authenticator = _Authenticator(context, self)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", self._authenticator)
        self._events = _Events(router, self)
        self._events.start()

    def refresh(self) -> bool:
        """Look at the folder again, at most once in REFRESH_S; whether keys have come or gone since the last call."""
        now = time.monotonic()
        if now - self._looked >= REFRESH_S:
            self._looked = now
            self._ring.refresh()
        changed, self._version = self._ring.version != self._version, self._ring.version
        if changed and self._ring.damaged:
            log.warning("no key in %s: nobody is let in by it", ", ".join(self._ring.damaged))
        return changed

    def lets_in(self, key: str) -> bool:
        """Whether the owner of this public key may speak."""
        return self._ring.lets_in(key)

    def name_of(self, key: str) -> str:
        """The name that a key was given; empty for a stranger's."""
        peer = self._ring.find(key)
        return peer.name if peer else ""

    def judge(self, address: str, key: str) -> bool:
        """Whether a connection with this key may be made; says so when not. Called by the authenticator's thread."""
        self._ring.refresh()  # a peer whose key was added this moment is not to be sent away for good
        if self._ring.lets_in(key):
            return True
        peer = self._ring.find(key)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(peer.since)) if peer else ""
        self.refused(address, f"the key of {peer.name} was revoked on {when}" if peer else "its key is unknown")
        return False

    def refused(self, address: str, cause: str) -> None:
        """A word about somebody who was turned away."""
        self._say(logging.WARNING, (address, cause), "refused %s: %s", address, cause)

    def left(self, address: str) -> None:
        """A word about somebody who hung up before it had shown a key."""
        self._say_seldom(logging.INFO, address, "%s connected and left without a key: a probe, or a peer without keys", address)

    def close(self, router: zmq.Socket[bytes]) -> None:
        """End both threads."""
        router.disable_monitor()
        self._events.join()
        self._authenticator.stop()


class _Authenticator(zmq.auth.thread.ThreadAuthenticator):
    """pyzmq's, which tells its callback a key but not the address that it comes from. It judges one connection after the other."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], doorman: Doorman) -> None:
        super().__init__(context)
        self._doorman = doorman
        self._address = ""

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        self._address = msg[3].decode("ascii", "replace") if len(msg) > 3 else "?"
        await super().handle_zap_message(msg)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether to let in the owner of a key (Z85)."""
        return self._doorman.judge(self._address, key.decode("ascii"))


class _Events(threading.Thread):
    """Hears of handshakes that fail before there is a key to look up.

    libzmq names such peers by the number of a file that it closes at once. The address is asked for when the connection is accepted; who
    is gone by then stays nameless.
    """

    def __init__(self, router: zmq.Socket[bytes], doorman: Doorman) -> None:
        super().__init__(name="handshakes", daemon=True)
        failed = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | failed | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED)
        self._doorman = doorman
        self._addresses: dict[int, str] = {}
        self._cause, self._left = "", False

    def run(self) -> None:
        while (event := recv_monitor_message(self._monitor))["event"] != zmq.EVENT_MONITOR_STOPPED:
            self._take(event["event"], int(event["value"]))
        self._monitor.close(linger=0)

    def _take(self, kind: int, value: int) -> None:
        if kind == zmq.EVENT_ACCEPTED:
            self._addresses[value] = _peer_of(value)
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._cause = _CAUSES.get(value, "its handshake is damaged")
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._left = True
        elif kind == zmq.EVENT_DISCONNECTED:  # of the same connection: libzmq reports both in one go
            address = self._addresses.pop(value, "an unknown address")
            if self._cause:
                self._doorman.refused(address, self._cause)
            elif self._left:
                self._doorman.left(address)
            self._cause, self._left = "", False


def _peer_of(descriptor: int) -> str:
    """The address at the other end of a connection of libzmq's."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            return str(connection.getpeername()[0])
    except (OSError, IndexError):  # closed meanwhile
        return "an unknown address"
