"""`pydreaming surprise`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pydreaming.analysis.names import CURVES
from pydreaming.cli import command, thresholds
from pydreaming.cli.command import Command

if TYPE_CHECKING:
    from pydreaming.analysis.inputs import Recording
    from pydreaming.analysis.surprise.events import Event

PICTURE_S = 120.0  # seconds of a recording shown in its picture
EVENTS_NEED = "--events, --labels or --picture"


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", default=command.STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    parser.add_argument("--events", metavar="TABLE", help="also find events and write one row each: .parquet, .npz or .csv")
    parser.add_argument(
        "--labels", metavar="PATH", help="also write the events as Audacity labels: a .txt for one recording, a folder for several"
    )
    parser.add_argument(
        "--picture",
        metavar="PATH",
        help=f"also draw log-mel, curves and events: a .png for one recording, a folder for several; at most the first {PICTURE_S:.0f} s",
    )
    thresholds.add_calibration(parser, "adds p-values")
    thresholds.add_thresholds(parser, EVENTS_NEED, relative=True)
    command.add_seed(parser)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    events_out = None if options.events is None else command.check_output(options.events, command.TABLES)
    wanted = command.first_given(options, "events", "labels", "picture") != ""
    if not wanted:
        thresholds.check_thresholds(options, EVENTS_NEED)
    model = command.load(options)
    recordings = command.recordings(options.inputs, command.control_columns(model))
    pictures = command.picture_paths(options.picture, recordings)
    labels = command.result_paths("--labels", options.labels, recordings, ".txt")
    from pydreaming.analysis.surprise.curves import Surprise, draw_surprise, events_of, surprise, write_surprise
    from pydreaming.analysis.surprise.events import event_label, write_events, write_labels

    calibration = thresholds.read_calibration(options, model, options.seed)
    calibrated, curve = calibration is not None, thresholds.curve_of(options)
    rule = thresholds.rule_of(options, calibration if wanted else None)
    results: list[tuple[str, Surprise]] = []
    events: list[tuple[str, list[Event]]] = []

    def one(recording: Recording) -> None:
        name = recording.name
        result = surprise(model, recording, options.seed, PICTURE_S if pictures else 0.0, calibration)
        found = events_of(result, model.features, rule, curve) if wanted else []
        if pictures:
            draw_surprise(pictures[name], result, model.features, name, found)
        if labels:
            write_labels(labels[name], ((event.start_s, event.end_s, event_label(event, calibrated)) for event in found))
        results.append((name, result.without_picture()))
        events.append((name, found))

    failures = command.each(recordings, one)
    if results:
        about = {"model_step": int(model.state.counters["step"])}
        command.deliver(out, lambda path: write_surprise(path, results, about))
        if wanted:
            measure = "by p-values" if calibrated else "by each recording's own quantiles, as there is no --calibration"
            command.say(f"{sum(len(found) for _, found in events)} events {measure}")
        if events_out:
            write_events(events_out, events, calibrated, about | {"by": curve, "onset": rule.onset, "offset": rule.offset})
    return command.finish(failures, len(recordings), f"{sum(len(result) for _, result in results)} rows", out)


COMMAND = Command(
    "surprise",
    "how unexpected each moment of a recording is, in bits",
    "Write one row per window with its surprise.\n\n"
    "columns:\n"
    "  source, window        path of the recording, and index of the window in it\n"
    "  start_s, centre_s     s from the start of the recording\n"
    f"  kl_bits               {CURVES['kl']}\n"
    f"  prior_entropy_bits    {CURVES['prior_entropy']}\n"
    f"  nll_bits              {CURVES['nll']}\n"
    "  kl_p, prior_entropy_p, nll_p   with --calibration: share of the normal windows that have as many bits or more\n\n"
    "The first window of a recording has no past, so its values are high; a calibration knows that. Without one, compare\n"
    "recordings of one kind. A model says nothing certain about sounds unlike those it was trained on.\n\n"
    "An event has a window with p below --onset and takes in the windows around it below --offset. Without --calibration p is\n"
    "the share of the recording's own windows that lie higher (its first 8 left out), so the highest window of any recording\n"
    "lies in an event. columns of --events:\n"
    "  source, start_s, end_s, peak_s    path, and s from the start; the peak is the centre of the highest window\n"
    "  peak_bits, min_p                  highest value of the curve, lowest p (with --calibration)\n"
    "  area_bit_s                        the curve integrated over the event, in bit seconds\n"
    "An event ends with its last window. A recording shorter than a window is heard as one, followed by silence, and its event then\n"
    "ends after it.\n"
    "Audacity reads --labels with File > Import > Labels.\n\n"
    "example:\n  pydreaming surprise runs/my-run engine.wav --out engine.csv --picture engine.png\n"
    "  pydreaming surprise runs/my-run engine.wav --calibration normal.json --out engine.csv --labels engine.txt",
    _arguments,
    _run,
)
