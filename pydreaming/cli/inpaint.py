"""`pydreaming inpaint`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.cli import command, sounds
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.dreams.bank import Bank
    from pydreaming.analysis.gaps.evaluation import InpaintingTest
    from pydreaming.analysis.gaps.inpaint import Inpainting
    from pydreaming.analysis.world_model import WorldModel

MEAN, BEST, SAMPLES = "mean", "best", "samples"


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_inputs(parser)
    parser.add_argument("--gap", metavar="BEGIN:END", type=_gap, action="append", help="s that are to be filled; may be given again")
    parser.add_argument("--out", required=True, help="sound to write (.wav); with --evaluate a table (.csv, .parquet, .npz, or - for CSV)")
    parser.add_argument("--picture", metavar="FILE", help="also draw what was recorded and what the gap was filled with (.png)")
    parser.add_argument("--particles", type=command.natural, default=256, help="continuations that are weighed (default: 256)")
    parser.add_argument("--look", type=command.natural, default=4, help="windows after the gap that they are weighed by (default: 4)")
    parser.add_argument(
        "--fill",
        choices=(MEAN, BEST, SAMPLES),
        help="what is written: the particles' mean (default), the likeliest, or several",
    )
    parser.add_argument("--samples", type=int, help="fills of --fill samples and of the picture's last panel (default: 4)")
    sounds.add_render(parser)
    parser.add_argument("--evaluate", type=command.natural, metavar="N", help="test on gaps made in N of the recordings instead; see below")
    parser.add_argument("--gap-s", type=float, metavar="S", help="s of each gap of --evaluate (default: 0.2)")
    command.add_seed(parser, "seed of the particles, and of the places of --evaluate (default: 0)", 0)
    command.add_running(parser)


def _gap(text: str) -> tuple[float, float]:
    begin, colon, end = text.partition(":")
    try:
        gap = float(begin), float(end)
    except ValueError:
        gap = 0.0, 0.0
    if not colon or not 0 <= gap[0] < gap[1] < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no gap; write its begin and end in seconds, as 1.2:1.6")
    return gap


def _run(options: argparse.Namespace) -> int:
    return _fill(options) if options.evaluate is None else _evaluate(options)


def _fill(options: argparse.Namespace) -> int:
    if not options.gap:
        raise UsageError("name a gap, such as --gap 1.2:1.6 (or test on many recordings with --evaluate)")
    if len(options.inputs) > 1 or Path(options.inputs[0]).is_dir():
        raise UsageError("gaps are filled in one recording at a time; several are for --evaluate")
    if options.gap_s is not None:
        raise UsageError("--gap-s is for --evaluate; --gap says how long a gap is")
    if options.samples is not None and options.fill != SAMPLES and options.picture is None:
        raise UsageError("--samples is for --fill samples and --picture")
    options.samples = command.given(options.samples, 4)
    out = command.check_output(options.out, (".wav",))
    picture = None if options.picture is None else command.check_output(options.picture, (".png",))
    table = sounds.check_render(options)
    model = command.load(options)
    from pydreaming.analysis.gaps.inpaint import inpaint
    from pydreaming.analysis.gaps.pictures import draw_inpainting

    bank, code = sounds.open_bank(model, options.bank)
    result = inpaint(model, options.inputs[0], options.gap, options.particles, options.look, options.samples, options.seed)
    for fill in result.fills:
        gap = f"gap {fill.gap.begin_s:g}:{fill.gap.end_s:g}, {len(fill.gap)} windows"
        how = f"{fill.effective:.1f} of {options.particles} particles effective" if fill.reweighted else "nothing follows to weigh them by"
        command.say(f"{gap}: {how}")
    written = _write(options, model, result, bank, out, table)
    if picture is not None:
        written.append(draw_inpainting(picture, model, result))
    for path in written:
        command.say(f"wrote {path}")
    return code


def _write(
    options: argparse.Namespace, model: WorldModel, result: Inpainting, bank: Bank | None, out: Path, table: Path | None
) -> list[Path]:
    """Write the sounds, and where their windows come from; returns what was written."""
    from pydreaming.analysis.dreams.bank import origin_of
    from pydreaming.analysis.dreams.concatenate import write_provenance
    from pydreaming.analysis.gaps.sound import real_sound, spectrogram_sound, write_fills

    chosen = list(range(options.samples)) if options.fill == SAMPLES else [0 if options.fill == BEST else None]
    written = []
    if options.render != sounds.REAL:
        made = [spectrogram_sound(model, result, sample) for sample in chosen]
        written += write_fills(result, made, out, sounds.suffix(options, sounds.SPECTROGRAM))
    if bank is not None:
        exclude = None if options.own else origin_of(options.inputs[0])
        real = [real_sound(model, result, bank, sample or 0, exclude) for sample in chosen]
        written += write_fills(result, [sound for sound, _ in real], out, sounds.suffix(options, sounds.REAL))
        if table is not None:
            write_provenance(table, [origins for _, origins in real])
            written.append(table)
    return written


def _evaluate(options: argparse.Namespace) -> int:
    if options.evaluate < 1:
        raise UsageError("--evaluate N makes gaps in N >= 1 recordings")
    if option := command.first_given(options, "gap", "picture", "fill", "samples", "render", "bank", "provenance", "own"):
        raise UsageError(f"--evaluate makes its own gaps and writes a table; it takes no {option}")
    out = command.check_table(options.out)
    model = command.load(options)
    found = command.recordings(options.inputs, command.control_columns(model))
    from pydreaming.analysis.gaps.evaluation import InpaintingTest, shuffled

    test = InpaintingTest(model, command.given(options.gap_s, 0.2), options.particles, options.look, options.seed)
    tried = shuffled(found, options.seed)
    failures = files = 0
    while len(test) < options.evaluate and files < len(tried):
        batch = tried[files : files + options.evaluate - len(test)]
        failures, files = failures + command.each(batch, test.add), files + len(batch)
    if failures < files:
        command.deliver(out, test.write)
        _print(test)
    return command.finish(failures, files, f"{len(test)} clips", out)


def _print(test: InpaintingTest) -> None:
    """The means, for people."""
    command.say(f"{len(test)} clips with a gap of {test.gap_s:g} s; {test.skipped} were too short for it")
    command.say("mean over clips (95 % bootstrap interval); lower is better")
    mel, apart = test.scores("mel_error"), test.scores("embedding_distance")
    command.say(f"  {'':<14}{'log-mel error':<26}embedding distance")
    for method in mel:
        command.say(f"  {method:<14}{mel[method]!s:<26}{apart[method]}")
    mel, apart = test.differences("mel_error"), test.differences("embedding_distance")
    command.say("the particles' mean minus each other, clip by clip")
    for method in mel:
        command.say(f"  {method:<14}{mel[method]!s:<26}{apart[method]}")


COMMAND = Command(
    "inpaint",
    "fill gaps in a recording with what could have been there",
    "Write a WAV in which the gap is filled, at the recording's own rate, 16-bit, mono. Outside the gap the sound is as recorded, except\n"
    "for a cross-fade of at most 10 ms on either side.\n\n"
    "The model hears what comes before the gap (at least one whole window), imagines --particles continuations, and weighs them by how\n"
    "well they explain the --look windows after it. Windows that the gap touches even partly are not heard. The number of effective\n"
    "particles is printed: where it is near 1, one continuation alone fits what follows, and more particles may find better ones.\n\n"
    "--fill:\n"
    "  mean           weighted mean of the particles: the smallest error to expect, but smooth. Concatenative sound needs one course of\n"
    "                 events and takes the likeliest\n"
    "  best           the likeliest particle\n"
    "  samples        --samples files: the likeliest, and others drawn by weight; how they differ is what is uncertain\n\n"
    + sounds.RENDER_TEXT
    + "\n--evaluate N: gaps of --gap-s at random places of N recordings (drawn from all), each with a window before it and --look after\n"
    "it; what was there is compared with the particles' mean, best and a sample, with rollouts that do not know what follows\n"
    "(prior_mean, prior_sample), a straight line through the log-mel (linear) and the last window again and again (copy).\n"
    "columns:  source, gap_begin_s, gap_end_s, windows (that the gap touches), effective (particles), method,\n"
    "  mel_error (squared, per normalised log-mel value), embedding_distance (1 - cosine, as the encoder sees it)\n\n"
    "example:\n  pydreaming inpaint runs/my-run clip.wav --gap 1.2:1.6 --out filled.wav --picture filled.png\n"
    "  pydreaming inpaint runs/my-run recordings/ --evaluate 200 --gap-s 0.2 --out gaps.csv",
    _arguments,
    _run,
)
