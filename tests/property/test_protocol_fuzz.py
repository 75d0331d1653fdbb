from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import protocol as p

HEADER = b"pyd" + bytes([p.PROTOCOL_VERSION])
DECODERS = [p.decode_from_peer, p.decode_from_coordinator]
FROM_PEER, FROM_COORDINATOR = get_args(p.FromPeer), get_args(p.FromCoordinator)
NAMES = [kind.__name__ for kind in FROM_PEER + FROM_COORDINATOR]
FIELDS = sorted({field.name for kind in FROM_PEER + FROM_COORDINATOR for field in msgspec.structs.fields(kind)})
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def decodes_or_refuses(frame: bytes) -> None:
    """Any other exception than ProtocolError, or anything but a message, fails the test."""
    for decode, kinds in zip(DECODERS, (FROM_PEER, FROM_COORDINATOR), strict=True):
        refusal = ""
        try:
            message = decode(frame)
            assert isinstance(message, kinds)
        except p.ProtocolError as e:
            refusal = str(e)
        assert refusal.isprintable()  # nobody writes lines of their own into the log
        assert len(refusal) < 400


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(frame: bytes) -> None:
    decodes_or_refuses(frame)
    decodes_or_refuses(HEADER + frame)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), values, max_size=6))
def test_any_fields_are_a_message_or_a_protocol_error(name: str, fields: dict[str, object]) -> None:
    decodes_or_refuses(HEADER + msgspec.json.encode({"type": name, **fields}))


@settings(deadline=None)
@given(st.data())
def test_damaged_messages_are_a_message_or_a_protocol_error(data: st.DataObject) -> None:
    frame = bytearray(
        p.encode(p.Done(3, [p.StoredFile("e00000-000001-000.parquet", 2, 60, 999)], [p.Unreadable("a.wav", 5, "cut")], None, p.Totals()))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_refuses(bytes(frame))


def test_deep_nesting_is_refused() -> None:
    for body in (b"[" * 200_000, b'{"type":"Done","lease":' + b"[" * 200_000, b'{"type":"Lease","items":[' + b'{"labels":' * 50_000):
        with pytest.raises(p.ProtocolError):
            p.decode_from_peer(HEADER + body)
        with pytest.raises(p.ProtocolError):
            p.decode_from_coordinator(HEADER + body)
