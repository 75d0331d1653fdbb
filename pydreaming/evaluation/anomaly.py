"""Anomalous sounds of machines, found by who has heard normal ones only.

For each machine its normal clips are dealt into FOLDS folds. A fold's normal clips are scored by detectors that were fitted on the normal
clips of the other folds; anomalous clips are scored by all folds' detectors, and the mean counts. Scores of a fold are standardised by
those of the clips it was fitted on, so that folds compare. Networks have to keep the rule as well: `networks` holds one world model for
each fold, trained without that fold's normal clips (`normal_folds` says which they are) and without anomalous ones, or a single one that
has heard none of the clips.

    typicality            distance of the surprise of PIECE_S pieces from that of normal pieces (see `typicality`), mean over the clip
    mean surprise         mean KL(posterior || prior)
    autoencoder, next-frame predictor        see `frame_models`; of the world model's size, `seconds` of training for each

The interval comes from 1,000 bootstrap resamples of the clips of each machine. With the few clips per machine of a development set it is
wide: a smoke test, no ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pydreaming.audio.tokens import join_tokens
from pydreaming.config import FeatureConfig
from pydreaming.evaluation.bootstrap import RESAMPLES, TAILS
from pydreaming.evaluation.frame_models import FRAMES, TASKS, FrameModel, FrameTask
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.ranking import auc, harmonic_mean, partial_auc
from pydreaming.evaluation.typicality import LEAST_CLIPS, SurpriseStatistics, Typicality, code_marginal, surprise_statistics
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective

FOLDS = 3
PIECE_S = 1.0

Labels = npt.NDArray[np.str_]
Indices = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float64]
Detector = Callable[[Indices], Scores]  # clips -> scores, high where unusual
Fit = Callable[[int, Indices], Detector]  # fold, normal clips to fit on -> detector


@dataclass(frozen=True)
class AnomalyRow:
    """Figures of one score: by machine, the harmonic mean of the areas with the ends of its 95 % interval, and the mean partial area.

    `partial_auc` is the mean true-positive rate at false-positive rates up to 0.1 (DCASE's form, chance 0.05; see `ranking`). Its mean is
    arithmetic: a harmonic one is 0 as soon as one machine's is, which is common with eight normal clips, of which only one counts.
    """

    auc: dict[str, float]
    partial_auc: dict[str, float]
    auc_mean: float
    auc_interval: tuple[float, float]
    partial_auc_mean: float


@dataclass(frozen=True)
class Anomalies:
    """Rows by score, over `normal` and `anomalous` clips. `notes` name machines that were left out."""

    rows: dict[str, AnomalyRow]
    normal: int
    anomalous: int
    notes: list[str]


def normal_folds(machines: Labels, normal: npt.NDArray[np.bool_], seed: int) -> npt.NDArray[np.int64]:
    """(N,) the fold of each normal clip, 0 to FOLDS - 1, dealt evenly within each machine; -1 for anomalous clips."""
    random = np.random.default_rng(seed)
    folds = np.full(len(machines), -1)
    for machine in sorted(set(machines.tolist())):
        rows = np.flatnonzero((machines == machine) & normal)
        folds[random.permutation(rows)] = np.arange(len(rows)) % FOLDS
    return folds


def anomalies(
    networks: Sequence[tuple[WorldModelNet, Objective]],
    features: FeatureConfig,
    tokens: Sequence[Array],
    normal: npt.NDArray[np.bool_],
    machines: Labels,
    action: Array,
    seconds: float,
    seed: int,
) -> Anomalies | str:
    """Figures on clips (T_i, D), or a sentence that says why there are none.

    Args:
      networks: one for each fold, or a single one. normal: (N,). machines: (N,) kinds. action: (A,) of listening on.
      seconds: CPU time of training of each frame model; there are two for each machine and fold.
    """
    if len(networks) not in (1, FOLDS):
        raise ValueError(f"{len(networks)} networks: give one, or one for each of {FOLDS} folds")
    long_enough = np.array([len(clip) * features.token_hop >= FRAMES for clip in tokens], dtype=np.bool_)
    folds = normal_folds(machines, normal, seed)
    chosen, notes = [], []
    pieces = np.array([max(1, len(clip) // _piece_windows(features)) for clip in tokens])
    for machine in sorted(set(machines.tolist())):
        here = (machines == machine) & long_enough
        fitted_on = min(int(pieces[here & normal & (folds != fold)].sum()) for fold in range(FOLDS))
        if (here & normal).sum() >= FOLDS and fitted_on >= LEAST_CLIPS and (here & ~normal).any():
            chosen.append(machine)
        else:
            needed = f"{FOLDS} normal clips, {LEAST_CLIPS} pieces of {PIECE_S:.0f} s of them outside each fold, and an anomalous clip"
            notes.append(f"Machine '{machine}' left out: it needs {needed}.")
    if not chosen:
        return "No anomaly figures: no machine has both normal and anomalous clips enough."
    fits = _surprise_fits(networks, features, tokens, folds, action) | _frame_fits(networks[0][0], features, tokens, seconds, seed)
    rows = {}
    for name, fit in fits.items():
        scores = {m: _cross_validated(fit, np.flatnonzero((machines == m) & long_enough), folds) for m in chosen}
        rows[name] = row_of(scores, np.random.default_rng(seed))
    used = np.isin(machines, chosen) & long_enough
    return Anomalies(rows, int((used & normal).sum()), int((used & ~normal).sum()), notes)


def _cross_validated(fit: Fit, clips: Indices, folds: npt.NDArray[np.int64]) -> tuple[Scores, Scores]:
    """Scores of one machine's normal clips, each by the detector that was not fitted on it, and of its anomalous clips, by all."""
    unusual = clips[folds[clips] < 0]
    scored: list[Scores] = []
    unusual_scores = []
    for fold in range(FOLDS):
        train, test = clips[(folds[clips] >= 0) & (folds[clips] != fold)], clips[folds[clips] == fold]
        detector = fit(fold, train)
        known = detector(train)
        centre, scale = known.mean(), known.std() + 1e-9
        scored.append((detector(test) - centre) / scale)
        unusual_scores.append((detector(unusual) - centre) / scale)
    return np.concatenate(scored), np.mean(unusual_scores, 0)


def _surprise_fits(
    networks: Sequence[tuple[WorldModelNet, Objective]],
    features: FeatureConfig,
    tokens: Sequence[Array],
    folds: npt.NDArray[np.int64],
    action: Array,
) -> dict[str, Fit]:
    if not networks[0][1].trains_latents:
        return {}
    size = _piece_windows(features)
    pieces = [(i, clip[start : start + size]) for i, clip in enumerate(tokens) for start in range(0, max(1, len(clip) - size + 1), size)]
    owner = np.array([i for i, _ in pieces])
    heard = [piece for _, piece in pieces]
    statistics: list[SurpriseStatistics] = []
    for fold in range(FOLDS):  # also of a single network: the codes of clips are marginalised without those that are tested
        model, objective = networks[fold % len(networks)]
        actions = [np.tile(action, (len(piece), 1)) for piece in heard]
        known = [k for k, i in enumerate(owner) if folds[i] >= 0 and folds[i] != fold]
        unigram = code_marginal(model, [heard[k] for k in known], [actions[k] for k in known])
        statistics.append(surprise_statistics(model, objective, unigram, heard, actions))

    def by_clip(values: Scores, clips: Indices) -> Scores:
        return np.array([values[owner == i].mean() for i in clips])

    def mean_surprise(fold: int, train: Indices) -> Detector:
        return lambda clips: by_clip(statistics[fold].mean_kl, clips)

    def typicality(fold: int, train: Indices) -> Detector:
        found = statistics[fold]
        fitted = Typicality(found.rows(np.flatnonzero(np.isin(owner, train))))
        return lambda clips: by_clip(fitted.score(found), clips)

    return {"typicality": typicality, "mean surprise": mean_surprise}


def _frame_fits(model: WorldModelNet, features: FeatureConfig, tokens: Sequence[Array], seconds: float, seed: int) -> dict[str, Fit]:
    frames = [join_tokens(clip, features) if len(clip) else np.empty((0, features.n_mels), np.float32) for clip in tokens]
    size = sum(p.numel() for p in model.parameters())

    def fit_of(task: FrameTask) -> Fit:
        def fit(fold: int, train: Indices) -> Detector:
            fitted = FrameModel(task, [frames[i] for i in train], size, seconds, seed + fold)
            return lambda clips: np.array([fitted.score(frames[i]) for i in clips])

        return fit

    return {name: fit_of(task) for name, task in TASKS.items()}


def _piece_windows(features: FeatureConfig) -> int:
    return max(1, round(PIECE_S * features.sample_rate / features.token_stride_samples))


def row_of(scores: dict[str, tuple[Scores, Scores]], random: np.random.Generator) -> AnomalyRow:
    """Figures of the scores of (normal, anomalous) clips of each machine. Raises ValueError where a machine lacks either."""
    by_machine = {machine: auc(*pair) for machine, pair in scores.items()}
    partial = {machine: partial_auc(*pair) for machine, pair in scores.items()}
    resampled = [
        harmonic_mean([auc(*(random.choice(side, len(side)) for side in pair)) for pair in scores.values()]) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(resampled, TAILS)
    return AnomalyRow(
        by_machine, partial, harmonic_mean(list(by_machine.values())), (float(low), float(high)), float(np.mean(list(partial.values())))
    )
