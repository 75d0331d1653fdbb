from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from pydreaming import keys
from pydreaming.errors import TransportError
from workers.protocol import MAX_PEER_BYTES, Hello, Pull, Wait, Welcome, decode_from_peer
from workers.transport import Dealer, Router, is_loopback, split_address

HELLO = Hello("worker", "w", "host", 1)
WELCOME = Welcome("{}", "/audio", "/replay", 0, [], [])


@pytest.fixture
def key_folder(tmp_path: Path) -> Path:
    keys.init_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def plain() -> Iterator[Router]:
    router = Router("tcp://127.0.0.1:0", None)
    yield router
    router.close()


def serve(router: Router, seconds: float) -> list[bytes]:
    """Welcome everyone for a while; the frames that came."""
    frames, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        for peer, _, frame in router.receive(0.05):
            frames.append(frame)
            router.send(peer, WELCOME)
    return frames


def exchange(router: Router, dealer: Dealer, seconds: float = 10.0) -> Welcome | None:
    """Say Hello and wait for the answer, with both ends in this thread."""
    end, sent = time.monotonic() + seconds, False
    while time.monotonic() < end:
        sent = sent or dealer.send(HELLO)
        serve(router, 0.02)
        answer = dealer.receive(0.02)
        if isinstance(answer, Welcome):
            return answer
    return None


def test_a_message_goes_there_and_back(plain: Router) -> None:
    with Dealer(plain.address) as dealer:
        assert exchange(plain, dealer) == WELCOME


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.0.2.1:5555", "tcp://example.org:1"])
def test_an_address_beyond_this_host_needs_keys(address: str) -> None:
    with pytest.raises(TransportError, match=r"pydreaming keys init"):
        Router(address, None)


def test_another_host_is_not_called_without_keys() -> None:
    with pytest.raises(TransportError, match=r"pydreaming keys add"):
        Dealer("tcp://192.0.2.1:5555")


@pytest.mark.parametrize(
    "address", ["", "5555", "127.0.0.1:5555", "ipc:///tmp/x", "tcp://127.0.0.1", "tcp://a:b", "tcp://h:1/path", "tcp://h:99999"]
)
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(TransportError, match="no address such as"):
        split_address(address)


def test_loopback_is_told_from_names_that_could_be_anything() -> None:
    assert all(is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "*"))


def test_a_taken_port_is_a_clear_error(plain: Router) -> None:
    with pytest.raises(TransportError, match="cannot listen"):
        Router(plain.address, None)


def test_nobody_there_is_said_so() -> None:
    with Dealer("tcp://127.0.0.1:9") as dealer, pytest.raises(TransportError, match="nothing listens there"):
        dealer.handshake(HELLO, 0.5)


def test_sending_to_nobody_fails_at_once() -> None:
    with Dealer("tcp://127.0.0.1:9") as dealer:
        assert not dealer.send(Pull())


def test_answering_a_peer_that_is_gone_is_no_error(plain: Router) -> None:
    assert not plain.send(b"\x00abcd", Wait(1.0, "x"))


def test_an_authorised_key_is_let_in_and_encrypts(key_folder: Path) -> None:
    peer = keys.add_peer(key_folder, "box")
    router = Router("tcp://127.0.0.1:0", keys.load_server_keys(key_folder))
    try:
        for folder in (peer, key_folder):  # another host's folder, and this host's own
            with Dealer(router.address, keys.load_client_keys(folder)) as dealer:
                assert exchange(router, dealer) == WELCOME
    finally:
        router.close()


def test_who_does_not_show_a_key_is_cut_off_in_time_and_who_has_shown_one_stays(key_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.transport.HANDSHAKE_MS", 500)
    router = Router("tcp://127.0.0.1:0", keys.load_server_keys(key_folder))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
    endless = b"\x06" + (MAX_PEER_BYTES - 1).to_bytes(8, "big") + bytes(10_000)  # the begin of a large command
    try:
        with Dealer(router.address, keys.load_client_keys(key_folder)) as dealer:
            peers = set()
            for _ in range(2):
                end = time.monotonic() + 10
                while not dealer.send(HELLO):
                    assert time.monotonic() < end
                    time.sleep(0.02)
                peers |= {received.peer for received in router.receive(10)}
                for said in (b"", greeting, greeting + endless):
                    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as stranger:
                        stranger.sendall(said)
                        with contextlib.suppress(ConnectionResetError):
                            while stranger.recv(65536):  # until it is closed; raises TimeoutError where it is not
                                pass
            assert len(peers) == 1
    finally:
        router.close()


def test_a_peer_beyond_this_host_is_let_in_with_its_key(key_folder: Path) -> None:
    router = Router("tcp://0.0.0.0:0", keys.load_server_keys(key_folder))
    try:
        assert router.address == f"tcp://127.0.0.1:{router.port}"
        with Dealer(router.address, keys.load_client_keys(key_folder)) as dealer:
            assert exchange(router, dealer) == WELCOME
    finally:
        router.close()


def test_frames_of_several_parts_and_giants_do_not_reach_the_decoder_as_messages(plain: Router) -> None:
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.connect(plain.address)
    raw.send_multipart([b"a", b"b", b"c"])
    raw.send(b"hello")
    frames = []
    end = time.monotonic() + 10
    while len(frames) < 2 and time.monotonic() < end:
        frames += [frame for _, _, frame in plain.receive(0.05)]
    context.destroy(linger=0)
    assert frames == [b"", b"hello"]
    for frame in frames:
        with pytest.raises(TransportError):
            decode_from_peer(frame)


FLOOD = """
import sys, zmq
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.SNDTIMEO, 3000)
socket.connect(sys.argv[1])
message, sent = bytes(4 * 2**20 - 100), 0
socket.setsockopt(zmq.SNDHWM, 4)
try:
    while sent < 400:
        socket.send(message)
        sent += 1
except zmq.Again:
    pass
print(sent)
socket.close(linger=0)
"""


def test_what_a_flood_can_make_the_coordinator_hold_is_bounded(plain: Router) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    # The coordinator is busy elsewhere meanwhile: ZeroMQ's own thread takes messages in.
    sender = subprocess.run([sys.executable, "-c", FLOOD, plain.address], capture_output=True, text=True, timeout=120, check=True)
    assert int(sender.stdout) < 100  # of 400: it had to wait
    assert process.memory_info().rss - before < 150 * 2**20
    assert all(len(frame) == 4 * 2**20 - 100 for _, _, frame in plain.receive(0.1))


def test_a_message_beyond_the_limit_ends_its_connection(plain: Router) -> None:
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.connect(plain.address)
    raw.send(bytes(MAX_PEER_BYTES + 1))
    assert serve(plain, 0.5) == []
    raw.send(b"small")
    assert b"small" in serve(plain, 2.0)  # it may come again
    context.destroy(linger=0)
