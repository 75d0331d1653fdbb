"""Clips for evaluation: recordings of a replay store put together again, with their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.pooling import Array
from pydreaming.replay.index import ReplayIndex


@dataclass(frozen=True)
class Clips:
    """N recordings.

    Attributes:
      tokens: N arrays (T_i, D) float32. actions: N arrays (T_i, A). paths, labels, speakers, groups: (N,) strings, '' where unknown.
      held_out: (N,) bool, True where the model was not trained on the recording.
    """

    tokens: list[Array]
    actions: list[Array]
    paths: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    speakers: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    held_out: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)


def read_clips(heard: ReplayIndex | None, held_out: ReplayIndex | None) -> Clips:
    """The recordings of two stores: of what was trained on, and of what was not. Raises ReplayError: a file is damaged."""
    parts: dict[tuple[bool, int, str], tuple[list[Array], list[Array], str, str, str]] = {}
    for is_held_out, index in ((False, heard), (True, held_out)):
        for number in range(0 if index is None else index.episodes):
            assert index is not None
            episode = index.episode(number)
            ends = [clip.start for clip in episode.clips[1:]] + [len(episode)]
            for clip, end in zip(episode.clips, ends, strict=True):
                # A long recording lies in several episodes, in order; its parts are joined here.
                key = (is_held_out, clip.item, episode.group)
                entry = parts.setdefault(key, ([], [], clip.path, clip.label, clip.speaker))
                entry[0].append(episode.tokens[clip.start : end].astype(np.float32))
                entry[1].append(episode.action[clip.start : end])
    rows = list(parts.items())
    return Clips(
        [np.concatenate(entry[0]) for _, entry in rows],
        [np.concatenate(entry[1]) for _, entry in rows],
        np.array([entry[2] for _, entry in rows], dtype=np.str_),
        np.array([entry[3] for _, entry in rows], dtype=np.str_),
        np.array([entry[4] for _, entry in rows], dtype=np.str_),
        np.array([key[2] for key, _ in rows], dtype=np.str_),
        np.array([key[0] for key, _ in rows], dtype=np.bool_),
    )
