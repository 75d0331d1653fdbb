"""ABX: warping against a plain recursion, and representations whose error is known."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import STRIDES, TOKEN_DIM, tiny_model

from pydreaming.evaluation.abx import MAX_STEPS, MAX_TRIPLES, abx, draw_triples, resampled_errors, triple_errors, warp


def plain_warp(cost: np.ndarray) -> float:
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            before = [best[p] for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p in best]
            total, steps = min(before, key=lambda pair: pair[0]) if before else (0.0, 0)
            best[i, j] = (total + cost[i, j], steps + 1)
    total, steps = best[cost.shape[0] - 1, cost.shape[1] - 1]
    return total / steps


def test_warping_many_pairs_is_warping_each() -> None:
    rng = np.random.default_rng(0)
    n, m = rng.integers(1, 9, 20), rng.integers(1, 7, 20)
    cost = rng.random((8, 6, 20)).astype(np.float32)
    expected = [plain_warp(cost[:a, :b, k]) for k, (a, b) in enumerate(zip(n, m, strict=True))]
    np.testing.assert_allclose(warp(cost, n, m), expected, rtol=1e-5)


def corpus(labels: int = 3, speakers: int = 3, each: int = 2) -> tuple[np.ndarray, np.ndarray]:
    grid = [(f"l{a}", f"s{b}") for a in range(labels) for b in range(speakers) for _ in range(each)]
    return np.array([a for a, _ in grid]), np.array([b for _, b in grid])


def test_triples_are_of_their_cells() -> None:
    labels, speakers = corpus(each=1)
    triples = draw_triples(np.arange(9), labels, speakers, np.random.default_rng(0))
    a, b, x = triples.T
    assert (labels[a] == labels[x]).all()
    assert (labels[a] != labels[b]).all()
    assert (speakers[a] == speakers[b]).all()
    assert (speakers[a] != speakers[x]).all()
    cells = {(labels[i], labels[j], speakers[i], speakers[k]) for i, j, k in triples}
    assert len(cells) == 3 * 2 * 3 * 2
    assert len(triples) == MAX_TRIPLES // 36 * 36  # each cell as often as any other


def test_of_many_cells_some_are_drawn_each_once() -> None:
    labels, speakers = corpus(12, 8, 1)
    triples = draw_triples(np.arange(96), labels, speakers, np.random.default_rng(0))
    a, b, x = triples.T
    assert len(triples) == len(np.unique(triples, axis=0)) == MAX_TRIPLES < 12 * 11 * 8 * 7
    assert ((labels[a] == labels[x]) & (labels[a] != labels[b]) & (speakers[a] == speakers[b]) & (speakers[a] != speakers[x])).all()
    for names, clips in ((labels, b), (speakers, a), (speakers, x)):
        counts = np.unique(names[clips], return_counts=True)[1]
        assert counts.max() < 1.5 * counts.min()


def error_of(sequences: list[np.ndarray], triples: np.ndarray) -> float:
    return float(triple_errors(sequences, triples).mean())


def test_intervals_know_that_triples_share_clips() -> None:
    """Clips of random vectors: the error is .5 but for chance, which is that of 24 clips and not of 3000 triples."""
    labels, speakers = corpus(4, 3, 2)
    rng = np.random.default_rng(0)
    triples = draw_triples(np.arange(24), labels, speakers, rng)
    covered, covered_as_if_apart = 0, 0
    for seed in range(30):
        errors = triple_errors([rng.standard_normal((1, 3)).astype(np.float32) for _ in labels], triples)
        resampled = resampled_errors(errors[:, None], triples, np.random.default_rng(seed))
        low, high = np.quantile(resampled, (0.025, 0.975))
        covered += low <= 0.5 <= high
        covered_as_if_apart += abs(errors.mean() - 0.5) <= 1.96 * 0.5 / np.sqrt(len(triples))
    assert covered >= 26
    assert covered_as_if_apart <= 15


def test_known_errors() -> None:
    labels, speakers = corpus()
    triples = draw_triples(np.arange(len(labels)), labels, speakers, np.random.default_rng(0))
    rng = np.random.default_rng(0)

    def sequences(names: np.ndarray) -> list[np.ndarray]:
        kinds = {name: rng.standard_normal(8) for name in sorted(set(names.tolist()))}
        return [np.tile(kinds[name], (rng.integers(2, 6), 1)).astype(np.float32) for name in names.tolist()]

    assert error_of(sequences(labels), triples) == pytest.approx(0, abs=1e-6)
    assert error_of(sequences(speakers), triples) == pytest.approx(0.5, abs=0.2)  # A and B are alike
    assert error_of([np.ones((4, 8), np.float32)] * len(labels), triples) == pytest.approx(0.5, abs=0.01)
    assert error_of([np.zeros((4, 8), np.float32)] * len(labels), triples) == pytest.approx(0.5, abs=0.01)


def test_a_model_and_the_log_mel_itself() -> None:
    labels, speakers = corpus(2, 2, 2)
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((n, TOKEN_DIM)).astype(np.float32) for n in (1, 3, 5, 2, 4, 6, 2, 9)]
    actions = [np.zeros((len(clip), STRIDES), np.float32) for clip in tokens]
    model = tiny_model().eval()
    found = abx(model, tokens, actions, labels, speakers, 0)
    assert not isinstance(found, str)
    assert set(found.error) == {"deter", "stoch", "codes", "embed", "log-mel"}
    assert all(0 <= value <= 1 for value in found.error.values())
    assert all(value > 0 for value in found.interval.values())
    assert found.difference["log-mel"] == (0.0, 0.0)
    assert found.triples <= 2 * 2 * 2**3
    assert found == abx(model, tokens, actions, labels, speakers, 0)


def test_long_clips_are_thinned() -> None:
    long = np.repeat(np.eye(4, dtype=np.float32), MAX_STEPS, 0)
    other = np.repeat(np.eye(4, dtype=np.float32)[::-1], 2, 0)
    assert error_of([long, other, long[::3]], np.array([[0, 1, 2]])) == 0


@pytest.mark.parametrize("known", ["labels", "speakers", "neither"])
def test_without_labels_or_speakers_a_sentence(known: str) -> None:
    labels, speakers = corpus(2, 2, 1)
    none = np.array([""] * 4)
    tokens, actions = [np.zeros((3, TOKEN_DIM), np.float32)] * 4, [np.zeros((3, STRIDES), np.float32)] * 4
    found = abx(tiny_model(), tokens, actions, labels if known == "labels" else none, speakers if known == "speakers" else none, 0)
    assert found == "No ABX: it needs two labels by one speaker, one of them also by another."
