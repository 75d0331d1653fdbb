"""Checkpoints: exact resume, and no file from anywhere that is trusted."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
from tiny_models import STRIDES, TOKEN_DIM, tiny_batch, tiny_config

from pydreaming.audio.controls import ControlScale
from pydreaming.audio.features import FeatureStats
from pydreaming.errors import CheckpointError
from pydreaming.objectives import TensorBatch
from pydreaming.training.checkpoint import (
    latest_intact,
    list_checkpoints,
    load_networks,
    read_state,
    restore,
    save_checkpoint,
    verify,
)  # fmt: skip
from pydreaming.training.trainer import Trainer

N, M = 3, 4
STATS = FeatureStats([0.5] * 64, [1.5] * 64, 1000)
SAMPLER = {"state": "ab", "drawn": 7}
FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]


def trainer(**overrides: object) -> Trainer:
    return Trainer(tiny_config(**overrides), TOKEN_DIM, STRIDES)


def train(of: Trainer, first: int, count: int) -> None:
    for i in range(first, first + count):
        of.train_step(tiny_batch(seed=i), progress=i / (N + M))


def save(of: Trainer, folder: Path, keep: int = 3) -> Path:
    return save_checkpoint(folder, of, STATS, SAMPLER, seconds=1.5, keep=keep)


def everything(of: Trainer) -> dict[str, torch.Tensor]:
    named = {f"{k}": v for m in (of.model, of.objective) for k, v in m.state_dict().items()}
    for i, optimizer in enumerate((of.optimizer, of.decoder_optimizer)):
        for index, moments in optimizer.state_dict()["state"].items():
            named |= {f"{i}.{index}.{key}": value for key, value in moments.items()}
    return named | {"sampling": of.generator.get_state(), "torch": torch.get_rng_state()}


def reseal(path: Path) -> None:
    """Checksums of what is there now: the work of someone who means it."""
    sums = "".join(f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES)
    (path / "SHA256SUMS").write_text(sums)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    t = trainer()
    train(t, 0, 2)
    return save(t, tmp_path / "checkpoints")


@pytest.mark.parametrize("dynamics", ["belief", "rssm"])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(dynamics: str, tmp_path: Path) -> None:
    straight = trainer(model__dynamics=dynamics)
    train(straight, 0, N)
    path = save(straight, tmp_path)
    train(straight, N, M)
    expected = everything(straight)
    torch.manual_seed(12345)
    resumed = trainer(model__dynamics=dynamics, run__seed=9)  # nothing may be left of the other seed
    state = restore(path, resumed)
    train(resumed, N, M)
    actual = everything(resumed)
    assert expected.keys() == actual.keys()
    assert [k for k in expected if not torch.equal(expected[k], actual[k])] == []
    assert (resumed.step, resumed.trained_tokens) == (straight.step, straight.trained_tokens) == (N + M, 40 * (N + M))
    assert (state.sampler, state.counters["seconds"], state.stats) == (SAMPLER, 1.5, STATS)
    assert state.config == straight.config


def test_networks_load_for_inference(saved: Path) -> None:
    model, objective, state = load_networks(saved, torch.device("cpu"))
    assert not model.training
    assert not objective.training
    t = trainer()
    restore(saved, t)
    assert all(torch.equal(v, t.model.state_dict()[k]) for k, v in model.state_dict().items())
    assert (state.token_dim, state.action_dim) == (TOKEN_DIM, STRIDES)


def test_the_scale_of_controls_travels_and_older_checkpoints_do_without(tmp_path: Path) -> None:
    config = {"action__kind": "controls", "action__columns": "[rpm,load]"}
    scale = ControlScale([1.0, 2.0], [3.0, 4.0])
    path = save_checkpoint(tmp_path, Trainer(tiny_config(**config), TOKEN_DIM, 2), STATS, SAMPLER, 1.5, 3, scale)
    assert read_state(path).controls == scale
    state = json.loads((path / "state.json").read_text())
    state["controls"]["mean"] = [1.0]
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="control scales of 1 columns for 2"):
        read_state(path)
    del state["controls"]
    (path / "state.json").write_text(json.dumps(state))
    assert read_state(path).controls == ControlScale()


def test_the_password_of_a_server_is_in_no_file_of_a_checkpoint(tmp_path: Path) -> None:
    path = save(Trainer(tiny_config(tracking__uri="https://alice:s3cret@mlflow.example"), TOKEN_DIM, STRIDES), tmp_path)
    assert b"https://mlflow.example" in (path / "state.json").read_bytes()
    assert not any(b"s3cret" in file.read_bytes() for file in path.iterdir())


def test_only_the_newest_are_kept_and_nothing_half_written_remains(tmp_path: Path) -> None:
    t = trainer()
    for i in range(5):
        train(t, i, 1)
        save(t, tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    assert latest_intact(tmp_path) == tmp_path / "step-00000005"


def test_the_checkpoint_just_written_survives_damaged_later_ones(tmp_path: Path) -> None:
    t = trainer()
    train(t, 0, 9)
    (save(t, tmp_path) / "model.safetensors").write_bytes(b"")
    again = trainer()
    train(again, 0, 2)
    new = save(again, tmp_path, keep=1)
    assert list_checkpoints(tmp_path) == [new]


def test_the_same_step_again_replaces_its_checkpoint(saved: Path) -> None:
    t = trainer(run__seed=5)
    train(t, 0, 2)
    assert save(t, saved.parent) == saved
    verify(saved)
    assert read_state(saved).config.run.seed == 5


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_cleared_away(saved: Path) -> None:
    folder = saved.parent
    torn, unfinished = folder / ".step-00000007.4242.tmp", folder / "step-00000009"
    for path in (torn, unfinished):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints(folder) == [saved]
    t = trainer()
    train(t, 0, 3)
    save(t, folder)
    assert not torn.exists()


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_anywhere_is_noticed_and_an_earlier_checkpoint_is_used(saved: Path, name: str, damage: str) -> None:
    t = trainer()
    restore(saved, t)
    train(t, 2, 1)
    later = save(t, saved.parent)
    victim = later / name
    content = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(content[: len(content) // 2] if damage == "truncate" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(CheckpointError):
        verify(later)
    assert latest_intact(saved.parent) == saved


def test_where_there_is_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest_intact(tmp_path / "absent") is None
    assert latest_intact(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"it has no state\.json"):
        read_state(tmp_path)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        verify(tmp_path)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return pytest.fail, ("a checkpoint was unpickled",)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "deter", 10**6),
        ("model", "deter", 10**12),
        ("model", "embed", 10**8),
        ("model", "groups", 10**7),
        ("model", "classes", 2**62),
        ("model", "encoder_layers", [10**6] * 3),
        ("model", "encoder_layers", [8] * 10**6),
        ("model", "layers", 10**8),
        ("objective", "horizon", 10**7),
        ("", "token_dim", 10**9),
        ("", "action_dim", 10**12),
    ],
)
def test_a_configuration_cannot_ask_for_more_memory_than_the_weights_take(saved: Path, section: str, key: str, value: object) -> None:
    state = json.loads((saved / "state.json").read_text())
    (state["config"][section] if section else state)[key] = value
    if key == "layers":
        state["config"]["model"] |= {"core": "transformer", "posterior": "token"}
    if key == "horizon":
        state["config"]["training"]["batch_length"] = 10**8
    (saved / "state.json").write_text(json.dumps(state))
    begin, resident = time.monotonic(), psutil.Process().memory_info().rss
    with pytest.raises(CheckpointError) as refusal:
        load_networks(saved, torch.device("cpu"))
    assert "\n" not in str(refusal.value)
    assert time.monotonic() - begin < 10
    assert psutil.Process().memory_info().rss - resident < 100 * 2**20


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_pickle_under_another_name_is_refused_and_never_run(saved: Path, name: str) -> None:
    with (saved / name).open("wb") as f:
        pickle.dump(Trap(), f)
    reseal(saved)
    with pytest.raises(CheckpointError, match=name):
        restore(saved, trainer())


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("config"),
        lambda s: s.pop("counters"),
        lambda s: s.update(format=99),
        lambda s: s.update(config=3),
        lambda s: s.update(config=[]),
        lambda s: s["config"]["model"].update(embed=-1),
        lambda s: s["config"].update(surprise={}),
        lambda s: s.update(stats={"mean": "x"}),
        lambda s: s.update(stats={"mean": [0.0], "std": [1.0], "frames": 1}),
        lambda s: s.update(token_dim="many"),
        lambda s: s.update(token_dim=-4),
        lambda s: s.update(token_dim=float("inf")),
        lambda s: s.update(counters={}),
        lambda s: s.update(counters={"step": float("inf"), "trained_tokens": 0, "non_finite_steps": 0, "seconds": 0}),
        lambda s: s.update(counters=[1]),
        lambda s: s.update(sampler=3),
    ],
)
def test_a_foreign_state_is_refused(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = json.loads((saved / "state.json").read_text())
    change(state)
    (saved / "state.json").write_text(json.dumps(state))
    reseal(saved)
    with pytest.raises(CheckpointError) as caught:
        restore(saved, trainer())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "\udcff", "[" * 100_000])
def test_a_state_that_is_no_state_is_refused(saved: Path, text: str) -> None:
    (saved / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError):
        read_state(saved)


def test_foreign_tensors_are_refused(saved: Path, tmp_path: Path) -> None:
    wide = trainer(model__deter=12)
    train(wide, 0, 2)
    other = save(wide, tmp_path / "other")
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine = (saved / name).read_bytes()
        (saved / name).write_bytes((other / name).read_bytes())
        reseal(saved)
        with pytest.raises(CheckpointError, match=name):
            restore(saved, trainer())
        (saved / name).write_bytes(mine)


def test_optimiser_tensors_of_strange_names_or_without_generators_are_refused(saved: Path) -> None:
    for tensors in ({}, {"world.x.exp_avg": torch.zeros(1)}, {"random.torch": torch.zeros(3), "random.sampling.cpu": torch.zeros(3)}):
        safetensors.torch.save_file(tensors, saved / "optimizer.safetensors")
        with pytest.raises(CheckpointError, match="optimizer"):
            restore(saved, trainer())


def test_a_run_of_a_gpu_goes_on_on_a_cpu(saved: Path) -> None:
    file = saved / "optimizer.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors["random.sampling.cpu"]
    safetensors.torch.save_file(tensors | {"random.sampling.cuda": torch.zeros(16, dtype=torch.uint8)}, file)
    resumed = trainer()
    restore(saved, resumed)
    assert resumed.step == 2
    assert resumed.train_step(tiny_batch(), progress=0.5).finite


@pytest.mark.parametrize(
    ("key", "value"), [("model__deter", 12), ("model__dynamics", "rssm"), ("objective__horizon", 3), ("features__n_mels", 32)]
)
def test_a_run_with_other_settings_is_refused_with_the_key(saved: Path, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=rf"trained with {key.replace('__', '.')}=.*, the run asks for {value}"):
        restore(saved, trainer(**{key: value}))


def test_settings_that_do_not_shape_the_networks_may_change(saved: Path) -> None:
    restore(saved, trainer(training__steps=99, training__learning_rate=0.1))


def test_a_checkpoint_from_before_a_key_existed_loads_with_what_it_was_trained_with(saved: Path) -> None:
    file = saved / "state.json"
    state = json.loads(file.read_text())
    younger = {"latents": "categorical", "gaussians": 32, "min_std": 0.1, "core": "gru", "window": 32, "layers": 2, "heads": 4}
    for key in younger:
        del state["config"]["model"][key]
    file.write_text(json.dumps(state))
    reseal(saved)
    model, _, loaded = load_networks(saved, torch.device("cpu"))
    assert {key: getattr(loaded.config.model, key) for key in younger} == younger
    names = {name for name, _ in model.dynamics.named_parameters()}
    assert {"gru.weight_ih_l0", "gru.weight_hh_l0", "post_token.1.weight", "prior.weight", "update.weight"} <= names  # as they always were
    del state["config"]["model"]["deter"]
    file.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"'model\.deter' is not set"):
        read_state(saved)


def test_a_checkpoint_that_an_earlier_version_wrote_loads_computes_the_same_and_trains_on(tmp_path: Path) -> None:
    """Written by commit 70c7828, from before latents, cores, control scales and held-out speakers could be chosen."""
    old = shutil.copytree(Path(__file__).parents[2] / "fixtures/checkpoint-of-70c7828", tmp_path / "step-00000003")
    expected = json.loads((old / "expected.json").read_text())
    verify(old)
    model, _, state = load_networks(old, torch.device("cpu"))
    assert state.config.source.held_out_speakers == []
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randn(4, 10, state.token_dim, generator=generator)
    is_first = torch.zeros(4, 10, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 5] = True
    with torch.no_grad():
        observed = model.observe(tokens, torch.zeros(4, 10, 1), is_first)
    actual = {"embed": observed.embed, "logits": observed.post.logits, "deter": observed.post.deter}
    for name, values in expected.items():
        torch.testing.assert_close(actual[name][0, -1].flatten(), torch.tensor(values), atol=2e-6, rtol=1e-5)
    resumed = Trainer(state.config, state.token_dim, state.action_dim)
    restore(old, resumed)
    batch = TensorBatch(tokens, is_first, torch.zeros(4, 10, 1), torch.arange(40).reshape(4, 10), torch.ones(4, 10, dtype=torch.bool))
    assert resumed.train_step(batch, progress=0.5).finite
    assert resumed.step == 4
    latest = save_checkpoint(tmp_path, resumed, state.stats, {}, 2.0, keep=1)
    assert read_state(latest).config == state.config
