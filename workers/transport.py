"""Sockets: one ROUTER for the coordinator, one DEALER for each peer. The only room (with the doorman) that knows ZeroMQ.

A peer that loses the coordinator is not told so by ZeroMQ: sends fail at once (IMMEDIATE) and receives time out. `Dealer.explain` says
why, from the socket's own events, because a refused key is otherwise nothing but silence.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from pydreaming.errors import TransportError
from pydreaming.keys import ClientKeys, ServerKeys
from workers.doorman import Doorman
from workers.protocol import (
    MAX_MESSAGE_BYTES,
    MAX_PEER_BYTES,
    FromCoordinator,
    FromPeer,
    Hello,
    ProtocolError,
    Refused,
    Welcome,
    decode_from_coordinator,
    encode,
)

LINGER_MS = 500  # long enough for a Bye or Stop to leave, short enough never to hang an exit
HEARTBEAT_MS = 2000
HANDSHAKE_MS = 3000  # who has not shown a key by then is cut off, and what it has sent forgotten; a worker waits no longer for a welcome
PEER_QUEUE = 16  # messages that wait for each peer, either way, before ZeroMQ lets it wait: memory is bounded by this times their size
_POLL_S = 0.1  # a waiting process looks at its stop flag this often


class Received(NamedTuple):
    """A frame, ZeroMQ's name for the connection that it came by, and the public key (Z85 text) that connection has proved to own.

    `key` is empty where there are no keys.
    """

    peer: bytes
    key: str
    frame: bytes


class Router:
    """The coordinator's socket.

    Args:
      address: `tcp://host:port`; port 0 takes any free one (see `.address`).
      keys: CURVE keys; required for an address that is not loopback.
    Raises:
      TransportError: the address is malformed, taken, or not loopback without keys.
    """

    def __init__(self, address: str, keys: ServerKeys | None) -> None:
        host, _ = split_address(address)
        if keys is None and not is_loopback(host):
            raise TransportError(
                f"{address} can be reached from other hosts, which needs keys: pydreaming keys init FOLDER, then --coordinator.keys FOLDER"
            )
        self._context = zmq.Context()
        self._doorman: Doorman | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        _common_options(self._socket, host, MAX_PEER_BYTES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.setsockopt(zmq.RCVHWM, PEER_QUEUE)
        self._socket.setsockopt(zmq.SNDHWM, PEER_QUEUE)
        try:
            if keys is not None:
                self._doorman = Doorman(self._context, self._socket, keys)
            self._socket.bind(address)
        except zmq.ZMQError as e:
            self.close()
            raise TransportError(f"cannot listen on {address}: {e.strerror}") from e
        bound_host, self.port = split_address(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        # As peers on this host may call it; others know this host's name.
        bound = ipaddress.ip_address(bound_host)
        called = bound_host if not bound.is_unspecified else "::1" if bound.version == 6 else "127.0.0.1"
        self.address = f"tcp://{host_part(called)}:{self.port}"

    def refresh_keys(self) -> bool:
        """Take over keys that were added or revoked since; whether there are any. Cheap enough to be asked all the time."""
        return self._doorman is not None and self._doorman.refresh()

    def lets_in(self, key: str) -> bool:
        """Whether a message that came with this key counts (now: a key may be revoked while its owner is connected)."""
        return self._doorman is None or self._doorman.lets_in(key)

    def name_of(self, key: str) -> str:
        """Name of the key's owner; empty where there are no keys, or for a stranger's."""
        return "" if self._doorman is None else self._doorman.name_of(key)

    def receive(self, timeout_s: float) -> Iterator[Received]:
        """Every message that is there, after waiting up to `timeout_s` for the first."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return
        while True:
            try:
                peer, *parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            # A message has one part. More parts are nobody's message here, and none: what they are replaced by fails to decode.
            yield Received(peer.bytes, self._key(peer), parts[0].bytes if len(parts) == 1 else b"")

    def _key(self, frame: zmq.Frame) -> str:
        return "" if self._doorman is None else str(frame.get("User-Id"))

    def send(self, peer: bytes, message: FromCoordinator) -> bool:
        """False when the peer is gone or does not read."""
        try:
            self._socket.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as e:
            if e.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise TransportError(f"cannot send on {self.address}: {e.strerror}") from e
        return True

    def close(self) -> None:
        """Let the last messages leave and free the port."""
        if self._doorman is not None:
            self._doorman.close(self._socket)
        self._context.destroy(linger=LINGER_MS)


class Dealer:
    """A peer's socket. Usable with `with`.

    Raises TransportError for a malformed address, or one beyond loopback without keys.
    """

    def __init__(self, address: str, keys: ClientKeys | None = None) -> None:
        host, _ = split_address(address)
        if keys is None and not is_loopback(host):
            raise TransportError(f"{address} is another host, which needs keys: on the coordinator's host, pydreaming keys add FOLDER NAME")
        self.address, self._keys = address, keys
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        _common_options(self._socket, host, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        if keys is not None:
            self._socket.curve_publickey, self._socket.curve_secretkey, self._socket.curve_serverkey = keys.public, keys.secret, keys.server
        self._monitor = self._socket.get_monitor_socket()
        self._seen: set[int] = set()
        try:
            self._socket.connect(address)
        except zmq.ZMQError as e:
            self.close()
            raise TransportError(f"cannot connect to {address}: {e.strerror}") from e

    def send(self, message: FromPeer) -> bool:
        """False when there is no connection now, or the coordinator does not read."""
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout_s: float = 0.0) -> FromCoordinator | None:
        """The next message, or None after `timeout_s`. Raises ProtocolError for a frame that is none."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        return decode_from_coordinator(self._socket.recv(zmq.NOBLOCK))

    def handshake(self, hello: Hello, timeout_s: float) -> Welcome:
        """Say Hello until welcomed.

        Raises TransportError: refused, another protocol version, or no answer within `timeout_s`, with what is known of the cause.
        """
        deadline = time.monotonic() + timeout_s
        said = -10.0
        while (now := time.monotonic()) < deadline:
            if now - said > 2.0 and self.send(hello):
                said = now
            try:
                answer = self.receive(_POLL_S)
            except ProtocolError as e:
                raise TransportError(f"{self.address}: {e}") from e
            if isinstance(answer, Welcome):
                return answer
            if isinstance(answer, Refused):
                raise TransportError(f"{self.address} refused {hello.name}: {answer.reason}")
        raise TransportError(self.explain(timeout_s))

    def explain(self, silent_s: float) -> str:
        """One line about why nobody answers, from the socket's events."""
        while self._monitor is not None and self._monitor.poll(0):
            self._seen.add(int(recv_monitor_message(self._monitor)["event"]))
        begin = f"no answer from {self.address} for {silent_s:.0f} s: "
        if zmq.EVENT_HANDSHAKE_SUCCEEDED in self._seen:
            return begin + "it was reached, but the coordinator is silent or has ended"
        if zmq.EVENT_HANDSHAKE_FAILED_AUTH in self._seen:
            return begin + "this host's key is refused; on the coordinator's host: pydreaming keys add FOLDER NAME"
        if zmq.EVENT_CONNECTED in self._seen:
            if self._keys is None:
                return begin + "something listens there but does not take a peer without keys; give --keys FOLDER"
            return begin + "something listens there, but the keys do not match; copy FOLDER/peers/NAME from the coordinator's host again"
        return begin + "nothing listens there; is the learner's host running, and its port open?"

    def close(self) -> None:
        """Let the last messages leave."""
        self._socket.disable_monitor()
        self._context.destroy(linger=LINGER_MS)  # with the monitor's socket: an open one would hang here for ever

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `tcp://host:port`; an IPv6 host stands in brackets. Raises TransportError."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise TransportError(f"'{address}' is no address such as tcp://127.0.0.1:5555: {e}") from e
    if parts.scheme != "tcp" or not host or port is None or parts.path or parts.query or parts.username is not None:
        raise TransportError(f"'{address}' is no address such as tcp://127.0.0.1:5555")
    return host, port


def host_part(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this host can reach it. Names other than localhost count as reachable, whatever they resolve to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(folder: str) -> Path | None:
    """The key folder of a configuration value; None for none."""
    return Path(folder).expanduser() if folder else None


def _common_options(socket: zmq.Socket[bytes], host: str, max_bytes: int) -> None:
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.IPV6, int(":" in host))
    # These notice a host that vanished; a hung process is noticed by its missing beats.
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 3 * HEARTBEAT_MS)
