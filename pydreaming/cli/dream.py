"""`pydreaming dream`."""

from __future__ import annotations

import argparse

from pydreaming.cli import command, sounds
from pydreaming.cli.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_input(parser)
    parser.add_argument("--out", required=True, help="sound to write (.wav); with several samples dream.wav becomes dream-1.wav, ...")
    parser.add_argument("--picture", metavar="FILE", help="also draw what was heard and imagined (.png)")
    parser.add_argument("--seconds", type=float, default=2.0, help="s to imagine, rounded up to whole windows (default: 2)")
    parser.add_argument("--samples", type=int, default=1, help="number of different continuations (default: 1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: safer, above 1: wilder (default: 1)")
    parser.add_argument("--at", type=float, metavar="S", help="s into the recording at which to stop listening (default: its end)")
    parser.add_argument("--context", type=float, default=5.0, help="s of what was heard put before the dream (default: 5)")
    parser.add_argument("--no-mark", action="store_true", help="no soft tick between what was heard and what was imagined: a cross-fade")
    sounds.add_render(parser)
    command.add_seed(parser, "seed of the dream (default: 0)", 0)
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_output(options.out, (".wav",))
    picture = None if options.picture is None else command.check_output(options.picture, (".png",))
    table = sounds.check_render(options)
    model = command.load(options)
    from pydreaming.analysis.dreams.concatenate import write_provenance
    from pydreaming.analysis.dreams.dream import draw_dream, dream, dream_sounds, write_dreams

    bank, code = sounds.open_bank(model, options.bank)
    how = (options.seconds, options.samples, options.temperature, options.seed, options.context, options.at)
    result = dream(model, options.input, *how)
    mark, written = not options.no_mark, []
    if options.render != sounds.REAL:
        written += write_dreams(model, result, out, mark, suffix=sounds.suffix(options, sounds.SPECTROGRAM))
    if bank is not None:
        made = list(dream_sounds(model, result, bank, options.own))
        written += write_dreams(model, result, out, mark, [sound for sound, _ in made], sounds.suffix(options, sounds.REAL))
        if table is not None:
            write_provenance(table, [origins for _, origins in made])
            written.append(table)
    if picture is not None:
        written.append(draw_dream(picture, result, model.features))
    for path in written:
        command.say(f"wrote {path}")
    return code


COMMAND = Command(
    "dream",
    "listen to a recording, then imagine how it goes on",
    "Write a WAV: the end of the recording, a soft tick, and the model's continuation. The same --seed gives the same dream.\n\n"
    + sounds.RENDER_TEXT
    + "\nexample:\n  pydreaming dream runs/my-run voice.wav --at 1.5 --seconds 3 --samples 4 --out dream.wav --picture dream.png\n"
    "  pydreaming dream runs/my-run voice.wav --render both --bank recordings/ --out dream.wav --provenance dream.csv",
    _arguments,
    _run,
)
