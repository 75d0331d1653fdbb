"""Is a recording fit to be judged: its level, clipping and bandwidth, beside those of the recordings that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.reports.verdicts import Verdict
from pydreaming.audio.buffer import Samples
from pydreaming.audio.loudness import FLOOR_DBFS, Loudness, LoudnessMeter
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import FeatureConfig

CLIPPED = 1e-3  # share of clipped samples that is worth a word: 8 in a second at 8 kHz
LEVEL_DB = 12.0  # dB from the training recordings' mean level that are worth a word
CUT_DB = 15.0  # dB by which all bands above some frequency must lie below the training recordings', relative to the other bands
LEAST_BANDS = 4  # that must be missing; the very top of the spectrum differs from microphone to microphone
_NATS_TO_DB = 10 / np.log(10)


@dataclass(frozen=True)
class Condition:
    """What the samples are like: `seconds` of them, `sample_rate` in Hz, their level, and the share of them that is clipped."""

    seconds: float
    sample_rate: int
    loudness: Loudness
    clipped: float


def condition(chunks: Iterable[Samples], sample_rate: int) -> Condition:
    """The condition of a recording of any length, from mono chunks (num_samples,). Raises ValueError without samples."""
    meter, count = LoudnessMeter(), 0
    for chunk in chunks:
        meter.add(chunk)
        count += len(chunk)
    loudness = meter.finish()
    return Condition(count / sample_rate, sample_rate, loudness, loudness.clipped / count)


def condition_verdicts(found: Condition, log_mel: npt.NDArray[np.float32], stats: FeatureStats, features: FeatureConfig) -> list[Verdict]:
    """Sentences on what is unlike the recordings that were trained on; one good one when there is nothing to say.

    Args:
      log_mel: (F, n_mels) natural log-mel of the recording, or of its beginning. stats: of the training recordings.
    """
    if found.loudness.silent:
        peak = found.loudness.peak_dbfs
        level = "digital silence" if peak == FLOOR_DBFS else f"almost silent (peak {peak:.0f} dB of full scale)"
        return [Verdict(False, f"It is {level}: what the model makes of it means nothing.")]
    said = []
    if found.clipped >= CLIPPED:
        said.append(
            Verdict(False, f"It is clipped: {found.clipped:.1%} of its samples are cut off at full scale, which adds sounds of its own.")
        )
    elif found.clipped:
        said.append(Verdict(None, f"It is clipped in places: {found.loudness.clipped} of its samples are cut off at full scale."))
    top = features.f_max or features.sample_rate / 2
    shift = (log_mel.mean(0) - np.array(stats.mean)) * _NATS_TO_DB  # dB per band from the training recordings' mean
    missing = _missing_from(shift)
    if found.sample_rate / 2 < 0.95 * top:
        said.append(
            Verdict(
                False,
                f"Its sample rate of {found.sample_rate} Hz carries nothing above {found.sample_rate / 2000:g} kHz; the model was trained"
                f" up to {top / 1000:g} kHz, and hears a difference that is none.",
            )
        )
    elif missing is not None:
        edge = f"{_centre_hz(missing, features) / 1000:.2g} kHz"
        said.append(Verdict(False, f"It holds next to nothing above {edge}, unlike the training recordings: it is narrow-band."))
    louder = float(np.median(shift[: None if missing is None else missing]))
    if abs(louder) >= LEVEL_DB:
        word = "louder" if louder > 0 else "quieter"
        said.append(Verdict(None, f"It is {abs(louder):.0f} dB {word} than the training recordings on average; the model hears level too."))
    return said or [Verdict(True, "Its level and bandwidth are like those of the training recordings.")]


def _missing_from(shift: npt.NDArray[np.float64]) -> int | None:
    """The band from which on all are missing; None when they are not."""
    low = shift < np.median(shift[: max(1, len(shift) // 2)]) - CUT_DB
    missing = len(low) if low.all() else int(np.argmin(low[::-1]))
    return len(low) - missing if missing >= LEAST_BANDS else None


def _centre_hz(band: int, features: FeatureConfig) -> float:
    """Centre of a mel band, on the front end's HTK scale."""
    edges = np.array([2595 * np.log10(1 + hz / 700) for hz in (features.f_min, features.f_max or features.sample_rate / 2)])
    mel = edges[0] + (edges[1] - edges[0]) * (band + 1) / (features.n_mels + 1)
    return float(700 * (10 ** (mel / 2595) - 1))
