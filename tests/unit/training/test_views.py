"""Centred clips: the mean per band goes, clip by clip, and nothing else changes."""

from __future__ import annotations

import torch

from pydreaming.objectives import TensorBatch
from pydreaming.training.views import centre_clips

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
    after = centre_clips(before, BANDS, 1.0, torch.Generator().manual_seed(1))
    for rows in (slice(0, 4), slice(4, T)):
        part = frames(after.tokens[1:, rows])
        torch.testing.assert_close(part.mean((1, 2)), torch.zeros(B - 1, BANDS), atol=1e-5, rtol=0)
        expected = frames(before.tokens[1:, rows]) - frames(before.tokens[1:, rows]).mean((1, 2), keepdim=True)
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)


def test_padding_counts_in_no_mean_and_stays_zero() -> None:
    after = centre_clips(batch(), BANDS, 1.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(frames(after.tokens[0, 4:7]).mean((0, 1)), torch.zeros(BANDS), atol=1e-5, rtol=0)
    assert not after.tokens[0, 7:].any()


def test_a_share_of_the_clips_is_centred_as_a_whole() -> None:
    before = batch()
    counts = []
    for seed in range(60):
        after = centre_clips(before, BANDS, 0.5, torch.Generator().manual_seed(seed))
        changed = (after.tokens != before.tokens).any(-1)
        for row in range(1, B):
            for clip in (slice(0, 4), slice(4, T)):
                assert changed[row, clip].all() or not changed[row, clip].any()
                counts.append(float(changed[row, clip][0]))
    assert 0.4 < sum(counts) / len(counts) < 0.6


def test_share_zero_changes_nothing_and_the_same_seed_draws_the_same() -> None:
    before = batch()
    assert torch.equal(centre_clips(before, BANDS, 0.0, torch.Generator().manual_seed(0)).tokens, before.tokens)
    a, b = (centre_clips(before, BANDS, 0.5, torch.Generator().manual_seed(3)).tokens for _ in range(2))
    assert torch.equal(a, b)
