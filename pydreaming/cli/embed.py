"""`pydreaming embed`."""

from __future__ import annotations

import argparse

from pydreaming.analysis.names import PARTS, POOLINGS
from pydreaming.cli import command
from pydreaming.cli.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", required=True, help="table to write: .parquet, .npz or .csv; - prints CSV")
    parser.add_argument("--per", choices=("clip", "window"), default="clip", help="one row a recording, or one a window (default: clip)")
    parser.add_argument("--part", choices=tuple(PARTS), default="feat", help="part of the model's state (default: feat); see below")
    parser.add_argument(
        "--pooling", choices=tuple(POOLINGS), default="mean", help="windows to one vector a clip (default: mean); see below"
    )
    command.add_seed(parser)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    recordings = command.recordings(options.inputs)
    model = command.load(options)
    from pydreaming.analysis.embed import EmbeddingTable

    table = EmbeddingTable(model, options.per, options.part, options.pooling, options.seed)
    failures = command.each(recordings, table.add)
    if table.rows:
        command.deliver(out, table.write)
    return command.finish(failures, len(recordings), f"{table.rows} rows", out)


COMMAND = Command(
    "embed",
    "turn recordings into vectors, one per clip or per window",
    "Write one embedding per recording, or one per window of a recording with its time.\n\n"
    "columns, --per clip:    source (path), windows (how many), covered_s (seconds they cover), embedding\n"
    "columns, --per window:  source (path), window (index), start_s, centre_s (seconds from the start), embedding\n"
    "In Parquet and npz the embedding is one array a row; in CSV it is spread over embedding_0, embedding_1, ...\n"
    "CSV begins with lines of # that say where it comes from: pandas.read_csv(path, comment='#').\n\n"
    f"--part:\n{command.choices(PARTS)}\n\n--pooling:\n{command.choices(POOLINGS)}\n\n"
    "A recording's row does not depend on what else is embedded. Any sample rate and number of channels will do.\n\n"
    "example:\n  pydreaming embed runs/my-run birds/ --out birds.parquet\n"
    "  python -c \"import pandas; print(pandas.read_parquet('birds.parquet'))\"",
    _arguments,
    _run,
)
