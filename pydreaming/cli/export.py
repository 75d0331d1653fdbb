"""`pydreaming export`."""

from __future__ import annotations

import argparse

from pydreaming.cli import command
from pydreaming.cli.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_model(parser)
    parser.add_argument("folder", metavar="FOLDER", help="where to put it; it is made, and files of the same names are replaced")
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    folder = command.check_folder(options.folder)
    model = command.load(options)
    model.save(folder)
    command.say(f"wrote {folder}: model.safetensors, config.json, README.md, SHA256SUMS of step {model.state.counters['step']:.0f}")
    return 0


COMMAND = Command(
    "export",
    "write a model to a folder to hand on, as the Hugging Face Hub lays out models",
    "Write a model without what only its training needs:\n\n"
    "  model.safetensors   the weights\n"
    "  config.json         settings of front end and networks, statistics, how long it was trained; no path or address of this host\n"
    "  README.md           the model card: data, settings, figures beside their baselines, limits; read it before you publish it\n"
    "  SHA256SUMS          checksums of weights and settings\n\n"
    "Every command takes the folder as MODEL. It can be uploaded to the Hub as it is; with huggingface_hub installed,\n"
    "pydreaming.analysis.sharing.hub.hub_class().from_pretrained(NAME) loads it from there.\n\n"
    "example:\n  pydreaming export runs/my-run my-model\n  pydreaming embed my-model birds/ --out birds.parquet",
    _arguments,
    _run,
)
