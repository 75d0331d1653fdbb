"""Bitrates of codes whose entropy is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import STRIDES, TOKEN_DIM, tiny_model

from pydreaming.evaluation.codes import LEAST_WINDOWS, code_statistics
from pydreaming.models.latents import CATEGORICAL
from pydreaming.models.state import Observed, State


class Coder:
    """A model whose two groups show each token's two values as classes; the prior is uniform over four."""

    config = SimpleNamespace(groups=2, classes=4)
    dynamics = SimpleNamespace(latents=CATEGORICAL)
    token_dim, action_dim, device = 2, 1, torch.device("cpu")

    def observe(self, tokens: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor, carry: object, noise: object) -> Observed:
        post = torch.nn.functional.one_hot(tokens.long(), 4).float()
        prior = torch.full_like(post, 0.25).log()
        state = State(tokens, post, (post + 1e-9).log())
        return Observed(tokens, action, is_first, tokens, tokens, state, prior, state)


def test_known_bitrates() -> None:
    # The first group holds each of four classes for two windows, the second never changes.
    first = np.repeat(np.tile(np.arange(4), 25), 2)
    clip = np.stack([first, np.full(200, 3)], 1).astype(np.float32)
    actions = [np.zeros((200, 1), np.float32)] * 3
    found = code_statistics(Coder(), [clip] * 3, actions, 0.04)  # type: ignore[arg-type]
    assert not isinstance(found, str)
    assert found.bitrate == pytest.approx(2 / 0.04)
    assert found.bitrate_deduplicated == pytest.approx(2 / 0.08)  # the second group sends one symbol a clip, which says nothing
    assert found.bitrate_predicted == pytest.approx((2 + 2) / 0.04)
    assert found.perplexity == pytest.approx([4, 1])
    assert (found.classes, found.windows) == (4, 600)


def test_a_real_model_has_at_most_all_bits() -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((n, TOKEN_DIM)).astype(np.float32) for n in (100, 1, 30)]
    found = code_statistics(tiny_model().eval(), tokens, [np.zeros((len(x), STRIDES), np.float32) for x in tokens], 0.1)
    assert not isinstance(found, str)
    assert 0 < found.bitrate_deduplicated <= found.bitrate <= 3 * np.log2(4) / 0.1


def test_too_few_windows_are_a_sentence() -> None:
    tokens = [np.zeros((LEAST_WINDOWS - 1, TOKEN_DIM), np.float32)]
    found = code_statistics(tiny_model(), tokens, [np.zeros((LEAST_WINDOWS - 1, STRIDES), np.float32)], 0.1)
    assert found == "No bitrate of the code: 99 windows are too few (at least 100)."


def test_latents_that_are_no_code_are_a_sentence() -> None:
    tokens = [np.zeros((400, TOKEN_DIM), np.float32)]
    model = tiny_model(latents="gaussian").eval()
    assert (
        code_statistics(model, tokens, [np.zeros((400, STRIDES), np.float32)], 0.1)
        == "No bitrate of the code: the latents are not discrete."
    )
