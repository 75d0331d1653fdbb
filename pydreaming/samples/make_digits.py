"""Make the bundled spoken digits with espeak-ng: `python -m pydreaming.samples.make_digits FOLDER`.

Six voices say each digit ten times, at seeded speed, pitch, loudness and with a seeded breath of noise, as 8 kHz mono 16-bit flac named as
the Free Spoken Digit Dataset names its files. The same espeak-ng gives the same files again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from pydreaming.audio.decode import decode
from pydreaming.audio.resample import Resampler
from pydreaming.errors import PydreamingError, SourceError

VOICES = {
    "alan": "en-us+m3",
    "beth": "en-gb-x-rp+f2",
    "carl": "en-gb-scotland+m1",
    "dana": "en-us+f4",
    "eric": "en-029+m7",
    "fern": "en-gb-x-gbclan+f5",
}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TAKES = 10
SAMPLE_RATE = 8000  # Hz
MARGIN = 160  # samples of silence kept on either side of a word (20 ms)
SILENCE = 0.004  # of full scale; what is below it at the ends is trimmed
SEED = 20


def make(folder: Path) -> int:
    """Write the digits to `folder`; returns how many. Raises SourceError when espeak-ng is missing or fails."""
    program = espeak()
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for voice in VOICES:
        for digit in range(len(WORDS)):
            for take in range(TAKES):
                rng = random.Random(f"{SEED} {voice} {digit} {take}")  # noqa: S311 (no secret)
                samples = spoken(program, VOICES[voice], WORDS[digit], rng)
                soundfile.write(folder / f"{digit}_{voice}_{take}.flac", samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                count += 1
    return count


def espeak() -> str:
    """The program's path. Raises SourceError where it is missing."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise SourceError("espeak-ng is not installed (Debian: apt-get install espeak-ng)")
    return program


def spoken(program: str, voice: str, word: str, rng: random.Random) -> npt.NDArray[np.float32]:
    """(num_samples,) float32 at SAMPLE_RATE: one take of a word by a voice of espeak-ng. Raises SourceError where it fails."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "word.wav"
        speed, pitch = rng.randint(130, 210), rng.randint(35, 65)
        command = [program, "-v", voice, "-s", str(speed), "-p", str(pitch), "-z", "-w", str(path), word]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as e:
            raise SourceError(f"espeak-ng failed for voice {voice}: {e}") from e
        samples, rate = decode(path)
    whole = np.concatenate(list(Resampler(rate, SAMPLE_RATE).stream([samples])))
    loud = np.flatnonzero(np.abs(whole) > SILENCE)
    heard = np.pad(whole[loud[0] : loud[-1] + 1], MARGIN)
    peak, noise = rng.uniform(0.2, 0.9), rng.uniform(0.0005, 0.003)  # of full scale
    hiss = np.random.default_rng(rng.getrandbits(32)).normal(0.0, noise, len(heard))
    take: npt.NDArray[np.float32] = np.clip(heard * (peak / np.abs(heard).max()) + hiss, -1.0, 1.0).astype(np.float32)
    return take


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pydreaming.samples.make_digits", description="Make the bundled spoken digits.")
    parser.add_argument("folder", type=Path)
    try:
        count = make(parser.parse_args().folder)
    except PydreamingError as e:
        sys.stderr.write(f"error: {e}\n")
        return e.exit_code
    sys.stdout.write(f"{count} files\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
