"""`pydreaming bank`."""

from __future__ import annotations

import argparse

from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.cli.sounds import BANK_SUFFIX, fill


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help=f"bank to write ({BANK_SUFFIX})")
    parser.add_argument(
        "--windows", type=command.natural, default=100_000, help="at most so many, a sample of what there is (default: 100000)"
    )
    command.add_seed(parser, "seed of that sample (default: 0)", 0)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_output(options.out, (BANK_SUFFIX,))
    model = command.load(options)
    from pydreaming.analysis.dreams.bank import BankBuilder

    builder = BankBuilder(model, options.windows, options.seed)
    failures, files = fill(builder, options.inputs)
    if failures == files:
        return command.finish(failures, files, "", out)
    bank = builder.finish()
    bank.save(out)
    return command.finish(failures, files, f"{len(bank)} windows", out)


COMMAND = Command(
    "bank",
    "collect real windows that dreams and fills can be played with",
    "Write a bank: for windows of the recordings, what the model makes of them, and their sound. `dream` and `inpaint` take it as\n"
    "--bank, and need the recordings no more. It fits the model it was made with, and no other. A window takes 2 bytes a sample and\n"
    "2 bytes a value of state and log-mel: about 2 kB at 8 kHz, so 200 MB for the default size, which is 67 minutes in windows of\n"
    "40 ms. Of larger collections a random sample is kept, in stretches of up to 128 windows.\n\n"
    "example:\n  pydreaming bank runs/my-run recordings/ --out voices.safetensors\n"
    "  pydreaming dream runs/my-run voice.wav --render concatenative --bank voices.safetensors --out dream.wav",
    _arguments,
    _run,
)
