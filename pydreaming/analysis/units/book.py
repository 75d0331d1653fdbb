"""The code book as a page: the most used units to hear and to see, and what the figures say of them."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pydreaming.analysis.inputs import Recording, open_source
from pydreaming.analysis.reports.page import Attachment, Report, Table, write_report
from pydreaming.analysis.reports.pictures import Array, save
from pydreaming.analysis.reports.verdicts import Verdict
from pydreaming.analysis.units.figures import UnitFigures
from pydreaming.analysis.units.inventory import EXEMPLARS, Exemplar, Transcriber
from pydreaming.analysis.units.pictures import UnitPanel, unit_grid
from pydreaming.audio.decode import Samples
from pydreaming.audio.encode import write_wav
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.resample import Resampler
from pydreaming.config import FeatureConfig

MOST = 24  # units in a book
AROUND_S = 0.2  # s of the recording before and after an exemplar's window
PAUSE_S = 0.25  # s between exemplars
WORTH = 0.01  # by which a figure must differ from the baseline's to be called better or worse


@dataclass(frozen=True)
class Excerpt:
    """Sound around an exemplar: samples (n,) at the model's rate; `window_s`: seconds into it at which the window begins."""

    source: str
    at_s: float
    samples: Samples
    window_s: float


def write_book(path: Path, transcriber: Transcriber, result: UnitFigures, most: int = MOST) -> None:
    """Write the page, whole or not at all.

    Args:
      most: how many units it shows, the most used ones first.
    Raises:
      DecodeError: a recording is no longer what it was. PydreamingError: `path` cannot be written.
    """
    used = sum((np.bincount(t.runs.units, t.runs.windows, len(transcriber.inventory)) for t in transcriber.transcripts), np.zeros(1))
    chosen = [int(unit) for unit in np.argsort(-used, kind="stable")[:most] if used[unit] and transcriber.exemplars[unit]]
    excerpts = {unit: [excerpt(transcriber, exemplar) for exemplar in transcriber.exemplars[unit]] for unit in chosen}
    share, labels = used / used.sum(), _labels(transcriber)
    with tempfile.TemporaryDirectory(prefix="pydreaming-book-") as scratch:
        sounds = [
            _sound(
                Path(scratch),
                f"u{unit}",
                f"{share[unit]:.1%} of the windows{labels.get(unit, '')}",
                excerpts[unit],
                transcriber.model.features,
            )
            for unit in chosen
        ]
        pictures = _pictures(Path(scratch), excerpts, share, transcriber.model.features) if chosen else []
        write_report(path, _report(transcriber, result, sounds, pictures))


def excerpt(transcriber: Transcriber, exemplar: Exemplar) -> Excerpt:
    """The sound of an exemplar's window with AROUND_S before and after it, as far as the recording goes. Raises DecodeError."""
    recording, features = transcriber.transcripts[exemplar.recording].recording, transcriber.model.features
    at = exemplar.window * transcriber.token_s
    begin = max(0.0, at - AROUND_S)
    length = at - begin + features.token_span_samples / features.sample_rate + AROUND_S
    if recording.item.duration_s is not None:
        length = min(length, recording.item.duration_s - begin)
    samples = _read(recording, begin, length, transcriber.model.channels, features)
    return Excerpt(recording.name, at, samples, at - begin)


def _read(recording: Recording, begin: float, length: float, channels: str, features: FeatureConfig) -> Samples:
    """(n,) samples of a part of a recording, in seconds, at the model's rate. The part ends with the recording."""
    item = msgspec.structs.replace(recording.item, offset_s=recording.item.offset_s + begin, duration_s=None)
    with open_source(Recording(recording.name, item, recording.root), channels) as (chunks, rate):
        parts: list[Samples] = []
        left = round(length * rate)
        for chunk in chunks:
            parts.append(chunk[:left])
            left -= len(parts[-1])
            if left <= 0:
                break
        return np.concatenate(list(Resampler(rate, features.sample_rate).stream(parts)))


def _labels(transcriber: Transcriber) -> dict[int, str]:
    """What to say of the label that is commonest among the windows of each unit, where recordings have labels."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for t in transcriber.transcripts:
        if label := t.recording.labels.get("label"):
            for unit, windows in zip(t.runs.units.tolist(), t.runs.windows.tolist(), strict=True):
                counts[unit][label] += windows
    commonest = {unit: (count.most_common(1)[0], count.total()) for unit, count in counts.items()}
    return {unit: f", {windows / total:.0%} of them in '{label}'" for unit, ((label, windows), total) in commonest.items()}


def _sound(folder: Path, name: str, use: str, excerpts: list[Excerpt], features: FeatureConfig) -> Attachment:
    """One sound of all exemplars of a unit, with pauses."""
    pause = np.zeros(round(PAUSE_S * features.sample_rate), np.float32)
    pieces = [piece for e in excerpts for piece in (e.samples, pause)][:-1]
    path = folder / f"{name}.wav"
    write_wav(path, np.concatenate(pieces), features.sample_rate)
    places = ", ".join(f"{Path(e.source).name} {e.at_s:.2f} s" for e in excerpts)
    return Attachment(f"{name}: {use}", f"in turn: {places}", path)


def _pictures(folder: Path, excerpts: dict[int, list[Excerpt]], share: Array, features: FeatureConfig) -> list[Attachment]:
    front_end = FrontEnd(features)
    before = round(AROUND_S * features.sample_rate / features.hop_length)
    panels = [UnitPanel(f"u{unit} ({share[unit]:.1%})", _mean_mel(found, front_end, before)) for unit, found in excerpts.items()]
    path = save(unit_grid(panels, features, before), folder / "units.png")
    caption = (
        "Mean log-mel of the same excerpts, laid over each other at the unit's window, which lies between the white lines."
        " What a unit has in common shows sharply there; beside it, what usually comes before and after. White: no recording reaches there."
    )
    return [Attachment("The units' spectra", caption, path)]


def _mean_mel(excerpts: list[Excerpt], front_end: FrontEnd, before: int) -> Array:
    """(before + token_frames + before, n_mels) mean log-mel, the window in the middle; not a number where no excerpt reaches."""
    features = front_end.features
    width = 2 * before + features.token_frames
    stack = np.full((len(excerpts), width, features.n_mels), np.nan, np.float32)
    for row, found in zip(stack, excerpts, strict=True):
        frames = list(front_end.frames([found.samples], features.sample_rate))
        mel = np.concatenate(frames) if frames else np.empty((0, features.n_mels), np.float32)
        first = before - round(found.window_s * features.sample_rate / features.hop_length)
        room = mel[: width - first]
        row[first : first + len(room)] = room
    known = np.isfinite(stack)
    total = np.where(known, stack, 0.0).sum(0)
    count = known.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _report(transcriber: Transcriber, result: UnitFigures, sounds: list[Attachment], pictures: list[Attachment]) -> Report:
    inventory, transcripts = transcriber.inventory, transcriber.transcripts
    windows = sum(t.windows for t in transcripts)
    hours = windows * transcriber.token_s / 3600
    figures = Table(
        "Units beside clusters of the log-mel",
        "Both are k-means of the same number on the same windows; the reference is chance, or the most that there can be.",
        ("figure", "units", "log-mel", "reference", "what it is"),
        [tuple(figure) for figure in result.figures],
    )
    repeats = Table(
        "What repeats",
        "The most frequent sequences of runs, repetitions of a unit taken together.",
        ("units", "times", "recordings", "first in", "at (s)"),
        [(r.units, r.times, r.recordings, r.source, r.start_s) for r in result.repeats],
    )
    notes = [
        f"{len(inventory)} units by k-means of '{inventory.part}', {windows} windows of {1000 * transcriber.token_s:g} ms"
        f" ({hours:.2g} h) in {len(transcripts)} recordings. The {len(sounds)} most used are shown.",
        f"Each sound holds up to {EXEMPLARS} excerpts from different recordings, nearest to the unit's centre first,"
        f" with {AROUND_S:g} s before and after the window: listen for what the middles share.",
    ]
    if inventory.part in ("deter", "feat"):
        notes.append("A unit stands for what was heard up to its window: the same sound can be several units, by what led to it.")
    subtitle = f"model {inventory.fingerprint}, step {int(transcriber.model.state.counters['step'])}"
    return Report(
        title="Units", subtitle=subtitle, verdicts=_verdicts(result), tables=[figures, repeats], figures=pictures, audio=sounds, notes=notes
    )


def _verdicts(result: UnitFigures) -> list[Verdict]:
    found = []
    for key, (ours, theirs) in result.agreements.items():
        good, words = _compared(ours.nmi, theirs.nmi)
        found.append(
            Verdict(
                good,
                f"A unit says {words} about the {key} {'as' if good is None else 'than'} a cluster of the log-mel: normalised mutual"
                f" information {ours.nmi:.2f} against {theirs.nmi:.2f} ({ours.nmi_shuffled:.2f} with {key}s dealt at random).",
            )
        )
        good, words = _compared(ours.vote, theirs.vote)
        found.append(
            Verdict(
                good,
                f"A vote of its units tells the {key} of {ours.vote:.0%} of the recordings, {words} {'as' if good is None else 'than'}"
                f" a vote of log-mel clusters ({theirs.vote:.0%}; the commonest {key}: {ours.vote_least:.0%}).",
            )
        )
    return found


def _compared(ours: float, theirs: float) -> tuple[bool | None, str]:
    if abs(ours - theirs) <= WORTH:
        return None, "about as much"
    return (True, "more") if ours > theirs else (False, "less")
