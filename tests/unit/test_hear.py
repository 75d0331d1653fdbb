"""HEAR's common API and X-ARES's encoder interface, by the checks that their own validators make."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import make_checkpoint
from torch import Tensor

from pydreaming import hear
from pydreaming.analysis.vectors.embed import embed_clip, embed_windows
from pydreaming.errors import CheckpointError, UsageError

FORMS: dict[str, dict[str, object]] = {
    "gru": {},
    "rssm": {"model__dynamics": "rssm"},
    "gaussian": {"model__latents": "gaussian", "objective__name": "dreaming"},
    "transformer": {"model__core": "transformer", "model__window": 6},
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("hear-run"), steps=2)


@pytest.fixture(scope="session", params=list(FORMS))
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> hear.HearModel:
    return hear.load_model(str(make_checkpoint(tmp_path_factory.mktemp("hear-form"), steps=1, **FORMS[request.param])))


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> hear.HearModel:
    return hear.load_model(str(checkpoint))


def noise(sounds: int, seconds: float, rate: int, seed: int = 0) -> Tensor:
    return torch.rand((sounds, int(seconds * rate)), generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestHearValidator:
    """What hear-validator asks, and what it only warns of."""

    def test_module_and_loading_with_a_path_and_without(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module("pydreaming.hear")
        loaded = module.load_model(str(checkpoint))
        monkeypatch.setenv("PYDREAMING_MODEL", str(checkpoint))
        default = module.load_model()
        for found in (loaded, default):
            assert isinstance(found, torch.nn.Module)
            found.to("cpu")
        weights = zip(loaded.parameters(), default.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)

    def test_attributes(self, each: hear.HearModel) -> None:
        assert each.sample_rate in (16_000, 22_050, 32_000, 44_100, 48_000)
        assert type(each.scene_embedding_size) is int
        assert type(each.timestamp_embedding_size) is int

    @pytest.mark.parametrize("seconds", [1.07, 1.98, 4.0])
    def test_timestamp_embeddings(self, each: hear.HearModel, seconds: float) -> None:
        embeddings, timestamps = hear.get_timestamp_embeddings(noise(2, seconds, each.sample_rate), each)
        assert embeddings.dtype == torch.float32
        assert embeddings.ndim == 3
        assert timestamps.ndim == 2
        assert embeddings.shape[:2] == timestamps.shape
        assert embeddings.shape[0] == 2
        assert embeddings.shape[2] == each.timestamp_embedding_size
        steps = np.diff(timestamps.numpy())
        assert np.abs(steps - steps.mean()).max() <= 1
        assert steps.max() <= 50
        assert timestamps.min() <= steps.mean()
        assert 1000 * seconds - steps.mean() <= timestamps.max() <= 1000 * seconds
        assert timestamps.max() >= 1000 * seconds - 50

    def test_timestamps_do_not_drift(self, model: hear.HearModel) -> None:
        timestamps = hear.get_timestamp_embeddings(noise(1, 120.0, model.sample_rate), model)[1][0].numpy()
        np.testing.assert_allclose(timestamps, 27.5 + 40 * np.arange(len(timestamps)), atol=1e-6)  # a window is 55 ms long

    def test_scene_embeddings(self, each: hear.HearModel) -> None:
        embeddings = hear.get_scene_embeddings(noise(4, 2.74, each.sample_rate), each)
        assert embeddings.dtype == torch.float32
        assert embeddings.shape == (4, each.scene_embedding_size)


def test_a_sound_is_the_same_alone_and_in_a_batch(each: hear.HearModel) -> None:
    audio = noise(5, 1.3, each.sample_rate)
    scenes, windows = hear.get_scene_embeddings(audio, each), hear.get_timestamp_embeddings(audio, each)[0]
    for i in range(len(audio)):
        torch.testing.assert_close(hear.get_scene_embeddings(audio[i : i + 1], each)[0], scenes[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(hear.get_timestamp_embeddings(audio[i : i + 1], each)[0][0], windows[i], atol=1e-5, rtol=0)
    assert not torch.allclose(scenes[0], scenes[1], atol=1e-3)


def test_vectors_are_those_of_the_other_commands(model: hear.HearModel) -> None:
    audio = noise(1, 1.0, model.sample_rate)
    source = (audio[0].numpy(), model.sample_rate)
    np.testing.assert_allclose(hear.get_scene_embeddings(audio, model)[0], embed_clip(model.model, source, "feat", "evaluation"), atol=1e-5)
    windows = embed_windows(model.model, source)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.shape[1] == len(windows.values) + 1  # the last window reaches beyond the end
    np.testing.assert_allclose(embeddings[0, :-1], windows.values, atol=1e-5)
    np.testing.assert_allclose(timestamps[0, :-1], 1000 * windows.centre_s)


@pytest.mark.parametrize(("rate", "asked"), [(8_000, 16_000), (16_000, 16_000), (24_000, 32_000), (48_000, 48_000), (96_000, 48_000)])
def test_rate_that_is_asked_for(tmp_path: Path, rate: int, asked: int) -> None:
    sizes = {"features__n_fft": rate // 25, "features__win_length": rate // 40, "features__hop_length": rate // 100}
    path = make_checkpoint(tmp_path, steps=0, features__sample_rate=rate, **sizes)
    model = hear.load_model(str(path))
    assert model.sample_rate == asked
    embeddings, timestamps = hear.get_timestamp_embeddings(noise(1, 0.5, asked), model)
    assert embeddings.shape[1] == timestamps.shape[1] == 12


def test_moving_the_module_moves_what_is_used(checkpoint: Path) -> None:
    model = hear.load_model(str(checkpoint)).to(torch.float64).to(torch.float32)
    assert model.net is model.model.net
    assert not model.training
    audio = noise(1, 0.3, model.sample_rate).requires_grad_()
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.device == model.model.device
    assert not scenes.requires_grad
    torch.nn.Linear(scenes.shape[1], 1)(scenes).sum().backward()  # a probe can be trained on it: it is no inference tensor


@pytest.mark.parametrize(
    "audio",
    [
        torch.zeros(100),
        torch.zeros(1, 1, 100),
        torch.zeros(1, 0),
        torch.zeros(0, 100),
        torch.zeros(1, 100, dtype=torch.int16),
        np.zeros((1, 100)),
    ],
)
def test_wrong_audio(model: hear.HearModel, audio: Tensor) -> None:
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(UsageError, match="n_sounds, num_samples"):
            function(audio, model)


def test_audio_that_is_not_finite_and_models_that_are_not_there(model: hear.HearModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="finite"):
        hear.get_scene_embeddings(torch.full((1, 100), torch.nan), model)
    with pytest.raises(CheckpointError, match="nowhere"):
        hear.load_model("nowhere")
    monkeypatch.delenv("PYDREAMING_MODEL", raising=False)
    with pytest.raises(UsageError, match="PYDREAMING_MODEL"):
        hear.load_model()


def test_xares_encoder(each: hear.HearModel) -> None:
    assert each.sampling_rate == each.sample_rate
    assert each.hop_size_in_ms == 40
    audio = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))  # beyond [-1, 1], as its checker sends
    encoded = each(audio)
    assert isinstance(encoded, Tensor)
    assert encoded.shape[0] == 2
    assert encoded.shape[1] == pytest.approx(50_000 / each.sampling_rate * 1000 / each.hop_size_in_ms, abs=1)
    assert encoded.shape[2] == each.output_dim
    torch.testing.assert_close(each(audio[0]), encoded[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded, hear.get_timestamp_embeddings(audio, each)[0])
