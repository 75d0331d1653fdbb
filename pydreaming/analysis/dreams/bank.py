"""A bank of real windows: what imagined ones are compared with, and the sound to play in their place.

    recording   | stretch           | stretch           | ...      at most STRETCH windows each
    window      |w|w|w|w|w|w|w|w|w|w|                             one key each
    sound      m|-------------------|tail|m                       margins of at most MARGIN frames, to shift joins by

A key is made of the three things that a state and a heard window have in common, side by side:

    deter, of length 1 | mean of the latents, of length 1 | log-mel / sqrt(token_dim)

so that the squared distance of two keys is twice (1 - cosine) of each of the first two, plus the mean squared error of the log-mel per
normalised value. Of a heard window they are the posterior's and its own log-mel; of an imagined one the state's and the probe decoder's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pydreaming.analysis.inputs import STDIN, Recording, Source, name_of, named_file, open_source
from pydreaming.analysis.requirements import require_latents, require_same_model
from pydreaming.analysis.tensor_file import Tensors, read_tensors, write_tensors
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.buffer import SampleBuffer, Samples
from pydreaming.audio.resample import Resampler
from pydreaming.audio.tokens import Frames
from pydreaming.config import FeatureConfig
from pydreaming.errors import PydreamingError, UsageError
from pydreaming.models.state import State

WHAT, FORMAT = "bank", 2
STRETCH = 128  # windows that are kept or dropped together, and within which sound goes on
WINDOWS = 100_000  # of a bank by default: over an hour at 40 ms, and about 200 MB
MARGIN = 1  # frames by which a join may be shifted
LEAST_FADE_S = 0.005
_INT16 = 32768.0
_SCHEMA = {"keys": ("float16", 2), "audio": ("int16", 1), "stretches": ("int64", 2)}
_SOURCE, _FIRST, _COUNT, _AUDIO, _LEAD, _SAMPLES = range(6)  # columns of `stretches`

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bank:
    """W windows of recordings.

    Attributes:
      keys: (W, D) float16, see the module. audio: (n,) int16 at the model's rate, stretch after stretch.
      stretches: (P, 6) int64: index in `sources`, first window in the recording, number of windows, first sample in `audio`, samples before
        the first window's, samples in all.
      sources: the recordings, see `origin_of`. fingerprint: of the model that made it.
    """

    keys: npt.NDArray[np.float16]
    audio: npt.NDArray[np.int16]
    stretches: npt.NDArray[np.int64]
    sources: list[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def stretch(self) -> Indices:
        """(W,) the stretch of each window."""
        return np.repeat(np.arange(len(self.stretches)), self.stretches[:, _COUNT])

    @cached_property
    def place(self) -> Indices:
        """(W,) index of each window in its stretch."""
        counts = self.stretches[:, _COUNT]
        return np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)

    @cached_property
    def follows(self) -> Indices:
        """(W,) the window after each in its stretch, -1 after the last."""
        result = np.arange(1, len(self) + 1)
        result[np.cumsum(self.stretches[:, _COUNT]) - 1] = -1
        return result

    @cached_property
    def source(self) -> Indices:
        """(W,) index in `sources` of each window's recording."""
        return cast(Indices, self.stretches[self.stretch, _SOURCE])

    @cached_property
    def window(self) -> Indices:
        """(W,) index of each window in its recording."""
        return cast(Indices, self.stretches[self.stretch, _FIRST] + self.place)

    def without(self, origin: str | None) -> npt.NDArray[np.bool_]:
        """(W,) False for windows of the file that `origin` names, whatever segment of it they are from; None leaves out none."""
        own = np.array([origin is not None and file_of(source) == file_of(origin) for source in self.sources])
        return ~own[self.source]

    def sound(self, stretch: int) -> tuple[Samples, int]:
        """Sound of a stretch, (n,) float32, and the sample in it at which the first window begins."""
        begin, lead, count = (int(v) for v in self.stretches[stretch, [_AUDIO, _LEAD, _SAMPLES]])
        return self.audio[begin : begin + count].astype(np.float32) / np.float32(_INT16), lead

    def check(self, model: WorldModel, where: str = "the bank") -> Bank:
        """Itself. Raises UsageError when another model made it."""
        require_same_model(model, self.fingerprint, where)
        return self

    def save(self, path: Path) -> None:
        """Write one .safetensors file, whole or not at all. Raises UsageError, PydreamingError."""
        tensors = {name: getattr(self, name) for name in _SCHEMA}
        write_tensors(path, WHAT, FORMAT, _About(self.fingerprint, self.sources), tensors)

    @classmethod
    def load(cls, path: str | Path) -> Bank:
        """Read a bank. Raises PydreamingError when it is missing, none, damaged or of another format."""
        return read_tensors(path, WHAT, FORMAT, _About, _bank)


class _About(msgspec.Struct, forbid_unknown_fields=True):
    """What is no array."""

    fingerprint: str
    sources: list[str]


@dataclass
class BankBuilder:
    """Gathers a bank, recording by recording, in bounded memory.

    Args:
      windows: at most so many; beyond, a seeded sample of stretches is kept, in which each stretch has the same chance.
    Raises:
      UsageError: the model cannot imagine, or no windows are wanted.
    """

    model: WorldModel
    windows: int = WINDOWS
    seed: int = 0
    _sources: list[str] = field(default_factory=list)
    _kept: list[tuple[float, int, _Stretch]] = field(default_factory=list)  # a heap, the largest draw first: that one is dropped next
    _draws: int = 0
    _total: int = 0  # windows that are kept

    def __post_init__(self) -> None:
        require_latents(self.model, "it has nothing to imagine with")
        if self.windows < 1:
            raise UsageError(f"a bank needs room for windows, got {self.windows}")
        self._random = np.random.default_rng(self.seed)

    def add(self, source: Source) -> None:
        """Take in a recording. Nothing of it is kept when it fails (DecodeError, UsageError)."""
        index = len(self._sources)
        self._sources.append(origin_of(source))
        try:
            for stretch in _stretches(self.model, source, index):
                self._keep(stretch)
        except PydreamingError:
            self._kept = [entry for entry in self._kept if entry[2].source != index]
            heapq.heapify(self._kept)
            self._total = sum(len(stretch.keys) for _, _, stretch in self._kept)
            raise

    def finish(self) -> Bank:
        """The bank, in the order of the recordings. Raises UsageError without one."""
        if not self._kept:
            raise UsageError("a bank needs at least one recording that can be read")
        kept = sorted((stretch for _, _, stretch in self._kept), key=lambda s: (s.source, s.first))
        used = sorted({s.source for s in kept})
        number = {source: i for i, source in enumerate(used)}
        sizes = [len(s.audio) for s in kept]
        starts = np.cumsum([0, *sizes[:-1]])
        rows = [(number[s.source], s.first, len(s.keys), start, s.lead, len(s.audio)) for s, start in zip(kept, starts, strict=True)]
        return Bank(
            keys=np.concatenate([s.keys for s in kept]),
            audio=np.concatenate([s.audio for s in kept]),
            stretches=np.array(rows, np.int64),
            sources=[self._sources[i] for i in used],
            fingerprint=self.model.fingerprint,
        )

    def _keep(self, stretch: _Stretch) -> None:
        heapq.heappush(self._kept, (-float(self._random.random()), self._draws, stretch))
        self._draws, self._total = self._draws + 1, self._total + len(stretch.keys)
        while len(self._kept) > 1 and self._total > self.windows:
            self._total -= len(heapq.heappop(self._kept)[2].keys)


def origin_of(source: Source) -> str:
    """Where a source comes from: its absolute path, of a segment with #t=begin,end; "-" and "<array>" where there is no file."""
    if isinstance(source, str | Path):
        source = named_file(source)
    if isinstance(source, tuple) or source.name == STDIN:
        return name_of(source)
    fragment = "#t=" + source.name.rpartition("#t=")[2] if source.item.offset_s or source.item.duration_s is not None else ""
    return f"{source.path.resolve()}{fragment}"


def file_of(origin: str) -> str:
    """The path in what `origin_of` gives."""
    return origin.partition("#t=")[0]


def build_bank(model: WorldModel, sources: Iterable[str | Path | Recording], windows: int = WINDOWS, seed: int = 0) -> Bank:
    """A bank of recordings; see `BankBuilder`. Raises DecodeError for one that cannot be read."""
    builder = BankBuilder(model, windows, seed)
    for source in sources:
        builder.add(source if isinstance(source, Recording) else named_file(source))
    return builder.finish()


@torch.inference_mode()
def keys_of(state: State, tokens: Frames) -> Array:
    """Keys (..., D) float32 of states (..., ) and their windows' normalised log-mel (..., token_dim); see the module."""
    parts = [functional.normalize(part.float(), dim=-1).cpu().numpy() for part in (state.deter, state.mean)]
    keys: Array = np.concatenate([*parts, tokens / np.float32(np.sqrt(tokens.shape[-1]))], -1)
    return keys


def imagined_keys(model: WorldModel, state: State) -> Array:
    """Keys (..., D) of imagined states."""
    return keys_of(state, model.decode(state))


def tokens_of(keys: Array, features: FeatureConfig) -> Frames:
    """The normalised log-mel in keys: (..., D) -> (..., token_dim) float32."""
    dim = features.token_dim
    return keys[..., -dim:].astype(np.float32) * np.float32(np.sqrt(dim))


def fade_samples(features: FeatureConfig) -> int:
    """Samples over which two windows are cross-faded: what neighbouring windows share, if that is enough."""
    shared = features.win_length - features.hop_length
    return min(features.token_stride_samples, max(shared, round(LEAST_FADE_S * features.sample_rate)))


def unit_samples(features: FeatureConfig) -> int:
    """Samples from the start of a window to the end of what is played of it."""
    return max(features.token_span_samples, features.token_stride_samples + fade_samples(features))


@dataclass(frozen=True)
class _Stretch:
    """Successive windows of recording number `source`: keys (w, D) float16 and sound, which begins `lead` samples before them."""

    source: int
    first: int
    keys: npt.NDArray[np.float16]
    audio: npt.NDArray[np.int16]
    lead: int


def _stretches(model: WorldModel, source: Source, index: int) -> Iterator[_Stretch]:
    f = model.features
    stride, margin = f.token_stride_samples, MARGIN * f.hop_length
    tail = unit_samples(f)
    sound, first = SampleBuffer(), 0
    with open_source(source, model.channels) as (chunks, sample_rate):
        samples = _noted(Resampler(sample_rate, f.sample_rate).stream(chunks), sound)
        for tokens, observed in model.observe_stream(model.tokenise(samples, f.sample_rate), action=model.told(source)):
            keys = keys_of(observed.post.at(0), tokens).astype(np.float16)
            for at in range(0, len(keys), STRETCH):
                part = keys[at : at + STRETCH]
                start = (first + at) * stride
                begin, wanted = max(0, start - margin), start + (len(part) - 1) * stride + tail
                audio = sound.view(begin, max(wanted, min(wanted + margin, sound.end)))  # zeros where a short recording ends before
                yield _Stretch(
                    index, first + at, part, np.rint(np.clip(audio * _INT16, -_INT16, _INT16 - 1)).astype(np.int16), start - begin
                )
            first += len(keys)
            sound.drop(first * stride - margin)


def _noted(chunks: Iterable[Samples], buffer: SampleBuffer) -> Iterator[Samples]:
    for chunk in chunks:
        buffer.push(chunk)
        yield chunk


def _bank(about: _About, tensors: Tensors) -> Bank:
    """Raises ValueError, KeyError for parts that do not fit each other, so that no index leads out of them."""
    for name, (kind, ndim) in _SCHEMA.items():
        if tensors[name].dtype != kind or tensors[name].ndim != ndim:
            raise ValueError(f"{name} must be {kind} with {ndim} axes, and is {tensors[name].dtype} of shape {tensors[name].shape}")
    rows = tensors["stretches"]
    whole = (
        rows.shape[1] == 6
        and len(rows) > 0
        and (rows >= 0).all()
        and rows[:, _SOURCE].max() < len(about.sources)
        and rows[:, _COUNT].sum() == len(tensors["keys"])
        and (rows[:, _AUDIO] + rows[:, _SAMPLES]).max() <= len(tensors["audio"])
    )
    if not whole:
        raise ValueError("its parts do not fit together")
    return Bank(**{name: tensors[name] for name in _SCHEMA}, sources=about.sources, fingerprint=about.fingerprint)
