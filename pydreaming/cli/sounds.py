"""What `dream` and `inpaint` share: the ways imagined sound is rendered, and the bank that real windows come from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.cli import command
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.dreams.bank import Bank, BankBuilder
    from pydreaming.analysis.world_model import WorldModel

SPECTROGRAM, REAL, BOTH = "griffin-lim", "concatenative", "both"
BANK_SUFFIX = ".safetensors"
RENDER_TEXT = (
    "--render:\n"
    f"  {SPECTROGRAM}    sound made from the imagined spectrogram: what the model means, smooth and somewhat hollow\n"
    f"  {REAL}  each imagined window's nearest real one out of --bank, in runs that join well, cross-faded: sharper, but in\n"
    "                 the voice of the bank\n"
    f"  {BOTH}           two files, NAME-{SPECTROGRAM}.wav and NAME-{REAL}.wav\n\n"
    "columns of --provenance, one row a window:  sample (which continuation or fill), time_s (in the recording that goes on),\n"
    "  source, source_start_s (the real window and where it begins), distance (from 0 on, 1 is usual; how unlike what was imagined)\n"
)


def add_render(parser: argparse.ArgumentParser) -> None:
    """--render, --bank, --provenance and --own."""
    parser.add_argument("--render", choices=(SPECTROGRAM, REAL, BOTH), help=f"default: {SPECTROGRAM}; see below")
    parser.add_argument(
        "--bank", metavar="BANK", nargs="+", help=f"real windows for {REAL}: a {BANK_SUFFIX} of pydreaming bank, or recordings as INPUT"
    )
    parser.add_argument("--provenance", metavar="TABLE", help=f"write where each window of {REAL} sound comes from (.csv, .parquet, .npz)")
    parser.add_argument("--own", action="store_true", help="let the bank also use the file itself, which holds what is to be imagined")


def check_render(options: argparse.Namespace) -> Path | None:
    """Refuse what does not go together before any work; the place for the provenance. Raises UsageError, PydreamingError."""
    if uses_real(options) != bool(options.bank):
        raise UsageError(f"--render {REAL} or {BOTH} and --bank go together")
    if options.own and not uses_real(options):
        raise UsageError("--own is for --bank")
    if options.provenance is None:
        return None
    if not uses_real(options):
        raise UsageError(f"--provenance says where the windows of --render {REAL} come from")
    return command.check_output(options.provenance, command.TABLES)


def uses_real(options: argparse.Namespace) -> bool:
    """Whether concatenative sound is wanted."""
    return options.render in (REAL, BOTH)


def suffix(options: argparse.Namespace, kind: str) -> str:
    """What tells the file of a kind from the other's; empty where there is one kind."""
    return kind if options.render == BOTH else ""


def open_bank(model: WorldModel, words: list[str] | None) -> tuple[Bank | None, int]:
    """The bank that --bank names: read, or made of recordings; None without. With the exit code of what could not be read for it.

    Raises UsageError, PydreamingError.
    """
    if not words:
        return None, 0
    from pydreaming.analysis.dreams.bank import Bank, BankBuilder

    if len(words) == 1 and words[0].endswith(BANK_SUFFIX):
        return Bank.load(words[0]).check(model, words[0]), 0
    builder = BankBuilder(model)
    code = command.count(*fill(builder, words))
    return builder.finish(), code


def fill(builder: BankBuilder, inputs: list[str]) -> tuple[int, int]:
    """Put recordings into a bank, with a progress bar; returns how many could not be read, and how many there are."""
    found = command.recordings(inputs, command.control_columns(builder.model))
    return command.each(found, builder.add), len(found)
