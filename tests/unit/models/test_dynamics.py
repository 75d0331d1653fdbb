"""Invariants of all dynamics, posteriors, cores and latents that go together: causality, resets, chunks, imagination."""

from __future__ import annotations

import pytest
import torch
from tiny_models import EVERY_FORM, FORMS, TOKEN_DIM, one_hot_actions, tiny_batch, tiny_model
from torch import Tensor

from pydreaming.models.state import Observed, State
from pydreaming.models.world_model import WorldModelNet

B, T = 4, 10
every_form = pytest.mark.parametrize("form", EVERY_FORM, ids="-".join)


def parts(observed: Observed) -> dict[str, Tensor]:
    """Everything a rollout says about each step."""
    post = observed.post
    named = {"deter": post.deter, "stoch": post.stoch, "logits": post.logits, "prior": observed.prior_logits}
    return named | {"context": observed.context, "previous": observed.previous}


def assert_same(a: Observed, b: Observed, steps_a: slice = slice(None), steps_b: slice = slice(None)) -> None:
    for name, value in parts(a).items():
        torch.testing.assert_close(value[:, steps_a], parts(b)[name][:, steps_b], msg=lambda m, n=name: f"{n}: {m}")


def assert_same_state(a: State, b: State) -> None:
    for part in ("deter", "stoch", "logits"):
        torch.testing.assert_close(getattr(a, part), getattr(b, part))


@pytest.fixture(autouse=True)
def no_grad() -> object:
    with torch.no_grad():
        yield


def rollout(model: WorldModelNet, seed: int = 0) -> tuple[Observed, Tensor]:
    batch, noise = tiny_batch(B, T, seed), model.noise(B, T, torch.Generator().manual_seed(seed))
    return model.observe(batch.tokens, batch.action, batch.is_first, noise=noise), noise


@every_form
def test_some_sequences_are_observed_as_among_all_and_the_others_are_heard(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    whole, noise = rollout(model)
    heard, observed = model.observe_some(3, batch.tokens, batch.action, batch.is_first, noise)
    assert_same(observed, whole.rows(3))
    for name in ("embed", "action", "is_first", "context", "previous"):
        torch.testing.assert_close(getattr(heard, name), getattr(whole, name))


@every_form
def test_the_future_changes_nothing_before_it(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    before, noise = rollout(model)
    for t in (0, 4, T - 2):
        tokens, action, noise_after = batch.tokens.clone(), batch.action.clone(), noise.clone()
        tokens[:, t + 1 :] += 3
        action[:, t + 1 :] += 1
        noise_after[:, t + 1 :] *= 2
        after = model.observe(tokens, action, batch.is_first, noise=noise_after)
        assert_same(before, after, slice(t + 1), slice(t + 1))
        assert not torch.allclose(before.post.deter[:, t + 1 :], after.post.deter[:, t + 1 :])


@every_form
def test_the_prior_does_not_see_its_own_token(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    before, noise = rollout(model)
    tokens = batch.tokens.clone()
    tokens[:, 5:] += 3
    after = model.observe(tokens, batch.action, batch.is_first, noise=noise)
    torch.testing.assert_close(before.prior_logits[:, :6], after.prior_logits[:, :6])
    torch.testing.assert_close(before.previous[:, :6], after.previous[:, :6])


@every_form
def test_a_reset_equals_a_fresh_sequence_in_state_and_action(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T, resets=0)
    noise = model.noise(B, T, torch.Generator().manual_seed(0))
    is_first = batch.is_first.clone()
    is_first[:, 6] = True
    whole = model.observe(batch.tokens, batch.action, is_first, noise=noise)
    fresh_action = batch.action[:, 6:].clone()
    fresh_action[:, 0] = 7.0  # led here from before the reset, so it must not count
    first = torch.zeros(B, T - 6, dtype=torch.bool)
    first[:, 0] = True
    fresh = model.observe(batch.tokens[:, 6:], fresh_action, first, noise=noise[:, 6:])
    assert_same(whole, fresh, slice(6, None))
    assert (whole.action[:, 6] == 0).all()
    unbroken = model.observe(batch.tokens, batch.action, batch.is_first, noise=noise)
    assert not torch.allclose(unbroken.post.deter[:, 6:], whole.post.deter[:, 6:])  # the reset did something


@every_form
def test_a_carry_is_dropped_at_a_reset(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    noise = model.noise(B, T, torch.Generator().manual_seed(0))
    carry = rollout(model, seed=5)[0].carry
    with_carry = model.observe(batch.tokens, batch.action, batch.is_first, carry, noise)
    assert_same(model.observe(batch.tokens, batch.action, batch.is_first, noise=noise), with_carry)


@every_form
@pytest.mark.parametrize("chunks", [[1] * T, [3, 7], [1, 1, 8], [9, 1]], ids=str)
def test_chunks_equal_one_pass(form: tuple[str, ...], chunks: list[int]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    whole, noise = rollout(model)
    carry, start = None, 0
    for length in chunks:
        s = slice(start, start + length)
        part = model.observe(batch.tokens[:, s], batch.action[:, s], batch.is_first[:, s], carry, noise[:, s])
        assert_same(whole, part, s)
        carry, start = part.carry, start + length
    assert carry is not None
    assert_same_state(carry, whole.carry)


@every_form
def test_without_noise_modes_are_taken(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    if model.config.latents == "gaussian":
        assert torch.equal(observed.post.stoch, observed.post.logits[..., :1])
    else:
        assert torch.equal(observed.post.stoch.argmax(-1), observed.post.logits.argmax(-1))


@every_form
def test_imagining_equals_single_prior_steps_and_never_hears_a_token(form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(*form)
    state = rollout(model)[0].carry
    actions, noise = one_hot_actions(B, 5, seed=3), model.noise(B, 5, torch.Generator().manual_seed(1))

    def listen(tokens: Tensor) -> Tensor:
        raise AssertionError("imagination called the encoder")

    monkeypatch.setattr(model.encoder, "forward", listen)
    imagined = model.imagine(state, actions, noise)
    for n in range(5):
        one = model.imagine(state, actions[:, n : n + 1], noise[:, n : n + 1])
        state = one.at(slice(None), -1)
        assert_same_state(state, imagined.at(slice(None), n))
    with pytest.raises(AssertionError, match="called the encoder"):
        model.observe(torch.zeros(1, 1, TOKEN_DIM), one_hot_actions(1, 1, 0), torch.ones(1, 1, dtype=torch.bool))


@every_form
def test_imagination_obeys_each_action_from_its_step_on(form: tuple[str, ...]) -> None:
    model = tiny_model(*form)
    state = rollout(model)[0].carry
    noise, actions = model.noise(B, 5, torch.Generator().manual_seed(1)), one_hot_actions(B, 5, seed=3)
    other = actions.clone()
    other[:, 2] = actions[:, 2].roll(1, -1)
    a, b = model.imagine(state, actions, noise), model.imagine(state, other, noise)
    torch.testing.assert_close(a.deter[:, :2], b.deter[:, :2])
    for changed in (a.deter[:, 2] - b.deter[:, 2], a.logits[:, 2] - b.logits[:, 2]):
        assert (changed.flatten(1).abs().sum(1) > 0).all()


@every_form
def test_the_first_imagined_prior_is_the_prior_of_the_observation(form: tuple[str, ...]) -> None:
    """One definition of the prior: a step imagined from t - 1 expects what `observe` expected at t."""
    model, batch = tiny_model(*form), tiny_batch(B, T, resets=0)
    observed, _ = rollout_of(model, batch.is_first)
    imagined = model.imagine(observed.post.at(slice(None), 4), batch.action[:, 5:6])
    torch.testing.assert_close(imagined.logits[:, 0], observed.prior_logits[:, 5])


def rollout_of(model: WorldModelNet, is_first: Tensor) -> tuple[Observed, Tensor]:
    batch, noise = tiny_batch(B, T, resets=0), model.noise(B, T, torch.Generator().manual_seed(0))
    return model.observe(batch.tokens, batch.action, is_first, noise=noise), noise


@pytest.mark.parametrize("form", [form for form in FORMS if form != ("rssm", "filter")], ids="-".join)  # that one goes cell by cell
def test_a_step_out_of_a_sequence_reaches_the_kernel_in_one_piece(form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDREAMING_PLAIN", "1")  # the kernel is called there alone
    model, seen = tiny_model(*form), []
    state = rollout(model)[0].post.at(slice(None), 3)
    assert not state.deter.is_contiguous()
    kernel = model.dynamics.gru.forward
    monkeypatch.setattr(model.dynamics.gru, "forward", lambda x, h: (seen.append(h.is_contiguous()), kernel(x, h))[1])
    model.observe(torch.zeros(B, 2, TOKEN_DIM), one_hot_actions(B, 2, seed=3), torch.zeros(B, 2, dtype=torch.bool), state)
    assert seen
    assert all(seen)


@every_form
def test_a_cold_prior_takes_its_modes(form: tuple[str, ...]) -> None:
    model = tiny_model(*form)
    state, actions = rollout(model)[0].carry, one_hot_actions(B, 3, seed=3)
    noise = model.noise(B, 3, torch.Generator().manual_seed(1))
    cold, modes = model.imagine(state, actions, noise, temperature=1e-6), model.imagine(state, actions)
    torch.testing.assert_close(cold.stoch, modes.stoch, atol=1e-2, rtol=0)  # a Gaussian's deviation is a thousandth then


@every_form
def test_shapes_are_checked(form: tuple[str, ...]) -> None:
    model, batch = tiny_model(*form), tiny_batch(B, T)
    for tokens, action in ((batch.tokens[..., 1:], batch.action), (batch.tokens, batch.action[:, 1:])):
        with pytest.raises(ValueError, match="expected tokens"):
            model.observe(tokens, action, batch.is_first)


@every_form
def test_states_index_and_repeat_alike(form: tuple[str, ...]) -> None:
    post = rollout(tiny_model(*form))[0].post
    assert post.feat.shape == (B, T, 10 + (5 if form[3] == "gaussian" else 12))
    twice = post.at(slice(None), 0).repeat(2)
    assert_same_state(twice.at(slice(None, None, 2)), twice.at(slice(1, None, 2)))
    assert_same_state(twice.at(slice(None, None, 2)), post.at(slice(None), 0))
