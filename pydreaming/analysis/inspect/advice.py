"""What a user should know of a corpus before training on it: warnings in plain sentences, and the command to train."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.config import FeatureConfig, load_config

if TYPE_CHECKING:
    from pydreaming.analysis.inspect.audio import AudioReport

FEW = 5  # recordings of a class, below which little can be said of it
DOMINANT = 0.6  # share of one class from which it is said to dominate, where there are more than two
DOMINANT_OF_TWO = 0.8
LITTLE_S = 600.0  # s of audio, below which a model learns little
NAMED = 5  # names in a sentence
PRESETS = {"fsdd": "fsdd", "esc50": "esc10", "librispeech": "librispeech", "common_voice": "common_voice"}  # layout to preset


def training_command(report: AudioReport) -> str:
    """The command line that trains on what was found."""
    words = ["python", "launch.py", "--configs", "defaults", PRESETS.get(report.layout, "folder"), "--source.path", report.path]
    return shlex.join(words + [word for key, value in _rate_settings(report).items() for word in (f"--{key}", value)])


def features_for(report: AudioReport) -> FeatureConfig:
    """The front end that `training_command` trains with."""
    overrides = [word for key, value in _rate_settings(report).items() for word in (f"--{key}", value)]
    return load_config(["defaults", PRESETS.get(report.layout, "folder")], overrides).features


def _rate_settings(report: AudioReport) -> dict[str, str]:
    """Settings for recordings that all lie below the preset's sample rate: frames of 25 ms, 10 ms apart, as in the defaults."""
    usual = load_config(["defaults", PRESETS.get(report.layout, "folder")]).features.sample_rate
    highest = max(report.rates, default=usual)
    if highest >= usual:
        return {}
    lengths = {"sample_rate": highest, "win_length": highest // 40, "hop_length": highest // 100}
    return {f"features.{key}": str(value) for key, value in lengths.items()}


def audio_warnings(report: AudioReport) -> list[str]:
    """Sentences on what may go wrong; empty where nothing was noticed."""
    found = [*_sound(report), *_format(report)]
    if report.layout == "folder" and report.folders > 1 and not report.labels:
        found.append(
            f"There are no labels: the names of the {report.folders} folders would be taken for them if every file lay exactly one folder"
            " below. --source.labels folders takes them as they are."
        )
    for key, counts in report.labels.items():
        found += _classes(key, counts)
    return found


def _sound(report: AudioReport) -> list[str]:
    found = []
    if report.unreadable:
        them = "it" if len(report.unreadable) == 1 else "them"
        found.append(f"{_count(len(report.unreadable), 'recording')} cannot be read (see above): training leaves {them} out.")
    if report.short:
        found.append(
            f"{_are(report.short, 'recording')} shorter than one window ({1000 * report.window_s:.0f} ms):"
            f" padded with silence, {'it teaches' if report.short == 1 else 'they teach'} nothing."
        )
    if 0 < report.seconds < LITTLE_S:
        found.append(f"There are only {report.seconds / 60:.1f} minutes of audio: expect the model to learn little beyond them.")
    if report.duplicates:
        spare = sum(len(group) - 1 for group in report.duplicates)
        first, second = (Path(name).name for name in report.duplicates[0][:2])
        found.append(
            f"{_count(spare, 'file')} {'is a copy of another' if spare == 1 else 'are copies of others'}, such as {second} of {first}:"
            " copies on both sides of a split make figures too good."
        )
    if report.levels is not None:
        for kind, count in (("silent", report.levels.silent), ("clipped", report.levels.clipped)):
            if count:
                which = f"{count} of {report.levels.recordings} measured recordings"
                found.append(f"{which} {'is' if count == 1 else 'are'} {kind}, such as {report.levels.of[kind][0]}.")
    return found


def _format(report: AudioReport) -> list[str]:
    found = []
    features = features_for(report)
    if len(report.rates) > 1:
        found.append(
            f"There are {len(report.rates)} sample rates; all are converted to {features.sample_rate} Hz, and a model can learn to tell"
            " which were lower by what they lack above half their rate."
        )
    elif report.rates and min(report.rates) < features.sample_rate:
        found.append(f"The recordings have {min(report.rates)} Hz, the features {features.sample_rate} Hz: bands above are empty.")
    several = sum(count for channels, count in report.channels.items() if channels > 1)
    if several:
        found.append(f"{_count(several, 'recording')} with several channels: mixed to one, unless --source.channels is first or each.")
    if report.estimated:
        why = "its header does not" if report.estimated == 1 else "their headers do not"
        found.append(f"The length of {_count(report.estimated, 'recording')} is an estimate or unknown, as {why} say it.")
    return found


def _classes(key: str, counts: Mapping[str, int]) -> list[str]:
    found = []
    total = sum(counts.values())
    largest = max(counts, key=lambda name: counts[name])
    limit = DOMINANT_OF_TWO if len(counts) == 2 else DOMINANT
    if len(counts) == 1:
        found.append(f"All recordings with a {key} have the same one, '{largest}': it tells nothing apart.")
    elif counts[largest] / total >= limit:
        found.append(f"One {key} dominates: '{largest}' has {counts[largest] / total:.0%} of the recordings.")
    few = [name for name, count in counts.items() if count < FEW]
    if few and len(counts) > 1:
        names = ", ".join(f"'{name}'" for name in few[:NAMED]) + (", ..." if len(few) > NAMED else "")
        found.append(f"{_count(len(few), key)} with fewer than {FEW} recordings ({names}): too few to judge by.")
    return found


def _are(number: int, thing: str) -> str:
    return f"{_count(number, thing)} {'is' if number == 1 else 'are'}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
