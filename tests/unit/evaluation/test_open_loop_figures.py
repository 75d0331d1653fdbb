"""Open-loop figures: an oracle is always right, the corpus average gains nothing, and rivals are fair.

Tokens of these batches are their own flat index, so that a stub of a model can know everything or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_model import tiny_config

from pydreaming.evaluation.evaluate import evaluate_world
from pydreaming.evaluation.open_loop import CANDIDATES, STEPS, OpenLoop, _candidates, open_loop
from pydreaming.models.distributions import marginal
from pydreaming.models.state import Observed, State
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import TensorBatch, make_objective
from pydreaming.replay.schema import ID_STEPS

K = 64  # classes of the stub's single latent
Imagine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def batch_of(streams: int, steps: int, lengths: list[int] | None = None) -> TensorBatch:
    B, T = streams, steps
    index = torch.arange(B * T).reshape(B, T)
    mask = torch.ones(B, T, dtype=torch.bool)
    for row, length in enumerate(lengths or []):
        mask[row, length:] = False
    is_first = ~mask
    is_first[:, 0] = True
    return TensorBatch(index.float().unsqueeze(-1), is_first, torch.zeros(B, T, 1), ID_STEPS * index, mask)


class Stub:
    """A model whose state is the index of its token; `latents(index, post)` are the log-probabilities that it imagines."""

    def __init__(self, batch: TensorBatch, latents: Imagine, drift: int = 0) -> None:
        self.mask, self.latents, self.drift = batch.mask, latents, drift
        torch.manual_seed(0)
        self.post = torch.randn(batch.mask.numel(), 1, K).mul(3).log_softmax(-1)

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.zeros(batch, steps, 1, K)

    def observe(self, tokens: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor, noise: torch.Tensor) -> Observed:
        logits = self.post[tokens.long().squeeze(-1)]
        state = State(tokens, logits.exp(), logits)
        return Observed(tokens, action, is_first, tokens, tokens, state, logits, state)

    def imagine(self, state: State, actions: torch.Tensor, noise: torch.Tensor) -> State:
        deter = state.deter.unsqueeze(1) + torch.arange(1, actions.shape[1] + 1).reshape(1, -1, 1) + self.drift
        logits = self.latents(deter.long().squeeze(-1), self.post)
        return State(deter, logits.exp(), logits)

    def decoder(self, feat: torch.Tensor) -> torch.Tensor:
        return feat[..., :1]


class StubObjective:
    """Compares tokens by `space`: (index) -> (..., P) unit vectors."""

    config = SimpleNamespace(temperature=0.1)

    def __init__(self, space: torch.Tensor) -> None:
        self.space = space

    def predict(self, state: State) -> torch.Tensor:
        return self.space[state.deter.long().squeeze(-1) % len(self.space)]

    def target(self, embed: torch.Tensor) -> torch.Tensor:
        return self.space[embed.long().squeeze(-1)]


def figures(batch: TensorBatch, latents: Imagine, space: torch.Tensor | None = None, drift: int = 0) -> OpenLoop | None:
    objective = StubObjective(torch.eye(batch.mask.numel()) if space is None else space)
    return open_loop(Stub(batch, latents, drift), objective, [batch], 2, 4, torch.Generator())  # type: ignore[arg-type]


def oracle(index: torch.Tensor, post: torch.Tensor) -> torch.Tensor:
    return post[index % len(post)]


def test_an_oracle_finds_every_token_and_gains_all_there_is() -> None:
    result = figures(batch_of(5, 24), oracle)
    assert result is not None
    assert list(result.retrieval) == list(STEPS)
    assert set(result.retrieval.values()) == {1.0}
    assert all(result.gain[k] > 1 for k in STEPS)
    assert all(result.gain[k] > result.gain_copy[k] for k in STEPS)
    assert result.error == 0
    assert result.error_copy == 1  # neighbouring tokens differ by one
    assert result.candidates == 120


def test_one_who_is_a_step_late_finds_none() -> None:
    result = figures(batch_of(5, 16), oracle, drift=-1)
    assert result is not None
    assert set(result.retrieval.values()) == {0.0}
    assert result.error == 1


def test_the_corpus_average_gains_nothing() -> None:
    batch = batch_of(5, 24, [24, 9, 12, 24, 3])
    observed = Stub(batch, oracle).observe(batch.tokens, batch.action, batch.is_first, batch.tokens)
    average = marginal(observed.post.logits, batch.mask)
    result = figures(batch, lambda index, post: average.expand(*index.shape, 1, K))
    assert result is not None
    assert list(result.gain.values()) == pytest.approx([0.0] * len(STEPS), abs=1e-5)


def test_the_copy_is_asked_without_the_last_token_among_the_candidates() -> None:
    # On each sequence's own circle steps become shorter, so that the nearest token, besides itself, is always the next one.
    B, T = 3, 12
    angle = 1 - 0.8 ** torch.arange(T)
    space = torch.zeros(B * T, 2 * B)
    for b in range(B):
        space[b * T : (b + 1) * T, 2 * b : 2 * b + 2] = torch.stack([angle.cos(), angle.sin()], -1)
    result = figures(batch_of(B, T), oracle, space)
    assert result is not None
    assert result.retrieval_copy[1] == 1
    assert result.retrieval_copy[2] == 0  # the nearest is the one between


def test_predictions_stop_at_the_end_of_a_clip() -> None:
    batch = batch_of(3, 16, [16, 6, 16])
    batch.is_first[2, 7] = True
    result = figures(batch, oracle)
    assert result is not None
    # Starts are 4, 7, 10 and 13: the second row reaches one step beyond start 4; from there the third may not cross step 7.
    assert result.count == {1: 4 + 1 + 4, 2: 4 + 0 + 4, 4: 3 + 0 + 2, 8: 2 + 0 + 1}


class TwoGuesses:
    """N-grams of which bigrams guess evenly and trigrams do not."""

    def predict(self, k: int, last: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        return torch.arange(K).mul(0.0 if before is None else 0.1).log_softmax(-1).expand(*last.shape, -1)


@pytest.mark.parametrize("reset", [None, 4])
def test_a_trigram_takes_no_code_of_the_clip_before(reset: int | None) -> None:
    batch = batch_of(3, 8)  # one start, at step 4
    if reset is not None:
        batch.is_first[:, reset] = True
    objective = StubObjective(torch.eye(batch.mask.numel()))
    found = open_loop(Stub(batch, oracle), objective, [batch], 2, 4, torch.Generator(), TwoGuesses())  # type: ignore[arg-type]
    assert found is not None
    assert found.gain_bigram.keys() == found.gain_trigram.keys() == {1, 2}
    assert (found.gain_trigram == found.gain_bigram) == (reset == 4)


@pytest.mark.parametrize("lengths", [[1, 1], [2, 1]])
def test_sequences_of_a_token_or_two(lengths: list[int]) -> None:
    result = figures(batch_of(2, 2, lengths), oracle)
    if lengths == [1, 1]:
        assert result is None
    else:
        assert result is not None
        assert result.count == {1: 1}


def test_candidates_are_at_most_256_real_tokens_with_the_right_one_among_them() -> None:
    B, T = 30, 12
    batch = batch_of(B, T, [12 - row % 3 for row in range(B)])
    choice, positive = _candidates(batch, 5)
    assert choice.shape == (B, B * T)
    assert int(choice.sum(1).max()) == CANDIDATES
    assert int(choice.sum(1).min()) == CANDIDATES
    assert choice.gather(1, positive.unsqueeze(1)).all()
    assert positive.tolist() == [row * T + 5 for row in range(B)]
    assert not (choice & ~batch.mask.flatten()).any()
    own = choice.reshape(B, B, T).diagonal(dim1=0, dim2=1).T  # rivals come from the same sequence first
    assert torch.equal(own, batch.mask)


def test_the_same_audio_is_never_a_rival() -> None:
    B, T = 4, 10
    batch = batch_of(B, T)
    batch = replace(batch, token_id=batch.token_id % (ID_STEPS * T))  # four copies of one sequence
    choice, positive = _candidates(batch, 3)
    result = open_loop(Stub(batch, oracle), StubObjective(torch.eye(B * T)), [batch], 2, 4, torch.Generator())  # type: ignore[arg-type]
    assert result is not None
    assert result.candidates == 1 + 4 * (T - 1)  # the report's chance must count the rivals that there were
    ids = batch.token_id.flatten()
    for row in range(B):
        same = (ids == 3 * ID_STEPS).nonzero().flatten()
        assert choice[row, same].sum() == 1
        assert choice[row, positive[row]]


def test_a_real_model_gives_finite_figures_that_repeat() -> None:
    config = tiny_config()
    torch.manual_seed(0)
    D = config.features.token_dim
    model = WorldModelNet(config.model, D, 1).eval()
    objective = make_objective(config.objective, model).eval()
    batch = replace(batch_of(4, 12, [12, 12, 5, 12]), tokens=torch.randn(4, 12, D))
    first, second = (evaluate_world(model, objective, [batch], config) for _ in range(2))
    assert first.metrics() == second.metrics()
    assert all(torch.isfinite(torch.tensor(list(first.metrics().values()))))
    short = evaluate_world(model, objective, [replace(batch, mask=batch.mask & (torch.arange(12) < 1))], config)
    assert short.open_loop is None
    assert short.notes == ["No open-loop figures: no recording to evaluate on is longer than one token."]
