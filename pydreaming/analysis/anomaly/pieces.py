"""A recording as pieces of about a second, each heard by itself from the initial state: what detectors compare.

    windows   0         10        20        30        40
    pieces    [ size windows       ]
                        [                     ]             half a piece apart
                                       [                     ]  the last one ends with the recording

A recording shorter than a piece is one shorter piece.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pydreaming.analysis.rollout import Rechunk
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.stages import run
from pydreaming.audio.tokens import Frames
from pydreaming.errors import UsageError
from pydreaming.evaluation.detector import Pieces
from pydreaming.evaluation.features import clip_features
from pydreaming.evaluation.typicality import surprise_statistics

HEARD_TOGETHER = 128  # pieces
LOOKED_AT = 240  # pieces, for one that is not silent


@dataclass(frozen=True)
class Cutting:
    """How recordings are cut, in windows: into clips of `clip` (0: a recording is one clip), and these into pieces of `size`."""

    size: int
    clip: int = 0

    @staticmethod
    def of(model: WorldModel, piece_s: float, clip_s: float = 0.0) -> Cutting:
        """Lengths in seconds as whole windows. Raises UsageError: a piece of no window, or a clip shorter than a piece."""
        rate = model.features.sample_rate / model.features.token_stride_samples
        size, clip = round(piece_s * rate), round(clip_s * rate)
        if size < 1:
            raise UsageError(f"a piece of {piece_s:g} s is shorter than a window, {1 / rate:g} s")
        if clip_s and clip < size:
            raise UsageError(f"clips of {clip_s:g} s are shorter than a piece, {piece_s:g} s; ask for longer clips or shorter pieces")
        return Cutting(size, clip)

    @property
    def hop(self) -> int:
        """Windows between the beginnings of pieces."""
        return max(1, self.size // 2)

    def clips(self, parts: Iterable[Frames]) -> Iterator[Iterable[Frames]]:
        """The clips of a recording, as parts (t, token_dim). What is left at its end is a clip when it is at least half of one."""
        if not self.clip:
            yield parts
            return
        for number, clip in enumerate(run(Rechunk(self.clip), parts)):
            if not number or 2 * len(clip) >= self.clip:
                yield [clip]

    def pieces(self, parts: Iterable[Frames]) -> Iterator[tuple[int, Frames]]:
        """First window of each piece in its clip, and its tokens (size, token_dim); memory does not grow with the clip."""
        before: Frames | None = None
        held: Frames | None = None
        start = 0
        for part in run(Rechunk(self.hop), parts):
            held = part if held is None else np.concatenate([held, part])
            if len(held) >= self.size:
                before = held[: self.size]
                yield start, before
                held, start = held[self.hop :], start + self.hop
        if before is None and held is not None:
            yield 0, held
        elif before is not None and held is not None and len(new := held[self.size - self.hop :]):
            yield start - self.hop + len(new), np.concatenate([before, new])[-self.size :]


def keyed(pieces: Iterator[tuple[int, Frames]]) -> tuple[int, Iterator[tuple[int, Frames]]]:
    """A number to know a clip again by, equal for equal audio; and all of its pieces.

    It is of the pieces up to the first that is not silent throughout, of LOOKED_AT at most, as many clips begin with digital silence.
    """
    head: list[tuple[int, Frames]] = []
    digest = hashlib.sha256()
    for start, piece in pieces:
        head.append((start, piece))
        digest.update(np.ascontiguousarray(piece, dtype=np.float32).tobytes())
        if len(head) == LOOKED_AT or not np.array_equal(piece[1:], piece[:-1]):
            break
    return int.from_bytes(digest.digest()[:8], "little", signed=True), itertools.chain(head, pieces)


@dataclass(frozen=True)
class Ear:
    """Hears pieces with a model.

    Attributes:
      unigram: (S, P) marginal of the codes of normal sounds; None for an objective without latents, which has no surprise.
    """

    model: WorldModel
    unigram: Tensor | None

    def hear(self, pieces: list[Frames], action: npt.NDArray[np.float32]) -> Pieces:
        """Statistics and vectors of pieces (T_i, token_dim), each heard by itself under one action (A,) all along."""
        net, lengths = self.model.net, np.array([len(piece) for piece in pieces], np.int64)
        actions = [np.broadcast_to(action, (length, len(action))).copy() for length in lengths]
        vectors = clip_features(net, pieces, actions)["feat"].astype(np.float16)
        if self.unigram is None:
            return Pieces(np.empty((len(pieces), 0)), lengths, vectors)
        values = surprise_statistics(net, self.model.objective, self.unigram, pieces, actions).values
        return Pieces(values, lengths, vectors)


def grouped(pieces: Iterable[tuple[int, Frames]], size: int = HEARD_TOGETHER) -> Iterator[list[tuple[int, Frames]]]:
    """In lists of at most `size`."""
    group: list[tuple[int, Frames]] = []
    for piece in pieces:
        group.append(piece)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def thinned(pieces: Iterable[tuple[int, Frames]], most: int) -> list[tuple[int, Frames]]:
    """At most `most` pieces, evenly spaced; memory for twice as many at any time."""
    kept: list[tuple[int, Frames]] = []
    stride = 1
    for number, piece in enumerate(pieces):
        if number % stride:
            continue
        kept.append(piece)
        if len(kept) > most:
            kept, stride = kept[::2], 2 * stride
    return kept
