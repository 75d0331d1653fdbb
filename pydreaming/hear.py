"""A model behind the HEAR common API, and as an X-ARES encoder, so that these benchmarks can measure it.

    hear-validator pydreaming.hear --model runs/my-run
    python -m heareval.embeddings.runner pydreaming.hear --model runs/my-run --tasks-dir tasks

HEAR asks for audio at one of HEAR_RATES; `HearModel.sample_rate` is the lowest of them that holds all that the model hears, and audio is
converted to the model's own rate inside. The vector of a timestamp is `feat` of one window; that of a scene is the clip vector of this
project's evaluation (`names.POOLINGS`). Vectors of a sound do not depend on what else is in the batch (to 1e-5).

Source: HEAR common API, arXiv 2203.03022, section 3, and https://hearbenchmark.com/hear-api.html; X-ARES, arXiv 2505.16369.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn

from pydreaming.analysis.rollout import token_times
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import Samples
from pydreaming.errors import UsageError

HEAR_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)  # Hz
MODEL_VARIABLE = "PYDREAMING_MODEL"  # names the model for load_model() without a path


class HearModel(nn.Module):
    """What `load_model` gives: networks that can be moved to a device, with the attributes that HEAR and X-ARES ask for.

    Attributes:
      sample_rate, sampling_rate: Hz of the audio that is expected. scene_embedding_size, timestamp_embedding_size, output_dim: widths.
      hop_size_in_ms: ms from one timestamp to the next.
    """

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.net = model.net  # registered here, so that `to(device)` moves what `model` uses
        self.model = model
        self._scenes, self._windows = Embedder(model, pooling="evaluation"), Embedder(model, "window")
        self.sample_rate = next((rate for rate in HEAR_RATES if rate >= model.features.sample_rate), HEAR_RATES[-1])
        silence = np.zeros((1, model.features.token_dim), np.float32)
        self.scene_embedding_size = int(self._scenes.vectors([silence]).shape[1])
        self.timestamp_embedding_size = int(next(self._windows.windows([silence])).shape[1])
        self.sampling_rate, self.output_dim = self.sample_rate, self.timestamp_embedding_size
        self.hop_size_in_ms = 1000 * model.features.token_stride_samples / model.features.sample_rate

    def forward(self, audio: Tensor) -> Tensor:
        """As an X-ARES encoder: audio (B, num_samples), or (num_samples,) -> (B, T, output_dim). See `get_timestamp_embeddings`."""
        return self.timestamps(audio.unsqueeze(0) if audio.ndim == 1 else audio)[0]

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `get_timestamp_embeddings`."""
        f = self.model.features
        sounds = _checked(audio)
        # Zeros after the end, so that what happens there is in the middle of a window too; windows centred on them alone are left out.
        tail = np.zeros(-(-f.token_span_samples * self.sample_rate // f.sample_rate), np.float32)
        clips = [self.model.front_end.tokens_of(np.concatenate([sound, tail]), self.sample_rate) for sound in sounds]
        centre_s = token_times(len(clips[0]), f)[1]
        count = max(1, int(np.sum(centre_s <= sounds.shape[1] / self.sample_rate)))
        found = dict(self._windows.windows_of([clip[:count] for clip in clips]))
        embeddings = np.stack([found[i] for i in range(len(clips))])
        return self._placed(embeddings), self._placed(np.tile(1000 * centre_s[:count], (len(clips), 1)))

    def scenes(self, audio: Tensor) -> Tensor:
        """See `get_scene_embeddings`."""
        clips = [self.model.front_end.tokens_of(sound, self.sample_rate) for sound in _checked(audio)]
        return self._placed(self._scenes.vectors(clips))

    def _placed(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.net.device)


def load_model(model_file_path: str = "") -> HearModel:
    """Load a model, on the CPU; `to` moves it.

    Args:
      model_file_path: checkpoint folder, run folder or what else `WorldModel.load` takes; empty: what the environment variable
        PYDREAMING_MODEL names. There is no model to fall back on, as none comes with this package.
    Raises:
      UsageError: neither a path nor the variable. CheckpointError, TrackingError: see `WorldModel.load`.
    """
    path = model_file_path or os.environ.get(MODEL_VARIABLE, "")
    if not path:
        raise UsageError(f"load_model() needs the path of a model: give one, or set {MODEL_VARIABLE} to a run or checkpoint folder")
    return HearModel(WorldModel.load(path, "cpu")).eval()


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """A vector for each window of each sound.

    Args:
      audio: (n_sounds, num_samples) floats in [-1, 1] at `model.sample_rate` Hz, on any device.
    Returns:
      (n_sounds, n_timestamps, timestamp_embedding_size) float32, and the windows' centres (n_sounds, n_timestamps) float64 in
      milliseconds from the start, `hop_size_in_ms` apart, the last one within that of the end; both on the model's device.
    Raises:
      UsageError: audio of another shape or type, empty, or not finite.
    """
    return model.timestamps(audio)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """A vector for each whole sound: (n_sounds, num_samples) -> (n_sounds, scene_embedding_size) float32. See above for both."""
    return model.scenes(audio)


def _checked(audio: Tensor) -> Samples:
    if not isinstance(audio, Tensor) or audio.ndim != 2 or not audio.numel() or not audio.is_floating_point():
        found = f"{audio.dtype} of shape {tuple(audio.shape)}" if isinstance(audio, Tensor) else type(audio).__name__
        raise UsageError(f"audio must be a tensor (n_sounds, num_samples) of floats in [-1, 1], got {found}")
    samples: Samples = audio.detach().float().cpu().numpy()
    if not np.isfinite(samples).all():
        raise UsageError("audio must be finite numbers")
    return samples
