"""Containers that are shorter than they announce: libsndfile reads them without complaint, so their headers are read here.

Only what the decoder hides is looked at; whatever is not recognised is left to the decoder.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import IO, Literal, NamedTuple

from pydreaming.audio import flac, mpeg

MP3_SLACK = 2 * 1152  # samples; encoders differ on whether delay and padding count
MP3_JOINED = 8192  # bytes behind the announced end that are too many for tags or an encoder that did not count its first frame
STREAMED = 0x7FFF0000  # bytes; sizes from here on are placeholders of programs that wrote to a pipe
STREAMED_64 = 1 << 62  # the same where sizes have 64 bits
MAX_CHUNKS = 4096  # looked at before the samples; a file of nothing but empty chunks would take hours
_OGG_FIRST = 2  # bit of an Ogg page's header type: a stream begins


class DamageError(Exception):
    """A container contradicts itself; the text says how."""


class Length(NamedTuple):
    """What can be known of a file's length before it is decoded, in samples.

    slack: by which the decoded length may fall short of the announced one before it means truncation: 0, two MPEG frames for an MP3 with a
    Xing header, and None for an MP3 without one, whose announced length is an estimate. least: there are in an MP3 without one; 0: unknown.
    """

    slack: int | None
    least: int = 0


class Identity(NamedTuple):
    """What tells whether a file on disk is still the same: inode, bytes, time of its last change in ns, whether it is one at all."""

    inode: int
    size: int
    mtime_ns: int
    regular: bool


def identity_of(path: Path) -> Identity | None:
    """None for what is not there: opening it says so."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))


def check(file: IO[bytes]) -> Length:
    """Look for damage that the decoder would hide.

    Args:
      file: the file, open for reading; its position is changed.
    Raises:
      DamageError: the data is shorter than announced, or parts of the file would be skipped.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(4096)
    if not head:
        raise DamageError("empty")
    magic = head[:4]
    if magic in (b"RIFF", b"RIFX", b"FORM"):
        _check_chunks(file, size, b"SSND" if magic == b"FORM" else b"data", "little" if magic == b"RIFF" else "big")
    elif magic == b".snd":
        _check_announced(int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big"), size)
    elif head.startswith(b"riff\x2e\x91\xcf\x11"):  # W64, sizes of 64 bits
        _check_announced(0, int.from_bytes(head[16:24], "little"), size, STREAMED_64)
    elif magic == b"RF64" and head[12:16] == b"ds64":
        _check_announced(0, int.from_bytes(head[28:36], "little"), size, STREAMED_64)
    elif magic == b"caff":
        _check_caf(file, size)
    elif magic == b"fLaC":
        problem = flac.problem(file, size)
        if problem:
            raise DamageError(problem)
    elif magic == b"NIST":
        _check_sphere(head, size)
    elif magic == b"OggS":
        _check_ogg(file, size)
    elif magic[:3] == b"ID3" or re.match(rb"\xff[\xe0-\xff]", magic):
        return _check_mp3(file, head, size)
    return Length(0)


def _check_announced(start: int, length: int, size: int, placeholder: int = STREAMED) -> None:
    if length < placeholder and start + length > size:
        raise DamageError(f"truncated: {max(0, size - start)} of {length} bytes")


def _check_chunks(file: IO[bytes], size: int, wanted: bytes, order: Literal["little", "big"]) -> None:
    """WAV and AIFF: a list of chunks, each a name, a size and content padded to an even size."""
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > size:
            return
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], order)
        if header[:4] == wanted:
            _check_announced(position + 8, length, size)
            return
        position += 8 + length + length % 2


def _check_caf(file: IO[bytes], size: int) -> None:
    """CAF: chunks with sizes of 64 bits, without padding; -1 is a placeholder, and lies beyond STREAMED_64 when read unsigned."""
    position = 8
    for _ in range(MAX_CHUNKS):
        if position + 12 > size:
            return
        file.seek(position)
        header = file.read(12)
        length = int.from_bytes(header[4:], "big")
        _check_announced(position + 12, length, size, STREAMED_64)
        position += 12 + length


def _check_sphere(head: bytes, size: int) -> None:
    """NIST SPHERE: text lines `name -i value` after the size of the header."""
    fields = dict(line.split(b" -i ", 1) for line in head.splitlines() if b" -i " in line)
    try:
        start = int(head.splitlines()[1])
        length = int(fields[b"sample_count"]) * int(fields[b"sample_n_bytes"]) * int(fields[b"channel_count"])
    except (KeyError, ValueError, IndexError):
        return  # the decoder judges headers that lack these
    if b"shorten" not in head:
        _check_announced(start, length, size)


def _check_ogg(file: IO[bytes], size: int) -> None:
    """Every page follows the last, the last is whole, and no second stream is chained behind the first."""
    position, content = 0, False
    while position < size:
        file.seek(position)
        header = file.read(27 + 255)
        if header[:4] != b"OggS":
            if content and header[:3] in (b"TAG", b"ID3"):
                return  # tags appended by other programs
            raise DamageError(f"damaged: no Ogg page at byte {position}")
        segments = header[26] if len(header) > 26 else 255
        length = 27 + segments + sum(header[27 : 27 + segments])
        if position + length > size or len(header) < 27 + segments:
            raise DamageError(f"truncated: the last Ogg page has {size - position} of {length} bytes")
        first = bool(header[5] & _OGG_FIRST)
        if first and content:
            raise DamageError(f"a second Ogg stream is chained at byte {position}; only one can be read")
        content = content or not first
        position += length


def _check_mp3(file: IO[bytes], head: bytes, size: int) -> Length:
    """The first MPEG frame may hold a Xing (or Info) header: flags, then the number of frames and of bytes where these are flagged."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    found = re.search(rb"(?:Xing|Info)\0\0\0(.)(.{8})", file.read(256), re.DOTALL)
    if found is None:
        return Length(None, mpeg.count_samples(file, start))
    flags = found[1][0]
    if flags & 2:
        length = int.from_bytes(found[2][4:] if flags & 1 else found[2][:4], "big")
        _check_announced(start, length, size)
        file.seek(start + length)
        if size - start - length > MP3_JOINED and re.match(rb"ID3|\xff[\xe0-\xff]", file.read(3)):
            raise DamageError(f"a second MP3 stream is chained at byte {start + length}; only one can be read")
    return Length(MP3_SLACK) if flags & 1 else Length(None, mpeg.count_samples(file, start))
