"""`pydreaming horizon`."""

from __future__ import annotations

import argparse

from pydreaming.analysis.names import STEPS_AHEAD
from pydreaming.cli import command
from pydreaming.cli.command import Command

SAID = 12  # groups with a sentence of their own on the terminal; the table's metadata hold all


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", default=command.STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    parser.add_argument("--picture", metavar="FILE", help="also draw the curves (.png); of many groups those with most predictions")
    parser.add_argument(
        "--by", default="", metavar="COLUMN", help="column of the metadata (label, speaker, ...), source (each file) or corpus (folder)"
    )
    steps = " ".join(map(str, STEPS_AHEAD))
    parser.add_argument(
        "--steps", type=command.natural, nargs="+", default=list(STEPS_AHEAD), metavar="K", help=f"windows ahead (default: {steps})"
    )
    parser.add_argument(
        "--context",
        type=command.natural,
        default=0,
        metavar="N",
        help="windows heard before the first prediction (default: as in training)",
    )
    parser.add_argument("--samples", type=command.natural, default=8, help="imagined futures for each prediction (default: 8)")
    command.add_seed(parser, "seed of imagining, and of the order of recordings (default: 0)", 0)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    picture = None if options.picture is None else command.check_output(options.picture, (".png",))
    model = command.load(options)
    from pydreaming.analysis.surprise.horizon import Measuring, mixed, write_horizon

    measuring = Measuring(model, options.by, options.context, options.steps, options.samples, options.seed)
    listed = command.recordings(options.inputs, command.control_columns(model))
    command.check_column(options.by, listed, ("source", "corpus"))
    found = mixed(listed, options.seed)
    failures = command.each(found, measuring.add)
    if not measuring.recordings:
        return command.finish(failures, len(found), "", out)
    result = measuring.finish()
    about = {
        "context_windows": measuring.context,
        "samples": options.samples,
        "window_s": result.token_s,
        "by": options.by,
        "model_step": int(model.state.counters["step"]),
    }
    command.deliver(out, lambda path: write_horizon(path, result, about))
    if picture is not None:
        from pydreaming.analysis.surprise.horizon_pictures import draw_horizon

        draw_horizon(picture, result)
        command.say(f"wrote {picture}")
    for name in list(result.groups)[: SAID + 1]:
        command.say(result.sentence(name))
    if any(result.too_short.values()):
        counts = ", ".join(f"k = {k}: {count}" for k, count in result.too_short.items() if count)
        heard = f"{measuring.context} windows heard first (--context)"
        command.say(f"too short, with {heard}, and left out there, of {result.recordings} recordings: {counts}")
    return command.finish(failures, len(found), f"{sum(map(len, result.groups.values()))} rows", out)


COMMAND = Command(
    "horizon",
    "how far ahead the model foresees recordings, beside copying and the average",
    "Write one row per group and number of windows ahead; the group 'all' comes first.\n\n"
    "columns:\n"
    "  group                 value of --by, or all\n"
    "  k, ahead_s            windows ahead, and the same in seconds\n"
    "  retrieval             share of windows that the imagined state finds among up to 256 (of the same recording first, then of others)\n"
    "  retrieval_low, _high  95 % interval (bootstrap over the group's recordings; of a single one, over its stretches of 2 s)\n"
    "  retrieval_copy        the same share for who takes the last window heard for the one to come\n"
    "  chance                the same share for who guesses; the average of all codes (unigram) does no better\n"
    "  gain_bits             bits by which the imagined distribution fits the code that came better than the average of all codes\n"
    "  gain_low_bits, gain_high_bits    95 % interval\n"
    "  gain_copy_bits        the same for the last window's code; below 0 where copying is worse than the average\n"
    "  better                True where the model is better than all of these, in both figures, by the intervals of the differences\n"
    "  predictions, recordings    how many stand behind the row\n\n"
    "At most 8 stretches of each recording are heard, evenly spaced. Recordings too short for k are left out of its rows and counted.\n"
    "Up to where the model is better than copying and the average is said in a sentence for each group.\n\n"
    "example:\n  pydreaming horizon runs/my-run birds/ --by label --out horizon.csv --picture horizon.png",
    _arguments,
    _run,
)
