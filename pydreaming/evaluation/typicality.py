"""How typical a clip's surprise is: a score that also notices what is too predictable.

A mean surprise has two defects as an alarm. It is one-sided: a steady tone surprises less than speech, and is no speech. And it is not
calibrated: which value is normal depends on the model, and an under-trained one is least surprised by noise. So several curves of a clip
are summarised (log of the mean and of the deviation over its windows), and compared with those of *normal* clips that the model was
trained on, by the Mahalanobis distance under a Gaussian with shrunk covariance. The statistics' dependence on the clip's length is taken
out first (linear in log T and its square, fitted on the normal clips), so that length alone makes no clip unusual. Beyond the lengths of
the normal clips nothing is extrapolated: a shorter clip is treated as the shortest of them, a longer one as the longest.

The Gaussian is an approximation. Nothing but normal clips is ever fitted.

Source of the shrinkage: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn import functional

from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array
from pydreaming.models.state import Observed
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective

LEAST_CLIPS = 20  # normal clips below which no covariance is fitted
FLOOR = 1e-3  # added before the logarithm: nats and cosines below it are no news

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurpriseStatistics:
    """Statistics of N clips.

    Attributes:
      values: (N, F) float64, nan where a clip is too short for a statistic. lengths: (N,) windows. mean_kl: (N,) nats, the raw score.
    """

    values: Scores
    lengths: npt.NDArray[np.int64]
    mean_kl: Scores

    def rows(self, index: npt.NDArray[np.intp]) -> SurpriseStatistics:
        """The clips at `index`."""
        return SurpriseStatistics(self.values[index], self.lengths[index], self.mean_kl[index])


@torch.no_grad()
def code_marginal(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array] | None = None) -> Tensor:
    """The mean distribution of the posterior over all windows of the clips: (S, P). Raises ValueError without a window."""
    windows = [heard.observed.post.logits[heard.mask] for heard in listen(model, tokens, actions)]
    if not sum(map(len, windows)):
        raise ValueError("the marginal of the code needs at least one window")
    logits = torch.cat(windows).unsqueeze(0)
    return model.dynamics.latents.marginal(logits, torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device))


@torch.no_grad()
def surprise_statistics(
    model: WorldModelNet, objective: Objective, unigram: Tensor, tokens: Sequence[Array], actions: Sequence[Array] | None = None
) -> SurpriseStatistics:
    """Statistics of clips (T_i, D), each with at least one window, heard alone.

    Args:
      unigram: (S, P) of `code_marginal` over normal clips.
    """
    found: dict[int, Scores] = {}
    mean_kl = np.zeros(len(tokens))
    for heard in listen(model, tokens, actions):
        curves = _curves(objective, heard.observed, unigram)
        summaries = _summaries(torch.stack(list(curves.values()), -1), heard.mask).cpu().numpy()
        for row, i in enumerate(heard.rows):
            found[i] = summaries[row]
        for i, kl in heard.split(curves["kl"]):
            mean_kl[i] = kl.mean(dtype=np.float64)
    lengths = np.array([len(clip) for clip in tokens], dtype=np.int64)
    return SurpriseStatistics(np.array([found[i] for i in range(len(tokens))], dtype=np.float64), lengths, mean_kl)


class Typicality:
    """How far statistics lie from those of normal clips.

    Args:
      normal: at least LEAST_CLIPS clips. Raises ValueError for fewer.
    """

    def __init__(self, normal: SurpriseStatistics) -> None:
        if len(normal.values) < LEAST_CLIPS:
            raise ValueError(f"{len(normal.values)} normal clips are too few to say what is typical (at least {LEAST_CLIPS})")
        # A statistic that no normal clip has (all are too short) says nothing of others.
        self._used = np.isfinite(normal.values).any(0)
        self._shortest, self._longest = normal.lengths.min(), normal.lengths.max()
        self._length_effect = self._regress(normal)
        residuals = self._residuals(normal)
        self._scale = np.maximum(residuals.std(0), FLOOR)
        covariance, _ = ledoit_wolf(residuals / self._scale, assume_centered=True)
        self._precision = np.linalg.inv(covariance + FLOOR * np.eye(len(covariance)))

    def score(self, clips: SurpriseStatistics) -> Scores:
        """(N,) Mahalanobis distance from the normal clips; a statistic that a clip is too short for counts as typical."""
        z = self._residuals(clips) / self._scale
        distance: Scores = np.sqrt(((z @ self._precision) * z).sum(1))
        return distance

    def _regress(self, normal: SurpriseStatistics) -> Scores:
        """(3, F) coefficients of the statistics on 1, log T and its square, each over the clips that have it."""
        design, values = _design(normal.lengths), normal.values[:, self._used]
        present = np.isfinite(values)
        return np.stack([np.linalg.lstsq(design[p], values[p, f], rcond=None)[0] for f, p in enumerate(present.T)], 1)

    def _residuals(self, clips: SurpriseStatistics) -> Scores:
        lengths = clips.lengths.clip(self._shortest, self._longest)
        return np.nan_to_num(clips.values[:, self._used] - _design(lengths) @ self._length_effect)


def _design(lengths: npt.NDArray[np.int64]) -> Scores:
    log = np.log(lengths.astype(np.float64))
    return np.stack([np.ones_like(log), log, log**2], 1)


def _curves(objective: Objective, observed: Observed, unigram: Tensor) -> dict[str, Tensor]:
    """Curves by name, (B, T) each, nan where a window has too little past.

    They are at least 0: what lies below by rounding counts as 0, and so do entropies of a density that is narrow enough (see `latents`).

    In nats: kl(posterior || prior), entropies of prior and posterior, cross entropy of the posterior under the prior and under the
    marginal. As 1 - cosine: the embedding against the one before, and, where the objective has heads, each token against what was
    expected of it k steps before.
    """
    post, prior, latents = observed.post.logits, observed.prior_logits, observed.post.latents
    curves = {"kl": observed.kl(), "prior_entropy": latents.entropy(prior), "post_entropy": latents.entropy(post)}
    curves["nll"] = curves["kl"] + curves["post_entropy"]
    curves["nll_marginal"] = latents.kl(post, unigram.expand_as(post)) + curves["post_entropy"]
    embed, T = observed.embed.float(), post.shape[1]
    curves["change"] = _delayed(1 - functional.cosine_similarity(embed[:, 1:], embed[:, :-1], dim=-1), 1, T)
    ahead = objective.ahead_of(observed)
    if ahead is not None:
        curves |= {f"mismatch_{k}": _delayed(ahead.mismatch(k), k, T) for k in ahead.expected}
    return {name: curve.clamp_min(0.0) for name, curve in curves.items()}


def _delayed(values: Tensor, k: int, steps: int) -> Tensor:
    """(B, T - k) values of the steps k, k + 1, ... -> (B, T = steps), nan before them."""
    return functional.pad(values, (k, 0), value=torch.nan)[:, :steps]


def _summaries(curves: Tensor, mask: Tensor) -> Tensor:
    """Log of mean and of deviation over the steps that have a value: (B, T, F), (B, T) -> (B, 2 F) float64, nan where there are too few."""
    curves = curves.double()
    valid = mask.unsqueeze(-1) & ~curves.isnan()
    count = valid.sum(1)
    mean = curves.where(valid, 0.0).sum(1) / count
    variance = (curves - mean.unsqueeze(1)).square().where(valid, 0.0).sum(1) / count
    deviation = variance.sqrt().where(count > 1, torch.nan)
    return torch.cat([(mean + FLOOR).log(), (deviation + FLOOR).log()], -1)
