"""Cuts the clips of one group into episodes.

    clip 1        clip 2                 clip 3 (long)
|F - - - - -|F - - - - - - - -|F - - - - - - - - - - - - - - - -|      F: is_first
|         episode 1         |F        episode 2        |F  episode 3 |
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pydreaming.replay.schema import Clip, Episode

_MAGNITUDE, _INFINITE = np.uint16(0x7FFF), 0x7C00  # of a float16's bits: all but the sign; the least that is no number


class ClipInfo(msgspec.Struct, frozen=True):
    """Where a clip's tokens come from."""

    item: int
    path: str
    label: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class _Piece:
    """Adjacent tokens of one clip; `first` where the recurrent state must be reset before them."""

    tokens: NDArray[np.float16]
    action: NDArray[np.float32]
    start_sample: NDArray[np.int64]
    first: bool
    info: ClipInfo

    def split(self, at: int) -> tuple[_Piece, _Piece]:
        head = _Piece(self.tokens[:at], self.action[:at], self.start_sample[:at], self.first, self.info)
        return head, _Piece(self.tokens[at:], self.action[at:], self.start_sample[at:], True, self.info)


@dataclass(frozen=True)
class BuilderMark:
    """State of a builder to come back to."""

    pieces: tuple[_Piece, ...]
    steps: int
    clip: ClipInfo | None


class EpisodeBuilder:
    """Joins short clips and cuts long ones into episodes of `episode_tokens` steps, as a stream.

    Every token comes out once and in order. An episode has exactly `episode_tokens` steps, but for the last of the group, which
    has 2 to `episode_tokens` + 1: one left-over token stays with the episode before it, as it predicts nothing alone. (A group
    of a single token is one episode of one step.) Where a clip is cut, its continuation begins with `is_first`, because the
    recurrent state starts anew in each episode, and is a `Clip` of its own.

    Args:
      group: source of all clips; an episode never mixes groups, so use one builder for each.
      episode_tokens: steps of an episode, at least 2.
    """

    def __init__(self, group: str, episode_tokens: int) -> None:
        if episode_tokens < 2:
            raise ValueError(f"episode_tokens must be at least 2, got {episode_tokens}")
        self.group = group
        self._size = episode_tokens
        self._pieces: list[_Piece] = []
        self._steps = 0
        self._clip: ClipInfo | None = None

    def add_tokens(self, tokens: ArrayLike, action: ArrayLike, start_sample: ArrayLike, first: bool, clip: ClipInfo) -> list[Episode]:
        """Append tokens of a clip, and return the episodes that are now complete.

        Args:
          tokens: (t, D), any float; stored as float16. action: (t, A). start_sample: (t,) samples.
          first: True for the first tokens of a clip, False for further ones of the same clip.
          clip: where they come from.
        Raises:
          ValueError: shapes disagree, a value is not finite (in float16), or `first` is False and no such clip is open.
        """
        with np.errstate(over="ignore"):  # float16 turns large values into infinities, which are refused below
            # copied: the caller may reuse its buffers, and a kept view would keep a whole decoded block alive
            piece = _Piece(np.array(tokens, np.float16), np.array(action, np.float32), np.array(start_sample, np.int64), bool(first), clip)
        t = len(piece.tokens)
        if piece.tokens.ndim != 2 or piece.action.ndim != 2 or piece.start_sample.shape != (t,) or len(piece.action) != t:
            raise ValueError(
                f"shapes disagree: tokens {piece.tokens.shape}, action {piece.action.shape}, start_sample {piece.start_sample.shape}"
            )
        if not (_all_finite(piece.tokens) and np.isfinite(piece.action).all()):
            raise ValueError(f"{clip.path}: a token or action is not finite")
        if not first and self._clip != clip:
            raise ValueError(f"{clip.path}: continues a clip that was not begun with first=True")
        if t == 0 and first:
            raise ValueError(f"{clip.path}: a clip must begin with at least one token")
        if t == 0:
            return []
        self._clip = clip
        self._pieces.append(piece)
        self._steps += t
        episodes = []
        while self._steps >= self._size + 2:  # two more than an episode, so that no single token is left at the end
            episodes.append(self._take(self._size))
        return episodes

    def finish(self) -> list[Episode]:
        """End the group: the rest as an episode, if there is any. The builder is then empty."""
        self._clip = None
        return [self._take(self._steps)] if self._steps else []

    def mark(self) -> BuilderMark:
        """Remember the present state; cheap, at most one episode is held."""
        return BuilderMark(tuple(self._pieces), self._steps, self._clip)

    def rollback_to(self, mark: BuilderMark) -> None:
        """Forget all tokens since `mark`. Episodes returned since then must be taken back too (`ShardWriter.rollback_to`)."""
        self._pieces, self._steps, self._clip = list(mark.pieces), mark.steps, mark.clip

    def _take(self, size: int) -> Episode:
        """Remove the first `size` steps as an episode."""
        taken: list[_Piece] = []
        left = size
        while left:
            piece = self._pieces.pop(0)
            if len(piece.tokens) > left:
                piece, rest = piece.split(left)
                self._pieces.insert(0, rest)
            taken.append(piece)
            left -= len(piece.tokens)
        self._steps -= size
        if self._pieces and not self._pieces[0].first:  # the cut fell between two pieces of one clip
            self._pieces[0] = self._pieces[0].split(0)[1]
        return _episode(taken, self.group)


def _all_finite(values: NDArray[np.float16]) -> bool:
    """`np.isfinite(values).all()` by the bits, a tenth of its time: it converts each value first."""
    return bool((values.view(np.uint16) & _MAGNITUDE).max(initial=0) < _INFINITE)


def _episode(pieces: list[_Piece], group: str) -> Episode:
    lengths = [len(piece.tokens) for piece in pieces]
    is_first = np.zeros(sum(lengths), np.bool_)
    clips = []
    for start, piece in zip(np.cumsum([0, *lengths]).tolist(), pieces, strict=False):
        if piece.first:
            is_first[start] = True
            clips.append(Clip(start, piece.info.item, piece.info.path, int(piece.start_sample[0]), piece.info.label, piece.info.speaker))
    return Episode(
        np.concatenate([piece.tokens for piece in pieces]),
        is_first,
        np.concatenate([piece.action for piece in pieces]),
        np.concatenate([piece.start_sample for piece in pieces]),
        clips,
        group,
    )
