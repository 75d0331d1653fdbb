"""`pydreaming surprise`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pydreaming.cli import command
from pydreaming.cli.command import Command

if TYPE_CHECKING:
    from pydreaming.analysis.inputs import Recording

PICTURE_S = 120.0  # seconds of a recording shown in its picture


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", default=command.STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    parser.add_argument(
        "--picture",
        metavar="PATH",
        help=f"also draw log-mel and curves: a .png for one recording, a folder for several; at most the first {PICTURE_S:.0f} s",
    )
    command.add_seed(parser)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    recordings = command.recordings(options.inputs)
    pictures = command.picture_paths(options.picture, recordings)
    model = command.load(options)
    from pydreaming.analysis.surprise import Surprise, draw_surprise, surprise, write_surprise

    results: list[tuple[str, Surprise]] = []

    def one(recording: Recording) -> None:
        result = surprise(model, recording, options.seed, PICTURE_S if pictures else 0.0)
        if pictures:
            draw_surprise(pictures[recording.name], result, model.features, recording.name)
        results.append((recording.name, result.without_picture()))

    failures = command.each(recordings, one)
    if results:
        about = {"model_step": int(model.state.counters["step"])}
        command.deliver(out, lambda path: write_surprise(path, results, about))
    return command.finish(failures, len(recordings), f"{sum(len(result) for _, result in results)} rows", out)


COMMAND = Command(
    "surprise",
    "how unexpected each moment of a recording is, in bits",
    "Write one row per window with its surprise.\n\n"
    "columns:\n"
    "  source, window        path of the recording, and index of the window in it\n"
    "  start_s, centre_s     s from the start of the recording\n"
    "  kl_bits               what hearing the window changed about what was expected of it: surprise proper\n"
    "  prior_entropy_bits    how uncertain the model was before it heard the window\n"
    "  nll_bits              how improbable the window's code was: -log2 of the probability expected for it\n\n"
    "The first window of a recording has no past, so its values are high. Compare recordings of one kind; a model says nothing\n"
    "certain about sounds unlike those it was trained on.\n\n"
    "example:\n  pydreaming surprise runs/my-run engine.wav --out engine.csv --picture engine.png",
    _arguments,
    _run,
)
