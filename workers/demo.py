"""The demonstration behind `make demo`: finds audio, picks the presets for it, and launches a run.

    python -m workers.demo [FOLDER] [--section.key value ...]

Without a folder the Free Spoken Digit Dataset is downloaded; where that is not possible, digits spoken by espeak-ng that come with the
package take its place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import launch
from pydreaming.audio.sources import layout_of
from pydreaming.audio.sources.fsdd_download import bundled_digits, ensure_fsdd
from pydreaming.config import load_config
from pydreaming.errors import PydreamingError, SourceError

DOWNLOAD = Path("data/fsdd")
PRESETS = {"fsdd": "fsdd", "esc50": "esc10", "librispeech": "librispeech", "common_voice": "common_voice"}


def find_audio() -> Path:
    """FSDD, downloaded or already there; else the bundled digits, which is said in one line."""
    try:
        return ensure_fsdd(DOWNLOAD)
    except SourceError as e:
        audio = bundled_digits()
        print(f"FSDD cannot be had ({e}); going on with the digits spoken by espeak-ng in {audio}", file=sys.stderr, flush=True)  # noqa: T201
        return audio


def presets_for(audio: Path) -> list[str]:
    """The presets that fit a folder's layout."""
    kind = layout_of(load_config(["defaults"], ["--source.path", str(audio)]).source)
    return ["defaults", PRESETS.get(kind, "folder"), "demo"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = words.pop(0) if words and not words[0].startswith("--") else ""
    try:
        audio = Path(given).expanduser() if given else find_audio()
        presets = presets_for(audio)
    except PydreamingError as e:
        print(f"error: {e}", file=sys.stderr)  # noqa: T201
        return e.exit_code
    return launch.main(["--configs", *presets, "--source.path", str(audio), *words])


if __name__ == "__main__":
    sys.exit(main())
