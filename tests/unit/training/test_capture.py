"""Steps over static buffers: nothing is asked of the device in the middle of one, and what comes out is what the plain step gives."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tiny_models import ATTENDING_FORMS, FORMS, STRIDES, TOKEN_DIM, tiny_batch, tiny_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pydreaming.errors import ConfigError
from pydreaming.models.ranks import Ranks
from pydreaming.objectives import OBJECTIVES, TensorBatch
from pydreaming.training.trainer import StepResult, Trainer, pick_capture

ASKS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "lift_fresh", "repeat_interleave"}
ASKS |= {"unique_dim", "unique_consecutive", "_unique2", "pin_memory"}
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class HostAskedError(Exception):
    """A step asked the device for a value."""


class NothingAsked(TorchDispatchMode):
    """Refuses what makes a host wait for a GPU: reading a value, a shape that depends on values, a tensor made from the host's numbers."""

    def __torch_dispatch__(self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in ASKS or by_mask:
            raise HostAskedError(name)
        return func(*args, **(kwargs or {}))


def trainer(capture: str = "always", device: str = "cpu", **overrides: object) -> Trainer:
    return Trainer(tiny_config(training__capture=capture, training__device=device, **overrides), TOKEN_DIM, STRIDES)


def quiet_step(t: Trainer, batch: TensorBatch) -> None:
    """A step without its end, where the outcome is read."""
    noise = t.model.noise(*batch.mask.shape, t.generator)
    with NothingAsked():
        t._run(batch, noise)


def gradients(t: Trainer) -> dict[str, Tensor]:
    modules = {"model": t.model, "objective": t.objective}
    return {f"{key}.{name}": p.grad for key, m in modules.items() for name, p in m.named_parameters() if p.grad is not None}


SETTINGS: list[dict[str, object]] = [
    *({"objective__name": name, "model__latents": OBJECTIVES[name].latents or "categorical"} for name in sorted(OBJECTIVES)),
    *({"model__dynamics": dynamics, "model__posterior": posterior} for dynamics, posterior in FORMS),
    *({"model__dynamics": form[0], "model__posterior": form[1], "model__core": form[2]} for form in ATTENDING_FORMS),
    {"augment__centre": 0.5, "features__n_mels": TOKEN_DIM // 4, "model__scene": 8, "objective__negatives": "sequence"},
    {"training__precision": "bfloat16"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_nothing_is_asked_of_the_device_within_a_step(settings: dict[str, object]) -> None:
    t = trainer(**settings)
    for mixed in (True, False):
        quiet_step(t, dataclasses.replace(tiny_batch(), mixed=mixed))


def test_a_step_that_packs_runs_of_any_length_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    t = trainer("never")
    with pytest.raises(HostAskedError):
        quiet_step(t, tiny_batch())
    monkeypatch.setenv("PYDREAMING_PLAIN", "1")
    with pytest.raises(HostAskedError):
        quiet_step(t, tiny_batch())


def steps(t: Trainer) -> list[StepResult]:
    """Of one source and of all in turn, with padding, each with its metrics in the result."""
    results = []
    for i in range(4):
        batch = tiny_batch(seed=i)
        batch.mask[0, 7:] = False
        results.append(t.train_step(dataclasses.replace(batch, mixed=i % 2 == 0), progress=0.0))
    return results


@pytest.mark.parametrize("settings", SETTINGS[:-1], ids=str)  # bfloat16 takes the same paths either way, and rounds
def test_losses_and_gradients_are_those_of_the_plain_step(settings: dict[str, object]) -> None:
    static, plain = trainer("always", **settings), trainer("never", **settings)
    batch = dataclasses.replace(tiny_batch(), mixed=True)
    batch.mask[0, 7:] = False
    results = [t.train_step(batch, progress=0.0) for t in (static, plain)]
    torch.testing.assert_close(results[0].losses.metrics, results[1].losses.metrics, atol=2e-5, rtol=1e-4)
    for name in ("total", "decoder", "grad_norm"):
        torch.testing.assert_close(getattr(results[0], name), getattr(results[1], name), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(gradients(static), gradients(plain), atol=2e-5, rtol=1e-4)


def test_training_goes_the_same_way_and_earlier_results_keep_their_figures() -> None:
    settings: dict[str, object] = {"model__scene": 8, "features__n_mels": TOKEN_DIM // 4, "training__learning_rate": 1e-4}
    static, plain = trainer("always", **settings), trainer("never", **settings)
    for a, b in zip(steps(static), steps(plain), strict=True):
        torch.testing.assert_close(a.total, b.total, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(a.losses.metrics, b.losses.metrics, atol=1e-3, rtol=1e-3)
    assert (static.step, static.trained_tokens) == (plain.step, plain.trained_tokens) == (4, 4 * 37)


def test_where_steps_are_captured() -> None:
    gpu = torch.device("cuda")
    assert [pick_capture("auto", device) for device in (CPU, gpu)] == [False, True]
    assert [pick_capture("always", CPU), pick_capture("never", gpu), pick_capture("auto", gpu, Ranks(0, 2))] == [True, False, False]
    with pytest.raises(ConfigError, match=r"training\.processes"):
        pick_capture("always", gpu, Ranks(0, 2))


@needs_gpu
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_gpu_plays_steps_back_without_a_wait_and_to_the_same_end(settings: dict[str, object]) -> None:
    captured, eager = trainer("auto", "cuda", **settings), trainer("never", "cuda", **settings)
    for i in range(12):  # of each kind three to warm up, then the graph
        batch = tiny_batch(seed=i)
        moved = {f.name: getattr(batch, f.name).cuda() for f in dataclasses.fields(batch) if isinstance(getattr(batch, f.name), Tensor)}
        batch = dataclasses.replace(batch, **moved, mixed=i % 2 == 0)
        expected = eager.train_step(batch, progress=0.0)
        noise = captured.model.noise(*batch.mask.shape, captured.generator)
        if i >= 8:
            torch.cuda.set_sync_debug_mode("error")
        try:
            outcome = captured._run(batch, noise)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(outcome.figures[0], expected.total, atol=2e-2, rtol=2e-2)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened() -> None:
    first, second = trainer("always"), trainer("always", run__seed=5)
    steps(first)
    for mine, theirs in ((second.optimizer, first.optimizer), (second.decoder_optimizer, first.decoder_optimizer)):
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    second.model.load_state_dict(first.model.state_dict())
    second.objective.load_state_dict(first.objective.state_dict())
    second.generator.set_state(first.generator.get_state())
    second.step = first.step
    for a, b in zip(steps(first), steps(second), strict=True):
        assert torch.equal(a.total, b.total)
