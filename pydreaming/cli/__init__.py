"""The `pydreaming` command: what a trained model can be used for.

One module per command, listed in COMMANDS; what a command computes lives in `pydreaming.analysis`, and what commands share in
`command.py`. torch is imported when a command runs, not for `--help`.

Exit codes: 0 all well; 1 something failed (with some files failed, the others are still done); 2 wrong usage; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pydreaming import __version__
from pydreaming.cli import (
    anomaly,
    bank,
    calibrate,
    dream,
    embed,
    export,
    horizon,
    inpaint,
    inspect_command,
    keys,
    publish,
    record,
    report,
    search,
    segment,
    status,
    stream,
    surprise,
    units,
)
from pydreaming.cli.command import complain
from pydreaming.errors import PydreamingError

COMMANDS = (
    inspect_command.COMMAND,
    status.COMMAND,
    record.COMMAND,
    embed.COMMAND,
    search.COMMAND,
    units.COMMAND,
    surprise.COMMAND,
    calibrate.COMMAND,
    segment.COMMAND,
    stream.COMMAND,
    anomaly.COMMAND,
    horizon.COMMAND,
    dream.COMMAND,
    bank.COMMAND,
    inpaint.COMMAND,
    report.COMMAND,
    export.COMMAND,
    publish.COMMAND,
    keys.COMMAND,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # a closed pipe shows itself here, not in the interpreter's last breath
    except PydreamingError as e:
        complain(str(e))
        return e.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    return code


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its result has `run`, which takes it."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="pydreaming",
        description="Use a trained world model of sound. Train one with launch.py.",
        epilog="exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"pydreaming {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name, help=command.summary, description=command.summary, epilog=command.details, formatter_class=layout
        )
        command.arguments(sub)
        sub.set_defaults(run=command.run)
    return parser
