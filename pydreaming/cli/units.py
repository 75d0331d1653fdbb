"""`pydreaming units`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.analysis.names import UNIT_PARTS
from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.inputs import Recording
    from pydreaming.analysis.units.inventory import Inventory
    from pydreaming.analysis.world_model import WorldModel


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", metavar="TABLE", help="runs of units: .parquet, .npz or .csv; - prints CSV")
    parser.add_argument("--text", metavar="FILE", help="one line a recording, path|u12 u7 u31 (.txt)")
    parser.add_argument("--book", metavar="FILE", help="page to hear and see the most used units (.html)")
    parser.add_argument("--codes", metavar="TABLE", help="the model's own code of each window: .parquet, .npz or .csv")
    parser.add_argument("--figures", metavar="TABLE", help="the printed figures as a table: .parquet, .npz or .csv")
    parser.add_argument("--units", type=command.natural, metavar="N", help="size of the inventory that is fitted (default: 100)")
    parser.add_argument("--part", choices=tuple(UNIT_PARTS), help="part of the model's state that is clustered (default: deter); see below")
    parser.add_argument("--save", metavar="FILE", help="keep the fitted inventory (.safetensors)")
    parser.add_argument("--inventory", metavar="FILE", help="use a kept inventory instead of fitting one on the recordings")
    command.add_seed(parser, "seed of the inventory and of the figures (default: 0)", 0)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    tables = [options.out, options.codes, options.figures]
    if tables.count(command.STDOUT) > 1:
        raise UsageError("one table only can go to standard output")
    if options.inventory is not None and (options.units, options.part, options.save) != (None, None, None):
        raise UsageError("--inventory takes the units as they are; leave out --units, --part and --save")
    out, codes, figures = (None if path is None else command.check_table(path) for path in tables)
    text, book, save = (
        None if path is None else command.check_output(path, (ending,))
        for path, ending in ((options.text, ".txt"), (options.book, ".html"), (options.save, ".safetensors"))
    )
    model = command.load(options)
    found = command.recordings(options.inputs, command.control_columns(model))
    from pydreaming.analysis.units.book import write_book
    from pydreaming.analysis.units.figures import figure_lines, unit_figures, write_figures
    from pydreaming.analysis.units.inventory import Transcriber, require_codes, write_codes, write_text, write_units

    if codes is not None:
        require_codes(model)
    inventory, heard = _inventory(options, model, found)
    if inventory is None:
        return command.finish(len(found), len(found), "", Path(command.STDOUT))
    if save is not None:
        inventory.save(save)
        command.say(f"wrote {save}: {len(inventory)} units, fitted on {inventory.windows} windows")
    transcriber = Transcriber(model, inventory, codes is not None)
    failures = len(found) - len(heard) + command.each(heard, transcriber.add)
    if failures == len(found):
        return command.finish(failures, len(found), "", Path(command.STDOUT))
    result = unit_figures(transcriber, options.seed)
    tell = command.say if command.STDOUT in tables else command.show
    tell("\n".join(figure_lines(result)))
    wishes: list[tuple[Path | None, Callable[[Path], None]]] = [
        (out, lambda path: write_units(path, transcriber)),
        (codes, lambda path: write_codes(path, transcriber)),
        (figures, lambda path: write_figures(path, result, transcriber)),
        (text, lambda path: write_text(path, transcriber.transcripts)),
        (book, lambda path: write_book(path, transcriber, result)),
    ]
    for path, write in wishes:
        if path is not None:
            command.deliver(path, write)
            if str(path) != command.STDOUT:
                command.say(f"wrote {path}")
    return command.finish(failures, len(found), "", Path(command.STDOUT))


def _inventory(options: argparse.Namespace, model: WorldModel, found: list[Recording]) -> tuple[Inventory | None, list[Recording]]:
    """The inventory asked for, and the recordings that can be written down in it; None when nothing could be heard to fit one."""
    from pydreaming.analysis.units.inventory import Fitter, Inventory

    if options.inventory is not None:
        return Inventory.load(Path(options.inventory), model), found
    fitter = Fitter(model, 100 if options.units is None else options.units, options.part or "deter", options.seed)
    heard: list[Recording] = []

    def one(recording: Recording) -> None:
        fitter.add(recording)
        heard.append(recording)

    command.each(found, one)
    return (fitter.fit() if heard else None), heard


COMMAND = Command(
    "units",
    "write recordings down in a small inventory of sounds, found without labels",
    "Cluster the windows of recordings into N units by the model's state (k-means), write each recording as a sequence of them, and print\n"
    "what the sequences are worth: bits per second, what repeats, and how units agree with labels where the recordings have any, each\n"
    "beside N clusters of the window's log-mel. Units are numbered by frequency: u0 is the most used. Labels are never used to fit.\n"
    "Recordings are heard twice, first to fit the units; with --inventory once. Units fit the voices and places they were fitted on:\n"
    "expect less of them on others, and read the figures that are printed for those.\n\n"
    "columns of --out, one row a run (the same unit in successive windows):\n"
    "  source, index         path of the recording, and number of the run in it\n"
    "  unit, windows         number of the unit, and how many windows it lasts\n"
    "  start_s, end_s        s from the start of the recording; runs follow each other without a gap\n"
    "  label, speaker        of the recording; empty where not known\n"
    "columns of --codes, one row a window:\n"
    "  source, window        path of the recording, and index of the window in it\n"
    "  start_s, centre_s     s from the start of the recording\n"
    "  codes                 class of each of the latents' groups; in CSV codes_0, codes_1, ...\n"
    "columns of --figures:   figure, units, log_mel (clusters of the log-mel), reference (chance, or a bound), meaning\n\n"
    "A line of --text is the path, |, and the runs' units in order; the path ends at the last |. An inventory belongs to the checkpoint\n"
    "that it was fitted with, and is refused with another.\n\n"
    f"--part:\n{command.choices(UNIT_PARTS)}\n\n"
    "example:\n"
    "  pydreaming units runs/my-run birds/ --out units.parquet --text units.txt --book units.html --save birds.safetensors\n"
    "  pydreaming units runs/my-run new.wav --inventory birds.safetensors --out -",
    _arguments,
    _run,
)
