from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from pydreaming.errors import TransportError, UsageError
from workers import keys
from workers.protocol import Hello, Pull, Wait, Welcome, decode_from_peer
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
        for peer, frame in router.receive(0.05):
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
    with pytest.raises(TransportError, match=r"python -m workers\.keys init"):
        Router(address, None)


def test_another_host_is_not_called_without_keys() -> None:
    with pytest.raises(TransportError, match=r"python -m workers\.keys add"):
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


def test_a_peer_beyond_this_host_is_let_in_with_its_key(key_folder: Path) -> None:
    router = Router("tcp://0.0.0.0:0", keys.load_server_keys(key_folder))
    try:
        assert router.address == f"tcp://127.0.0.1:{router.port}"
        with Dealer(router.address, keys.load_client_keys(key_folder)) as dealer:
            assert exchange(router, dealer) == WELCOME
    finally:
        router.close()


def test_unknown_wrong_and_missing_keys_are_kept_out_and_told_why(key_folder: Path, tmp_path: Path) -> None:
    stranger = keys.add_peer(key_folder, "stranger")
    (key_folder / "authorized" / "stranger.key").unlink()
    keys.init_keys(tmp_path / "other")  # a key pair for another coordinator
    router = Router("tcp://127.0.0.1:0", keys.load_server_keys(key_folder))
    try:
        for client, reason in (
            (keys.load_client_keys(stranger), "key is refused"),
            (keys.load_client_keys(tmp_path / "other"), "keys do not match"),
            (None, "without keys; give --keys"),
        ):
            with Dealer(router.address, client) as dealer:
                end = time.monotonic() + 10
                while reason not in dealer.explain(1.0):
                    assert time.monotonic() < end, dealer.explain(1.0)
                    assert exchange(router, dealer, seconds=0.1) is None
                assert exchange(router, dealer, seconds=0.3) is None
    finally:
        router.close()


def test_keys_take_effect_and_lose_it_while_the_coordinator_runs(key_folder: Path) -> None:
    router = Router("tcp://127.0.0.1:0", keys.load_server_keys(key_folder))
    try:
        peer = keys.add_peer(key_folder, "late")
        router.refresh_keys()
        with Dealer(router.address, keys.load_client_keys(peer)) as dealer:
            assert exchange(router, dealer) == WELCOME
        (key_folder / "authorized" / "late.key").unlink()
        router.refresh_keys()
        with Dealer(router.address, keys.load_client_keys(peer)) as dealer:
            assert exchange(router, dealer, seconds=0.7) is None
    finally:
        router.close()


def test_secrets_are_private_and_refused_when_they_are_not(key_folder: Path) -> None:
    secrets = sorted(key_folder.rglob("*.key_secret"))
    assert len(secrets) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)
    (key_folder / "server.key_secret").chmod(0o644)
    with pytest.raises(TransportError, match="chmod 600"):
        keys.load_server_keys(key_folder)


def test_the_command_makes_keys_and_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "k")
    assert keys.main(["init", folder]) == 0
    assert keys.main(["add", folder, "box"]) == 0
    assert "--coordinator.keys" in capsys.readouterr().out
    assert keys.main(["init", folder]) == UsageError.exit_code
    assert keys.main(["add", folder, "box"]) == UsageError.exit_code
    assert keys.main(["add", folder, "../x"]) == UsageError.exit_code
    assert keys.main(["add", str(tmp_path / "none"), "box"]) == UsageError.exit_code
    with pytest.raises(TransportError, match=r"workers\.keys init"):
        keys.load_client_keys(tmp_path / "none")


def test_frames_of_several_parts_and_giants_do_not_reach_the_decoder_as_messages(plain: Router) -> None:
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.connect(plain.address)
    raw.send_multipart([b"a", b"b", b"c"])
    raw.send(b"hello")
    frames = []
    end = time.monotonic() + 10
    while len(frames) < 2 and time.monotonic() < end:
        frames += [frame for _, frame in plain.receive(0.05)]
    context.destroy(linger=0)
    assert frames == [b"", b"hello"]
    for frame in frames:
        with pytest.raises(TransportError):
            decode_from_peer(frame)


def test_a_key_folder_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    # A name too long is refused to every user, unlike a folder without rights, which root may read.
    with pytest.raises(TransportError, match="cannot be read by this user"):
        keys.load_client_keys(tmp_path / ("x" * 300))


def test_a_key_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert keys.main(["init", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write keys to")
