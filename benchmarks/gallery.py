"""The gallery of README: the real commands on real recordings, with what they print, draw and write.

    python -m benchmarks.gallery --model runs/my-run --data ../shared/data --out docs/gallery

MODEL is a run or a checkpoint that was trained on FSDD (its clips of index 0-4 held out, as `make demo` and `make figures` do); --data has
the folders fsdd, esc10 and machines. Writes the pictures into --out, and beside it the Markdown (docs/gallery.md) with each command, what
it printed, and excerpts of the tables it wrote: no figure there is typed by hand. For `status` a run is started, and stopped again. Pages
are photographed by Chromium. About six minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, chdir
from pathlib import Path

from benchmarks.exhibits.live import STATUS, training
from benchmarks.exhibits.pages import Browser, browser, can_photograph, shrink
from benchmarks.exhibits.recordings import Recordings, gather
from benchmarks.exhibits.scene import Scene, markdown, perform
from benchmarks.exhibits.scenes import MODEL, scenes
from pydreaming.analysis.files import replacing
from pydreaming.errors import CheckpointError, PydreamingError
from pydreaming.training.checkpoint import list_checkpoints

INTRODUCTION = """\
# Gallery

What the commands do, on real recordings. `make gallery MODEL=<run>` makes this page and its pictures: each command was
run as it stands, and every figure is what it printed or wrote.

The model is {model}. Of these recordings it was trained on `voices` only.

    digits/       clips of spoken digits (FSDD, index 0-4)
    sessions/     such digits one after another, a recording for each speaker
    row.wav       the ten digits of one speaker one after another
    garden.wav    the same, with a chainsaw in the middle (ESC-10)
    pumps/        machines (DCASE 2020, task 2)
    voices/       clips of digits that it was trained on
"""


def main(words: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = _options(words)
    out: Path = options.out.absolute()
    data: Path = options.data.absolute()
    try:
        checkpoint = _newest(options.model.absolute())
        with tempfile.TemporaryDirectory(prefix="gallery-") as place, chdir(place):
            _put(checkpoint)
            recordings = gather(data, Path(place))
            with ExitStack() as stack:
                photographer = stack.enter_context(browser()) if options.pages else None
                entries = [_entry(scene, recordings, out, photographer) for scene in scenes(recordings)]
            if options.status:
                with training(data / "fsdd"):
                    entries.append(_entry(STATUS, recordings, out, None))
    except PydreamingError as e:
        sys.stderr.write(f"gallery: {e}\n")
        return 1
    introduction = INTRODUCTION.format(model=f"the checkpoint `{checkpoint.name}` of a training on FSDD")
    with replacing(out.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join([introduction, *(line for entry in entries for line in entry)]), encoding="utf-8")
    print(f"wrote {out.with_suffix('.md')} and the pictures in {out}")
    return 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description="the real commands on real recordings, as a page")
    parser.add_argument("--model", type=Path, required=True, metavar="RUN", help="run or checkpoint that was trained on FSDD")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with fsdd, esc10 and machines")
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"), help="folder of the pictures (default: docs/gallery)")
    parser.add_argument("--no-status", dest="status", action="store_false", help="start no run to look at")
    parser.add_argument("--no-pages", dest="pages", action="store_false", help="photograph no pages")
    options = parser.parse_args(words)
    if options.pages and not can_photograph():
        parser.error("Chromium and chromedriver are needed to photograph pages; --no-pages leaves them out")
    return options


def _newest(model: Path) -> Path:
    """The newest checkpoint of a run, or the checkpoint itself. Raises CheckpointError."""
    newest = [model, *list_checkpoints(model / "checkpoints")][-1]
    if not (newest / "state.json").is_file():
        raise CheckpointError(f"{model}: neither a run with checkpoints nor a checkpoint")
    return newest


def _put(checkpoint: Path) -> None:
    """Show the checkpoint as the run that the commands name."""
    folder = Path(MODEL) / "checkpoints"
    folder.mkdir(parents=True)
    (folder / checkpoint.name).symlink_to(checkpoint)


def _entry(scene: Scene, recordings: Recordings, out: Path, photographer: Browser | None) -> list[str]:
    """Run a scene, keep its picture, and write it down. Raises PydreamingError."""
    printed = perform(scene)
    picture = Path(scene.picture)
    if picture.suffix == ".html":
        if photographer is None:
            picture = Path()
        else:
            photographer.photograph(picture, picture.with_suffix(".png"), scene.height)
            picture = picture.with_suffix(".png")
    address = ""
    if picture.suffix:
        shrink(picture, out / f"{scene.name}.png")
        address = f"{out.name}/{scene.name}.png"
    return list(markdown(scene, printed, address, scene.found(recordings)))


if __name__ == "__main__":
    raise SystemExit(main())
