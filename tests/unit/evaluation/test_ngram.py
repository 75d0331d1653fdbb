"""N-grams of codes: what repeats is foreseen, what was never seen falls back to less history."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pydreaming.evaluation.ngram import CodeNgrams
from pydreaming.models.state import Observed, State

K = 5


class Coder:
    """A model of one group whose code is the token."""

    config = SimpleNamespace(groups=1, classes=K)
    token_dim, action_dim, device = 1, 1, torch.device("cpu")

    def observe(self, tokens: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor, carry: object, noise: object) -> Observed:
        post = torch.nn.functional.one_hot(tokens.long(), K).float()
        state = State(tokens, post, (post + 1e-9).log())
        return Observed(tokens, action, is_first, tokens, tokens, state, state.logits, state)


def ngrams(clips: list[list[int]], steps: tuple[int, ...] = (1, 2)) -> CodeNgrams:
    tokens = [np.array(clip, np.float32).reshape(-1, 1) for clip in clips]
    return CodeNgrams(Coder(), tokens, [np.zeros_like(clip) for clip in tokens], steps)  # type: ignore[arg-type]


def guess(model: CodeNgrams, k: int, last: int, before: int | None = None) -> list[float]:
    older = None if before is None else torch.tensor([[before]])
    return model.predict(k, torch.tensor([[last]]), older)[0, 0].exp().tolist()


def test_counts_by_hand() -> None:
    model = ngrams([[0, 1, 0, 1, 2]])
    unigram = model.unigram().exp()[0].tolist()
    assert unigram == pytest.approx([0.4, 0.4, 0.2, 0, 0], abs=1e-6)
    # After 1 came 0 and 2, once each: n = 2, T = 2.
    bigram = guess(model, 1, 1)
    assert bigram == pytest.approx([(1 + 2 * 0.4) / 4, 2 * 0.4 / 4, (1 + 2 * 0.2) / 4, 0, 0], abs=1e-6)
    # After 0, 1 the same; the trigram backs off to the bigram.
    assert guess(model, 1, 1, 0) == pytest.approx([(n + 2 * p) / 4 for n, p in zip([1, 0, 1, 0, 0], bigram, strict=True)], abs=1e-6)


def test_a_trigram_tells_what_a_bigram_cannot() -> None:
    model = ngrams([[0, 1, 2, 0, 3, 1, 4, 3] * 50])  # after 1 comes 2 or 4, by what came before
    assert max(guess(model, 1, 1)) < 0.6
    assert guess(model, 1, 1, 0)[2] > 0.9
    assert guess(model, 1, 1, 3)[4] > 0.9


def test_steps_ahead_are_counted_at_their_own_lag_and_never_across_clips() -> None:
    model = ngrams([[0, 1, 2], [3, 4], [2]])
    assert guess(model, 2, 0)[2] > 0.5
    assert guess(model, 1, 2) == pytest.approx(model.unigram().exp()[0].tolist())  # nothing ever followed 2
    assert guess(model, 1, 4, 3) == pytest.approx(model.unigram().exp()[0].tolist())


def test_unseen_histories_fall_back() -> None:
    model = ngrams([[0, 1] * 10])
    assert guess(model, 1, 1, 4) == pytest.approx(guess(model, 1, 1))
    for values in (guess(model, 1, 0), guess(model, 2, 4), guess(model, 1, 0, 1)):
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        ngrams([[]])
