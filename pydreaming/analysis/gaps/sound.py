"""Filled gaps as sound: the recording with only its gaps replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pydreaming.analysis.dreams.bank import Bank
from pydreaming.analysis.dreams.concatenate import imagine_sound, provenance
from pydreaming.analysis.files import numbered
from pydreaming.analysis.gaps.inpaint import Fill, Inpainting, edge_samples
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.crossfade import crossfade
from pydreaming.audio.decode import Samples, seconds_to_samples
from pydreaming.audio.encode import write_wav
from pydreaming.audio.render import mel_to_wave
from pydreaming.audio.resample import Resampler


def spectrogram_sound(model: WorldModel, result: Inpainting, sample: int | None = None) -> Samples:
    """The recording with its gaps filled by Griffin-Lim: (num_samples,) float32 at its own rate.

    Args:
      sample: which of the kept fills (0 is the likeliest); None: the particles' mean.
    """
    fills = [fill.mean if sample is None else fill.samples[sample] for fill in result.fills]
    return _put(model, result, [mel_to_wave(model.log_mel(tokens), model.features) for tokens in fills])


def real_sound(
    model: WorldModel, result: Inpainting, bank: Bank, sample: int = 0, exclude: str | None = None
) -> tuple[Samples, dict[str, Any]]:
    """The recording with its gaps filled by real windows (see `concatenate`), and where these come from, the gaps in a row.

    Args:
      exclude: a recording whose file is not to be used (see `bank.origin_of`): its own, which holds what was in the gap.
    Raises:
      UsageError: another model made the bank, or nothing is left of it.
    """
    sounds, origins = [], []
    for fill in result.fills:
        sound, selection = imagine_sound(model, bank, fill.states.at(sample), exclude, fill.before, fill.after)
        begins_s = fill.gap.first * model.features.token_stride_samples / model.features.sample_rate
        sounds.append(sound)
        origins.append(provenance(bank, selection, model.features, begins_s))
    columns = {name: np.concatenate([part[name] for part in origins]) for name in origins[0]}
    return _put(model, result, sounds), columns


def write_fills(result: Inpainting, sounds: Sequence[Samples], path: Path, suffix: str = "") -> list[Path]:
    """Write filled recordings as 16-bit WAV: `path` for one, `<stem>-1.wav`, ... for more; `suffix` goes behind the stem."""
    paths = numbered(path, len(sounds), suffix)
    for target, sound in zip(paths, sounds, strict=True):
        write_wav(target, sound, result.sample_rate)
    return paths


def _put(model: WorldModel, result: Inpainting, sounds: list[Samples]) -> Samples:
    filled = result.samples.copy()
    for fill, sound in zip(result.fills, sounds, strict=True):
        _fill(model, filled, result.sample_rate, fill, sound)
    return filled


def _fill(model: WorldModel, samples: Samples, rate: int, fill: Fill, sound: Samples) -> None:
    """Put the sound of a gap's windows, at the model's rate, into the gap; it fades in and out over `edge_samples` on either side of it."""
    f = model.features
    begin, end = seconds_to_samples(fill.gap.begin_s, rate), seconds_to_samples(fill.gap.end_s, rate)
    edge = edge_samples(f, rate)
    sound = np.concatenate(list(Resampler(f.sample_rate, rate).stream([sound])))
    offset = seconds_to_samples(fill.gap.first * f.token_stride_samples / f.sample_rate, rate)
    last = min(end + edge, len(samples))
    samples[begin:end] = sound[begin - offset : end - offset]
    samples[begin - edge : begin] = crossfade(samples[begin - edge : begin], sound[begin - edge - offset : begin - offset])
    samples[end:last] = crossfade(sound[end - offset : last - offset], samples[end:last])
