"""What the commands share: their arguments, the recordings they are given, the places they write to, and what they tell the user."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydreaming.errors import DecodeError, PydreamingError, UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.inputs import Recording
    from pydreaming.analysis.world_model import WorldModel
    from pydreaming.audio.raw import RawFormat
    from pydreaming.errors import DecodeError

T = TypeVar("T")
STDOUT = "-"
TABLES = (".parquet", ".csv", ".npz")

MODEL_HELP = (
    "checkpoint folder, exported model, run folder (its newest checkpoint is taken), or of MLflow: runs:/<run id>,"
    " models:/<name>/<version>, models:/<name>@<alias>"
)
INPUT_HELP = (
    "audio files (wav, flac, ogg, mp3, ...), folders of them or of a known data set, manifests (metadata.csv, .jsonl, .tsv, wav.scp),"
    " or - for an audio file on standard input"
)


@dataclass(frozen=True)
class Command:
    """One command: its name, a summary, a longer text for --help, its arguments and what it does (returns the exit code)."""

    name: str
    summary: str
    details: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, for `load`."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """MODEL and INPUT ..., for `load` and `recordings`."""
    add_model(parser)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=INPUT_HELP)


def add_input(parser: argparse.ArgumentParser) -> None:
    """MODEL and one INPUT."""
    add_model(parser)
    parser.add_argument("input", metavar="INPUT", help="audio file, or - for one on standard input")


def add_seed(
    parser: argparse.ArgumentParser,
    meaning: str = "draw codes at random with this seed (default: the likeliest codes)",
    default: int | None = None,
) -> None:
    """--seed; None stands for modes."""
    parser.add_argument("--seed", type=natural, default=default, help=meaning)


def add_running(parser: argparse.ArgumentParser) -> None:
    """--threads, --device and --tracking, for `load`."""
    parser.add_argument("--threads", type=natural, default=1, help="CPU threads; more than 1 pays for large models only (default: 1)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument(
        "--tracking",
        default="",
        metavar="URI",
        help="MLflow store for runs:/ and models:/ (default: MLFLOW_TRACKING_URI, then runs/mlflow.db)",
    )


def add_raw(parser: argparse.ArgumentParser, title: str) -> None:
    """--rate, --format and --channels of raw PCM, for `raw_format`."""
    raw = parser.add_argument_group(title)
    raw.add_argument("--rate", type=natural, metavar="HZ", help="sample rate in Hz")
    raw.add_argument("--format", help="s16le, s24le, s32le or f32le (default: s16le)")
    raw.add_argument("--channels", type=natural, help="channels side by side (default: 1)")


def raw_format(options: argparse.Namespace) -> RawFormat | None:
    """What `add_raw` was told; None without --rate. Raises UsageError: no such format, or one that would not be used."""
    from pydreaming.audio.raw import RawFormat

    if options.rate is None:
        if option := first_given(options, "format", "channels"):
            raise UsageError(f"{option} is of raw PCM, which needs --rate")
        return None
    return RawFormat(options.rate, given(options.format, "s16le"), given(options.channels, 1))


def given(value: T | None, default: T) -> T:
    """What was asked for, else the default: of options that are None when left out, so that one without effect can be refused."""
    return default if value is None else value


def first_given(options: argparse.Namespace, *names: str) -> str:
    """The first of these options that was given, as it is written (--gap-s); empty where none was."""
    found = (name for name in names if getattr(options, name) is not None and getattr(options, name) is not False)
    return next((f"--{name.replace('_', '-')}" for name in found), "")


def pieces(head: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    """`head`, then what is read until nothing comes."""
    if head:
        yield head
    while piece := read():
        yield piece


class Interrupt:
    """Ctrl-C (or another of the signals) ends the input, not the work on what has come."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.asked = False
        self._numbers = numbers or (signal.SIGINT,)
        self._waiting = False

    def __enter__(self) -> Interrupt:
        self._before = [signal.signal(number, self._ask) for number in self._numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in zip(self._numbers, self._before, strict=True):
            signal.signal(number, before)

    def until(self, chunks: Iterator[T]) -> Iterator[T]:
        """The chunks that come before it."""
        while not self.asked:
            self._waiting = True
            try:
                chunk = next(chunks)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._waiting = False
            yield chunk

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        if self._waiting:
            raise KeyboardInterrupt


def control_columns(model: WorldModel) -> list[str]:
    """The columns of the metadata that a model trained with controls must be told; for `recordings`."""
    return model.config.action.columns if model.config.action.kind == "controls" else []


def choices(meanings: dict[str, str]) -> str:
    """Names and what they mean, as lines for a help text."""
    return "\n".join(f"  {name:<14}{meaning}" for name, meaning in meanings.items())


def positive(text: str) -> float:
    """Type of an argument: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def natural(text: str) -> int:
    """Type of an argument: a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def load(options: argparse.Namespace) -> WorldModel:
    """The model that `add_model` and `add_running` asked for. Raises CheckpointError, TrackingError, ConfigError."""
    import torch

    from pydreaming.analysis.world_model import WorldModel

    torch.set_num_threads(max(1, options.threads))  # recordings are processed one by one: small products, which threads slow down
    return WorldModel.load(options.model, options.device, options.tracking)


def recordings(inputs: list[str], columns: Sequence[str] = ()) -> list[Recording]:
    """The recordings of all inputs, each once, in order, with those columns of their metadata as controls.

    Raises UsageError when there is none, SourceError for a broken manifest or one without the columns.
    """
    from pydreaming.analysis.inputs import find_recordings

    found = list({recording.name: recording for recording in find_recordings(inputs, columns)}.values())
    if not found:
        raise UsageError(f"no audio files in {', '.join(inputs)}")
    return found


class Failures:
    """Counts recordings that cannot be read, and tells of each in a line: the `failed` of `pydreaming.analysis`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: DecodeError) -> None:
        """One more."""
        complain(str(error))
        self.count += 1


def each(found: list[Recording], work: Callable[[Recording], None]) -> int:
    """Work through recordings with a progress bar; an unreadable one is reported in a line and passed over. Returns how many were."""
    from pydreaming.analysis.inputs import attempt

    failed = Failures()
    for recording in progress(found):
        attempt(partial(work, recording), failed)
    return failed.count


def progress(found: list[Recording]) -> Iterator[Recording]:
    """The recordings, with a bar where there are several and standard error is a terminal."""
    from tqdm import tqdm

    # disable=None: no bar where standard error is no terminal
    with tqdm(found, unit="file", disable=None if len(found) > 1 else True, leave=False, dynamic_ncols=True) as bar:
        yield from bar


def picture_paths(picture: str | None, found: list[Recording]) -> dict[str, Path]:
    """Where the picture of each recording goes, by its name: one .png for one recording, else files in a folder. Raises UsageError."""
    return result_paths("--picture", picture, found, ".png")


def result_paths(option: str, place: str | None, found: list[Recording], ending: str) -> dict[str, Path]:
    """Where a file of each recording goes, by its name: one with this ending, or for several files in a folder. Raises UsageError."""
    if place is None:
        return {}
    if place.lower().endswith(ending):
        if len(found) > 1:
            raise UsageError(f"{option} {place} is one file for {len(found)} recordings; name a folder")
        return {found[0].name: check_output(place, (ending,))}
    folder = check_folder(place)
    return {recording.name: folder / f"{number:05d}-{recording.stem}{ending}" for number, recording in enumerate(found, 1)}


def check_column(by: str, found: Sequence[Recording], also: Sequence[str] = ()) -> None:
    """Raises UsageError: no recording has a column `by` of metadata, and it is none of the words that are understood `also`, or empty."""
    if by and by not in also and not any(by in recording.labels for recording in found):
        others = f" (or {', '.join(also)})" if also else ""
        raise UsageError(f"no recording has a column '{by}'; there are: {columns(found)}{others}")


def columns(found: Sequence[Recording]) -> str:
    """Names of the columns of metadata that recordings have."""
    return ", ".join(sorted({name for recording in found for name in recording.labels})) or "none"


def check_table(out: str) -> Path:
    """A place for a table, or - for standard output. Raises UsageError, PydreamingError."""
    return Path(out) if out == STDOUT else check_output(out, TABLES)


def check_output(out: str, endings: tuple[str, ...]) -> Path:
    """Refuse what cannot be written before hours of work go into it. Raises UsageError, PydreamingError."""
    path = Path(out)
    if path.suffix not in endings:
        raise UsageError(f"{out} must end in {' or '.join(endings)}")
    if path.is_dir():
        raise UsageError(f"{out} is a folder")
    _check_writable(path, path.absolute().parents)
    return path


def check_folder(out: str) -> Path:
    """A folder that files can be put into; it is made when the first is. Raises PydreamingError."""
    folder = Path(out)
    _check_writable(folder, (folder.absolute(), *folder.absolute().parents))
    return folder


def _check_writable(path: Path, places: Iterable[Path]) -> None:
    """The first of the places that exists must be a folder that takes files."""
    folder = next(place for place in places if place.exists())
    if not folder.is_dir():
        raise PydreamingError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PydreamingError(f"cannot write {path}: no permission in {folder}")


def deliver(out: Path, write: Callable[[Path], None]) -> None:
    """Write a table to its place, or as CSV to standard output; `write` may find that there is nothing to write."""
    if str(out) != STDOUT:
        write(out)
        return
    with tempfile.TemporaryDirectory(prefix="pydreaming-") as scratch:
        path = Path(scratch) / "table.csv"
        write(path)
        if path.exists():
            with path.open(encoding="utf-8") as file:
                shutil.copyfileobj(file, sys.stdout)


def finish(failures: int, files: int, what: str, out: Path, partial: bool = False) -> int:
    """Say what was written and what failed; returns the exit code. `partial`: files that failed may have left rows."""
    if failures == files and not partial:
        complain("no file could be read; nothing was written")
        return 1
    if str(out) != STDOUT:
        say(f"wrote {out}: {what} from {files - failures} of {files} files")
    return count(failures, files)


def count(failures: int, files: int) -> int:
    """Say how many files could not be read, where some could not; returns the exit code."""
    if failures:
        complain(f"{failures} of {files} files could not be read")
    return 1 if failures else 0


def say(text: str) -> None:
    """A line for the user, on standard error: standard output is for data."""
    print(text, file=sys.stderr)


def show(text: str) -> None:
    """Lines that a user asked for, on standard output."""
    sys.stdout.write(f"{text}\n")


def complain(text: str) -> None:
    """A line on what went wrong; a progress bar stays whole."""
    from tqdm import tqdm

    tqdm.write(f"pydreaming: {text}", file=sys.stderr)
