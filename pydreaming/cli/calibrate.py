"""`pydreaming calibrate`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import PydreamingError

if TYPE_CHECKING:
    from pydreaming.analysis.inputs import Recording


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_model(parser)
    parser.add_argument("inputs", metavar="NORMAL", nargs="+", help=f"normal recordings: {command.INPUT_HELP}")
    parser.add_argument("--out", required=True, metavar="FILE", help="calibration to write (.json)")
    command.add_seed(parser, "draw codes at random with this seed, to calibrate a surprise with the same (default: the likeliest codes)")
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_output(options.out, (".json",))
    model = command.load(options)
    recordings = command.recordings(options.inputs, command.control_columns(model))
    from pydreaming.analysis.surprise.normal import calibrate

    failed = command.Failures()

    def sources() -> Iterator[Recording]:
        yield from command.progress(recordings)
        if failed.count == len(recordings):
            raise PydreamingError("no file could be read; nothing was written")

    calibration = calibrate(model, sources(), options.seed, failed)
    calibration.write(out)
    return command.finish(failed.count, len(recordings), f"{calibration.windows} windows", out)


COMMAND = Command(
    "calibrate",
    "learn from normal recordings how much surprise is normal",
    "Write a small JSON file that turns the bits of this model into p-values: the share of windows of normal recordings that\n"
    "surprise at least as much. surprise, segment and stream take it as --calibration.\n\n"
    "Take recordings of the place and kind that will be judged, an hour of them if you can, and none that the model was trained\n"
    "on: what it has heard surprises it less. Windows near the beginning of a recording are calibrated apart. From 2500 windows\n"
    "on (100 s at 40 ms) the tail is extrapolated by a generalised Pareto distribution; with fewer, p ends at 1 / (windows + 1).\n"
    "The file is bound to the model's weights: another model refuses it.\n\n"
    "example:\n  pydreaming calibrate runs/my-run normal/ --out normal.json\n"
    "  pydreaming surprise runs/my-run engine.wav --calibration normal.json --out engine.csv --events events.csv",
    _arguments,
    _run,
)
