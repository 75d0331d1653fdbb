"""What the learned features must beat: statistics of the log-mel itself, with the same probe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pydreaming.audio.features import cepstrum
from pydreaming.evaluation.pooling import Array, pool_clips

LOG_MEL = ("log-mel", "log-mel, clip-normalised")
MORE_LOG_MEL = ("log-mel, mean and deviation", "log-mel, flat", "MFCC")
FLAT_FRAMES = 32  # that every clip is stretched or squeezed to
COEFFICIENTS = 20  # of the cepstrum
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def log_mel_features(clips: Sequence[Array], n_mels: int) -> dict[str, Array]:
    """Log-mel statistics of clips of tokens: the two that every evaluation shows.

    Args:
      clips: N times (T_i, token_frames * n_mels), corpus-normalised. Overlapping tokens (token_hop < token_frames) repeat frames, which
        changes these statistics little.
    Returns:
      `log-mel`: thirds and deviation (N, 4 n_mels); `log-mel, clip-normalised`: the same of frames and their differences after taking
      out each clip's mean and deviation per band (N, 8 n_mels), which forgets the channel and much of the speaker.
    """
    frames = _frames(clips, n_mels)
    return dict(zip(LOG_MEL, (pool_clips(frames), pool_clips([_with_delta(_normalised(f)) for f in frames])), strict=True))


def more_log_mel_features(clips: Sequence[Array], n_mels: int) -> dict[str, Array]:
    """Further statistics, for a complete evaluation; arguments as for `log_mel_features`.

    Returns:
      `log-mel, mean and deviation` (N, 2 n_mels). `log-mel, flat`: all frames, stretched or squeezed in time to FLAT_FRAMES by linear
      interpolation (N, FLAT_FRAMES n_mels). `MFCC`: mean and deviation of COEFFICIENTS (or n_mels, if fewer) and of their differences;
      an approximation, since the bands are corpus-normalised before the cosine transform.
    """
    frames = _frames(clips, n_mels)
    transform = cepstrum(n_mels, min(COEFFICIENTS, n_mels)).numpy()
    cepstra = [_with_delta(f @ transform) for f in frames]
    values = pool_clips(frames, "mean_std"), np.stack([_flat(f) for f in frames]), pool_clips(cepstra, "mean_std")
    return dict(zip(MORE_LOG_MEL, values, strict=True))


def log_mel_quantiles(clips: Sequence[Array], n_mels: int) -> Array:
    """Mean, deviation and QUANTILES of the frames and of their differences: (N, 14 n_mels), for a forest; arguments as above."""
    frames = [_with_delta(f) for f in _frames(clips, n_mels)]
    quantiles = np.stack([np.quantile(f, QUANTILES, axis=0).ravel() for f in frames]).astype(np.float32)
    return np.concatenate([pool_clips(frames, "mean_std"), quantiles], 1)


def _frames(clips: Sequence[Array], n_mels: int) -> list[Array]:
    return [clip.reshape(-1, n_mels) for clip in clips]


def _normalised(frames: Array) -> Array:
    scaled: Array = (frames - frames.mean(0)) / (frames.std(0) + 1e-3)
    return scaled


def _with_delta(frames: Array) -> Array:
    delta = np.gradient(frames, axis=0) if len(frames) > 1 else np.zeros_like(frames)
    return np.concatenate([frames, delta], 1).astype(np.float32)


def _flat(frames: Array) -> Array:
    position = np.linspace(0, len(frames) - 1, FLAT_FRAMES)
    below = position.astype(np.intp)
    above = np.minimum(below + 1, len(frames) - 1)
    share = (position - below)[:, None]
    return (frames[below] * (1 - share) + frames[above] * share).ravel().astype(np.float32)
