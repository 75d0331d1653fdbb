"""FLAC streams that libsndfile reads wrongly without an error: a rate or depth that changes, and more samples than announced.

Only frame headers are read, recognised by their checksum. Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, NamedTuple

TAIL = 1 << 16  # bytes at the end in which the last frames are looked for
PIECE = 1 << 20  # bytes read at a time where the whole file is looked through
LONGEST_HEADER = 16  # bytes
CHANCE_SHARE = 0.02  # of headers may be chance: one in a few megabytes of audio passes an 8-bit checksum

_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)  # Hz by code; 0: as in STREAMINFO
_DEPTHS = {0: 0, 1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}  # bits by code; 0: as in STREAMINFO


class Frame(NamedTuple):
    """One frame header. `number` counts frames, or samples where `variable`."""

    variable: bool
    number: int
    block_size: int  # samples
    rate: int  # Hz
    depth: int  # bits


def problem(file: IO[bytes], size: int) -> str | None:
    """What libsndfile would get wrong in a file that begins with "fLaC", or None."""
    file.seek(0)
    head = file.read(42)
    if len(head) < 42 or head[4] & 0x7F != 0:
        return None  # no STREAMINFO in its place: the decoder judges
    info = int.from_bytes(head[18:26], "big")
    rate, depth, total = info >> 44, (info >> 36 & 0x1F) + 1, info & (1 << 36) - 1
    return _uncounted(file, size, rate, depth, total) if total else _changes(file, rate, depth)


def _uncounted(file: IO[bytes], size: int, rate: int, depth: int, total: int) -> str | None:
    """Two consecutive frames at the end that begin after the announced number of samples."""
    file.seek(max(0, size - TAIL))
    after: Frame | None = None
    for frame in _frames(file.read(TAIL), rate, depth, backwards=True):
        if after is not None:
            follows = after.number == frame.number + (frame.block_size if frame.variable else 1)
            begin = after.number * (1 if after.variable else frame.block_size)
            return f"damaged: holds more than the {total} samples that it announces" if follows and begin > total else None
        after = frame
    return None


def _changes(file: IO[bytes], rate: int, depth: int) -> str | None:
    """Rates and depths in a stream of unknown length (those that were recorded in several settings have no length)."""
    found: Counter[tuple[int, int]] = Counter()
    file.seek(0, os.SEEK_SET)
    rest = b""
    while piece := file.read(PIECE):
        data = rest + piece
        found.update((frame.rate, frame.depth) for frame in _frames(data, rate, depth))
        rest = data[-LONGEST_HEADER:]
    frames = sum(found.values())
    settings = [setting for setting, count in found.items() if count > max(1, CHANCE_SHARE * frames)]
    if len(settings) <= 1:
        return None
    return "changes within the stream: " + ", ".join(f"{r} Hz {d} bit" for r, d in settings)


def _frames(data: bytes, rate: int, depth: int, backwards: bool = False) -> Iterator[Frame]:
    places = [match.start() for match in _SYNC.finditer(data)]
    for place in reversed(places) if backwards else places:
        header = data[place : place + LONGEST_HEADER]
        frame = _parse(header, rate, depth) if len(header) == LONGEST_HEADER else None
        if frame is not None:
            yield frame


def _parse(header: bytes, rate: int, depth: int) -> Frame | None:
    size_code, rate_code, depth_code = header[2] >> 4, header[2] & 15, header[3] >> 1 & 7
    if size_code == 0 or rate_code == 15 or depth_code == 3 or header[3] & 1 or header[3] >> 4 > 10:
        return None
    extra = max(0, 8 - (header[4] ^ 0xFF).bit_length() - 1)  # bytes that follow the first of the number, coded as in UTF-8
    if header[4] < 0x80:
        number, position = header[4], 5
    elif extra in range(1, 7):
        number, position = header[4] & (0x3F >> extra), 5 + extra
        for byte in header[5:position]:
            number = number << 6 | byte & 0x3F
    else:
        return None
    block_size, position = _block_size(size_code, header, position)
    if rate_code >= 12:
        width = 1 if rate_code == 12 else 2
        value = int.from_bytes(header[position : position + width], "big")
        frame_rate, position = value * (1000, 1, 10)[rate_code - 12], position + width
    else:
        frame_rate = _RATES[rate_code]
    if _crc8(header[:position]) != header[position]:
        return None
    return Frame(bool(header[1] & 1), number, block_size, frame_rate or rate, _DEPTHS[depth_code] or depth)


def _block_size(code: int, header: bytes, position: int) -> tuple[int, int]:
    """Samples in the frame, and the position behind their optional bytes."""
    if code in (6, 7):
        width = code - 5
        return int.from_bytes(header[position : position + width], "big") + 1, position + width
    return (192 if code == 1 else 144 << code if code <= 5 else 1 << code), position


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
    return value
