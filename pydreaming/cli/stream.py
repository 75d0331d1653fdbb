"""`pydreaming stream`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from pydreaming.cli import command, thresholds
from pydreaming.cli.command import STDOUT, Command
from pydreaming.errors import DecodeError, PydreamingError, UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.surprise.stream import StreamRows, SurpriseStream
    from pydreaming.analysis.world_model import WorldModel
    from pydreaming.audio.decode import Samples
    from pydreaming.audio.raw import RawDecoder, RawFormat

STDIN = "standard input"
EVENTS_NEED = "--calibration"


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_model(parser)
    parser.add_argument("input", metavar="INPUT", help="- for raw PCM or a WAV on standard input, or an audio file")
    command.add_raw(parser, "raw PCM (without --rate, standard input and --follow expect a WAV)")
    parser.add_argument("--follow", action="store_true", help="the file is still growing: go on with what is written to it")
    parser.add_argument("--idle", type=float, metavar="S", help="with --follow: stop after s without growth (default: wait for Ctrl-C)")
    parser.add_argument("--chunk", type=command.natural, default=1, help="windows computed together, 1 to 512 (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of CSV")
    parser.add_argument("--labels", metavar="FILE", help="with --calibration: also write events as Audacity labels (.txt), as they end")
    thresholds.add_calibration(parser, "adds p-values and events")
    thresholds.add_thresholds(parser, EVENTS_NEED, relative=False)
    command.add_seed(parser)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    labels = None if options.labels is None else command.check_output(options.labels, (".txt",))
    _check(options)
    layout = command.raw_format(options)
    name = STDIN if options.input == STDOUT else options.input
    model = command.load(options)
    from pydreaming.analysis.surprise.stream import SurpriseStream

    calibration = thresholds.read_calibration(options, model, options.seed)
    with ExitStack() as stack:
        rule = thresholds.rule_of(options, calibration)
        rate, chunks, left = _open(options, layout, model, stack)
        stream = SurpriseStream(model, rate, calibration, rule, thresholds.curve_of(options), options.chunk, options.seed)
        command.say(f"a row comes at most {1000 * stream.latency_s:.0f} ms after the last sample of its window, and computing")
        printer = _Printer(options.json, None if labels is None else stack.enter_context(_open_labels(labels)))
        interrupt = stack.enter_context(command.Interrupt())
        _listen(stream, interrupt.until(chunks), printer, rate, name)
    if left():
        command.complain(f"{name} ends within a sample: its last {left()} bytes were left out")
    return 130 if interrupt.asked else 1 if left() else 0


def _listen(stream: SurpriseStream, chunks: Iterator[Samples], printer: _Printer, rate: int, name: str) -> None:
    """Print the rows of all chunks, of what came before damage too, and say how fast it was. Raises DecodeError."""
    busy, samples, damage = 0.0, 0, None
    try:
        for chunk in chunks:
            begun = time.monotonic()
            printer(stream.push(chunk))
            busy, samples = busy + time.monotonic() - begun, samples + len(chunk)
    except DecodeError as e:
        damage = e
    begun = time.monotonic()
    printer(stream.finish())
    busy += time.monotonic() - begun
    seconds = samples / rate
    command.say(f"{stream.windows} windows of {seconds:.2f} s of sound; {busy:.2f} s of computing: {seconds / busy:.1f} x real time")
    if damage is not None:
        raise damage
    if not samples:
        raise DecodeError(name, "holds no samples")


class _Printer:
    """Rows as lines on standard output, events as lines for the user and in a label track; all at once, nothing is held back."""

    def __init__(self, as_json: bool, labels: IO[str] | None) -> None:
        self._json, self._labels = as_json, labels
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        self._begun = False

    def __call__(self, rows: StreamRows) -> None:
        from pydreaming.analysis.surprise.events import event_label, label_line

        columns = rows.columns()
        if not self._begun and not self._json:
            sys.stdout.write("# what: pydreaming stream, one row per window, in bits\n")
            self._csv.writerow(columns)
        self._begun = True
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            if self._json:
                sys.stdout.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")
            else:
                self._csv.writerow(values)
        sys.stdout.flush()
        for event in rows.events:
            command.say(f"event {event.start_s:.2f} to {event.end_s:.2f} s: {event_label(event, calibrated=True)}")
            if self._labels is not None:
                self._labels.write(label_line(event.start_s, event.end_s, event_label(event, calibrated=True)))
                self._labels.flush()


def _check(options: argparse.Namespace) -> None:
    """Refuse what contradicts itself before a model is loaded. Raises UsageError."""
    if options.follow and options.input == STDOUT:
        raise UsageError("standard input is followed anyway; --follow is for files")
    if options.idle is not None and not (options.follow and options.idle > 0):
        raise UsageError("--idle goes with --follow and is above 0 s")
    if options.labels is not None and options.calibration is None:
        raise UsageError("--labels needs a --calibration: without one it is not known what an event is")
    if options.calibration is None:
        thresholds.check_thresholds(options, EVENTS_NEED)
    if options.rate is not None and not options.follow and options.input != STDOUT:
        raise UsageError("--rate is for raw PCM on standard input or with --follow; an audio file says its own")


def _open(
    options: argparse.Namespace, layout: RawFormat | None, model: WorldModel, stack: ExitStack
) -> tuple[int, Iterator[Samples], Callable[[], int]]:
    """Sample rate, mono chunks as they come, and a function that counts the bytes left over."""
    from pydreaming.analysis.inputs import open_source
    from pydreaming.audio.raw import PIECE, GrowingFile, RawDecoder, read_format

    if options.input == STDOUT:
        read = cast(BufferedReader, sys.stdin.buffer).read1  # what has come, without waiting for more
        head = b""
        if layout is None:
            layout, head = read_format(read, STDIN)
        decoder = RawDecoder(layout, model.channels, STDIN)
        return layout.sample_rate, _decoded(decoder, command.pieces(head, lambda: read(PIECE))), lambda: decoder.left
    if options.follow:
        file = GrowingFile(Path(options.input), layout, options.idle)
        decoder = RawDecoder(file.layout, model.channels, options.input)
        return file.layout.sample_rate, _decoded(decoder, file.pieces()), lambda: decoder.left
    chunks, rate = stack.enter_context(open_source(options.input, model.channels))
    return rate, iter(chunks), lambda: 0


def _decoded(decoder: RawDecoder, pieces: Iterator[bytes]) -> Iterator[Samples]:
    from pydreaming.audio.stages import run

    return run(decoder, pieces)


@contextmanager
def _open_labels(path: Path) -> Iterator[IO[str]]:
    """A label track that grows. Raises PydreamingError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            yield file
    except OSError as e:
        raise PydreamingError(f"cannot write {path}: {e.strerror or e}") from e


COMMAND = Command(
    "stream",
    "the surprise of a sound that is still being made, row by row",
    "Print one row per window to standard output as soon as it is complete, in constant memory, for hours: the rows of\n"
    "pydreaming surprise, at most one chunk late. Input is raw PCM (or a WAV) on standard input, a file that another program is\n"
    "still writing (--follow: WAV or raw), or any audio file. Ctrl-C ends the input; what has come is still finished.\n\n"
    "columns (CSV, or one JSON object a line with --json):\n"
    "  window, start_s, centre_s                 index of the window, and s from the first sample\n"
    "  kl_bits, prior_entropy_bits, nll_bits     as in pydreaming surprise --help\n"
    "  kl_p, prior_entropy_p, nll_p              with --calibration: share of the normal windows that have as many bits or more\n"
    "  event                                     with --calibration: 1 in an event, from the window on that passed its onset\n"
    "An event that has ended is also told on standard error, with its beginning, and written to --labels.\n\n"
    "A row waits for the other windows of its --chunk and, where the rate is another than the model's, for the conversion: the\n"
    "command says how long at most. One window at a time costs the most computing; a chunk of 32 costs about a tenth of it.\n\n"
    "example:\n  arecord -q -t raw -f S16_LE -r 16000 -c 1 | pydreaming stream runs/my-run - --rate 16000 --calibration normal.json\n"
    "  pydreaming stream runs/my-run recording.wav --follow --idle 60 --json",
    _arguments,
    _run,
)
