"""Front-end speed: how many seconds of audio one core turns into log-mel frames per second, beside the limit and the peers.

    python -m benchmarks.frontend --json frontend.json

Everything is measured in one run, one thread, interleaved, in CPU time, and reported as the median and range of several repeats; only the
ratios travel between machines. Files are written to a temporary folder and read from the page cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio

from pydreaming.audio.decode import decode, open_audio, read_blocks
from pydreaming.audio.features import LOG_FLOOR, FrontEnd
from pydreaming.audio.sources.item import AudioItem
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import FeatureConfig, load_config
from workers.produce import TOGETHER, Producer

RATE = 16_000  # Hz
FEATURES = FeatureConfig(
    sample_rate=RATE,
    n_fft=512,
    win_length=400,
    hop_length=160,
    n_mels=80,
    f_min=20.0,
    f_max=0.0,
    token_frames=4,
    token_hop=4,
    stats_files=1,
)
CONFIG = dataclasses.replace(load_config(["defaults"]), features=FEATURES)
STATS = FeatureStats([0.0] * 80, [1.0] * 80, 1)
ITEM = AudioItem(index=0, path="", group="recording:benchmark")
CONVERTED_RATE = 44_100  # Hz

Cases = dict[str, tuple[float, Callable[[], object]]]  # name -> seconds of audio, what to time
Figures = dict[str, list[float]]  # name -> a value for each repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the short recording")
    parser.add_argument("--long", type=float, default=600.0, help="length of the long recording, s")
    parser.add_argument("--clip", type=float, default=0.5, help="length of the recordings of a corpus of clips, s")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            **array_cases(options.seconds),
            **file_cases(Path(folder), options.seconds, options.long),
            **corpus_cases(Path(folder), options.seconds, options.clip),
        }
        speeds = measure(cases, options.repeats)
    ratios = compare(speeds, f"{options.seconds:g} s", f"{options.long:g} s", f"{options.clip:g} s")
    print(report(speeds, ratios))
    if options.json:
        options.json.write_text(json.dumps({"times_real_time": speeds, "ratios": ratios}, indent=1) + "\n", encoding="utf-8")


def array_cases(seconds: float) -> Cases:
    """Log-mel of samples in memory."""
    samples = speech_like(seconds, RATE)
    tensor = torch.from_numpy(samples)
    ours = FrontEnd(FEATURES)
    peer, other_peer = torchaudio_mel(), librosa_mel()
    frames = torch.randn(int(seconds * RATE) // FEATURES.hop_length, FEATURES.n_fft)
    other = speech_like(seconds, CONVERTED_RATE)
    conversion = torchaudio.transforms.Resample(CONVERTED_RATE, RATE)
    return {
        "bare rfft (limit)": (seconds, lambda: torch.fft.rfft(frames)),
        "log-mel, pydreaming": (seconds, lambda: list(ours.frames([samples], RATE))),
        "log-mel, torchaudio MelSpectrogram": (seconds, lambda: peer(tensor).clamp_min(LOG_FLOOR).log()),
        "log-mel, librosa": (seconds, lambda: other_peer(samples)),
        "44.1 kHz -> log-mel, pydreaming": (seconds, lambda: list(ours.frames([other], CONVERTED_RATE))),
        "44.1 kHz -> log-mel, torchaudio": (seconds, lambda: peer(conversion(torch.from_numpy(other))).clamp_min(LOG_FLOOR).log()),
    }


def file_cases(folder: Path, seconds: float, long_seconds: float) -> Cases:
    """From a file's name to log-mel."""
    ours, peer = FrontEnd(FEATURES), torchaudio_mel()
    cases: Cases = {}
    for suffix in ("wav", "flac"):
        path = folder / f"short.{suffix}"
        soundfile.write(str(path), speech_like(seconds, RATE), RATE, subtype="PCM_16")
        cases[f"{suffix} decode only"] = (seconds, partial(decode_all, path))
        cases[f"{suffix} -> log-mel, pydreaming"] = (seconds, partial(count_frames, ours, path))
        cases[f"{suffix} -> log-mel, soundfile float32 + torchaudio"] = (seconds, partial(by_torchaudio, path, peer))
    long = folder / "long.wav"
    soundfile.write(str(long), np.tile(speech_like(10.0, RATE), round(long_seconds / 10)), RATE, subtype="PCM_16")
    cases[f"wav of {long_seconds:g} s -> log-mel, pydreaming"] = (long_seconds, partial(count_frames, ours, long))
    return cases


def corpus_cases(folder: Path, seconds: float, clip_seconds: float) -> Cases:
    """Many recordings: to tokens (clips one by one, and as workers take them), and by a worker's `Producer` to Parquet."""
    cases: Cases = {}
    for suffix in ("wav", "flac"):
        for length, count in ((seconds, 16), (clip_seconds, 320)):
            name = f"{suffix} of {length:g} s"
            paths = [folder / suffix / f"{length:g}" / f"{number:03}.{suffix}" for number in range(count)]
            paths[0].parent.mkdir(parents=True)
            samples = speech_like(length, RATE)
            for number, path in enumerate(paths):
                soundfile.write(str(path), np.roll(samples, 31 * number), RATE, subtype="PCM_16")
            front_end = FrontEnd(FEATURES, STATS)
            cases[f"{name} -> tokens, one by one"] = (count * length, partial(one_by_one, front_end, paths))
            if length == clip_seconds:
                cases[f"{name} -> tokens, together"] = (count * length, partial(together, front_end, paths))
            items = [AudioItem(number, path.name, f"speaker:{number // 40}") for number, path in enumerate(paths)]
            producer = Producer(CONFIG, paths[0].parent, folder / "replay")
            cases[f"{name} -> Parquet"] = (count * length, partial(producer.produce, 0, 0, items, STATS))
    return cases


def one_by_one(front_end: FrontEnd, paths: Sequence[Path]) -> int:
    total = 0
    for path in paths:
        with open_audio(path, ITEM, "mix") as stream:
            total += sum(len(part) for part in front_end.tokens(stream.blocks(), stream.sample_rate))
    return total


def together(front_end: FrontEnd, paths: Sequence[Path]) -> int:
    total = 0
    for begin in range(0, len(paths), TOGETHER):
        clips = [decode(path)[0] for path in paths[begin : begin + TOGETHER]]
        total += sum(len(tokens) for tokens in front_end.tokens_together(clips))
    return total


def measure(cases: Cases, repeats: int) -> Figures:
    """Speed of each case in each repeat, in seconds of audio per second; the cases take turns, so that a busy machine slows all of them."""
    for _, run in cases.values():
        run()
    speeds: Figures = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (seconds, run) in cases.items():
            count = max(1, round(50 / seconds))
            begin = time.process_time()
            for _ in range(count):
                run()
            speeds[name].append(seconds * count / (time.process_time() - begin))
    return speeds


def compare(speeds: Figures, short: str, long: str, clip: str) -> Figures:
    """Ratios of two cases, repeat by repeat."""
    pairs = {
        "log-mel / torchaudio": ("log-mel, pydreaming", "log-mel, torchaudio MelSpectrogram"),
        "log-mel / librosa": ("log-mel, pydreaming", "log-mel, librosa"),
        "log-mel / bare rfft": ("log-mel, pydreaming", "bare rfft (limit)"),
        "wav / float32 + torchaudio": (
            "wav -> log-mel, pydreaming",
            "wav -> log-mel, soundfile float32 + torchaudio",
        ),
        "flac / float32 + torchaudio": ("flac -> log-mel, pydreaming", "flac -> log-mel, soundfile float32 + torchaudio"),
        "44.1 kHz / torchaudio": ("44.1 kHz -> log-mel, pydreaming", "44.1 kHz -> log-mel, torchaudio"),
        **{
            key: value
            for suffix in ("wav", "flac")
            for key, value in {
                f"{suffix}, clips of {clip} / recordings of {short} -> tokens": (
                    f"{suffix} of {clip} -> tokens, together",
                    f"{suffix} of {short} -> tokens, one by one",
                ),
                f"{suffix} of {short}, Parquet / tokens": (
                    f"{suffix} of {short} -> Parquet",
                    f"{suffix} of {short} -> tokens, one by one",
                ),
                f"{suffix} of {clip}, Parquet / tokens": (
                    f"{suffix} of {clip} -> Parquet",
                    f"{suffix} of {clip} -> tokens, together",
                ),
            }.items()
        },
        f"{long} / {short} file": (f"wav of {long} -> log-mel, pydreaming", "wav -> log-mel, pydreaming"),
    }
    return {name: [a / b for a, b in zip(speeds[ours], speeds[other], strict=True)] for name, (ours, other) in pairs.items()}


def report(speeds: Figures, ratios: Figures) -> str:
    """Markdown: medians and ranges over the repeats."""

    def rows(figures: Figures, form: str) -> list[str]:
        return [f"| {name} | {median(v):{form}} | {min(v):{form}} – {max(v):{form}} |" for name, v in figures.items()]

    head = ["| one core | × real time | range |", "|---|---:|---|", *rows(speeds, ",.0f")]
    return "\n".join([*head, "", "| ratio | | range |", "|---|---:|---|", *rows(ratios, ".2f")])


def count_frames(front_end: FrontEnd, path: Path) -> int:
    """Frames are consumed as they come, as a worker does: the memory of a recording is one block."""
    with open_audio(path, ITEM, "mix") as stream:
        return sum(len(part) for part in front_end.frames(stream.blocks(), stream.sample_rate))


def decode_all(path: Path) -> int:
    return sum(len(block) for block in read_blocks(path, ITEM, "mix"))


def by_torchaudio(path: Path, transform: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    samples, _ = soundfile.read(str(path), dtype="float32")
    return transform(torch.from_numpy(samples)).clamp_min(LOG_FLOOR).log()


def torchaudio_mel() -> Callable[[torch.Tensor], torch.Tensor]:
    transform: Callable[[torch.Tensor], torch.Tensor] = torchaudio.transforms.MelSpectrogram(
        RATE, FEATURES.n_fft, FEATURES.win_length, FEATURES.hop_length, FEATURES.f_min, n_mels=FEATURES.n_mels
    )
    return transform


def librosa_mel() -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """`librosa.feature.melspectrogram`, but with filters that are made once, as ours and torchaudio's are, and not at every call."""
    import librosa  # slow to import, and a development dependency

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters = librosa.filters.mel(sr=RATE, n_fft=FEATURES.n_fft, n_mels=FEATURES.n_mels, fmin=FEATURES.f_min, htk=True, norm=None)

    def log_mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        spectrum = librosa.stft(samples, n_fft=FEATURES.n_fft, hop_length=FEATURES.hop_length, win_length=FEATURES.win_length)
        mel = np.einsum("ft,mf->mt", np.abs(spectrum) ** 2, filters, optimize=True)
        values: npt.NDArray[np.float32] = np.log(np.maximum(mel, LOG_FLOOR))
        return values

    return log_mel


def speech_like(seconds: float, rate: int) -> npt.NDArray[np.float32]:
    """Noise with a falling spectrum and a syllable rhythm, so that FLAC has something to predict. (num_samples,) float32."""
    count = int(seconds * rate)
    noise = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    smooth = np.convolve(noise, np.hanning(16) / 8, mode="same")
    rhythm = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(count) / rate)
    return (0.2 * smooth * rhythm).astype(np.float32)


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read when numpy is loaded, so before this line: begin again
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.frontend", *sys.argv[1:]], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    main()
