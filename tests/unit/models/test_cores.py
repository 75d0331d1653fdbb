"""What only the transformer has: a window, a memory, and no way beyond a clip."""

from __future__ import annotations

import pytest
import torch
from tiny_models import one_hot_actions, tiny_batch, tiny_config, tiny_model
from torch import Tensor

from pydreaming.errors import ConfigError
from pydreaming.models import cores
from pydreaming.models.cores import Transformer, make_core
from pydreaming.models.state import State, join_states, stack_states

B, T, WIDTH, D, WINDOW = 3, 12, 6, 10, 4


def transformer(layers: int = 1) -> Transformer:
    torch.manual_seed(0)
    core = make_core(tiny_config(model__core="transformer", model__layers=layers).model, WIDTH)
    assert isinstance(core, Transformer)
    return core


def run(core: Transformer, x: Tensor, is_first: Tensor | None = None, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    is_first = torch.zeros(x.shape[:2], dtype=torch.bool) if is_first is None else is_first
    memory = core.empty(len(x), x.device) if memory is None else memory
    deter, memories = core.run(x, is_first, torch.zeros(len(x), D), memory)
    assert memories is not None
    return deter, memories


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_token_is_seen_by_a_window_of_tokens_in_each_layer(layers: int) -> None:
    x = randn(B, T, WIDTH).requires_grad_()
    deter, _ = run(transformer(layers), x)
    reach = layers * (WINDOW - 1)
    for t in (0, 5, T - 1):
        (grad,) = torch.autograd.grad(deter[:, t].sum(), [x], retain_graph=True)
        seen = (grad.abs().sum((0, 2)) > 0).tolist()
        assert seen == [t - reach <= s <= t for s in range(T)]


def test_nothing_is_seen_from_before_the_clip_nor_from_empty_slots() -> None:
    core, x = transformer(), randn(B, T, WIDTH).requires_grad_()
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[0, 5], is_first[1, 0] = True, True
    deter, _ = run(core, x, is_first)
    (grad,) = torch.autograd.grad(deter[:, 6].sum(), [x])
    assert (grad[0].abs().sum(-1) > 0).tolist() == [t in (5, 6) for t in range(T)]
    assert (grad[1].abs().sum(-1) > 0).tolist() == [3 <= t <= 6 for t in range(T)]
    noisy = core.empty(B, x.device)
    noisy[:, :-1] = 9.0  # a count of zero: whatever stands there is not looked at
    with torch.no_grad():
        torch.testing.assert_close(run(core, x, is_first, noisy)[0], run(core, x, is_first)[0])


def test_positions_are_relative_and_order_counts() -> None:
    core, x = transformer(2), randn(B, 3, WIDTH)
    with torch.no_grad():
        alone, _ = run(core, x)
        later = torch.cat([randn(B, 7, WIDTH), x], 1)
        is_first = torch.zeros(B, 10, dtype=torch.bool)
        is_first[:, 7] = True
        torch.testing.assert_close(run(core, later, is_first)[0][:, 7:], alone)
        swapped, _ = run(core, x[:, [1, 0, 2]])
    assert not torch.allclose(swapped[:, 2], alone[:, 2])


@pytest.mark.parametrize("block", [1, 2, 5, 11])
def test_blocks_of_a_long_sequence_equal_one_pass(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    core, x = transformer(2), randn(B, T, WIDTH)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[0, 4], is_first[2, 11] = True, True
    with torch.no_grad():
        whole = run(core, x, is_first)
        monkeypatch.setattr(cores, "BLOCK", block)
        for a, b in zip(run(core, x, is_first), whole, strict=True):
            torch.testing.assert_close(a, b)


def test_a_stream_s_memory_is_a_window_and_a_rollout_s_are_views_of_one_line() -> None:
    core = transformer()
    values = 2 * D + 1
    with torch.no_grad():
        _, memories = run(core, randn(B, T, WIDTH))
    assert memories.shape == (B, T, values, WINDOW - 1)
    assert memories.untyped_storage().nbytes() == 4 * B * values * (T + WINDOW - 1)
    assert memories[:, :, -1, -1].tolist() == [[min(t + 1, WINDOW - 1) for t in range(T)]] * B
    assert (memories[:, 0, :, :-1] == 0).all()  # zeros where nothing has been heard yet


def test_outputs_stay_where_belief_updates_can_follow() -> None:
    with torch.no_grad():
        deter, _ = run(transformer(2), 100 * randn(B, T, WIDTH))
    assert deter.abs().max() <= 1


def test_joined_states_remember_like_one_rollout() -> None:
    model, batch = tiny_model("rssm", "token", "transformer"), tiny_batch(B, T)
    noise = model.noise(B, T, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.observe(batch.tokens, batch.action, batch.is_first, noise=noise).post
        joined = join_states([whole.at(slice(None), slice(0, 5)), whole.at(slice(None), slice(5, T))])
        empty = model.dynamics.initial(B, model.device).memory
        assert empty is not None
        assert whole.memory is not None
        slots = [whole.memory[:, t, :, -1:] for t in range(T)]
        stacked = stack_states([whole.at(slice(None), t) for t in range(T)], [empty, *slots])
        for other in (joined, stacked):
            assert other.memory is not None
            assert torch.equal(other.memory, whole.memory)
            # One of the first steps, whose memory would be another's if slots had slipped.
            start, actions = other.at(slice(None), 2), one_hot_actions(B, 3, seed=1)
            torch.testing.assert_close(model.imagine(start, actions).deter, model.imagine(whole.at(slice(None), 2), actions).deter)


def test_imagined_steps_each_remember_their_own_past() -> None:
    """Going on from the middle of a rollout gives the rest of it, beyond a window, and the rollout holds one line of slots."""
    model, batch = tiny_model("rssm", "token", "transformer"), tiny_batch(B, T)
    steps = 3 * WINDOW
    actions, noise = one_hot_actions(B, steps, seed=1), model.noise(B, steps, torch.Generator().manual_seed(0))
    with torch.no_grad():
        carry = model.observe(batch.tokens, batch.action, batch.is_first).carry
        whole = model.imagine(carry, actions, noise)
        assert whole.memory is not None
        assert whole.memory.untyped_storage().nbytes() == 4 * B * whole.memory.shape[2] * (steps + WINDOW - 1)
        for n in (0, 2, steps - 2):
            rest = model.imagine(whole.at(slice(None), n), actions[:, n + 1 :], noise[:, n + 1 :])
            torch.testing.assert_close(rest.deter, whole.deter[:, n + 1 :])


def test_an_imagined_belief_is_no_state_to_listen_from() -> None:
    model, batch = tiny_model("belief", "filter", "transformer"), tiny_batch(B, T)
    carry = model.observe(batch.tokens, batch.action, batch.is_first).carry
    imagined = model.imagine(carry, one_hot_actions(B, 1, seed=1)).at(slice(None), -1)
    model.observe(batch.tokens, batch.action, batch.is_first, carry)
    with pytest.raises(ValueError, match="have a memory"):
        model.observe(batch.tokens, batch.action, batch.is_first, imagined)


def test_autocast_keeps_the_types_of_states() -> None:
    model, batch = tiny_model("rssm", "token", "transformer", "gaussian"), tiny_batch(B, T)
    with torch.autocast("cpu", torch.bfloat16):
        observed = model.observe(batch.tokens, batch.action, batch.is_first)
        imagined = model.imagine(observed.carry, one_hot_actions(B, 2, seed=1))
    for state in (observed.post, imagined):
        assert state.memory is not None
        assert {x.dtype for x in (state.deter, state.stoch, state.logits, state.memory)} == {torch.float32}


def test_a_gru_needs_no_memory() -> None:
    observed = tiny_model("rssm").observe(*(getattr(tiny_batch(), name) for name in ("tokens", "action", "is_first")))
    states: list[State] = [observed.post, observed.carry]
    assert all(state.memory is None for state in states)


def test_what_does_not_go_together_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"set model.posterior 'token', or model.dynamics 'belief'$"):
        tiny_config(model__core="transformer", model__dynamics="rssm", model__posterior="filter")
    with pytest.raises(ConfigError, match=r"model.deter must be a multiple of 2 \* model.heads"):
        tiny_config(model__core="transformer", model__heads=3)
    tiny_config(model__heads=3)  # no matter to a GRU
