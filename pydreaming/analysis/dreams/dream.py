"""Dreams: the model listens to a clip, stops listening, and imagines how it goes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.dreams.bank import Bank, origin_of
from pydreaming.analysis.dreams.concatenate import imagine_sound, provenance
from pydreaming.analysis.files import numbered
from pydreaming.analysis.inputs import Source, name_of, open_source
from pydreaming.analysis.reports.pictures import dream_picture, save
from pydreaming.analysis.requirements import require_latents
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.crossfade import overlap_add
from pydreaming.audio.decode import Samples, seconds_to_samples
from pydreaming.audio.encode import write_wav
from pydreaming.audio.render import mel_to_wave
from pydreaming.audio.resample import Resampler
from pydreaming.audio.tokens import num_tokens
from pydreaming.config import FeatureConfig
from pydreaming.errors import UsageError
from pydreaming.models.state import State

Frames = npt.NDArray[np.float32]
MARK_HZ, MARK_S, MARK_LEVEL = 1000.0, 0.06, 0.1  # the soft tick between what was heard and what was imagined
MAX_SECONDS, MAX_SAMPLES = 600.0, 64  # of one dream: it is held in memory
SHOWN_S = 0.0005  # ends of recordings are shown to the millisecond, and one that is taken from there is no mistake
MARK_PAUSE_S = 0.12  # silence on either side of it


@dataclass(frozen=True)
class Dream:
    """Imagined continuations of one clip.

    Attributes:
      context: (n,) samples of the end of what was heard, at `sample_rate` Hz.
      context_mel: (F, n_mels) their log-mel. begins_s: where in the recording the dream begins, seconds.
      imagined: (K, F', n_mels) log-mel of the K continuations, from the probe decoder.
      real: (F'', n_mels) log-mel of what really followed, as far as it is known (dreams that begin inside a recording).
      sample_rate: Hz. states: (K, N, ...) the imagined states.
      last: (token_dim,) the last window heard. overlap: (m,) what was heard of the last window after begins_s, for joining without a tick.
      origin: the recording, see `bank.origin_of`.
    """

    context: Samples
    context_mel: Frames
    begins_s: float
    imagined: Frames
    real: Frames
    sample_rate: int
    states: State
    last: Frames
    overlap: Samples
    origin: str


def dream(
    model: WorldModel,
    source: Source,
    seconds: float = 2.0,
    samples: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    context_s: float = 5.0,
    at_s: float | None = None,
) -> Dream:
    """Continue a clip.

    Args:
      source: path, "-" or (samples, sample_rate).
      seconds: how long to imagine, rounded up to whole windows. samples: continuations K.
      temperature: of the prior; below 1 plays safe, above 1 wanders. seed: of the continuations.
      context_s: seconds kept of what was heard, for the picture and the sound (the model has heard everything before).
      at_s: where to stop listening (at the last whole window before it); None: at the end.
    Raises:
      UsageError: lengths, samples or temperature that make no sense, `at_s` beyond the end; a model that cannot imagine.
      DecodeError: see `inputs.open_source`.
    """
    require_latents(model, "it has nothing to imagine with")
    _check(seconds, samples, temperature, context_s, at_s)
    f = model.features
    keep = math.ceil(context_s * f.sample_rate / f.token_stride_samples)  # windows
    steps = math.ceil(seconds * f.sample_rate / f.token_stride_samples)
    hear = None if at_s is None else num_tokens(seconds_to_samples(at_s, f.sample_rate), f)
    tail: list[Frames] = []
    real: list[Frames] = []
    carry, heard = None, 0
    with open_source(source, model.channels) as (chunks, sample_rate):
        tee = _Tee(Resampler(sample_rate, f.sample_rate).stream(chunks), keep, hear, f)
        parts = _until(model.tokenise(tee, f.sample_rate), hear, steps, real)
        for tokens, observed in model.observe_stream(parts, action=model.told(source)):
            tail = _last(tail, tokens, keep)
            carry, heard = observed.carry, heard + len(tokens)
    if at_s is not None and at_s > tee.seconds + SHOWN_S:
        raise UsageError(f"{name_of(source)}: --at {at_s:g} is beyond the end, {tee.seconds:.3f} s")
    if carry is None:
        raise UsageError(f"{name_of(source)}: there is nothing to continue")
    begin = heard * f.token_stride_samples  # the first imagined window starts here; what follows of the recording filled no window
    states = model.imagine(carry, steps, samples, temperature, seed, model.told(source))
    return Dream(
        context=tee.between(begin - keep * f.token_stride_samples, begin),
        context_mel=model.log_mel(np.concatenate(tail)[-keep:]),
        begins_s=begin / f.sample_rate,
        imagined=np.stack([model.log_mel(tokens) for tokens in model.decode(states)]),
        real=model.log_mel(np.concatenate(real)) if real else np.empty((0, f.n_mels), dtype=np.float32),
        sample_rate=f.sample_rate,
        states=states,
        last=tail[-1][-1],
        overlap=tee.between(begin, begin + max(0, f.token_span_samples - f.token_stride_samples)),
        origin=origin_of(source),
    )


def dream_audio(model: WorldModel, result: Dream, index: int, mark: bool = True, sound: Samples | None = None) -> Samples:
    """What was heard, a soft tick, and continuation `index`: (num_samples,) float32 at `result.sample_rate`.

    Args:
      mark: put the tick, a 1 kHz tone between two pauses; else the dream is faded in over the end of the last window heard.
      sound: of the continuation, from its first window on (see `dream_sounds`); None: from its spectrogram by Griffin-Lim.
    """
    sound = mel_to_wave(result.imagined[index], model.features) if sound is None else sound
    if mark:
        return np.concatenate([result.context, _tick(result.sample_rate), sound])
    return overlap_add(np.concatenate([result.context, result.overlap]), sound, len(result.overlap))


def dream_sounds(model: WorldModel, result: Dream, bank: Bank, own: bool = False) -> Iterator[tuple[Samples, dict[str, Any]]]:
    """Each continuation made of real windows (see `concatenate`), and where they come from (see `concatenate.provenance`).

    Args:
      own: also take windows of the file that was heard. It holds what really followed, so a dream made of it would be no dream.
    Raises:
      UsageError: another model made the bank, or nothing is left of it.
    """
    for k in range(len(result.imagined)):
        states = result.states.at(k)
        sound, selection = imagine_sound(model, bank, states, None if own else result.origin, result.last)
        yield sound, provenance(bank, selection, model.features, result.begins_s)


def write_dreams(
    model: WorldModel, result: Dream, path: Path, mark: bool = True, sounds: Sequence[Samples] | None = None, suffix: str = ""
) -> list[Path]:
    """Write each continuation as a WAV: `path` where there is one, `<stem>-1.wav`, `<stem>-2.wav`, ... where there are more.

    Args:
      mark, sounds: as for `dream_audio`, of each. suffix: put behind the stem, to tell two renderings apart.
    """
    count = len(result.imagined)
    paths = numbered(path, count, suffix)
    for k, target in enumerate(paths):
        write_wav(target, dream_audio(model, result, k, mark, None if sounds is None else sounds[k]), result.sample_rate)
    return paths


def draw_dream(path: Path, result: Dream, features: FeatureConfig) -> Path:
    """Draw what was heard and imagined. Raises PydreamingError when the picture cannot be written."""
    return save(dream_picture(result.context_mel, result.imagined, features, result.begins_s, result.real), path)


class _Tee:
    """Passes samples on and remembers those of the last `keep` windows, or of the `keep` windows before window `hear`."""

    def __init__(self, chunks: Iterable[Samples], keep: int, hear: int | None, features: FeatureConfig) -> None:
        self._chunks = chunks
        self._end = None if hear is None else hear * features.token_stride_samples
        self._size = keep * features.token_stride_samples + features.token_span_samples
        self._kept = np.empty(0, dtype=np.float32)
        self._count = self._passed = 0
        self._rate = features.sample_rate

    def __iter__(self) -> Iterator[Samples]:
        for chunk in self._chunks:
            wanted = chunk if self._end is None else chunk[: max(0, self._end - self._count)]
            self._kept = np.concatenate([self._kept, wanted])[-self._size :]
            self._count += len(wanted)
            self._passed += len(chunk)
            yield chunk

    @property
    def seconds(self) -> float:
        """Of what was passed on so far."""
        return self._passed / self._rate

    def between(self, begin: int, end: int) -> Samples:
        """Samples [begin, end) as far as they are there and kept."""
        offset = self._count - len(self._kept)
        return self._kept[max(0, begin - offset) : max(0, end - offset)]


def _until(parts: Iterable[Frames], hear: int | None, more: int, rest: list[Frames]) -> Iterator[Frames]:
    """The first `hear` windows (all for None); `more` windows after them are put into `rest`."""
    if hear is None:
        yield from parts
        return
    for part in parts:
        heard, after = part[:hear], part[hear:]
        hear -= len(heard)
        if len(heard):
            yield heard
        if len(after):
            rest.append(after[:more])
            more -= len(rest[-1])
            if more <= 0:
                return


def _last(tail: list[Frames], tokens: Frames, keep: int) -> list[Frames]:
    """`tail` with `tokens` behind it, without the parts that the last `keep` windows do not touch."""
    tail = [*tail, tokens]
    while sum(map(len, tail[1:])) >= keep:
        tail = tail[1:]
    return tail


def _tick(sample_rate: int) -> Samples:
    pause = np.zeros(seconds_to_samples(MARK_PAUSE_S, sample_rate), dtype=np.float32)
    n = seconds_to_samples(MARK_S, sample_rate)
    tone = MARK_LEVEL * np.hanning(n) * np.sin(2 * np.pi * MARK_HZ * np.arange(n) / sample_rate)
    return np.concatenate([pause, tone.astype(np.float32), pause])


def _check(seconds: float, samples: int, temperature: float, context_s: float, at_s: float | None) -> None:
    limits = [
        (0 < seconds <= MAX_SECONDS, f"seconds must be above 0 and at most {MAX_SECONDS:g}, got {seconds}"),
        (1 <= samples <= MAX_SAMPLES, f"samples must be 1 to {MAX_SAMPLES}, got {samples}"),
        (0 < temperature < math.inf, f"temperature must be above 0, got {temperature}"),
        (0 < context_s <= MAX_SECONDS, f"context must be above 0 s and at most {MAX_SECONDS:g} s, got {context_s}"),
        (at_s is None or 0 < at_s < math.inf, f"the time to dream from must be above 0 s, got {at_s}"),
    ]
    for holds, message in limits:
        if not holds:
            raise UsageError(message)
