"""`pydreaming record`."""

from __future__ import annotations

import argparse
import signal
import sys
from io import BufferedReader
from typing import cast

from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import DecodeError


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where the recordings go; made when missing")
    command.add_raw(parser, "raw PCM (without --rate, a WAV is expected)")
    parser.add_argument("--segment", type=command.positive, default=10.0, metavar="S", help="s of one recording (default: 10)")
    parser.add_argument("--keep", type=command.positive, metavar="S", help="s of sound to keep; the oldest recordings go (default: all)")


def _run(options: argparse.Namespace) -> int:
    from pydreaming.audio.raw import PIECE, read_format
    from pydreaming.audio.recorder import Recorder

    folder = command.check_folder(options.folder)
    read = cast(BufferedReader, sys.stdin.buffer).read1  # what has come, without waiting for more
    layout, head = command.raw_format(options), b""
    if layout is None:
        layout, head = read_format(read, "standard input")  # until it has come, there is nothing to save from a signal
    with command.Interrupt(signal.SIGINT, signal.SIGTERM) as interrupt:
        recorder, count = Recorder(folder, layout, options.segment, options.keep or 0.0), 0
        for piece in interrupt.until(command.pieces(head, lambda: read(PIECE))):
            count += len(recorder.push(piece))
        last, left = recorder.finish()
    count += len(last)
    if not count:
        raise DecodeError("standard input", "holds no samples")
    command.say(f"{count} recordings in {options.folder}")
    if left:
        command.complain(f"standard input ends within a sample: its last {left} bytes were left out")
    return 1 if left and not interrupt.asked else 0


COMMAND = Command(
    "record",
    "cut a sound that does not end into recordings, to train on while it goes on",
    "Read raw PCM (or a WAV) from standard input, and write recordings of equal length to a folder: NUMBER-TIME.flac (.wav for 32\n"
    "bits), in UTC, without a loss of any bit or of a sample between two of them. A recording appears under its name when it is\n"
    "complete. Ctrl-C or SIGTERM end it; what has come is still written. With --keep the folder stays bounded. launch.py trains on\n"
    "the folder while it grows (source.watch_s).\n\n"
    "example:\n  arecord -q -t raw -f S16_LE -r 16000 -c 1 | pydreaming record live --rate 16000 --keep 86400\n"
    "  python launch.py --configs defaults folder --source.path live --source.watch_s 5 --training.seconds 604800",
    _arguments,
    _run,
)
