"""One step: the schedule, the guard against numbers that are not finite, and who is trained by what."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import STRIDES, TOKEN_DIM, tiny_batch, tiny_config, tiny_model
from torch.nn.utils.rnn import PackedSequence

from pydreaming.errors import ConfigError
from pydreaming.objectives import Losses
from pydreaming.replay.sampler import Batch
from pydreaming.training.trainer import Trainer, decoder_loss, pick_device, pick_precision, rate_factor, sequence_losses
from pydreaming.training.views import centre_sequences


def trainer(**overrides: object) -> Trainer:
    return Trainer(tiny_config(**overrides), TOKEN_DIM, STRIDES)


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    modules = {"model": of.model, "objective": of.objective}
    return {f"{name}.{k}": v.clone() for name, m in modules.items() for k, v in m.state_dict().items()}


def test_the_rate_warms_up_stays_and_falls() -> None:
    config = tiny_config(training__warmup_steps=9, training__decay_from=0.6, training__final_rate=0.1)
    assert [rate_factor(config, step, 0.0) for step in (0, 4, 9, 1000)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [rate_factor(config, 1000, p) for p in (0.6, 0.8, 1.0, 1.5)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert rate_factor(config, 0, 1.0) == pytest.approx(0.01)  # both together
    assert rate_factor(tiny_config(training__decay_from=1), 1000, 1.0) == 1.0


@pytest.mark.parametrize("capture", ["never", "always"])
def test_a_step_uses_the_scheduled_rate_in_both_optimisers(capture: str) -> None:
    t = trainer(training__warmup_steps=3, training__learning_rate=0.004, training__capture=capture)
    for expected in (0.001, 0.002, 0.003, 0.004, 0.004):
        t.train_step(tiny_batch(), progress=0.0)
        rates = [float(g["lr"]) for o in (t.optimizer, t.decoder_optimizer) for g in o.param_groups]
        assert rates == pytest.approx([expected] * 4)


def test_a_step_changes_every_network_and_counts_itself() -> None:
    t = trainer(objective__free_nats=0, objective__latent_streams=1)
    before = weights(t)
    result = t.train_step(tiny_batch(), progress=0.0)
    unchanged = [name for name, value in weights(t).items() if torch.equal(value, before[name])]
    assert unchanged == []
    assert result.finite
    assert (t.step, t.trained_tokens, t.non_finite_steps) == (1, 40, 0)


def test_clips_are_centred_in_training_only_where_asked() -> None:
    seen = []
    for share in (0, 1):
        t = trainer(augment__centre=share, features__n_mels=TOKEN_DIM // 4)
        observe = t.model.observe_some

        def keep(rows: int, tokens: torch.Tensor, *rest: object, observe: Any = observe) -> object:
            seen.append(tokens)
            return observe(rows, tokens, *rest)

        t.model.observe_some = keep  # type: ignore[assignment,method-assign]
        t.train_step(tiny_batch(), progress=0.0)
    plain, centred = seen
    assert torch.equal(plain, tiny_batch().tokens)
    assert torch.equal(centred, centre_sequences(tiny_batch(), TOKEN_DIM // 4, 1.0).tokens)


def test_padding_is_not_counted_as_trained_on() -> None:
    t, batch = trainer(), tiny_batch()
    batch.mask[0, 3:] = False
    t.train_step(batch, progress=0.0)
    assert t.trained_tokens == 33


@pytest.mark.parametrize("capture", ["never", "always"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted(poison: float, capture: str) -> None:
    t = trainer(training__capture=capture)
    t.train_step(tiny_batch(), progress=0.0)
    before, moments = weights(t), {k: v.clone() for k, v in t.optimizer.state[t.world[0]].items()}
    batch = tiny_batch()
    batch.tokens[1, 3, 2] = poison
    result = t.train_step(batch, progress=0.0)
    assert not result.finite
    assert all(torch.equal(value, before[name]) for name, value in weights(t).items())
    assert all(torch.equal(value, moments[k]) for k, value in t.optimizer.state[t.world[0]].items())
    assert (t.step, t.non_finite_steps) == (2, 1)
    assert t.train_step(tiny_batch(), progress=0.0).finite  # and training goes on


def test_a_gradient_of_the_decoder_alone_that_is_not_finite_refuses_the_step() -> None:
    t = trainer()
    before = weights(t)
    t.probe[0].register_hook(lambda gradient: gradient * float("inf"))
    assert not t.train_step(tiny_batch(), progress=0.0).finite
    assert all(torch.equal(value, before[name]) for name, value in weights(t).items())


def test_an_exploding_gradient_is_clipped() -> None:
    t = trainer(training__clip=0.001)
    result = t.train_step(tiny_batch(), progress=0.0)
    assert float(result.grad_norm) > 0.001
    clipped = torch.stack([p.grad.norm() for p in t.world if p.grad is not None]).norm()
    assert float(clipped) == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("dynamics", ["belief", "rssm"])
def test_the_probe_decoder_gives_the_world_model_no_gradient(dynamics: str) -> None:
    t = trainer(model__dynamics=dynamics)
    batch = tiny_batch()
    losses = t.objective(t.model, batch, t.model.noise(4, 10))
    decoder_loss(t.model, losses, batch).backward()
    assert all(p.grad is None for p in t.world)
    assert all(p.grad is not None and bool(p.grad.any()) for p in t.probe)


def test_the_decoder_learns_from_valid_tokens_only() -> None:
    t, batch = trainer(), tiny_batch()
    losses = t.objective(t.model, batch, t.model.noise(4, 10))
    mask = batch.mask.clone()
    mask[:, 5:] = False
    tokens = batch.tokens.clone()
    tokens[:, 5:] = 1e6
    partial = [decoder_loss(t.model, losses, dataclasses.replace(batch, mask=mask, tokens=x)) for x in (batch.tokens, tokens)]
    torch.testing.assert_close(partial[0], partial[1])
    predicted = t.model.decoder(losses.observed.post.feat)
    torch.testing.assert_close(partial[0], (predicted - batch.tokens[: len(predicted)])[:, :5].square().mean())


def test_every_parameter_belongs_to_exactly_one_optimiser_and_only_matrices_decay() -> None:
    t = trainer(training__weight_decay=0.1)
    groups = [*t.optimizer.param_groups, *t.decoder_optimizer.param_groups]
    owned = [id(p) for g in groups for p in g["params"]]
    everything = [*t.model.parameters(), *t.objective.parameters()]
    assert sorted(owned) == sorted(id(p) for p in everything)
    for group in groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not() -> None:
    def run(seed: int) -> dict[str, torch.Tensor]:
        t = trainer(run__seed=seed)
        for i in range(3):
            t.train_step(tiny_batch(seed=i), progress=0.0)
        return weights(t)

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("dynamics", ["belief", "rssm"])
@pytest.mark.parametrize("posterior", ["filter", "token"])
def test_bfloat16_trains_on_a_cpu(dynamics: str, posterior: str) -> None:
    t = trainer(training__precision="bfloat16", model__dynamics=dynamics, model__posterior=posterior)
    assert t.autocast_dtype == torch.bfloat16
    before = weights(t)
    result = t.train_step(tiny_batch(), progress=0.0)
    assert result.finite
    assert result.losses.observed.post.logits.dtype == torch.float32  # distributions never lose digits
    assert result.total.dtype == torch.float32
    after = weights(t)
    assert all(value.dtype == torch.float32 for value in after.values())
    assert any(not torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize("dynamics", ["belief", "rssm"])
@pytest.mark.parametrize("posterior", ["filter", "token"])
@pytest.mark.parametrize("resets", [0, 0.3])
def test_states_stay_float32_where_the_recurrence_gives_bfloat16(
    dynamics: str, posterior: str, resets: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cuDNN's does under autocast; what is measured outside of autocast then reads the states."""
    monkeypatch.setenv("PYDREAMING_PLAIN", "1")  # the kernel is called there alone
    model, batch = tiny_model(dynamics, posterior), tiny_batch(resets=resets)
    kernel = model.dynamics.gru.forward

    def forward(x: torch.Tensor | PackedSequence, h: torch.Tensor) -> tuple[torch.Tensor | PackedSequence, torch.Tensor]:
        states, last = kernel(x, h)
        return (states.to(torch.bfloat16) if isinstance(states, PackedSequence) else states.bfloat16()), last.bfloat16()

    model.dynamics.gru.forward = forward  # type: ignore[method-assign]
    observed = model.observe(batch.tokens, batch.action, batch.is_first)
    assert observed.post.deter.dtype == observed.carry.deter.dtype == torch.float32


def test_a_replay_batch_becomes_tensors() -> None:
    rng = np.random.default_rng(0)
    is_first, mask = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    tokens = rng.normal(size=(2, 3, TOKEN_DIM)).astype(np.float16)
    action = rng.normal(size=(2, 3, STRIDES)).astype(np.float32)
    batch = Batch(tokens, is_first, action, np.arange(6).reshape(2, 3), np.zeros(2, np.int32), mask, np.ones(2, np.bool_))
    tensors = trainer().to_device(batch)
    assert tensors.tokens.dtype == torch.float32
    assert np.array_equal(tensors.tokens.numpy(), tokens.astype(np.float32))
    assert np.array_equal(tensors.action.numpy(), action)
    assert tensors.token_id.dtype == torch.int64
    assert tensors.is_first.dtype == tensors.mask.dtype == torch.bool
    ahead = trainer().prepared(batch)  # on another thread, where the conversion holds up no step
    assert ahead.tokens.dtype == np.float32
    assert torch.equal(trainer().to_device(ahead).tokens, tensors.tokens)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cuda:999999999999999999999", "meta", "", "cpu cpu"])
def test_a_device_that_cannot_be_used_is_answered_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.device") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


def test_devices_and_precisions_that_exist() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) is None
    assert pick_precision("float32", cpu) is None
    assert pick_precision("bfloat16", cpu) == torch.bfloat16


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, None)])
def test_bfloat16_is_not_chosen_where_a_gpu_only_emulates_it(monkeypatch: pytest.MonkeyPatch, native: bool, expected: object) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert pick_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("name", ["dreaming_v2", "dreamer_v2", "cpc", "barlow"])
def test_losses_by_sequence_add_up_to_the_terms_that_are_about_all_of_them(name: str) -> None:
    t, batch = trainer(objective__name=name), tiny_batch()
    losses = t.train_step(batch, 0.0).losses
    B = len(batch.mask)
    found = sequence_losses(losses, B)
    assert found.shape == (B,)
    known = ~found.isnan()
    widest = max((len(term.value) for term in losses.terms.values() if term.value.dim() == 2), default=0)
    assert known.tolist() == [row < widest for row in range(B)]
    for row in range(widest):
        alone = 0.0
        for term in losses.terms.values():
            if term.value.dim() == 2 and len(term.value) == widest:
                values = term.value[row][term.valid[row]]
                alone += term.weight * float(values.detach().mean()) if len(values) else 0.0
        assert float(found[row]) == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_no_term_by_sequence_tells_no_losses() -> None:
    losses = trainer().train_step(tiny_batch(), 0.0).losses
    assert sequence_losses(Losses({}, losses.observed), 4).isnan().all()
