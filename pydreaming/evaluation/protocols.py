"""Protocols of the probes: who is trained on, and who is tested, chosen by what is known of the clips.

- `leave-one-speaker-out`: trained on all speakers but one, tested on that one; mean over speakers. The world model may have heard the
  speaker's clips, without labels. `loso_strict` is the same for a model that never did.
- `official folds`: the data set's own, where the clips know them (ESC-50, ESC-10).
- `grouped folds`: five folds that never share a recording, where neither speakers nor folds are known.
- `folds`: five folds over clips, for the speaker, who is the same in training and test by nature; where no clip of theirs is held out.
- `held-out clips`: trained on the clips that the model was trained on, tested on those it never heard (the official test split, where
  the data set has one).
- `1-shot`, `5-shot`: so many labelled clips of each class in all, drawn DRAWS times from the clips that the model was trained on; tested
  on the held-out clips and all others, but for those of a recording that was drawn from.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.classifiers import Labels, Rows, Split, stratified_folds
from pydreaming.evaluation.clips import Clips

FOLDS = 5
DRAWS = 20
MAX_SPEAKERS = 10  # folds of leave-one-speaker-out at most
LEAST_PER_CLASS = 2
SHOTS = {"label": (1, 5), "speaker": (5,)}

_NO_ROWS: Rows = np.array([], dtype=np.intp)


@dataclass(frozen=True)
class Protocol:
    """A named set of (train, test) index pairs for one label.

    Attributes:
      label: what is predicted. name: as in this module's text. splits: index arrays into the clips. targets: (N,) labels.
      chance: accuracy of always answering the commonest class.
      groups: (N,) what settings must not be chosen across, inside the training clips; None where that is any clip.
      shots: labelled clips of each class; 0: as many as there are. unlabelled: clips that are known without labels, where these are few.
      centres: (N,) names by which features are centred (see `speaker_centred`), or None.
    """

    label: str
    name: str
    splits: list[Split]
    targets: Labels
    chance: float
    groups: Labels | None = None
    shots: int = 0
    unlabelled: Rows = field(default_factory=lambda: _NO_ROWS)
    centres: Labels | None = None

    @property
    def test_clips(self) -> int:
        """Clips that are tested on in some split."""
        return len({int(i) for _, test in self.splits for i in test})


def plan_protocols(clips: Clips) -> tuple[list[Protocol], list[str]]:
    """The protocols that these clips allow, and a sentence for each one left out."""
    protocols: list[Protocol] = []
    notes: list[str] = []
    for name, targets in (("label", clips.labels), ("speaker", clips.speakers)):
        usable = _usable(targets)
        classes = len(set(targets[usable].tolist()))
        if classes < 2:
            found = "no" if classes == 0 else "only one"
            notes.append(f"No {name} probe: {found} {name} is known with at least {LEAST_PER_CLASS} clips.")
            continue
        if alone := len(set(targets[targets != ""].tolist())) - classes:
            notes.append(f"{alone} {name}{'s' if alone > 1 else ''} with a single clip left out of the {name} probes.")
        for protocol in _protocols(name, targets, np.flatnonzero(usable), clips):
            if isinstance(protocol, Protocol):
                protocols.append(protocol)
            else:
                notes.append(protocol)
    return protocols, notes


def strict_protocol(clips: Clips, speaker: str) -> Protocol | str:
    """`loso_strict`: trained on the labelled clips of all speakers but one, tested on that one; or why it is left out."""
    known = (clips.labels != "") & (clips.speakers != "")
    train = np.flatnonzero(known & (clips.speakers != speaker))
    test = np.flatnonzero(known & (clips.speakers == speaker) & np.isin(clips.labels, clips.labels[train]))
    if not len(test) or len(set(clips.labels[train].tolist())) < 2:
        return f"No loso_strict of speaker '{speaker}': it needs labelled clips of that speaker, and of two labels by others."
    return Protocol("label", "loso_strict", [(train, test)], clips.labels, chance_of(clips.labels[test]), clips.speakers)


def speaker_centred(protocol: Protocol, clips: Clips) -> Protocol:
    """The same with features centred per speaker, on all clips of each without labels: it is told who speaks, also in the test."""
    return dataclasses.replace(protocol, name=f"{protocol.name} (ctr: told who speaks)", centres=clips.speakers)


def _chance(targets: Labels, splits: Sequence[Split]) -> float:
    """`chance_of` all clips that are tested, as often as they are."""
    return chance_of(targets[np.concatenate([test for _, test in splits])])


def chance_of(targets: Labels) -> float:
    """Accuracy of always answering the commonest of these."""
    return max(Counter(targets.tolist()).values()) / len(targets)


def _protocols(name: str, targets: Labels, rows: Rows, clips: Clips) -> Iterator[Protocol | str]:
    """Each protocol for one label, or why there is none. `rows`: the usable clips."""
    speakers = len(set(clips.speakers[rows].tolist()) - {""})
    groups = None if name == "speaker" else clips.speakers if speakers >= 2 else clips.recordings
    held_out = _held_out(name, targets, rows, clips, groups)
    if name == "label" or isinstance(held_out, str):
        yield _across(name, targets, rows, clips, groups)
    yield held_out
    for shots in SHOTS[name]:
        yield _few_shot(name, targets, rows, clips, shots)


def _across(name: str, targets: Labels, rows: Rows, clips: Clips, groups: Labels | None) -> Protocol | str:
    """The protocol that rotates over all clips, or why there is none."""
    if groups is None:
        protocol, splits = "folds", list(stratified_folds(targets, rows, None, FOLDS))
    elif groups is clips.speakers:
        protocol, splits = "leave-one-speaker-out", _leave_one_out(targets, clips.speakers, rows[clips.speakers[rows] != ""])
    elif clips.folds is not None:
        protocol, splits = "official folds", _official(targets, rows[clips.folds[rows] != ""], clips.folds, clips.recordings)
    else:
        protocol, splits = "grouped folds", list(stratified_folds(targets, rows, groups, FOLDS))
    if not splits:
        return f"No {name} probe by {protocol}: no split leaves two {name}s to train on and one of them to test."
    return Protocol(name, protocol, splits, targets, _chance(targets, splits), groups)


def _held_out(name: str, targets: Labels, rows: Rows, clips: Clips, groups: Labels | None) -> Protocol | str:
    """The protocol that tests on held-out clips, or why there is none."""
    train, test = rows[~clips.held_out[rows]], rows[clips.held_out[rows]]
    missing = sorted(set(targets[test].tolist()) - set(targets[train].tolist()))
    if not len(test):
        return f"No {name} probe on held-out clips: none of them has a known {name}."
    if missing:
        return f"No {name} probe on held-out clips: {name} '{missing[0]}' is not among the clips that were trained on."
    if len(set(targets[train].tolist())) < 2:
        return f"No {name} probe on held-out clips: the clips that were trained on have only one {name}."
    return Protocol(name, "held-out clips", [(train, test)], targets, chance_of(targets[test]), groups)


def _few_shot(name: str, targets: Labels, rows: Rows, clips: Clips, shots: int) -> Protocol | str:
    """The protocol with so many labelled clips of each class, or why there is none."""
    protocol = f"{shots}-shot"
    pool = rows[~clips.held_out[rows]]
    counts = Counter(targets[pool].tolist())
    scarce = min(set(targets[rows].tolist()), key=lambda value: (counts[value], value))
    if counts[scarce] < shots:
        found = f"{counts[scarce]} of the {shots} clips" if counts[scarce] else "no clip"
        return f"No {name} probe by {protocol}: {name} '{scarce}' has {found} to draw among those that were trained on."
    rng = np.random.default_rng(shots)
    splits = []
    for _ in range(DRAWS):
        drawn = [rng.permutation(pool[targets[pool] == value])[:shots] for value in sorted(counts)]
        train = np.sort(np.concatenate(drawn))
        test = rows[~np.isin(clips.recordings[rows], clips.recordings[train])]
        if len(test):
            splits.append((train, test))
    if len(splits) < DRAWS:
        return f"No {name} probe by {protocol}: the recordings that were drawn from leave nothing to test."
    return Protocol(name, protocol, splits, targets, _chance(targets, splits), shots=shots, unlabelled=pool)


def _leave_one_out(targets: Labels, speakers: Labels, rows: Rows) -> list[Split]:
    """One split for each of the speakers with most clips."""
    most = [speaker for speaker, _ in Counter(speakers[rows].tolist()).most_common(MAX_SPEAKERS)]
    return _sound(targets, [(rows[speakers[rows] != speaker], rows[speakers[rows] == speaker]) for speaker in most])


def _official(targets: Labels, rows: Rows, folds: Labels, recordings: Labels) -> list[Split]:
    """One split for each fold; a training clip of a recording that is also tested is left out, should the folds have any."""
    splits = []
    for fold in sorted(set(folds[rows].tolist())):
        test, others = rows[folds[rows] == fold], rows[folds[rows] != fold]
        splits.append((others[~np.isin(recordings[others], recordings[test])], test))
    return _sound(targets, splits)


def _sound(targets: Labels, splits: Sequence[Split]) -> list[Split]:
    """Without the test clips of classes that training lacks, and without splits that have then nothing to learn or to test."""
    known = [(train, test[np.isin(targets[test], targets[train])]) for train, test in splits]
    return [(train, test) for train, test in known if len(test) and len(set(targets[train].tolist())) > 1]


def _usable(targets: Labels) -> npt.NDArray[np.bool_]:
    counts = Counter(targets.tolist())
    return np.array([bool(t) and counts[t] >= LEAST_PER_CLASS for t in targets.tolist()], dtype=np.bool_)
