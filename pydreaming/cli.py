"""The `pydreaming` command: what a trained model can be used for.

One function per command, listed in COMMANDS; what a command computes lives in `pydreaming.analysis`. torch is imported when a command
runs, not for `--help`.

Exit codes: 0 all well; 1 something failed (with some files failed, the others are still done); 2 wrong usage; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming import __version__
from pydreaming.analysis.names import PARTS, POOLINGS
from pydreaming.errors import DecodeError, PydreamingError, UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.world_model import WorldModel

STDOUT = "-"
TABLES = (".parquet", ".csv", ".npz")
PICTURE_S = 120.0  # seconds of a recording shown in its picture

MODEL_HELP = "checkpoint folder, run folder (its newest checkpoint is taken) or runs:/<MLflow run id>"
INPUT_HELP = "audio files (wav, flac, ogg, mp3, ...), folders of them, or - for an audio file on standard input"


@dataclass(frozen=True)
class Command:
    """One command: its name, a summary, a longer text for --help, its arguments and what it does (returns the exit code)."""

    name: str
    summary: str
    details: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # a closed pipe shows itself here, not in the interpreter's last breath
    except PydreamingError as e:
        _complain(str(e))
        return e.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    return code


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument("--out", required=True, help="table to write: .parquet, .npz or .csv; - prints CSV")
    parser.add_argument("--per", choices=("clip", "window"), default="clip", help="one row a recording, or one a window (default: clip)")
    parser.add_argument("--part", choices=tuple(PARTS), default="feat", help="part of the model's state (default: feat); see below")
    parser.add_argument(
        "--pooling", choices=tuple(POOLINGS), default="mean", help="windows to one vector a clip (default: mean); see below"
    )
    _add_common(parser)


def _embed(options: argparse.Namespace) -> int:
    out = _check_table(options.out)
    files = _files(options.inputs)
    model = _load(options)
    from pydreaming.analysis.embed import EmbeddingTable

    table = EmbeddingTable(model, options.per, options.part, options.pooling, options.seed)
    failures = _each(files, lambda file: table.add(file, file))
    if table.rows:
        _deliver(out, table.write)
    return _finish(failures, len(files), f"{table.rows} rows", out)


def _surprise_arguments(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument("--out", default=STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    parser.add_argument(
        "--picture",
        metavar="PATH",
        help=f"also draw log-mel and curves: a .png for one recording, a folder for several; at most the first {PICTURE_S:.0f} s",
    )
    _add_common(parser)


def _surprise(options: argparse.Namespace) -> int:
    out = _check_table(options.out)
    files = _files(options.inputs)
    pictures = _picture_paths(options.picture, files)
    model = _load(options)
    from pydreaming.analysis.surprise import Surprise, draw_surprise, surprise, write_surprise

    results: list[tuple[str, Surprise]] = []

    def one(file: str) -> None:
        result = surprise(model, file, options.seed, PICTURE_S if pictures else 0.0)
        if pictures:
            draw_surprise(pictures[file], result, model.features, file)
        results.append((file, result.without_picture()))

    failures = _each(files, one)
    if results:
        about = {"model_step": int(model.state.counters["step"])}
        _deliver(out, lambda path: write_surprise(path, results, about))
    return _finish(failures, len(files), f"{sum(len(result) for _, result in results)} rows", out)


def _dream_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("input", metavar="INPUT", help="audio file, or - for one on standard input")
    parser.add_argument("--out", required=True, help="sound to write (.wav); with several samples dream.wav becomes dream-1.wav, ...")
    parser.add_argument("--picture", metavar="FILE", help="also draw what was heard and imagined (.png)")
    parser.add_argument("--seconds", type=float, default=2.0, help="s to imagine, rounded up to whole windows (default: 2)")
    parser.add_argument("--samples", type=int, default=1, help="number of different continuations (default: 1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: safer, above 1: wilder (default: 1)")
    parser.add_argument("--at", type=float, metavar="S", help="s into the recording at which to stop listening (default: its end)")
    parser.add_argument("--context", type=float, default=5.0, help="s of what was heard put before the dream (default: 5)")
    parser.add_argument("--no-mark", action="store_true", help="leave out the soft tick between what was heard and what was imagined")
    _add_common(parser, seed=0)


def _dream(options: argparse.Namespace) -> int:
    out = _check_output(options.out, (".wav",))
    picture = None if options.picture is None else _check_output(options.picture, (".png",))
    model = _load(options)
    from pydreaming.analysis.dream import draw_dream, dream, write_dreams

    how = (options.seconds, options.samples, options.temperature, options.seed, options.context, options.at)
    result = dream(model, options.input, *how)
    for path in write_dreams(model, result, out, mark=not options.no_mark):
        _say(f"wrote {path}")
    if picture is not None:
        draw_dream(picture, result, model.features)
        _say(f"wrote {picture}")
    return 0


def _choices(choices: dict[str, str]) -> str:
    return "\n".join(f"  {name:<14}{meaning}" for name, meaning in choices.items())


COMMANDS = (
    Command(
        "embed",
        "turn recordings into vectors, one per clip or per window",
        "Write one embedding per recording, or one per window of a recording with its time.\n\n"
        "columns, --per clip:    source (path), windows (how many), covered_s (seconds they cover), embedding\n"
        "columns, --per window:  source (path), window (index), start_s, centre_s (seconds from the start), embedding\n"
        "In Parquet and npz the embedding is one array a row; in CSV it is spread over embedding_0, embedding_1, ...\n"
        "CSV begins with lines of # that say where it comes from: pandas.read_csv(path, comment='#').\n\n"
        f"--part:\n{_choices(PARTS)}\n\n--pooling:\n{_choices(POOLINGS)}\n\n"
        "A recording's row does not depend on what else is embedded. Any sample rate and number of channels will do.\n\n"
        "example:\n  pydreaming embed runs/my-run birds/ --out birds.parquet\n"
        "  python -c \"import pandas; print(pandas.read_parquet('birds.parquet'))\"",
        _embed_arguments,
        _embed,
    ),
    Command(
        "surprise",
        "how unexpected each moment of a recording is, in bits",
        "Write one row per window with its surprise.\n\n"
        "columns:\n"
        "  source, window        path of the recording, and index of the window in it\n"
        "  start_s, centre_s     s from the start of the recording\n"
        "  kl_bits               what hearing the window changed about what was expected of it: surprise proper\n"
        "  prior_entropy_bits    how uncertain the model was before it heard the window\n"
        "  nll_bits              how improbable the window's code was: -log2 of the probability expected for it\n\n"
        "The first window of a recording has no past, so its values are high. Compare recordings of one kind; a model says nothing\n"
        "certain about sounds unlike those it was trained on.\n\n"
        "example:\n  pydreaming surprise runs/my-run engine.wav --out engine.csv --picture engine.png",
        _surprise_arguments,
        _surprise,
    ),
    Command(
        "dream",
        "listen to a recording, then imagine how it goes on",
        "Write a WAV: the end of the recording, a soft tick, and the model's continuation. The sound is rebuilt from imagined\n"
        "spectrograms (Griffin-Lim), so it is rougher than a recording. The same --seed gives the same dream.\n\n"
        "example:\n  pydreaming dream runs/my-run voice.wav --at 1.5 --seconds 3 --samples 4 --out dream.wav --picture dream.png",
        _dream_arguments,
        _dream,
    ),
)


def _parser() -> argparse.ArgumentParser:
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


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=INPUT_HELP)


def _add_common(parser: argparse.ArgumentParser, seed: int | None = None) -> None:
    meaning = "seed of the dream (default: 0)" if seed is not None else "draw codes at random with this seed (default: the likeliest codes)"
    parser.add_argument("--seed", type=_natural, default=seed, help=meaning)
    parser.add_argument("--threads", type=_natural, default=1, help="CPU threads; more than 1 pays for large models only (default: 1)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument(
        "--tracking", default="", metavar="URI", help="MLflow store for runs:/ (default: MLFLOW_TRACKING_URI, then runs/mlflow.db)"
    )


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def _load(options: argparse.Namespace) -> WorldModel:
    import torch

    from pydreaming.analysis.world_model import WorldModel

    torch.set_num_threads(max(1, options.threads))  # recordings are processed one by one: small products, which threads slow down
    return WorldModel.load(options.model, options.device, options.tracking)


def _files(inputs: list[str]) -> list[str]:
    """All input files, folders expanded; each once, in order. Raises UsageError when there is none."""
    from pydreaming.analysis.inputs import expand_inputs

    files = list(dict.fromkeys(expand_inputs(inputs)))
    if not files:
        raise UsageError(f"no audio files in {', '.join(inputs)}")
    return files


def _each(files: list[str], work: Callable[[str], None]) -> int:
    """Work through the files with a progress bar; an unreadable one is reported in a line and passed over. Returns how many were."""
    failures = 0
    for file in _progress(files):
        try:
            work(file)
        except DecodeError as e:
            _complain(str(e))
            failures += 1
    return failures


def _progress(files: list[str]) -> Iterator[str]:
    from tqdm import tqdm

    # disable=None: no bar where standard error is no terminal
    with tqdm(files, unit="file", disable=None if len(files) > 1 else True, leave=False, dynamic_ncols=True) as bar:
        yield from bar


def _picture_paths(picture: str | None, files: list[str]) -> dict[str, Path]:
    if picture is None:
        return {}
    if picture.lower().endswith(".png"):
        if len(files) > 1:
            raise UsageError(f"--picture {picture} is one picture for {len(files)} recordings; name a folder")
        return {files[0]: _check_output(picture, (".png",))}
    folder = Path(picture)
    _check_writable(folder / "x.png")
    return {file: folder / f"{number:05d}-{Path(file).stem}.png" for number, file in enumerate(files, 1)}


def _check_table(out: str) -> Path:
    return Path(out) if out == STDOUT else _check_output(out, TABLES)


def _check_output(out: str, endings: tuple[str, ...]) -> Path:
    """Refuse what cannot be written before hours of work go into it."""
    path = Path(out)
    if path.suffix not in endings:
        raise UsageError(f"{out} must end in {' or '.join(endings)}")
    if path.is_dir():
        raise UsageError(f"{out} is a folder")
    _check_writable(path)
    return path


def _check_writable(path: Path) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise PydreamingError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PydreamingError(f"cannot write {path}: no permission in {folder}")


def _deliver(out: Path, write: Callable[[Path], None]) -> None:
    """Write a table to its place, or as CSV to standard output."""
    if str(out) != STDOUT:
        write(out)
        return
    with tempfile.TemporaryDirectory(prefix="pydreaming-") as scratch:
        path = Path(scratch) / "table.csv"
        write(path)
        with path.open(encoding="utf-8") as file:
            shutil.copyfileobj(file, sys.stdout)


def _finish(failures: int, files: int, what: str, out: Path) -> int:
    if failures == files:
        _complain("no file could be read; nothing was written")
        return 1
    if str(out) != STDOUT:
        _say(f"wrote {out}: {what} from {files - failures} of {files} files")
    if failures:
        _complain(f"{failures} of {files} files could not be read")
    return 1 if failures else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # standard output is for data


def _complain(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"pydreaming: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
