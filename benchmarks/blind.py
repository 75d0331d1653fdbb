"""A corpus that no choice of the recipe was made on: ten words, none a digit, by six voices of espeak-ng, 50 takes of each.

    python -m benchmarks.blind DATA/fsdd
    python -m benchmarks.quality --data DATA --only fsdd strict --rows world_model cpc untrained log-mel --out OUT

The files are named as FSDD's (the word's number in place of the digit), so that the same protocols ask the same questions. None of the
words and voices is among the bundled digits. Each voice has a channel of its own, as speakers with their own microphones have: a level, a
tilt of the spectrum, and noise; each take has its own speed and pitch. Everything is seeded: the same espeak-ng gives the same files.
Synthetic voices are more alike than people: the figures say whether the recipe works on what it was not chosen on, not how well on speech.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pydreaming.audio.encode import write_wav
from pydreaming.errors import PydreamingError
from pydreaming.samples.make_digits import SAMPLE_RATE, espeak, spoken

WORDS = ("green", "black", "table", "mouse", "river", "paper", "music", "winter", "stop", "yellow")
VOICES = {
    "gina": "en-us+f1",
    "hugh": "en-gb+m2",
    "iris": "en-gb-x-gbcwmd+f3",
    "jack": "en-us-nyc+m4",
    "kate": "en-gb-scotland+f5",
    "liam": "en-029+m6",
}
TAKES = 50
SEED = 30


def make(folder: Path) -> int:
    """Write the corpus to `folder`/recordings; returns how many files. Raises SourceError when espeak-ng is missing or fails."""
    program, recordings = espeak(), folder / "recordings"
    recordings.mkdir(parents=True, exist_ok=True)
    for voice, name in VOICES.items():
        channel = random.Random(f"{SEED} {voice}")  # noqa: S311 (no secret)
        level, tilt, noise = 10 ** channel.uniform(-1.0, 0.0), channel.uniform(-0.6, 0.6), 10 ** channel.uniform(-3.5, -2.5)
        for number, word in enumerate(WORDS):
            for take in range(TAKES):
                rng = random.Random(f"{SEED} {voice} {number} {take}")  # noqa: S311 (no secret)
                samples = spoken(program, name, word, rng)
                tilted = samples - tilt * np.concatenate([[0.0], samples[:-1]])
                hiss = np.random.default_rng(rng.getrandbits(32)).normal(0.0, noise, len(samples))
                heard = np.clip(level * tilted / max(1.0, np.abs(tilted).max()) + hiss, -1.0, 1.0).astype(np.float32)
                write_wav(recordings / f"{number}_{voice}_{take}.wav", heard, SAMPLE_RATE)
    return len(VOICES) * len(WORDS) * TAKES


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the corpus goes")
    options = parser.parse_args(words)
    try:
        print(f"{make(options.folder)} files")
    except PydreamingError as e:
        print(f"benchmarks.blind: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
