from __future__ import annotations

import msgspec
import pytest

from pydreaming.audio.sources import AudioItem
from pydreaming.audio.stats import FeatureStats, StatsSums
from workers import protocol as p

STATS = FeatureStats([0.5], [1.5], 10)
FROM_PEER: list[p.FromPeer] = [
    p.Hello("worker", "box-1", "box", 42),
    p.Pull(),
    p.Beat(-1, p.Totals(audio_s=1.25)),
    p.Done(
        7,
        [p.StoredFile("e00001-000002-003.parquet", 1, 2, 3)],
        [p.Unreadable("ü.wav", 4, "truncated")],
        StatsSums(1, [1.0], [1.0]),
        p.Totals(),
    ),
    p.Progress(10, 2, "checkpoints/step-00000002"),
    p.Bye("done"),
]
FROM_COORDINATOR: list[p.FromCoordinator] = [
    p.Welcome("{}", "/audio", "/replay", 3, [0.0], [1.0]),
    p.Lease(
        1, "episodes", 0, 2, [AudioItem(index=5, path="a/b.wav", group="speaker:x", labels={"label": "1"}, controls=(0.5,))], STATS, 30.0
    ),
    p.Wait(0.5, "later"),
    p.Stop("done"),
    p.Refused("no"),
    p.Revoked(3),
    p.Rehello(),
    p.Status("episodes", 1, 2, 3, 4, 5, 0.5, True, False, 6, 4, p.Crew(2, 4.0, 20.0, 0.5)),
]


@pytest.mark.parametrize("message", FROM_PEER, ids=lambda m: type(m).__name__)
def test_messages_from_a_peer_survive_the_wire(message: p.FromPeer) -> None:
    assert p.decode_from_peer(p.encode(message)) == message
    with pytest.raises(p.ProtocolError):
        p.decode_from_coordinator(p.encode(message))


@pytest.mark.parametrize("message", FROM_COORDINATOR, ids=lambda m: type(m).__name__)
def test_messages_from_the_coordinator_survive_the_wire(message: p.FromCoordinator) -> None:
    assert p.decode_from_coordinator(p.encode(message)) == message
    with pytest.raises(p.ProtocolError):
        p.decode_from_peer(p.encode(message))


def frame(body: bytes, version: int = p.PROTOCOL_VERSION) -> bytes:
    return b"pyd" + bytes([version]) + body


def done_with(sums: bytes) -> bytes:
    return frame(b'{"type":"Done","lease":1,"files":[],"unreadable":[],"totals":{},"sums":' + sums + b"}")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "foreign"),
        (b"pyd", "foreign"),
        (b"GET / HTTP/1.1", "foreign"),
        (frame(b'{"type":"Pull"}', version=9), "version"),
        (frame(b"\xff\xfe"), "malformed"),
        (frame(b'{"type":"Pull"'), "malformed"),
        (frame(b'{"type":"\xff"}'), "malformed"),
        (frame(b"[]"), "invalid"),
        (frame(b'{"type":"Exec","code":"1"}'), "invalid"),
        (frame(b'{"type":"Pull","more":1}'), "invalid"),
        (frame(b'{"type":"Beat","lease":-2,"totals":{}}'), "invalid"),
        (frame(b'{"type":"Beat","lease":1,"totals":{"audio_s":1e999}}'), "invalid"),
        (frame(b'{"type":"Hello","role":"root","name":"a","host":"h","pid":1}'), "invalid"),
        (done_with(b'{"count":1,"total":[1e308],"square":[1]}'), "invalid"),
        (done_with(b'{"count":-1,"total":[1],"square":[1]}'), "invalid"),
        (frame(b" " * p.MAX_MESSAGE_BYTES), "oversized"),
    ],
)
def test_what_is_no_message_is_refused_by_kind(raw: bytes, kind: str) -> None:
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_from_peer(raw)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "name",
    ["../e00000-000000-000.parquet", "e00000-000000-000.parquet\n", "/etc/passwd", "e0-0-0.parquet", "e00000-000000-000.parquet.tmp-1", ""],
)
def test_file_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    message = msgspec.json.encode({"type": "Done", "lease": 1, "files": [{"name": name, "episodes": 1, "tokens": 1, "bytes": 1}],
                                   "unreadable": [], "sums": None, "totals": {}})  # fmt: skip
    with pytest.raises(p.ProtocolError, match="invalid"):
        p.decode_from_peer(frame(message))


@pytest.mark.parametrize("name", ["a/b", "a\n", "", "-x", "x" * 200, "käse"])
def test_peer_names_that_do_not_fit_in_a_log_line_or_metric_are_refused(name: str) -> None:
    with pytest.raises(p.ProtocolError):
        p.decode_from_peer(p.encode(p.Hello("worker", name, "h", 1)))


def test_a_message_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(p.ProtocolError, match="lease_items"):
        p.encode(p.Welcome("x" * p.MAX_MESSAGE_BYTES, "", "", 0, [], []))


@pytest.mark.parametrize("number", ["9007199254740993", "1" + "0" * 309, "9" * 4000])
@pytest.mark.parametrize(
    "body",
    [
        '{"type":"Progress","trained_tokens":NUMBER,"step":1}',
        '{"type":"Beat","lease":NUMBER,"totals":{}}',
        '{"type":"Beat","lease":1,"totals":{"clips":NUMBER}}',
        '{"type":"Done","lease":1,"files":[],"unreadable":[{"path":"","item":NUMBER,"cause":""}],"sums":null,"totals":{}}',
        '{"type":"Hello","role":"worker","name":"w","host":"h","pid":1,"session":NUMBER}',
    ],
)
def test_counts_that_no_float_can_hold_are_refused(body: str, number: str) -> None:
    # One such Progress ended the coordinator: the replay ratio divides.
    with pytest.raises(p.ProtocolError, match="invalid"):
        p.decode_from_peer(frame(body.replace("NUMBER", number).encode()))
    p.decode_from_peer(frame(body.replace("NUMBER", "9007199254740992").encode()))
