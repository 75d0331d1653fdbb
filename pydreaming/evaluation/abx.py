"""ABX across speakers: is a word nearer to the same word of another speaker than to another word of the same one?

    A: label a, speaker s        B: label b, speaker s        X: label a, another speaker
    error = 1 - mean of [d(A, X) < d(B, X)] + [d(A, X) = d(B, X)] / 2            0 is best, 0.5 is chance

d is the mean angular distance (arc cosine of the cosine, over pi) along the path of dynamic time warping with the least sum. No classifier
is trained, so it asks what a representation's own geometry says. Triples are drawn evenly over the cells (a, b, s, speaker of X). As they
share clips, intervals come from resampling the clips: a triple counts as often as the product of how often its three were drawn (Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 2007). They say nothing of speakers who are not there.

Source: Schatz et al., "Evaluating speech features with the minimal-pair ABX task" (Interspeech 2013); the task across speakers as in the
ZeroSpeech challenges, here on whole words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.nn import functional

from pydreaming.evaluation.bootstrap import TAILS, draws
from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array
from pydreaming.models.world_model import WorldModelNet

Labels = npt.NDArray[np.str_]
Triples = npt.NDArray[np.intp]

LOG_MEL = "log-mel"
MAX_TRIPLES = 3000
MAX_STEPS = 64  # of a clip; longer ones are thinned evenly, as warping costs the square
PAIRS = 1024  # warped at a time


@dataclass(frozen=True)
class Abx:
    """Error by representation, over `triples` distinct triples.

    Attributes:
      interval: half of each error's 95 % interval. difference: 95 % interval of each error less that of LOG_MEL, over the same clips.
    """

    error: dict[str, float]
    interval: dict[str, float]
    difference: dict[str, tuple[float, float]]
    triples: int


def abx(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], labels: Labels, speakers: Labels, seed: int) -> Abx | str:
    """Errors of a model's parts, of its codes, and of the log-mel tokens themselves; or a sentence that says why there are none.

    Args:
      tokens, actions: N clips (T_i, D) and (T_i, A). labels, speakers: (N,) strings, '' where unknown. seed: of the triples.
    """
    usable = np.array([len(clip) > 0 for clip in tokens], dtype=np.bool_) & (labels != "") & (speakers != "")
    triples = draw_triples(np.flatnonzero(usable), labels, speakers, np.random.default_rng(seed))
    if not len(triples):
        return "No ABX: it needs two labels by one speaker, one of them also by another."
    used, index = np.unique(triples, return_inverse=True)
    sequences = state_sequences(model, [tokens[i] for i in used], [actions[i] for i in used])
    sequences[LOG_MEL] = [tokens[i] for i in used]
    index = index.reshape(triples.shape)
    errors = {name: triple_errors(values, index) for name, values in sequences.items()}
    resampled = resampled_errors(np.stack(list(errors.values()), axis=1), index, np.random.default_rng(seed))
    low, high = np.nanquantile(resampled, TAILS, axis=0)
    least, most = np.nanquantile(resampled - resampled[:, list(errors).index(LOG_MEL), None], TAILS, axis=0)
    return Abx(
        {name: float(values.mean()) for name, values in errors.items()},
        {name: float(half) for name, half in zip(errors, (high - low) / 2, strict=True)},
        {name: (float(a), float(b)) for name, a, b in zip(errors, least, most, strict=True)},
        len(np.unique(triples, axis=0)),
    )


def state_sequences(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array]) -> dict[str, list[Array]]:
    """Per clip (T_i, F) by representation: deter, stoch (the posterior's mean), codes (its modes, one-hot, where latents
    are discrete), embed."""
    parts: dict[str, dict[int, Array]] = {}
    for heard in listen(model, tokens, actions):
        post = heard.observed.post
        values = {"deter": post.deter, "stoch": post.mean, "embed": heard.observed.embed}
        if post.latents.discrete:
            values["codes"] = functional.one_hot(post.logits.argmax(-1), post.logits.shape[-1]).flatten(-2)
        for name, value in values.items():
            parts.setdefault(name, {}).update(heard.split(value))
    return {name: [clips[i] for i in range(len(tokens))] for name, clips in parts.items()}


def draw_triples(usable: npt.NDArray[np.intp], labels: Labels, speakers: Labels, random: np.random.Generator) -> Triples:
    """(N, 3) clips A, B, X: one for each of at most MAX_TRIPLES cells, or as many rounds over the cells as fit; (0, 3) without a cell."""
    cells: dict[tuple[str, str], list[int]] = {}
    for i in usable:
        cells.setdefault((str(labels[i]), str(speakers[i])), []).append(int(i))
    said = {s: [label for label, speaker in cells if speaker == s] for _, s in cells}  # the labels of each speaker
    by = {a: [speaker for label, speaker in cells if label == a] for a, _ in cells}  # the speakers of each label
    # Cells are numbered, not listed: there are as many as labels squared times speakers squared.
    firsts = list(cells)
    ends = np.cumsum([(len(said[s]) - 1) * (len(by[a]) - 1) for a, s in firsts])
    count = int(ends[-1]) if firsts else 0
    if not count:
        return np.empty((0, 3), dtype=np.intp)
    if count > MAX_TRIPLES:
        numbers = random.choice(count, MAX_TRIPLES, replace=False)
    else:
        numbers = np.concatenate([random.permutation(count) for _ in range(MAX_TRIPLES // count)])
    triples = []
    for number in numbers:
        first = int(np.searchsorted(ends, number, side="right"))
        a, s = firsts[first]
        b, other = divmod(int(ends[first] - 1 - number), len(by[a]) - 1)
        others, speakers_of = [label for label in said[s] if label != a], [speaker for speaker in by[a] if speaker != s]
        triples.append([random.choice(cells[cell]) for cell in ((a, s), (others[b], s), (a, speakers_of[other]))])
    return np.array(triples, dtype=np.intp)


def triple_errors(sequences: Sequence[Array], triples: Triples) -> Array:
    """(N,) ABX error of sequences (T_i, F) in each of the triples (N, 3) of their indices: 0, .5 or 1."""
    pairs = np.concatenate([triples[:, [0, 2]], triples[:, [1, 2]]])
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    same, other = np.split(_distances(sequences, distinct)[inverse.ravel()], 2)
    return np.asarray(1 - ((same < other) + 0.5 * (same == other)), dtype=np.float32)


def resampled_errors(errors: Array, triples: Triples, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """(RESAMPLES, R) mean errors of R representations, from (N, R) over triples (N, 3); not a number where none of them was drawn."""
    clips = int(triples.max()) + 1
    means = []
    for drawn in draws(clips, random):
        weights = drawn[:, triples].prod(-1)
        with np.errstate(invalid="ignore"):
            means.append(weights @ errors / weights.sum(1, keepdims=True))
    return np.concatenate(means)


def _distances(sequences: Sequence[Array], pairs: Triples) -> Array:
    """(N,) warped angular distances of pairs (N, 2); pairs of similar length go together."""
    units = [_unit(sequence) for sequence in sequences]
    size = np.array([len(unit) for unit in units])
    order = np.lexsort((size[pairs[:, 1]], size[pairs[:, 0]]))
    result = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(order), PAIRS):
        rows = order[start : start + PAIRS]
        n, m = size[pairs[rows, 0]], size[pairs[rows, 1]]
        cost = np.zeros((int(n.max()), int(m.max()), len(rows)), dtype=np.float32)
        for k, (a, b) in enumerate(pairs[rows]):
            cost[: size[a], : size[b], k] = np.arccos(np.clip(units[a] @ units[b].T, -1, 1)) / np.pi
        result[rows] = warp(cost, n, m)
    return result


def warp(cost: Array, n: npt.NDArray[np.int64], m: npt.NDArray[np.int64]) -> Array:
    """Mean cost along the path of least sum from (0, 0) to (n - 1, m - 1), steps (1, 1), (1, 0) and (0, 1).

    Args:
      cost: (N, M, P) of P pairs. n, m: (P,) lengths within N and M.
    Returns:
      (P,); of equally cheap steps the diagonal one is taken.
    """
    N, M, P = cost.shape
    total = np.full((N + 1, M + 1, P), np.inf, dtype=np.float32)
    steps = np.zeros((N + 1, M + 1, P), dtype=np.float32)
    total[0, 0] = 0
    for i in range(1, N + 1):
        for j in range(1, M + 1):
            sums = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
            counts = np.stack([steps[i - 1, j - 1], steps[i - 1, j], steps[i, j - 1]])
            best = sums.argmin(0)[None]
            total[i, j] = cost[i - 1, j - 1] + np.take_along_axis(sums, best, 0)[0]
            steps[i, j] = 1 + np.take_along_axis(counts, best, 0)[0]
    pair = np.arange(P)
    return np.asarray(total[n, m, pair] / steps[n, m, pair], dtype=np.float32)


def _unit(sequence: Array) -> Array:
    """Rows of unit length, at most MAX_STEPS of them, spread evenly; a row of zeros stays one."""
    if len(sequence) > MAX_STEPS:
        sequence = sequence[np.linspace(0, len(sequence) - 1, MAX_STEPS).round().astype(np.intp)]
    return np.asarray(sequence / np.maximum(np.linalg.norm(sequence, axis=1, keepdims=True), 1e-8), dtype=np.float32)
