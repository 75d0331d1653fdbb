from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import RATE, sweep, write_sweep

from pydreaming.analysis.rollout import join_observed
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import CheckpointError, DecodeError, UsageError


class TestLoad:
    def test_run_folder_checkpoint_folder_and_checkpoints_folder_are_the_same_model(self, run_folder: Path) -> None:
        checkpoint = next((run_folder / "checkpoints").iterdir())
        models = [WorldModel.load(path, "cpu") for path in (run_folder, run_folder / "checkpoints", checkpoint)]
        weights = [torch.cat([p.flatten() for p in m.net.parameters()]) for m in models]
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(weights[0], weights[2])

    def test_optimizer_is_not_needed(self, run_folder: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(next((run_folder / "checkpoints").iterdir()), copy)
        (copy / "optimizer.safetensors").unlink()
        assert len(WorldModel.load(copy, "cpu").tokens((sweep(0.5), RATE))) > 0

    def test_newest_intact_checkpoint_of_a_run(self, run_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(run_folder, tmp_path / "run")
        good = next((tmp_path / "run/checkpoints").iterdir())
        damaged = good.with_name("step-99999999")
        shutil.copytree(good, damaged)
        (damaged / "model.safetensors").write_bytes(b"damaged")
        assert WorldModel.load(tmp_path / "run", "cpu").state.counters["step"] == 20
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            WorldModel.load(damaged, "cpu")

    def test_a_model_without_a_name_is_called_after_the_folder_of_its_run(self, run_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(run_folder, tmp_path / "owls")
        (tmp_path / "owls" / "config.yaml").touch()
        model = WorldModel.load(tmp_path / "owls", "cpu")
        assert model.config.run.name == ""
        assert model.label == "owls, step 20"
        exported = WorldModel.load(model.save(tmp_path / "handed-on"), "cpu")
        assert exported.label == "a model without a name, step 20"

    @pytest.mark.parametrize("name", ["missing", "empty"])
    def test_nothing_there(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError, match=name):
            WorldModel.load(tmp_path / name)

    def test_importing_the_package_does_not_import_torch(self) -> None:
        lines = ["import sys, pydreaming, pydreaming.cli", "assert 'torch' not in sys.modules", "pydreaming.WorldModel.load"]
        code = "; ".join(lines)
        subprocess.run([sys.executable, "-c", code], check=True)


class TestTokens:
    def test_array_needs_its_rate(self, model: WorldModel) -> None:
        with pytest.raises(UsageError, match="sample_rate"):
            model.tokens(sweep(0.5))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("samples", "rate"),
        [
            (np.zeros((2, 800), np.float32), RATE),
            (np.zeros(800, np.int16), RATE),
            (np.full(800, np.nan, np.float32), RATE),
            (np.zeros(0, np.float32), RATE),
            (np.zeros(800, np.float32), 0),
            (np.zeros(800, np.float32), 8000.0),
        ],
    )
    def test_arrays_that_would_pass_silently_are_refused(self, model: WorldModel, samples: np.ndarray, rate: int) -> None:
        with pytest.raises(UsageError):
            model.tokens((samples, rate))

    def test_file_and_array_agree(self, model: WorldModel, tmp_path: Path) -> None:
        path = write_sweep(tmp_path / "a.wav", 0.7)
        from_file, from_array = model.tokens(path), model.tokens((sweep(0.7), RATE))
        np.testing.assert_allclose(from_file.values, from_array.values, atol=0.1)  # 16-bit rounding, in bands that hold little else
        assert len(from_file) == 17

    def test_times(self, model: WorldModel) -> None:
        tokens = model.tokens((sweep(0.7), RATE))
        np.testing.assert_array_equal(tokens.start_sample[:3], [0, 320, 640])
        np.testing.assert_allclose(tokens.start_s[:3], [0, 0.04, 0.08])
        np.testing.assert_allclose(tokens.centre_s[0], (3 * 80 + 200) / 2 / RATE)

    def test_other_rates_and_channels_give_about_the_same_sound(self, model: WorldModel, tmp_path: Path) -> None:
        native = model.tokens(write_sweep(tmp_path / "a.wav", 1.0))
        stereo = model.tokens(write_sweep(tmp_path / "b.wav", 1.0, rate=44_100, channels=2))
        assert abs(len(native) - len(stereo)) <= 1
        n = min(len(native), len(stereo)) - 1  # the resampler's filter meets the end
        loud = native.values[1:n] > 0
        assert np.abs(native.values[1:n] - stereo.values[1:n])[loud].mean() < 0.1
        wrong = model.tokens((sweep(1.0, 44_100)[: RATE * 1], RATE))  # the same numbers under a wrong rate are another sound
        assert np.abs(native.values[1:n] - wrong.values[1:n])[loud].mean() > 0.5

    def test_not_audio(self, model: WorldModel, tmp_path: Path) -> None:
        (tmp_path / "x.wav").write_text("no audio")
        with pytest.raises(DecodeError, match=r"x\.wav"):
            model.tokens(tmp_path / "x.wav")


class TestObserve:
    @pytest.mark.parametrize("seed", [None, 5])
    @pytest.mark.parametrize("chunk", [1, 7, 64])
    def test_chunks_equal_one_pass(self, each: WorldModel, seed: int | None, chunk: int) -> None:
        values = each.tokens((sweep(1.0), RATE)).values
        whole = each.observe(values, seed)
        parts = join_observed([observed for _, observed in each.observe_stream([values], seed, chunk=chunk)])
        torch.testing.assert_close(parts.post.deter, whole.post.deter, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(parts.post.stoch, whole.post.stoch)
        torch.testing.assert_close(parts.prior_logits, whole.prior_logits, atol=1e-4, rtol=1e-3)
        assert int(whole.is_first.sum()) == int(parts.is_first.sum()) == 1

    def test_seed_repeats_and_matters(self, model: WorldModel) -> None:
        values = model.tokens((sweep(1.0), RATE)).values
        a, b, c = (model.observe(values, seed).post.stoch for seed in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_future_does_not_reach_back(self, each: WorldModel) -> None:
        values = each.tokens((sweep(1.0), RATE)).values
        changed = values.copy()
        changed[12:] += 1
        a, b = each.observe(values), each.observe(changed)
        torch.testing.assert_close(a.post.deter[:, :12], b.post.deter[:, :12])
        assert not torch.allclose(a.post.feat[:, 12:], b.post.feat[:, 12:])

    def test_no_tokens(self, model: WorldModel) -> None:
        with pytest.raises(UsageError):
            model.observe(np.empty((0, model.net.token_dim), np.float32))


def test_imagine_is_seeded_and_shaped(each: WorldModel) -> None:
    state = each.observe(each.tokens((sweep(0.5), RATE))).carry
    a, b, c = (each.imagine(state, 5, 3, seed=seed) for seed in (1, 1, 2))
    assert a.deter.shape == (3, 5, 32)
    assert torch.equal(a.stoch, b.stoch)
    assert not torch.equal(a.stoch, c.stoch)
    assert each.decode(a).shape == (3, 5, each.features.token_dim)


def test_the_model_embeds_surprises_and_dreams_by_itself(each: WorldModel) -> None:
    model = each
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    source = (samples, model.features.sample_rate)
    steps = len(model.tokens(source))
    vectors, curves = model.embed(source), model.surprise(source)
    assert len(vectors.values) == len(curves.kl) == steps
    for values in (vectors.values, curves.kl, curves.prior_entropy, curves.nll):
        assert np.isfinite(values).all()
    assert (curves.kl >= -1e-4).all()
    assert np.array_equal(vectors.start_s, curves.start_s)
    dreamed = model.dream(source, seconds=0.2, samples=3)
    assert len(dreamed.imagined) == 3
    assert dreamed.imagined.shape[2] == model.features.n_mels
