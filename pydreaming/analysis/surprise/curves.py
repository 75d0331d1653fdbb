"""Surprise over time, in bits: how much each window told the model that it did not expect.

    kl             KL(posterior || prior): what hearing the window changed about the code that was expected for it
    prior_entropy  entropy of the prior: how uncertain the model was beforehand
    nll            -log2 prior(code): how improbable the code was that the window turned out to have

With Gaussian latents the code has a density: prior_entropy and nll are differential, and may lie below zero.

A window can be unpredictable and unsurprising (high entropy, low kl), or confidently mispredicted (low entropy, high nll).
The first window of a recording has no past; its values say how unusual a beginning it is.

Bits of one model do not compare with those of another, nor bits of one corpus with another's: a calibration on normal recordings (`normal`)
makes p-values of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from pydreaming.analysis.inputs import Source
from pydreaming.analysis.names import CURVES
from pydreaming.analysis.reports.pictures import save, surprise_picture
from pydreaming.analysis.requirements import require_latents, require_same_model
from pydreaming.analysis.rollout import token_times
from pydreaming.analysis.surprise.calibration import Calibration
from pydreaming.analysis.surprise.events import Event, Hysteresis, find_events
from pydreaming.analysis.world_model import WorldModel
from pydreaming.config import FeatureConfig
from pydreaming.models.state import Observed
from pydreaming.replay.tables import TableWriter

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Surprise:
    """Curves of T successive windows of one recording.

    Attributes:
      start_s, centre_s: (T,) seconds. kl, prior_entropy, nll: (T,) bits, see the head of this file.
      log_mel: (F, n_mels) natural log-mel of at most the seconds asked for, for a picture; empty when none were.
      p: of each curve (T,) p-values, see `calibration`; empty without one. first: index of the first window in its recording.
    """

    start_s: npt.NDArray[np.float64]
    centre_s: npt.NDArray[np.float64]
    kl: Values
    prior_entropy: Values
    nll: Values
    log_mel: npt.NDArray[np.float32]
    p: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    first: int = 0

    def __len__(self) -> int:
        return len(self.kl)

    def without_picture(self) -> Surprise:
        """The curves alone, to keep many."""
        return replace(self, log_mel=self.log_mel[:0].copy())

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of a table, a row a window: window, start_s, centre_s, kl_bits ..., and with a calibration kl_p ..."""
        table: dict[str, npt.NDArray[Any]] = {"window": np.arange(self.first, self.first + len(self))}
        table |= {"start_s": self.start_s, "centre_s": self.centre_s}
        return table | {f"{key}_bits": getattr(self, key) for key in CURVES} | {f"{key}_p": p for key, p in self.p.items()}


def curves_of(observed: Observed) -> dict[str, Tensor]:
    """The curves of a posterior rollout, by name: (B, T) bits each."""
    post, prior, latents = observed.post, observed.prior_logits, observed.post.latents
    nats = {"kl": latents.kl(post.logits, prior), "prior_entropy": latents.entropy(prior), "nll": latents.nll(post.stoch, prior)}
    return {name: value / math.log(2) for name, value in nats.items()}


def surprise_of(curves: dict[str, Values], features: FeatureConfig, calibration: Calibration | None = None, first: int = 0) -> Surprise:
    """Curves (T,) bits by name, with times and p-values; `first` is the index of their first window in its recording."""
    p = {} if calibration is None else {name: calibration.p_values(name, curves[name], first) for name in CURVES}
    start_s, centre_s = token_times(len(curves["kl"]), features, first)
    kl, prior_entropy, nll = (curves[name] for name in CURVES)
    return Surprise(start_s, centre_s, kl, prior_entropy, nll, np.empty((0, features.n_mels), np.float32), p, first)


def surprise(
    model: WorldModel, source: Source, seed: int | None = None, picture_s: float = 0.0, calibration: Calibration | None = None
) -> Surprise:
    """Surprise curves of one recording of any length; memory grows by 28 bytes a window (with p-values 52).

    Args:
      source: path, "-" or (samples, sample_rate).
      seed: take `nll` of sampled codes; None takes the posterior's mode.
      picture_s: seconds from the start whose log-mel is kept.
      calibration: of this model, for p-values.
    Raises:
      DecodeError: see `pydreaming.analysis.inputs.open_source`. UsageError: likewise, a model without latents, another's calibration.
    """
    check_calibration(model, calibration, seed)
    parts: list[dict[str, Values]] = []
    kept: list[Values] = []
    room = math.ceil(picture_s * model.features.sample_rate / model.features.token_stride_samples)
    for tokens, curves in surprise_stream(model, source, seed):
        parts.append(curves)
        if room > 0:
            kept.append(tokens[:room])
            room -= len(kept[-1])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in CURVES}
    result = surprise_of(joined, model.features, calibration)
    return replace(result, log_mel=model.log_mel(np.concatenate(kept))) if kept else result


def surprise_stream(model: WorldModel, source: Source, seed: int | None = None) -> Iterator[tuple[Values, dict[str, Values]]]:
    """Tokens (t, token_dim) and curves (t,) bits by name, chunk by chunk. Raises UsageError for a model without latents."""
    check_latents(model)
    for tokens, observed in model.hear(source, seed):
        yield tokens, numbers_of(observed)


def numbers_of(observed: Observed) -> dict[str, Values]:
    """`curves_of` one sequence: (T,) float32 by name."""
    return {name: cast(Values, value[0].float().cpu().numpy()) for name, value in curves_of(observed).items()}


def check_latents(model: WorldModel) -> None:
    """Raises UsageError for a model that learnt no expectation of its own code."""
    require_latents(model, "nothing can surprise it")


def check_calibration(model: WorldModel, calibration: Calibration | None, seed: int | None, where: str = "the calibration") -> None:
    """Raises UsageError for a calibration of another model or seed, and for a model without latents."""
    check_latents(model)
    if calibration is not None:
        require_same_model(model, calibration.fingerprint, where)
        calibration.check_seed(seed, where)


def events_of(result: Surprise, features: FeatureConfig, rule: Hysteresis, curve: str = "kl") -> list[Event]:
    """Where one of CURVES stands out: by its p-values, or without a calibration by the recording's own quantiles. See `events`."""
    return find_events(getattr(result, curve), result.p.get(curve), features, rule)


def write_surprise(path: Path, results: list[tuple[str, Surprise]], about: dict[str, Any] | None = None) -> None:
    """One row per window of all recordings: source, window, start_s, centre_s, kl_bits, prior_entropy_bits, nll_bits.

    With a calibration also kl_p, prior_entropy_p and nll_p.

    Raises:
      UsageError: another ending than .parquet, .csv or .npz.
    """
    with TableWriter(path, {"what": "pydreaming surprise, one row per window, in bits", **(about or {})}) as table:
        for name, result in results:  # all names at once would take more memory than all curves
            table.append({"source": np.full(len(result), name), **result.columns()})


def draw_surprise(path: Path, result: Surprise, features: FeatureConfig, name: str, events: Sequence[Event] = ()) -> Path:
    """Write `surprise_figure`. Raises PydreamingError: not writable."""
    return save(surprise_figure(result, features, name, events), path)


def surprise_figure(result: Surprise, features: FeatureConfig, name: str, events: Sequence[Event] = ()) -> Figure:
    """The picture of a result that kept its log-mel (`picture_s`): log-mel above, curves below, events marked."""
    curves = {
        "surprise: KL(posterior || prior)": result.kl,
        "uncertainty: entropy of the prior": result.prior_entropy,
        "improbability: -log2 prior(code)": result.nll,
    }
    shown_s = len(result.log_mel) * features.hop_length / features.sample_rate
    whole_s = float(result.start_s[-1]) + features.token_span_samples / features.sample_rate
    whole = float(result.start_s[-1]) < shown_s  # the last window reaches beyond its last frame's hop
    title = Path(name).name if whole else f"{Path(name).name} (first {shown_s:.0f} s of {whole_s:.0f} s)"
    spans = [(event.start_s, event.end_s) for event in events if event.start_s < shown_s]
    return surprise_picture(result.log_mel, result.centre_s, curves, features, title, spans)
