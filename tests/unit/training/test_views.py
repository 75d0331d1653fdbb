"""Centred clips: the mean per band goes, clip by clip, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from pydreaming.config import load_config
from pydreaming.objectives import TensorBatch
from pydreaming.training.views import centre_sequences

B, T, FRAMES, BANDS = 6, 10, 2, 3


def batch(seed: int = 0) -> TensorBatch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, T, FRAMES * BANDS, generator=generator) + 5
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[:, 4] = True
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 7:] = False
    tokens[0, 7:] = 0
    return TensorBatch(tokens, is_first, torch.zeros(B, T, 1), torch.arange(B * T).reshape(B, T), mask)


def frames(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(-1, (FRAMES, BANDS))


def test_every_clip_loses_its_own_mean_per_band() -> None:
    before = batch()
    after = centre_sequences(before, BANDS, 1.0)
    for rows in (slice(0, 4), slice(4, T)):
        part = frames(after.tokens[1:, rows])
        torch.testing.assert_close(part.mean((1, 2)), torch.zeros(B - 1, BANDS), atol=1e-5, rtol=0)
        expected = frames(before.tokens[1:, rows]) - frames(before.tokens[1:, rows]).mean((1, 2), keepdim=True)
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)


def test_padding_counts_in_no_mean_and_stays_zero() -> None:
    after = centre_sequences(batch(), BANDS, 1.0)
    torch.testing.assert_close(frames(after.tokens[0, 4:7]).mean((0, 1)), torch.zeros(BANDS), atol=1e-5, rtol=0)
    assert not after.tokens[0, 7:].any()


def test_a_share_is_of_the_last_sequences() -> None:
    before = batch()
    for share, count in ((0.0, 0), (0.5, 3), (1.0, B)):
        after = centre_sequences(before, BANDS, share)
        changed = ((after.tokens != before.tokens).any(-1) & before.mask).any(1)
        assert changed.tolist() == [row >= B - count for row in range(B)]
        assert torch.equal(after.tokens[: B - count], before.tokens[: B - count])


@pytest.mark.parametrize("size", range(1, 30))
def test_what_trains_the_latents_is_as_it_was_recorded(size: int) -> None:
    """At the shares of the defaults, for batches of any size."""
    config = load_config(["defaults"])
    tokens = torch.randn(size, T, FRAMES * BANDS) + 5
    is_first = torch.zeros(size, T, dtype=torch.bool)
    is_first[:, 0] = True
    before = TensorBatch(tokens, is_first, torch.zeros(size, T, 1), torch.zeros(size, T).long(), torch.ones_like(is_first))
    after = centre_sequences(before, BANDS, config.augment.centre)
    rows = max(1, round(config.objective.latent_streams * size))  # as `Objective` takes them
    assert torch.equal(after.tokens[:rows], before.tokens[:rows])


def test_windows_ahead_in_centred_noise_are_foreseen_by_what_is_left_over() -> None:
    """What the module says of its own view: the sum of a clip gives its last window away, whatever it holds."""
    noise = batch().tokens[1:] - 5
    is_first = batch().is_first[1:]
    after = centre_sequences(
        TensorBatch(noise, is_first, torch.zeros(B - 1, T, 1), torch.zeros(B - 1, T).long(), batch().mask[1:]), BANDS, 1.0
    )
    ends = frames(after.tokens[:, 4:]).mean(2)
    torch.testing.assert_close(-ends[:, :-1].sum(1), ends[:, -1], atol=1e-5, rtol=0)


def test_the_recorded_tokens_stay_beside_the_view() -> None:
    before = batch()
    after = centre_sequences(before, BANDS, 0.5)
    assert torch.equal(after.as_recorded, before.tokens)
    assert torch.equal(after.rows(5).as_recorded, before.tokens[:5])
    assert torch.equal(centre_sequences(after, BANDS, 1.0).as_recorded, before.tokens)
    assert before.rows(2).recorded is None
