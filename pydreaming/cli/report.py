"""`pydreaming report`."""

from __future__ import annotations

import argparse

from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_model(parser)
    parser.add_argument("input", metavar="INPUT", nargs="?", help="audio file to make a page about, or - for one on standard input")
    parser.add_argument("--out", required=True, metavar="FILE", help="page to write (.html)")
    parser.add_argument(
        "--normal",
        nargs="+",
        metavar="INPUT",
        help="with INPUT: recordings to compare with: files, folders, manifests (default: those that the run was evaluated on)",
    )
    parser.add_argument("--log", action="store_true", help="also put the page among the artifacts of the run in MLflow")
    command.add_seed(parser, "with INPUT: seed of the dreams (default: 0)")
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_output(options.out, (".html",))
    if options.input is None and (option := command.first_given(options, "normal", "seed")):
        raise UsageError(f"{option} is for a page about a recording: name it as INPUT")
    found = command.recordings([options.input]) if options.input else []
    if len(found) > 1:
        raise UsageError(f"a page is about one recording, {options.input} has {len(found)}")
    from pydreaming.analysis.vectors.reference import Reference, drawn, recordings_reference

    listed = command.recordings(options.normal) if options.normal else []
    normal = [listed[i] for i in drawn(len(listed))]
    model = command.load(options)
    from pydreaming.analysis.reports.clip import clip_report
    from pydreaming.analysis.reports.run import run_report
    from pydreaming.analysis.sharing.publish import log_page

    failed = command.Failures()
    if not found:
        run_report(model, out)
    else:
        reference: Reference | None = None
        if normal:
            where = f"in {', '.join(options.normal)}" + (
                f" ({len(normal)} of {len(listed)}, drawn at random)" if len(normal) < len(listed) else ""
            )
            reference = recordings_reference(model, command.progress(normal), where, failed)
        clip_report(model, found[0], out, reference, command.given(options.seed, 0))
    command.say(f"wrote {out}")
    if options.log:
        command.say(f"logged to MLflow run {log_page(model, out, options.tracking)}, reports/{out.name}")
    return command.count(failed.count, len(normal))


COMMAND = Command(
    "report",
    "one page for the browser: about a run, or about what a model hears in a recording",
    "Write one HTML file that holds its pictures and sounds, and works offline.\n\n"
    "Without INPUT, the report of the run that MODEL belongs to, as it is made at the end of a run: what the model can do and what it\n"
    "cannot, with baselines; pictures are drawn anew.\n"
    "With INPUT, a page about that recording: whether level, clipping and bandwidth are like those of the training recordings; its\n"
    "surprise in bits, and how it stands among normal recordings; what is predicted and dreamt, to look at and to listen to; its code;\n"
    "the recordings nearest to it. Of a long recording the beginning is drawn, and surprise is measured over all of it.\n\n"
    "example:\n  pydreaming report runs/my-run --out report.html\n"
    "  pydreaming report runs/my-run engine.wav --out engine.html\n"
    "  pydreaming report my-model engine.wav --normal good-engines/ --out engine.html",
    _arguments,
    _run,
)
