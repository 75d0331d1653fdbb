"""`pydreaming segment`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pydreaming.cli import command, thresholds
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.inputs import Recording


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", default=command.STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    parser.add_argument(
        "--labels", metavar="PATH", help="also write the segments as Audacity labels: a .txt for one recording, a folder for several"
    )
    strength = parser.add_mutually_exclusive_group()
    strength.add_argument(
        "--sensitivity", type=float, default=0.5, metavar="X", help="0: only strong boundaries, 1: nearly every peak (default: .5)"
    )
    thresholds.add_calibration(strength, "boundaries then are peaks with p at most --p")
    parser.add_argument("--p", type=float, help="with --calibration: share of normal windows that may score as high (default: .01)")
    parser.add_argument("--minimum", type=float, default=0.1, metavar="S", help="least s between two boundaries (default: .1)")
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    if options.p is not None and options.calibration is None:
        raise UsageError("--p needs a --calibration: without one it is not known what is normal; --sensitivity is for that")
    model = command.load(options)
    recordings = command.recordings(options.inputs, command.control_columns(model))
    labels = command.result_paths("--labels", options.labels, recordings, ".txt")
    from pydreaming.analysis.surprise.events import write_labels
    from pydreaming.analysis.surprise.segment import Segments, segment, write_segments

    calibration = thresholds.read_calibration(options, model, None)
    most_p = command.given(options.p, 0.01)
    results: list[tuple[str, Segments]] = []

    def one(recording: Recording) -> None:
        found = segment(model, recording, options.sensitivity, options.minimum, calibration, most_p)
        if labels:
            write_labels(labels[recording.name], found.labels)
        results.append((recording.name, found))

    failures = command.each(recordings, one)
    if results:
        about = {"model_step": int(model.state.counters["step"])}
        command.deliver(out, lambda path: write_segments(path, results, about))
    return command.finish(failures, len(recordings), f"{sum(len(found) for _, found in results)} segments", out)


COMMAND = Command(
    "segment",
    "where one sound ends and the next begins",
    "Write one row per segment of each recording; segments follow each other without gaps.\n\n"
    "columns:\n"
    "  source, segment       path of the recording, and number of the segment in it, from 1\n"
    "  start_s, end_s        s from the start of the recording; a boundary is at the start of a window, so it is exact to a window\n"
    "  strength_bits         of the boundary at the segment's start: by how many bits one who begins afresh there foresees the\n"
    "                        next 6 windows better than one who goes on (nan for the first)\n"
    "  p                     with --calibration: share of the normal windows that score as high\n"
    "The last segment ends with the recording's last window. A recording shorter than a window is heard as one, followed by silence, and\n"
    "its segment then ends after it.\n\n"
    "Boundaries are peaks above 0 bits, where beginning afresh is the better account; nothing has to be fitted. --sensitivity moves\n"
    "that threshold, from 30 bits at 0 to -30 bits at 1. The model hears what begins: utterances, strokes, calls. It is no diarisation:\n"
    "a change of speaker in the middle of running speech it does not find.\n\n"
    "example:\n  pydreaming segment runs/my-run birds.wav --out segments.csv --labels birds.txt",
    _arguments,
    _run,
)
