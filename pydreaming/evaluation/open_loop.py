"""How well imagined futures match what came, beside those who do not imagine.

For every start in a set of held-out sequences the model observes up to there and imagines `steps` tokens with several samples, under the
actions that really followed. Baselines: *copy-last* (the last token goes on), *marginal* (the corpus average: the unigram of the codes,
whose gain is 0 by definition), and *n-grams* of the model's own codes (see `ngram`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pydreaming.evaluation.ngram import CodeNgrams
from pydreaming.models.state import Observed
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, TensorBatch
from pydreaming.objectives.contrast import same_audio
from pydreaming.training.open_loop import Rollouts, rollouts

CANDIDATES = 256
STEPS = (1, 2, 4, 8, 16)
START_EVERY = 3  # tokens between starting points

Values = npt.NDArray[np.float64]
Counted = tuple[Values, Values]  # how many values of each sequence there are, and their sums


@dataclass(frozen=True)
class OpenLoop:
    """Figures by steps ahead k.

    Attributes:
      candidates: tokens that one had to be told from, itself among them (the mean over all predictions: small stores have fewer rivals).
      retrieval, retrieval_copy: share of tokens found among `candidates` by the imagined state, and by the last token itself.
      gain, gain_copy: nats won over the marginal by the imagined distribution, and by the last posterior.
      count: predictions behind each figure.
      error, error_copy, error_mean: squared error of the next window (k = 1; probe decoder on imagined features, mean of the samples)
        per normalised log-mel value, beside repeating the last window, and beside the corpus mean.
      retrieval_bigram, retrieval_trigram, gain_bigram, gain_trigram: the same of n-grams of the codes; empty where none were counted.
    """

    candidates: int
    retrieval: dict[int, float]
    retrieval_copy: dict[int, float]
    gain: dict[int, float]
    gain_copy: dict[int, float]
    count: dict[int, int]
    error: float
    error_copy: float
    error_mean: float
    retrieval_bigram: dict[int, float] = field(default_factory=dict)
    retrieval_trigram: dict[int, float] = field(default_factory=dict)
    gain_bigram: dict[int, float] = field(default_factory=dict)
    gain_trigram: dict[int, float] = field(default_factory=dict)


class Tallies:
    """Sums and counts of each figure by steps ahead, kept apart for each sequence, so that sequences can be put together afterwards."""

    def __init__(self) -> None:
        self._done: list[dict[tuple[str, int], Counted]] = []
        self._lengths: list[int] = []
        self._open: dict[tuple[str, int], Counted] = {}

    def add(self, name: str, k: int, values: Tensor, valid: Tensor) -> None:
        """Add a value for each of the batch's sequences where `valid`: (B,) twice."""
        count, total = valid.double().cpu().numpy(), values.double().where(valid, 0.0).cpu().numpy()
        before = self._open.get((name, k))
        self._open[name, k] = (count, total) if before is None else (before[0] + count, before[1] + total)

    def end_batch(self, sequences: int) -> None:
        """What is added from now on is of other sequences."""
        self._done.append(self._open)
        self._lengths.append(sequences)
        self._open = {}

    def of(self, name: str, k: int) -> tuple[Values, Values]:
        """Count and sum of a figure for each of the N sequences so far: (N,) twice, zeros where there is none."""
        parts = [batch.get((name, k), (np.zeros(size), np.zeros(size))) for batch, size in zip(self._done, self._lengths, strict=True)]
        counts, sums = (np.concatenate([np.empty(0), *(part[i] for part in parts)]) for i in (0, 1))
        return counts, sums

    def by_step(self, name: str) -> dict[int, float]:
        """Mean over all sequences, by steps ahead; without the steps that nobody reached."""
        found = {k: self.of(name, k) for k in sorted({k for batch in self._done for n, k in batch if n == name})}
        return {k: float(sums.sum() / counts.sum()) for k, (counts, sums) in found.items() if counts.sum()}

    def counts(self, name: str) -> dict[int, int]:
        """Values behind each mean."""
        return {k: int(self.of(name, k)[0].sum()) for k in self.by_step(name)}

    def over_all_steps(self, name: str) -> float:
        """Mean over all sequences and steps."""
        of_steps = [self.of(name, k) for k in self.by_step(name)]
        return float(sum(sums.sum() for _, sums in of_steps) / sum(counts.sum() for counts, _ in of_steps))


@torch.no_grad()
def open_loop(
    model: WorldModelNet,
    objective: Objective,
    batches: Sequence[TensorBatch],
    samples: int,
    context: int,
    generator: torch.Generator,
    ngrams: CodeNgrams | None = None,
) -> OpenLoop | None:
    """Evaluate on batches of sequences; None when no sequence is long enough to predict a single step.

    Args:
      samples: imagined futures for each start. context: tokens of a sequence observed before the first start.
      ngrams: counted on training clips for STEPS.
    """
    means = Tallies()
    for batch in batches:
        tally(model, objective, batch, samples, context, generator, means, ngrams)
    if not means.counts("retrieval"):
        return None
    return OpenLoop(
        round(means.over_all_steps("candidates")),
        means.by_step("retrieval"),
        means.by_step("retrieval_copy"),
        means.by_step("gain"),
        means.by_step("gain_copy"),
        means.counts("retrieval"),
        means.by_step("error")[1],
        means.by_step("error_copy")[1],
        means.by_step("error_mean")[1],
        means.by_step("retrieval_bigram"),
        means.by_step("retrieval_trigram"),
        means.by_step("gain_bigram"),
        means.by_step("gain_trigram"),
    )


@torch.no_grad()
def tally(
    model: WorldModelNet,
    objective: Objective,
    batch: TensorBatch,
    samples: int,
    context: int,
    generator: torch.Generator,
    tallies: Tallies,
    ngrams: CodeNgrams | None = None,
    steps_ahead: Sequence[int] = STEPS,
) -> None:
    """Add the figures of one batch of sequences; arguments as for `open_loop`.

    Figures are those of `OpenLoop` by name, and `chance`, one by the number of candidates.
    """
    B, T = batch.mask.shape
    observed = model.observe(batch.tokens, batch.action, batch.is_first, noise=model.noise(B, T, generator))
    for start in range(min(context, T - 2), T - 1, START_EVERY):
        steps = min(max(steps_ahead), T - 1 - start)
        futures = rollouts(model, observed, batch.mask, start, steps, samples, generator)
        _score(model, objective, batch, observed, futures, tallies, steps_ahead)
        if ngrams is not None:
            _score_ngrams(ngrams, batch, observed, futures, tallies)
    tallies.end_batch(B)


def _score(
    model: WorldModelNet,
    objective: Objective,
    batch: TensorBatch,
    observed: Observed,
    futures: Rollouts,
    means: Tallies,
    steps_ahead: Sequence[int],
) -> None:
    """Add the figures of all rollouts from one start."""
    start, steps, temperature = futures.start, futures.valid.shape[1], objective.config.temperature
    target = objective.target(observed.embed)
    predicted = objective.predict(futures.states)  # (B, R, N, P)
    latents = observed.post.latents
    unigram = latents.marginal(observed.post.logits, batch.mask)
    last = observed.post.logits[:, start]
    imagined = latents.mixture(futures.states.logits)
    for k in (k for k in steps_ahead if k <= steps):
        valid = futures.valid[:, k - 1]
        if not bool(valid.any()):
            continue
        choice, positive = _candidates(batch, start + k)
        means.add("candidates", k, choice.sum(1), valid)
        means.add("chance", k, 1 / choice.sum(1), valid)
        means.add("retrieval", k, _found(predicted[:, :, k - 1], target, choice, positive, temperature), valid)
        # The last token is its own best match; only without it among the candidates does a copy have a chance.
        others = choice.scatter(1, (positive - k).unsqueeze(1), False)
        means.add("retrieval_copy", k, _found(target[:, None, start], target, others, positive, temperature), valid)
        post = observed.post.logits[:, start + k]
        floor = latents.kl(post, unigram.expand_as(post))
        means.add("gain", k, (floor - latents.kl(post, imagined[:, k - 1])), valid)
        means.add("gain_copy", k, (floor - latents.kl(post, last)), valid)
    valid = futures.valid[:, 0]
    if bool(valid.any()):
        window = batch.tokens[:, start + 1]
        decoded = model.decoder(futures.states.feat[:, :, 0]).mean(1)
        for name, guess in (("error", decoded), ("error_copy", batch.tokens[:, start]), ("error_mean", torch.zeros_like(window))):
            means.add(name, 1, (guess - window).square().mean(-1), valid)


def _score_ngrams(ngrams: CodeNgrams, batch: TensorBatch, observed: Observed, futures: Rollouts, means: Tallies) -> None:
    """Add the figures of the n-grams from one start. A trigram whose older code lies in another clip backs off to the bigram."""
    start, log_post, latents = futures.start, observed.post.logits, observed.post.latents
    unigram, mode = latents.marginal(log_post, batch.mask), log_post.argmax(-1)
    codes = log_post.exp().flatten(-2)
    inside = ~batch.is_first[:, start] & (start > 0)
    for k in (k for k in STEPS if k <= futures.valid.shape[1]):
        valid = futures.valid[:, k - 1]
        if not bool(valid.any()):
            continue
        choice, positive = _candidates(batch, start + k)
        bigram = ngrams.predict(k, mode[:, start])
        trigram = ngrams.predict(k, mode[:, start], mode[:, max(0, start - 1)])
        post = log_post[:, start + k]
        floor = latents.kl(post, unigram.expand_as(post))
        for name, guess in (("bigram", bigram), ("trigram", trigram.where(inside[:, None, None], bigram))):
            # The expected log-likelihood of each candidate's code; the softmax over candidates changes no order.
            means.add(f"retrieval_{name}", k, _found(guess.flatten(-2).unsqueeze(1), codes, choice, positive, 1.0), valid)
            means.add(f"gain_{name}", k, (floor - latents.kl(post, guess)), valid)


def _candidates(batch: TensorBatch, at: int) -> tuple[Tensor, Tensor]:
    """Which tokens compete for the one at step `at` of each sequence.

    Rivals are tokens of the same sequence first, then of the following ones, unless they are the same audio.

    Returns:
      choice (B, B * T) bool, at most CANDIDATES True in a row; positive (B,) flat index of the right token.
    """
    B, T = batch.mask.shape
    device = batch.mask.device
    rows = torch.arange(B, device=device).unsqueeze(1) * T
    order = (torch.arange(B * T, device=device).unsqueeze(0) + rows) % (B * T)
    ids, real = batch.token_id.flatten(), batch.mask.flatten()
    positive = rows.squeeze(1) + at
    rival = real[order] & ~same_audio(ids[positive], ids).gather(1, order)
    kept = rival & (rival.long().cumsum(1) <= CANDIDATES - 1)
    choice = torch.zeros_like(kept).scatter_(1, order, kept)
    return choice.scatter_(1, positive.unsqueeze(1), True), positive


def _found(query: Tensor, target: Tensor, choice: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """1 where the right token is the likeliest candidate under the mean over the samples: (B, R, P) -> (B,) float."""
    scores = query @ target.flatten(0, 1).t() / temperature  # (B, R, B * T)
    likelihood = scores.masked_fill(~choice.unsqueeze(1), -torch.inf).softmax(-1).mean(1)
    return (likelihood.argmax(-1) == positive).float()
