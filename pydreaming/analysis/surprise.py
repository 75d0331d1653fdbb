"""Surprise over time, in bits: how much each window told the model that it did not expect.

    kl             KL(posterior || prior): what hearing the window changed about the code that was expected for it
    prior_entropy  entropy of the prior: how uncertain the model was beforehand
    nll            -log2 prior(code): how improbable the code was that the window turned out to have

With Gaussian latents the code has a density: prior_entropy and nll are differential, and may lie below zero.

A window can be unpredictable and unsurprising (high entropy, low kl), or confidently mispredicted (low entropy, high nll).
The first window of a recording has no past; its values say how unusual a beginning it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pydreaming.analysis.inputs import Source
from pydreaming.analysis.pictures import save, surprise_picture
from pydreaming.analysis.world_model import WorldModel, token_times
from pydreaming.config import FeatureConfig
from pydreaming.models.state import Observed
from pydreaming.replay.tables import write_table

CURVES = ("kl", "prior_entropy", "nll")
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Surprise:
    """Curves of T windows of one recording.

    Attributes:
      start_s, centre_s: (T,) seconds. kl, prior_entropy, nll: (T,) bits, see the head of this file.
      log_mel: (F, n_mels) natural log-mel of at most the seconds asked for, for a picture; empty when none were.
    """

    start_s: npt.NDArray[np.float64]
    centre_s: npt.NDArray[np.float64]
    kl: Values
    prior_entropy: Values
    nll: Values
    log_mel: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.kl)

    def without_picture(self) -> Surprise:
        """The curves alone, to keep many."""
        return replace(self, log_mel=self.log_mel[:0].copy())


def curves_of(observed: Observed) -> dict[str, Tensor]:
    """The curves of a posterior rollout, by name: (B, T) bits each."""
    post, prior, latents = observed.post, observed.prior_logits, observed.post.latents
    nats = {"kl": latents.kl(post.logits, prior), "prior_entropy": latents.entropy(prior), "nll": latents.nll(post.stoch, prior)}
    return {name: value / math.log(2) for name, value in nats.items()}


def surprise(model: WorldModel, source: Source, seed: int | None = None, picture_s: float = 0.0) -> Surprise:
    """Surprise curves of one recording of any length; memory grows by 12 bytes a window.

    Args:
      source: path, "-" or (samples, sample_rate).
      seed: take `nll` of sampled codes; None takes the posterior's mode.
      picture_s: seconds from the start whose log-mel is kept.
    Raises:
      DecodeError, UsageError: see `pydreaming.analysis.inputs.open_source`.
    """
    parts: dict[str, list[Any]] = {name: [] for name in CURVES}
    kept: list[Values] = []
    room = math.ceil(picture_s * model.features.sample_rate / model.features.token_stride_samples)
    for tokens, observed in model.observe_stream(model.stream_tokens(source), seed):
        for name, value in curves_of(observed).items():
            parts[name].append(value[0].float().cpu().numpy())
        if room > 0:
            kept.append(tokens[:room])
            room -= len(kept[-1])
    kl, prior_entropy, nll = (cast(Values, np.concatenate(parts[name])) for name in CURVES)
    log_mel = model.log_mel(np.concatenate(kept)) if kept else np.empty((0, model.features.n_mels), dtype=np.float32)
    return Surprise(*token_times(len(kl), model.features), kl, prior_entropy, nll, log_mel)


def write_surprise(path: Path, results: list[tuple[str, Surprise]], about: dict[str, Any] | None = None) -> None:
    """One row per window of all recordings: source, window, start_s, centre_s, and kl_bits, prior_entropy_bits, nll_bits.

    Raises:
      UsageError: another ending than .parquet, .csv or .npz.
    """
    columns: dict[str, Any] = {
        "source": np.concatenate([np.full(len(s), name) for name, s in results]),
        "window": np.concatenate([np.arange(len(s)) for _, s in results]),
    }
    columns |= {key: np.concatenate([getattr(s, key) for _, s in results]) for key in ("start_s", "centre_s")}
    columns |= {f"{key}_bits": np.concatenate([getattr(s, key) for _, s in results]) for key in CURVES}
    write_table(path, columns, {"what": "pydreaming surprise, one row per window, in bits", **(about or {})})


def draw_surprise(path: Path, result: Surprise, features: FeatureConfig, name: str) -> Path:
    """Draw a result that kept its log-mel: log-mel above, curves below. Raises PydreamingError when the picture cannot be written."""
    curves = {
        "surprise: KL(posterior || prior)": result.kl,
        "uncertainty: entropy of the prior": result.prior_entropy,
        "improbability: -log2 prior(code)": result.nll,
    }
    shown_s = len(result.log_mel) * features.hop_length / features.sample_rate
    whole_s = float(result.start_s[-1]) + features.token_span_samples / features.sample_rate
    title = Path(name).name if whole_s < 1.1 * shown_s else f"{Path(name).name} (first {shown_s:.0f} s of {whole_s:.0f} s)"
    return save(surprise_picture(result.log_mel, result.centre_s, curves, features, title), path)
