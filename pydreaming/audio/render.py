"""Log-mel back to sound, to listen to: least squares for the spectrum, Griffin-Lim for the phases. Not a vocoder."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.functional import griffinlim

from pydreaming.audio.buffer import Samples
from pydreaming.audio.features import LOG_FLOOR, mel_filters
from pydreaming.config import FeatureConfig

PEAK = 0.95  # louder results are scaled down to it
MAX_LOG_POWER = 25.0  # a full-scale tone at n_fft 65,536 stays below; imagined values beyond it are held here
REFINEMENTS = 16  # multiplicative updates that pull the pseudo-inverse towards a non-negative spectrum


def mel_to_wave(log_mel: npt.NDArray[np.float32], features: FeatureConfig, iterations: int = 32, seed: int = 0) -> Samples:
    """Samples (num_samples,) float32 at `features.sample_rate` whose log-mel resembles the one given.

    num_samples = (F - 1) * hop_length + win_length, and sample 0 is the first sample of frame 0, so that pieces can be joined.

    Args:
      log_mel: (F, n_mels) natural logarithm of power, not normalised (see `FrontEnd.denormalise`).
      iterations: of Griffin-Lim.
      seed: of the initial phases.
    Raises:
      ValueError: another shape, no frame, or values that are not finite.
    """
    if log_mel.ndim != 2 or log_mel.shape[1] != features.n_mels or not len(log_mel) or not np.isfinite(log_mel).all():
        raise ValueError(f"log-mel must be (F, {features.n_mels}) finite numbers with F >= 1, got {log_mel.shape}")
    win, hop = features.win_length, features.hop_length
    num_samples = (len(log_mel) - 1) * hop + win
    # Griffin-Lim centres frame t at t * hop, ours lie win / 2 later: repeat the edge frames and cut the sound out of the middle.
    edge = -(-win // (2 * hop))
    power = _power(torch.from_numpy(np.pad(log_mel.astype(np.float32), ((edge, edge), (0, 0)), mode="edge")), features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        window = torch.hann_window(win)
        wave = griffinlim(power, window, features.n_fft, hop, win, 2.0, iterations, momentum=0.99, length=None, rand_init=True)
    begin = edge * hop - win // 2
    samples = np.pad(wave.numpy()[begin : begin + num_samples], (0, max(0, num_samples - (len(wave) - begin))))
    peak = float(np.abs(samples).max())
    return cast(Samples, samples * np.float32(PEAK / peak) if peak > PEAK else samples)


def _power(log_mel: torch.Tensor, features: FeatureConfig) -> torch.Tensor:
    """Power spectrum (n_fft // 2 + 1, F) of log-mel (F, n_mels): non-negative least squares, from the pseudo-inverse."""
    filters = mel_filters(features)
    mel = log_mel.clamp(max=MAX_LOG_POWER).exp() - LOG_FLOOR
    mel.clamp_(min=0.0)
    power = torch.mm(mel, torch.linalg.pinv(filters)).clamp_(min=1e-10)
    target = torch.mm(mel, filters.T)
    for _ in range(REFINEMENTS):
        power *= target / torch.mm(torch.mm(power, filters), filters.T).clamp_(min=1e-10)
    power[:, ~filters.any(dim=1)] = 0.0  # bins that no band covers
    return power.T
