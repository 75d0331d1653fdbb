"""How much sound an MPEG audio stream holds, by its frame headers.

Without a Xing header libsndfile estimates the length of an MP3 from its first frames, and stops reading there: of a file whose bit rate
varies it may read a fifth without an error.

Source: ISO/IEC 11172-3, section 2.4.2.3 (header), and 13818-3 for the lower rates.
"""

from __future__ import annotations

from typing import IO

PIECE = 1 << 20  # bytes read at a time
_KBITS = {  # by MPEG-1 or not, layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz by version bits: MPEG-1, 2, 2.5


def count_samples(file: IO[bytes], start: int) -> int:
    """Samples (per channel) of the frames that follow each other from byte `start` on; what lies behind a gap is not counted."""
    total, at, data, base = 0, start, b"", start
    while True:
        if at + 4 > base + len(data):
            file.seek(at)
            data, base = file.read(PIECE), at
        frame = _frame(data[at - base : at - base + 4])
        if frame is None:
            return total
        length, samples = frame
        total, at = total + samples, at + length


def _frame(header: bytes) -> tuple[int, int] | None:
    """Bytes and samples of a frame; None where there is none, or its bit rate is free."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version not in _RATES or layer == 4 or rate == 3 or not 1 <= bits <= 14:
        return None
    first = version == 3
    samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    slot = 4 if layer == 1 else 1  # bytes
    return (samples // 8 * 1000 * _KBITS[first, layer][bits - 1] // _RATES[version][rate] // slot + padding) * slot, samples
