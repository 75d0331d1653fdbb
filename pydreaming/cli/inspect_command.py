"""`pydreaming inspect`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydreaming.analysis.names import MEASURED, MEASURED_S
from pydreaming.cli import command
from pydreaming.cli.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", help="folder of audio, data set, manifest, audio file, replay store (folder or s3://), checkpoint or run"
    )
    parser.add_argument("--picture", metavar="FILE", help="draw the log-mels of ten random recordings, at most 5 s of each (.png)")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument(
        "--measure", type=command.natural, default=MEASURED, metavar="N", help=f"recordings whose level is measured (default: {MEASURED})"
    )
    measured.add_argument("--all", action="store_true", help="measure every recording: this decodes them all, and so finds all damage")
    command.add_seed(parser, "seed of what is measured and drawn (default: 0)", 0)


def _run(options: argparse.Namespace) -> int:
    picture = None if options.picture is None else command.check_output(options.picture, (".png",))
    import torch

    from pydreaming.analysis.inspect.path import inspect_path
    from pydreaming.analysis.inspect.pictures import draw_inspection
    from pydreaming.analysis.inspect.text import inspection_lines

    torch.set_num_threads(1)
    found = inspect_path(options.path, None if options.all else options.measure, options.seed, _progress)
    command.show(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if options.json else "\n".join(inspection_lines(found)))
    if picture is not None:
        draw_inspection(picture, found, options.seed)
        command.say(f"wrote {picture}")
    if found.broken:
        command.complain(f"{found.broken} broken in {options.path}")
    return 1 if found.broken else 0


def _progress(items: Iterable[Any], what: str) -> Iterator[Any]:
    """The items, with a bar where standard error is a terminal."""
    from tqdm import tqdm

    with tqdm(items, desc=what, unit="file", disable=None, leave=False, dynamic_ncols=True) as bar:
        yield from bar


COMMAND = Command(
    "inspect",
    "what is in a folder of audio, a replay store, a checkpoint or a run",
    "Look at data before training on it, or at what training left. No model is needed.\n\n"
    "of audio:         the layout it is read as, hours, sample rates, channels, formats, labels; levels in dBFS (0: full scale); silent\n"
    "                  recordings (peak below -60 dBFS) and clipped ones (3 successive samples at full scale); files that cannot be read;\n"
    "                  files of the same content; what to know before training, and the command to train with. Headers of all files are\n"
    f"                  read; levels are measured on a random sample ({MEASURED_S:.0f} s of each), so only --all finds all damage\n"
    "of a store:       files, episodes, tokens, hours, labels (counted in tokens), settings, damaged files\n"
    "of a checkpoint:  whether it is intact, how long it was trained, objective, sizes, settings, source\n"
    "of a run:         all its checkpoints, its store, its recordings, and the figures of its newest evaluation\n\n"
    "Where a folder holds several of these, it is taken for a checkpoint, then a run, then a store, then audio. A run's folder and its\n"
    "newest checkpoint are also what other commands take as MODEL. Exit code 1 when something is broken.\n\n"
    "example:\n  pydreaming inspect ~/recordings --picture look.png\n  pydreaming inspect runs/my-run --json",
    _arguments,
    _run,
)
