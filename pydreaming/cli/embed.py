"""`pydreaming embed`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydreaming.analysis.names import PARTS, PER, POOLINGS, SCENE
from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", required=True, help="table to write: .parquet, .npz or .csv; - prints CSV")
    parser.add_argument("--per", choices=tuple(PER), default="clip", help="what gets a row (default: clip); see below")
    parser.add_argument("--part", choices=tuple(PARTS), default="feat", help="part of the model's state (default: feat); see below")
    parser.add_argument("--pooling", choices=tuple(POOLINGS), help="windows to one vector a clip or moment (default: mean); see below")
    parser.add_argument("--moment", type=float, metavar="S", help="with --per moment: s of a moment (default: 1)")
    parser.add_argument(
        "--without-scene",
        action="store_true",
        help="take out what recordings of a like scene (voice, microphone, room) have in common; see below",
    )
    command.add_seed(parser)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    if options.without_scene and options.per != "clip":
        raise UsageError("--without-scene is of whole recordings: leave --per at clip")
    if options.moment is not None and options.per != "moment":
        raise UsageError(f"--moment is for --per moment, not {options.per}")
    if options.pooling is not None and (options.per == "window" or options.part == SCENE):
        raise UsageError("--pooling does nothing with --per window or --part scene; leave it out")
    model = command.load(options)
    recordings = command.recordings(options.inputs, command.control_columns(model))
    from pydreaming.analysis.vectors.embed import write_embeddings
    from pydreaming.analysis.vectors.embedder import Embedder
    from pydreaming.analysis.vectors.without_scenes import embed_without_scenes

    pooling, moment_s = command.given(options.pooling, "mean"), command.given(options.moment, 1.0)
    embedder = Embedder(model, options.per, options.part, pooling, moment_s, options.seed)
    failed, rows = command.Failures(), 0

    def write(path: Path) -> None:
        nonlocal rows
        if options.without_scene:
            table = embed_without_scenes(model, recordings, options.part, pooling, options.seed, failed, command.progress)
            table.write(path)
            rows = table.rows
        else:
            rows = write_embeddings(path, embedder, recordings, failed, command.progress)

    command.deliver(out, write)
    return command.finish(failed.count, len(recordings), f"{rows} rows", out, partial=rows > 0)


COMMAND = Command(
    "embed",
    "turn recordings into vectors, one per clip, moment or window",
    "Write one embedding per recording, per moment of a recording, or per window, with labels and times.\n\n"
    f"--per:\n{command.choices(PER)}\n\n"
    "columns:\n"
    "  source              path of the recording; of a segment with its seconds: talk.wav#t=1.5,3\n"
    "  label, speaker      as its folder or manifest has them, empty where unknown; per clip every other column of the manifest too\n"
    "  windows, covered_s  per clip: how many windows of the model, and s that they cover\n"
    "  start_s, end_s      per moment: s from the start of the recording\n"
    "  window, start_s, centre_s  per window: its index, and s from the start of the recording\n"
    "  embedding           the vector: one array a row in Parquet and npz; in CSV embedding_0, embedding_1, ...\n"
    "CSV begins with lines of # that say where it comes from: pandas.read_csv(path, comment='#').\n\n"
    f"--part:\n{command.choices(PARTS)}\n\n--pooling:\n{command.choices(POOLINGS)}\n\n"
    "--without-scene finds groups of recordings of a like scene, without labels (60 recordings at least), and takes what those of a group\n"
    "have in common out of each vector: the same word said by different voices comes together. A row then depends on what else is\n"
    "embedded, and the table is held in memory. Best with --pooling evaluation.\n\n"
    "Otherwise a recording's row does not depend on what else is embedded. Any sample rate, number of channels and length will do, and\n"
    "the table may be larger than memory (not an .npz). Of a file that cannot be read nothing is written; only of one of more than 512\n"
    "windows that breaks off, rows per moment or window before the fault stay.\n\n"
    "example:\n  pydreaming embed runs/my-run birds/ --pooling evaluation --out birds.parquet\n"
    "  python -c \"import pandas; print(pandas.read_parquet('birds.parquet'))\"",
    _arguments,
    _run,
)
