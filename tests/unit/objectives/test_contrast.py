"""InfoNCE: what counts as positive, what as negative, and what it is worth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pydreaming.objectives.contrast import SAME, Contrast, info_nce, reaches, redundancy, same_audio
from pydreaming.replay.schema import ID_STEPS

B, T, P = 3, 6, 5
MASK = torch.ones(B, T, dtype=torch.bool)
IDS = ID_STEPS * torch.arange(B * T).reshape(B, T)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (B, T, P)), generator=torch.Generator().manual_seed(seed))


def contrast(query: Tensor, key: Tensor, **changes: Any) -> Contrast:
    arguments = {"token_id": IDS, "valid": MASK, "mask": MASK, "steps": 0, "temperature": 0.1} | changes
    return info_nce(query, key, **arguments)


def by_hand(query: Tensor, key: Tensor, steps: int, keys: list[int], anchor: int) -> float:
    """-log of the softmax share of the positive among the named flat positions."""
    q = query.flatten(0, 1)[anchor] / query.flatten(0, 1)[anchor].norm()
    scores = {i: float(q @ (key.flatten(0, 1)[i] / key.flatten(0, 1)[i].norm())) / 0.1 for i in keys}
    return -(scores[anchor + steps] - math.log(sum(math.exp(s) for s in scores.values())))


def test_identical_features_cost_ln_n_and_are_at_chance() -> None:
    same = torch.ones(B, T, P)
    result = contrast(same, same)
    torch.testing.assert_close(result.loss, torch.full((B, T), math.log(B * T)))
    assert float(result.correct.mean()) == pytest.approx(1 / (B * T))


def test_the_candidates_are_counted_right_with_each_kind_of_exclusion() -> None:
    same = torch.ones(B, T, P)
    mask = MASK.clone()
    mask[1, 4:] = False
    torch.testing.assert_close(contrast(same, same, mask=mask, valid=mask).loss[mask], torch.full((16,), math.log(16)))
    torch.testing.assert_close(contrast(same, same, within_sequence=True).loss, torch.full((B, T), math.log(T)))
    ids = IDS.clone()
    ids[2] = ids[0]  # the third sequence is the first again
    loss = contrast(same, same, token_id=ids).loss
    torch.testing.assert_close(loss[1], torch.full((T,), math.log(B * T)))
    torch.testing.assert_close(loss[[0, 2]], torch.full((2, T), math.log(B * T - 1)))


def test_audio_that_is_shared_for_more_than_half_is_no_negative() -> None:
    for apart, shared in ((0, True), (SAME, True), (-SAME, True), (SAME + 1, False), (ID_STEPS, False), (-ID_STEPS, False)):
        ids = torch.tensor([5 * ID_STEPS])
        assert bool(same_audio(ids, ids + apart)) is shared
    assert 2 * SAME == ID_STEPS  # half a stride, as the store counts
    same, ids = torch.ones(B, T, P), IDS.clone()
    ids[2] = ids[0] + SAME - 1  # the first sequence again, cut on another grid
    loss = contrast(same, same, token_id=ids).loss
    torch.testing.assert_close(loss[0], torch.full((T,), math.log(B * T - 1)))


def test_values_equal_a_softmax_by_hand() -> None:
    query, key = randn(0), randn(1)
    ids = IDS.clone()
    ids[2, 3] = ids[0, 2]
    for steps in (0, 2):
        result = contrast(query, key, token_id=ids, steps=steps, valid=reaches(torch.zeros_like(MASK), MASK, steps))
        keys = [i for i in range(B * T) if i != 2 * T + 3]
        assert float(result.loss[0, 2 - steps]) == pytest.approx(by_hand(query, key, steps, keys, 2 - steps), rel=1e-4)
        assert float(result.loss[1, 0]) == pytest.approx(by_hand(query, key, steps, list(range(B * T)), T), rel=1e-4)


def test_autocast_takes_no_digits_from_the_logits() -> None:
    query, key = randn(0), randn(1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = contrast(query, key, temperature=0.02)
    assert torch.equal(mixed.loss, contrast(query, key, temperature=0.02).loss)


def test_a_permutation_of_the_batch_permutes_the_losses() -> None:
    query, key, order = randn(0), randn(1), torch.tensor([2, 0, 1])
    valid = reaches(torch.zeros_like(MASK), MASK, 1)
    straight = contrast(query, key, steps=1, valid=valid)
    permuted = contrast(query[order], key[order], token_id=IDS[order], steps=1, valid=valid)
    torch.testing.assert_close(permuted.loss, straight.loss[order])
    torch.testing.assert_close(permuted.correct, straight.correct[order])


def test_an_answer_that_points_at_its_token_is_right_and_cheap() -> None:
    key = randn(0)
    query = torch.cat([key[:, 2:], torch.zeros(B, 2, P)], 1)
    valid = reaches(torch.zeros_like(MASK), MASK, 2)
    result = contrast(query, key, steps=2, valid=valid, temperature=0.02)
    assert (result.correct[valid] == 1).all()
    assert float(result.loss[valid].max()) < 0.5
    off_by_one = contrast(query, key, steps=1, valid=valid, temperature=0.02)
    assert float(off_by_one.loss[valid].mean()) > 10


def test_reaches_drops_pairs_across_resets_padding_and_ends() -> None:
    is_first = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 1]], dtype=torch.bool)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert reaches(is_first, mask, 0).tolist() == mask.tolist()
    assert reaches(is_first, mask, 1).int().tolist() == [[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    assert reaches(is_first, mask, 2).int().tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert not reaches(is_first, mask, 6).any()
    assert not reaches(is_first, mask, 7).any()


def test_what_does_not_count_costs_nothing_and_gives_no_gradient() -> None:
    query = randn(0).requires_grad_()
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 3] = True
    valid = reaches(is_first, MASK, 1)
    result = contrast(query, randn(1), steps=1, valid=valid)
    result.loss.sum().backward()
    assert query.grad is not None
    assert (result.loss[~valid] == 0).all()
    assert (query.grad[~valid] == 0).all()
    assert (query.grad[valid].abs().sum(-1) > 0).all()


def test_padding_is_no_negative_whatever_it_holds() -> None:
    mask = MASK.clone()
    mask[0, 3:] = False
    query, key, other = randn(0), randn(1), randn(1)
    other[0, 3:] = 100 * query[1, 0]
    valid = reaches(torch.zeros_like(MASK), mask, 1)
    a, b = (contrast(query, k, steps=1, valid=valid, mask=mask) for k in (key, other))
    torch.testing.assert_close(a.loss, b.loss)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
@pytest.mark.parametrize("temperature", [1e-3, 100.0])
def test_extreme_features_stay_finite_with_their_gradients(scale: float, temperature: float) -> None:
    query, key = (scale * randn(0)).requires_grad_(), (scale * randn(1)).requires_grad_()
    result = contrast(query, key, temperature=temperature)
    result.loss.sum().backward()
    assert torch.isfinite(result.loss).all()
    for leaf in (query, key):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_a_batch_with_nothing_to_tell_apart_is_finite() -> None:
    nothing = torch.zeros_like(MASK)
    query = randn(0).requires_grad_()
    result = contrast(query, randn(1), valid=nothing, mask=nothing, steps=1)
    result.loss.sum().backward()
    assert (result.loss == 0).all()
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def test_bfloat16_features_are_compared_in_float32() -> None:
    query, key = randn(0).bfloat16(), randn(1).bfloat16()
    torch.testing.assert_close(contrast(query, key).loss, contrast(query.float(), key.float()).loss)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrast(query, key).loss.dtype == torch.float32


def test_redundancy_equals_a_correlation_by_hand_over_the_valid_steps() -> None:
    x, target, valid = randn(0), randn(1), MASK.clone()
    valid[1, 3:] = False
    a, b = ((v[valid] - v[valid].mean(0)) / v[valid].std(0, correction=0) for v in (x, target))
    c = a.t() @ b / len(a)
    by_hand = sum((c[i, j] - 1) ** 2 if i == j else 0.3 * c[i, j] ** 2 for i in range(P) for j in range(P))
    assert float(redundancy(x, target, valid, 0.3)) == pytest.approx(float(by_hand), rel=1e-3)
    assert float(redundancy(x, x, valid, 0.0)) == pytest.approx(0, abs=1e-6)


def test_redundancy_of_features_that_never_vary_is_finite_with_its_gradient() -> None:
    x = torch.ones(B, T, P, requires_grad=True)
    loss = redundancy(x, torch.zeros(B, T, P), MASK, 1.0)
    loss.backward()
    assert float(loss.detach()) == P  # nothing agrees
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
