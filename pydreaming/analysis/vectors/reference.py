"""Recordings to compare one with: how surprising they are, and which of them are near."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.inputs import Failed, Recording, Source, attempt
from pydreaming.analysis.rollout import Rechunk
from pydreaming.analysis.run_folder import RunFolder
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.vectors.search import LEAST_ROWS
from pydreaming.analysis.world_model import Tokens, WorldModel
from pydreaming.audio.stages import run
from pydreaming.audio.tokens import Frames, token_start_samples
from pydreaming.errors import CheckpointError, ReplayError, SourceError, UsageError
from pydreaming.evaluation.clips import read_clips
from pydreaming.evaluation.typicality import LEAST_CLIPS, Typicality, code_marginal, surprise_statistics
from pydreaming.replay.index import ReplayIndex

COMPARED_S = 30.0  # of a recording that a user names to compare with
MAX_CLIPS = 300  # compared with; more would make the wait longer than the answer better


@dataclass(frozen=True)
class Reference:
    """Normal recordings.

    Attributes:
      what: they, in words. names, labels: (N,) strings. tokens: N arrays (T_i, token_dim).
      trained_on: (N,) bool, True for those that the model was trained on; None where that is not known.
    """

    what: str
    names: Sequence[str]
    labels: Sequence[str]
    tokens: Sequence[Frames]
    trained_on: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Standing:
    """Where a recording stands among N others, each share in [0, 1].

    Attributes:
      less_surprising: share of them with a lower mean KL. mean_kl: its own, in bits a window. unusual: share of the recordings that the
      score was not fitted on which are more typical; None where there are too few, or it is too short, to say.
    """

    mean_kl: float
    less_surprising: float
    unusual: float | None


def evaluation_recordings(model: WorldModel) -> Reference | None:
    """The recordings that a model's run was evaluated on; None where it lies in no run's folder, or was not evaluated.

    Raises CheckpointError when they are damaged.
    """
    run = None if model.origin is None else RunFolder.of_checkpoint(model.origin)
    if run is None or not (run.path / "eval_set" / "done.json").is_file():
        return None
    try:
        heard, held_out = (ReplayIndex(run.path / "eval_set" / name) for name in ("heard", "held_out"))
        heard.refresh()
        held_out.refresh()
        clips = read_clips(heard if heard.episodes else None, held_out if held_out.episodes else None)
    except (ReplayError, SourceError) as e:
        raise CheckpointError(f"the evaluation set of {run.path} cannot be read: {e}") from e
    chosen = drawn(len(clips))
    if not len(chosen):
        return None
    return Reference(
        "the recordings that its run was evaluated on",
        clips.paths[chosen].tolist(),
        clips.labels[chosen].tolist(),
        [clips.tokens[i] for i in chosen],
        ~clips.held_out[chosen],
    )


def drawn(count: int) -> npt.NDArray[np.intp]:
    """Which of `count` recordings are compared with, in their order: MAX_CLIPS at random, as the first ones may all be of one kind."""
    return np.sort(np.random.default_rng(0).permutation(count)[:MAX_CLIPS])


def recordings_reference(model: WorldModel, recordings: Iterable[Recording], what: str, failed: Failed | None = None) -> Reference:
    """A reference of recordings that a user named, of each its first COMPARED_S seconds.

    Args:
      failed: told of each unreadable file, which is then left out; None raises its DecodeError.
    Raises:
      UsageError: there is none that can be read.
    """
    chosen: list[Recording] = []
    tokens: list[Frames] = []
    for recording in recordings:
        found = attempt(partial(first_tokens, model, recording, COMPARED_S), failed)
        if found is not None:
            chosen.append(recording)
            tokens.append(found.values)
    if not chosen:
        raise UsageError(f"no recordings to compare with {what}")
    labels = [recording.labels.get("label", "") for recording in chosen]
    return Reference(what, [recording.name for recording in chosen], labels, tokens, None)


def first_tokens(model: WorldModel, source: Source, seconds: float) -> Tokens:
    """The windows of a recording's first seconds, at least one. Raises DecodeError, UsageError."""
    f = model.features
    values = next(run(Rechunk(max(1, round(seconds * f.sample_rate / f.token_stride_samples))), model.stream_tokens(source)))
    return Tokens(values, token_start_samples(len(values), f), f)


def standing(model: WorldModel, tokens: Tokens, reference: Reference) -> Standing:
    """How surprising and how typical a recording is beside the reference; for models that train latents.

    The typicality is that of `evaluation.typicality`: fitted on one half of the reference (on what was trained on, where there is enough of
    it and of the rest), and compared with the other half. It knows lengths like those of the reference only: of a longer recording as many
    windows are heard as the longest of them has.
    """
    fitted, others = _halves(reference)
    lengths = [len(clip) for clip in reference.tokens]
    clips = [*reference.tokens, tokens.values[: max(lengths)]]
    action = model.listening_on
    actions = [np.tile(action, (len(clip), 1)) for clip in clips]
    unigram = code_marginal(model.net, [clips[i] for i in fitted], [actions[i] for i in fitted])
    everything = surprise_statistics(model.net, model.objective, unigram, clips, actions)
    own = len(reference.tokens)
    kl = everything.mean_kl
    less = float(np.mean(kl[:own] < kl[own]))
    if min(len(fitted), len(others)) < LEAST_CLIPS or len(tokens) < min(lengths):
        return Standing(float(kl[own] / np.log(2)), less, None)
    scores = Typicality(everything.rows(fitted)).score(everything)
    return Standing(float(kl[own] / np.log(2)), less, float(np.mean(scores[others] < scores[own])))


def nearest(model: WorldModel, tokens: Tokens, reference: Reference, count: int = 5) -> list[tuple[int, float]]:
    """The reference recordings nearest to one by the mean of their features: (index, cosine similarity), nearest first.

    The features' common part, their mean over the reference, is taken out first where it has LEAST_ROWS rows, or all would seem alike.
    """
    vectors = Embedder(model).vectors([*reference.tokens, tokens.values]).astype(np.float64)
    centred = vectors - vectors[:-1].mean(0) if len(vectors) > LEAST_ROWS else vectors
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    similarity = unit[:-1] @ unit[-1]
    return [(int(i), float(similarity[i])) for i in np.argsort(-similarity)[:count]]


def _halves(reference: Reference) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    if reference.trained_on is not None:
        trained, rest = np.flatnonzero(reference.trained_on), np.flatnonzero(~reference.trained_on)
        if min(len(trained), len(rest)) >= LEAST_CLIPS:
            return trained, rest
    order = np.random.default_rng(0).permutation(len(reference.tokens))
    return np.sort(order[: (len(order) + 1) // 2]), np.sort(order[(len(order) + 1) // 2 :])
