"""Clips for evaluation: recordings of a replay store put together again, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pydreaming.audio.sources import Catalogue
from pydreaming.evaluation.pooling import Array
from pydreaming.replay.index import ReplayIndex


@dataclass(frozen=True)
class Clips:
    """N recordings.

    Attributes:
      tokens: N arrays (T_i, D) float32. actions: N arrays (T_i, A). paths, labels, speakers, groups: (N,) strings, '' where unknown.
      held_out: (N,) bool, True where the model was not trained on the recording.
      folds: (N,) names of the data set's own folds, '' where unknown; None where it has none.
    """

    tokens: list[Array]
    actions: list[Array]
    paths: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    speakers: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    held_out: npt.NDArray[np.bool_]
    folds: npt.NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def recordings(self) -> npt.NDArray[np.str_]:
        """(N,) what must not be on both sides of a split: each clip's recording, the same for all its channels and segments."""
        pairs = zip(self.groups.tolist(), self.paths.tolist(), strict=True)
        names = [group.partition("#ch")[0] if group.startswith("recording:") else f"recording:{path}" for group, path in pairs]
        return np.array(names, dtype=np.str_)


def read_clips(heard: ReplayIndex | None, held_out: ReplayIndex | None, catalogue: Catalogue | None = None) -> Clips:
    """The recordings of two stores: of what was trained on, and of what was not.

    Args:
      catalogue: that the stores were made from, for what they do not keep: the data set's folds.
    Raises:
      ReplayError: a file is damaged.
    """
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
    folds = None if catalogue is None else [catalogue[key[1]].labels.get("fold", "") for key, _ in rows]
    return Clips(
        [np.concatenate(entry[0]) for _, entry in rows],
        [np.concatenate(entry[1]) for _, entry in rows],
        np.array([entry[2] for _, entry in rows], dtype=np.str_),
        np.array([entry[3] for _, entry in rows], dtype=np.str_),
        np.array([entry[4] for _, entry in rows], dtype=np.str_),
        np.array([key[2] for key, _ in rows], dtype=np.str_),
        np.array([key[0] for key, _ in rows], dtype=np.bool_),
        np.array(folds, dtype=np.str_) if folds and any(folds) else None,
    )
