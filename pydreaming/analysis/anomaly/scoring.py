"""Unusual sounds, found by who has heard normal ones only: fit a detector on normal recordings, then score clips and moments.

    fitting = Fitting(model, normal, by="machine")     # normal: recordings of `find_recordings`
    for recording in normal:
        fitting.add(recording)
    detector = fitting.finish()

    scoring = Scoring(model, detector)
    for recording in recordings:
        scoring.add(recording)
    write_scores(Path("scores.csv"), scoring, false_alarms=0.05)

What is scored, and what the p-values mean: `pydreaming.evaluation.detector`. Fit on recordings that the model was not trained on where
you can: those it was trained on surprise it less than new normal ones do, so that more false alarms come than were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pydreaming.analysis.anomaly.detector_file import FittedDetector
from pydreaming.analysis.anomaly.pieces import Cutting, Ear, grouped, keyed, thinned
from pydreaming.analysis.inputs import STDIN, Failed, Recording, attempt
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.tokens import Frames
from pydreaming.errors import DecodeError, UsageError
from pydreaming.evaluation.anomaly import AnomalyRow, row_of
from pydreaming.evaluation.detector import FOLDS, LEAST_NORMAL, POOLED, Detector, Pieces, Score, gather
from pydreaming.evaluation.typicality import code_marginal
from pydreaming.replay.tables import TableWriter, write_table

MAX_PIECES = 64  # of a normal clip, evenly spaced
MARGINAL_RECORDINGS, MARGINAL_PIECES = 200, 16  # that the marginal of the codes is taken over
ALL = "all"  # the group of clips without a condition, in figures


def condition_of(recording: Recording, by: str) -> str:
    """Its value in the column `by` of the metadata; POOLED where there is none."""
    return recording.labels.get(by, POOLED) if by else POOLED


class Fitting:
    """Gathers normal recordings into a detector; about 260 kB for each clip of 30 s or more.

    Args:
      normal: the recordings that will be added, of which a sample is heard at once for the marginal of the codes; unreadable ones are
        passed over here, and raise when they are added.
      by: column of the metadata that names the condition (machine, operating state); empty: all are alike.
      piece_s: length of a piece. clip_s: recordings are cut into clips of so many seconds, as a few long ones need; 0: each is a clip.
    Raises:
      UsageError: lengths that make no piece; standard input. DecodeError: none of the sample can be read.
    """

    def __init__(
        self, model: WorldModel, normal: Sequence[Recording], by: str = "", piece_s: float = 1.0, clip_s: float = 0.0, seed: int = 0
    ) -> None:
        if any(recording.name == STDIN for recording in normal):
            raise UsageError("standard input can be heard once only: fit a detector on files, and score - with it")
        self.model, self.by, self.seed = model, by, seed
        self.cutting = Cutting.of(model, piece_s, clip_s)
        self._ear = Ear(model, self._marginal(normal))
        self._clips: list[Pieces] = []
        self._keys: list[int] = []
        self._conditions: list[str] = []
        self._files: list[str] = []

    @property
    def clips(self) -> int:
        """Normal clips so far."""
        return len(self._clips)

    def add(self, recording: Recording) -> None:
        """Hear one normal recording. Nothing is added when it fails (DecodeError, UsageError)."""
        found = self._hear(recording)
        for pieces, key in found:
            self._clips.append(pieces)
            self._keys.append(key)
            self._conditions.append(condition_of(recording, self.by))
            self._files.append(str(recording.item.path))

    def finish(self) -> FittedDetector:
        """The detector. Raises UsageError: too few normal clips."""
        if len(self._clips) < LEAST_NORMAL:
            hint = "" if self.cutting.clip else "; a few long recordings can be cut into clips"
            raise UsageError(f"{len(self._clips)} normal clips are too few (at least {LEAST_NORMAL}){hint}")
        fold = _folds(self._files, self.seed)
        try:
            normal = gather(self._clips, self._conditions, fold, np.array(self._keys, np.int64), self.seed)
        except ValueError as e:
            raise UsageError(str(e)) from e
        unigram = None if self._ear.unigram is None else self._ear.unigram.cpu().numpy()
        return FittedDetector(normal, self.cutting, self.by, self.model.fingerprint, unigram)

    def _hear(self, recording: Recording) -> list[tuple[Pieces, int]]:
        action = self.model.action_of(recording)
        found = []
        for clip in self.cutting.clips(self.model.stream_tokens(recording)):
            key, all_pieces = keyed(self.cutting.pieces(clip))
            pieces = [piece for _, piece in thinned(all_pieces, MAX_PIECES)]
            if pieces:
                found.append((self._ear.hear(pieces, action), key))
        return found

    def _marginal(self, normal: Sequence[Recording]) -> Tensor | None:
        if not self.model.objective.trains_latents:
            return None
        order = np.random.default_rng(self.seed).permutation(len(normal))
        pieces: list[Frames] = []
        actions: list[npt.NDArray[np.float32]] = []
        refused: DecodeError | None = None
        for i in order[:MARGINAL_RECORDINGS]:
            try:
                action = self.model.action_of(normal[i])
                heard = [piece for _, piece in thinned(self.cutting.pieces(self.model.stream_tokens(normal[i])), MARGINAL_PIECES)]
            except DecodeError as e:
                refused = e
                continue
            pieces += heard
            actions += [np.tile(action, (len(piece), 1)) for piece in heard]
        if not pieces:
            raise refused or UsageError("there is no normal recording to fit on")
        return code_marginal(self.model.net, pieces, actions)


def fit_detector(
    model: WorldModel,
    normal: Sequence[Recording],
    by: str = "",
    piece_s: float = 1.0,
    clip_s: float = 0.0,
    seed: int = 0,
    failed: Failed | None = None,
) -> FittedDetector:
    """A detector from normal recordings; arguments as for `Fitting`.

    Args:
      failed: told of each unreadable file, which is then left out; None raises its DecodeError.
    """
    fitting = Fitting(model, normal, by, piece_s, clip_s, seed)
    for recording in normal:
        attempt(partial(fitting.add, recording), failed)
    return fitting.finish()


@dataclass(frozen=True)
class ScoredClip:
    """A clip of a recording: `start_s` to `end_s`, its labels, its score, and where its pieces lie (P,) seconds each."""

    source: str
    labels: dict[str, str]
    start_s: float
    end_s: float
    score: Score
    piece_start_s: npt.NDArray[np.float64]
    piece_end_s: npt.NDArray[np.float64]


@dataclass
class Scoring:
    """Scores recordings, one after the other; memory grows by about 100 bytes a piece.

    Attributes:
      clips: scored so far.
    Raises:
      UsageError: the detector was made with another model.
    """

    model: WorldModel
    fitted: FittedDetector
    clips: list[ScoredClip] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fitted.check(self.model)
        self.detector = Detector(self.fitted.normal)
        unigram = None if self.fitted.unigram is None else torch.from_numpy(self.fitted.unigram).to(self.model.device)
        self._ear = Ear(self.model, unigram)

    def add(self, recording: Recording) -> list[ScoredClip]:
        """Score one recording, and return its clips. Nothing is added when it fails (DecodeError, UsageError)."""
        action = self.model.action_of(recording)
        cutting, found = self.fitted.cutting, list[ScoredClip]()
        for number, clip in enumerate(cutting.clips(self.model.stream_tokens(recording))):
            scored = self._score(recording, clip, number * cutting.clip, action)
            if scored is not None:
                found.append(scored)
        self.clips += found
        return found

    def _score(self, recording: Recording, clip: Iterable[Frames], first_window: int, action: npt.NDArray[np.float32]) -> ScoredClip | None:
        condition = condition_of(recording, self.fitted.by)
        key, pieces = keyed(self.fitted.cutting.pieces(clip))
        starts: list[int] = []
        lengths: list[int] = []
        distances: list[npt.NDArray[np.float64]] = []
        for group in grouped(pieces):
            starts += [start for start, _ in group]
            lengths += [len(piece) for _, piece in group]
            distances.append(self.detector.distances(self._ear.hear([piece for _, piece in group], action), condition, key))
        if not starts:
            return None
        score = self.detector.score(np.concatenate(distances), condition, key)
        f = self.model.features
        first, last = first_window + np.array(starts), first_window + np.array(starts) + np.array(lengths) - 1
        begin = first * f.token_stride_samples / f.sample_rate
        end = (last * f.token_stride_samples + f.token_span_samples) / f.sample_rate
        return ScoredClip(recording.name, recording.labels, float(begin[0]), float(end[-1]), score, begin, end)

    def alarm_threshold(self, false_alarms: float) -> float:
        """The score of a clip above which it is an alarm. Raises UsageError: there are too few normal clips to say so."""
        ranks = self.detector.clip_ranks
        if not 0 < false_alarms < 1:
            raise UsageError(f"a rate of false alarms lies between 0 and 1, not at {false_alarms:g}")
        if false_alarms < ranks.least - 1e-9:
            wanted = f"ask for {ranks.least:.2g} or more, or fit on more clips"
            raise UsageError(f"{ranks.clips} normal clips say nothing of false alarms as rare as {false_alarms:g}: {wanted}")
        return ranks.threshold(false_alarms)

    def figures(self, label: str, normal: str) -> AnomalyRow | None:
        """AUC and partial AUC by condition, where labels tell normal clips from others; None where no condition has both.

        Args:
          label: column of the metadata. normal: its value in normal clips; clips without a label do not count.
        """
        groups: dict[str, tuple[list[float], list[float]]] = {}
        for clip in self.clips:
            if label in clip.labels:
                group = clip.labels.get(self.fitted.by, ALL) if self.fitted.by else ALL
                groups.setdefault(group, ([], []))[clip.labels[label] != normal].append(clip.score.score)
        both = {name: (np.array(a), np.array(b)) for name, (a, b) in sorted(groups.items()) if a and b}
        return row_of(both, np.random.default_rng(0)) if both else None

    def columns(self, false_alarms: float, label: str = "") -> dict[str, list[Any]]:
        """The columns of a table, a row a clip, as in `pydreaming anomaly score --help`; `label`: a column of the metadata to take over."""
        clips = self.clips
        table: dict[str, list[Any]] = {"source": [clip.source for clip in clips]}
        if self.fitted.by:
            table["condition"] = [clip.score.condition or "pooled" for clip in clips]
        if label:
            table[label] = [clip.labels.get(label, "") for clip in clips]
        table |= {
            "start_s": [clip.start_s for clip in clips],
            "end_s": [clip.end_s for clip in clips],
            "score": [clip.score.score for clip in clips],
            "p_value": [clip.score.p_value for clip in clips],
            "alarm": [clip.score.p_value <= false_alarms for clip in clips],
        }
        table |= {f"score_{part}": [clip.score.parts[part] for clip in clips] for part in self.detector.parts}
        return table | {"fitted": [clip.score.fitted for clip in clips]}


def write_scores(path: Path, scoring: Scoring, false_alarms: float, label: str = "", about: dict[str, Any] | None = None) -> None:
    """One row per clip; columns as in `pydreaming anomaly score --help`. Raises UsageError: another ending, or the rate is too low."""
    known = {"what": "pydreaming anomaly scores, one row per clip", **_about(scoring, false_alarms, scoring.alarm_threshold(false_alarms))}
    write_table(path, scoring.columns(false_alarms, label), {**known, **(about or {})})


def write_times(path: Path, scoring: Scoring, false_alarms: float) -> None:
    """One row per piece: source, start_s, end_s, score, p_value, alarm. Raises UsageError: another ending."""
    threshold = scoring.detector.piece_ranks.threshold(false_alarms)
    with TableWriter(path, {"what": "pydreaming anomaly scores, one row per piece", **_about(scoring, false_alarms, threshold)}) as table:
        for clip in scoring.clips:
            p_value = clip.score.piece_p_value
            table.append(
                {
                    "source": np.full(len(p_value), clip.source),
                    "start_s": clip.piece_start_s,
                    "end_s": clip.piece_end_s,
                    "score": clip.score.piece_score,
                    "p_value": p_value,
                    "alarm": p_value <= false_alarms,
                }
            )


def _about(scoring: Scoring, false_alarms: float, threshold: float) -> dict[str, Any]:
    detector = scoring.detector
    return {
        "false_alarms": false_alarms,
        "threshold": round(threshold, 6),
        "normal_clips": detector.clips,
        "conditions": detector.conditions,
        "distances": detector.parts,
        "model": scoring.fitted.model,
        "model_step": int(scoring.model.state.counters["step"]),
    }


def _folds(files: list[str], seed: int) -> npt.NDArray[np.int64]:
    """The fold of each clip: all clips of a file in one; of fewer files than folds, stretches of successive clips."""
    names = sorted(set(files))
    if len(names) < FOLDS:
        return np.arange(len(files)) * FOLDS // len(files)
    dealt = dict(zip(np.random.default_rng(seed).permutation(names).tolist(), np.arange(len(names)) % FOLDS, strict=True))
    return np.array([dealt[name] for name in files], np.int64)
