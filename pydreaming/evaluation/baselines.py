"""What the learned features must beat: statistics of the log-mel itself, with the same pooling and the same probe."""

from __future__ import annotations

import numpy as np

from pydreaming.evaluation.pooling import Array, pool_clips


def log_mel_features(clips: list[Array], n_mels: int) -> dict[str, Array]:
    """Log-mel statistics of clips of tokens.

    Args:
      clips: N times (T_i, token_frames * n_mels), corpus-normalised. Overlapping tokens (token_hop < token_frames) repeat frames, which
        changes these statistics little.
    Returns:
      `log-mel`: thirds and deviation (N, 4 n_mels); `log-mel, clip-normalised`: the same of frames and their differences after taking
      out each clip's mean and deviation per band (N, 8 n_mels), which forgets the channel and much of the speaker.
    """
    frames = [clip.reshape(-1, n_mels) for clip in clips]
    return {"log-mel": pool_clips(frames), "log-mel, clip-normalised": pool_clips([_normalised_with_delta(f) for f in frames])}


def _normalised_with_delta(frames: Array) -> Array:
    centred = (frames - frames.mean(0)) / (frames.std(0) + 1e-3)
    delta = np.gradient(centred, axis=0) if len(centred) > 1 else np.zeros_like(centred)
    return np.concatenate([centred, delta], 1).astype(np.float32)
