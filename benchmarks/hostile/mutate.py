"""Seeded damage: to bytes of any format, and messages that are nearly right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from pydreaming.audio.stats import StatsSums
from pydreaming.replay.names import shard_name, shard_prefix
from workers import protocol as p

HEADER = b"pyd" + bytes([p.PROTOCOL_VERSION])
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
INTEGERS = (-1, 0, 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**309, 10**4000, -(2**63), -(10**400))
FILES = 300  # put into the replay folder
FLOATS = (0.0, -0.0, 1e-320, 1e12, 1e13, 1.7e308, -1.0)
TEXTS = (
    "", "a", "../../etc/passwd", "/etc/passwd", "\0", "a\nb", "\x1b[2J", "\u202e", "\U0001d518" * 50, "x" * 5000, "%s%n", "{0.__class__}",
    "__class__", "$(touch x)", "'; DROP TABLE leases", "<script>alert(1)</script>", "worker", "learner", "w", "measure",
    "cos\nsystem\n(S'id'\ntR.", "e00000-000000-000.parquet", "e00000-000001-000.parquet", "e99999-999999-999.parquet",
    "e00000-000000-000.parquet/../../x",
)  # fmt: skip


def damage(rng: random.Random, data: bytes) -> bytes:
    """The bytes with one to eight changes, of kinds that break parsers: flipped bits, odd numbers, cut, joined and repeated pieces."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(INTERESTING) & (1 << 8 * width) - 1
            out[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 2:
            del out[at : at + rng.randint(1, 64)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 64))
        elif kind == 4:
            begin = rng.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + rng.randint(1, 256)]
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


class Messages:
    """Frames that somebody who knows the protocol might send, by seed: `next` gives one, as the parts of a ZeroMQ message.

    lease: that the coordinator gave last. replay: folder into which files are put that fit it, for the lies to look true.
    """

    def __init__(self, seed: int, replay: Path) -> None:
        self.lease: p.Lease | None = None
        self._replay = replay
        self._rng = random.Random(seed)  # noqa: S311 (no secret)
        self._kinds: Sequence[type[Any]] = (*get_args(p.FromPeer), *get_args(p.FromCoordinator))
        self._fields = sorted({field.name for kind in self._kinds for field in msgspec.structs.fields(kind)})
        self._encoder = msgspec.json.Encoder()

    def next(self) -> list[bytes]:
        """One message."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.45:
            return [p.encode(self._valid())]
        if kind < 0.65:
            return [damage(rng, p.encode(self._valid()))]
        if kind < 0.90:
            return [HEADER + self._nearly()]
        if kind < 0.93:
            return [HEADER + rng.randbytes(rng.randrange(300))]
        if kind < 0.96:
            return [rng.randbytes(rng.randrange(300))]
        if kind < 0.98:
            return [rng.randbytes(rng.randrange(20)) for _ in range(rng.randint(2, 5))]
        if kind < 0.9999:
            return [HEADER + rng.choice((b"[", b'{"type":', b'{"type":"Done","sums":', b'{"a":[')) * rng.randrange(2000)]
        return [HEADER + b'{"type":"Bye","reason":"' + b"x" * rng.choice((10**6, 3 * 10**6, p.MAX_MESSAGE_BYTES)) + b'"}']

    def _valid(self) -> p.FromPeer:
        """A message that decodes, from somebody who lies."""
        rng = self._rng
        kind = rng.randrange(16)
        if kind < 2:
            role: Any = rng.choice(("worker", "worker", "worker", "learner"))
            return p.Hello(role, rng.choice("abcdefgh"), self._text()[:4096], rng.randrange(2**32), rng.choice((0, rng.getrandbits(32))))
        if kind < 5:
            return p.Pull()
        if kind < 9:
            return p.Beat(self._lease(-1), self._totals())
        if kind < 11:
            files = [p.StoredFile(self._shard(), self._natural(), self._natural(), self._natural()) for _ in range(rng.randrange(4))]
            return p.Done(self._lease(0), files, self._unreadable(), self._sums(), self._totals())
        if kind < 13:
            return self._lie()
        if kind < 15:
            return p.Progress(self._natural(), self._natural(), self._text()[:4096])
        return p.Bye(self._text()[:4096])

    def _lie(self) -> p.FromPeer:
        """The lease in hand is done, says this, with a file that is there and holds nothing."""
        if self.lease is None:
            return p.Pull()
        if self.lease.number >= FILES:
            return p.Done(self.lease.id, [], self._unreadable(), None, self._totals())
        name, size = shard_name(shard_prefix(self.lease.epoch, self.lease.number), 0), self._rng.choice((0, 1000, 10**6))
        with (self._replay / name).open("wb") as file:
            file.truncate(size)  # takes no room
        files = [p.StoredFile(name, 1, min(self._natural(), size // 128 * self._rng.choice((1, 1, 2))), size)]
        return p.Done(self.lease.id, files, self._unreadable(), None, self._totals())

    def _unreadable(self) -> list[p.Unreadable]:
        items = [item.index for item in self.lease.items] if self.lease else []
        return [
            p.Unreadable(self._text()[:4096], self._rng.choice([*items, self._natural()]), self._text()[:4096])
            for _ in range(self._rng.randrange(4))
        ]

    def _nearly(self) -> bytes:
        """JSON of a known type with fields that do not belong, are missing, or have values that make no sense."""
        rng = self._rng
        kind = rng.choice(self._kinds)
        own = [field.name for field in msgspec.structs.fields(kind)]
        names = [name for name in own if rng.random() < 0.9] + [rng.choice(self._fields) for _ in range(rng.randrange(2))]
        fields = {name: self._value(2) for name in names}
        body = self._encoder.encode({"type": kind.__name__, **fields})
        # Numbers that Python does not write.
        return body.replace(
            b'"NUMBER"', rng.choice((b"1e999", b"-1e999", b"NaN", b"Infinity", b"1E-999", b"9" * rng.randint(1, 6000), b"-0"))
        )

    def _value(self, depth: int) -> Any:
        rng = self._rng
        kind = rng.randrange(9 if depth else 6)
        if kind == 0:
            return rng.choice(INTEGERS)
        if kind == 1:
            return rng.choice(FLOATS)
        if kind == 2:
            return self._text()
        if kind == 3:
            return rng.choice((None, True, False))
        if kind == 4:
            return "NUMBER"
        if kind == 5:
            return rng.randrange(100)
        if kind == 6:
            return [self._value(depth - 1) for _ in range(rng.randrange(5))]
        return {rng.choice(self._fields): self._value(depth - 1) for _ in range(rng.randrange(5))}

    def _text(self) -> str:
        return self._rng.choice(TEXTS)

    def _natural(self) -> int:
        return self._rng.choice((0, 1, 3, 1000, self._rng.randrange(10**6), self._rng.choice(INTEGERS[1:12])))

    def _lease(self, least: int) -> int:
        rng = self._rng
        known = self.lease.id if self.lease else least
        return max(least, rng.choice((known, known, least, 10**9 + rng.randrange(100), rng.randrange(50), self._natural())))

    def _shard(self) -> str:
        rng = self._rng
        return f"e{rng.randrange(3):05d}-{rng.randrange(20):06d}-{rng.randrange(2):03d}.parquet"

    def _totals(self) -> p.Totals:
        rng = self._rng
        return p.Totals(rng.choice(FLOATS[:4]), rng.choice(FLOATS[:4]), self._natural(), self._natural())

    def _sums(self) -> StatsSums | None:
        rng = self._rng
        if rng.random() < 0.5:
            return None
        bands = rng.choice((0, 1, 16, 16, 64))
        values = [rng.choice((0.0, 1.0, -1e18, 1e18, 1e-300))] * bands
        return StatsSums(rng.choice((0, 1, 10**15)), values, [rng.choice((0.0, 1.0, 1e18))] * rng.choice((bands, bands, 3)))
