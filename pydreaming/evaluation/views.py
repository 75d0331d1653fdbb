"""Kinds of features among which a probe chooses inside its own training clips: what happens in a clip, its scene, or both.

What happens comes in two forms: as it is, and without what clips of a like scene have in common (`scenes`). With one labelled clip of a
class there is nothing to choose by, and both stand side by side: the second helps labels of what happens more than it harms those of the
scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pydreaming.evaluation.classifiers import DEFAULT_C, Labels, Rows, accuracies, centred_by, centred_to_length, nearest_mean
from pydreaming.evaluation.pooling import Array


@dataclass(frozen=True)
class Views:
    """Features of N clips: words are told by some and voices by others, so none serves all labels.

    Attributes:
      content: (N, D). scene: (N, E), or None. without_scene: the content without its scene's (N, D), or None; see `scenes.SceneGroups`.
    """

    content: Array
    scene: Array | None = None
    without_scene: Array | None = None

    def centred_by(self, names: Labels) -> Views:
        """See `classifiers.centred_by`. Nothing without the scene is left, as this takes the scene's part out by name."""
        return Views(centred_by(self.content, names), None if self.scene is None else centred_by(self.scene, names))

    def as_they_are(self) -> list[Array]:
        """What there is of content without scene, content, both content and scene side by side, and scene."""
        contents = [self.content] if self.without_scene is None else [self.without_scene, self.content]
        return contents if self.scene is None else [*contents, np.concatenate([self.content, self.scene], 1), self.scene]

    def to_length(self, rows: Rows) -> list[Array]:
        """The same by `classifiers.centred_to_length`, and before it, where there are two forms of content, both side by side. Views that
        stand side by side weigh the same."""
        content = centred_to_length(self.content, rows)
        views = [content]
        if self.without_scene is not None:
            without = centred_to_length(self.without_scene, rows)
            views = [_side_by_side(without, content), without, content]
        if self.scene is not None:
            scene = centred_to_length(self.scene, rows)
            views += [_side_by_side(content, scene), scene]
        return views


def _side_by_side(one: Array, other: Array) -> Array:
    """Vectors (N, D) and (N, E), each of the length of the root of its width: (N, D + E), of length sqrt(D)."""
    both = np.concatenate([one / np.sqrt(one.shape[1]), other / np.sqrt(other.shape[1])], 1)
    return np.asarray(both * np.sqrt(one.shape[1] / 2), np.float32)


def choose_few(views: Sequence[Array], targets: Labels, train: Rows) -> Array:
    """The view whose nearest class mean is right most often on the labelled clips, each left out in turn; of single ones the first."""
    y = targets[train]
    if len(views) == 1 or min(np.unique(y, return_counts=True)[1]) < 2:
        return views[0]
    rest = [np.delete(np.arange(len(y)), i) for i in range(len(y))]
    scores = []
    for x in (view[train] for view in views):
        scores.append(np.mean([nearest_mean(x[r], y[r], x[i : i + 1])[0] == y[i] for i, r in enumerate(rest)]))
    return views[int(np.argmax(scores))]


def choose_many(views: Sequence[Array], targets: Labels, train: Rows, groups: Labels | None) -> Array:
    """The view with the best accuracy inside the training clips, at one C; the first where no fold can be made."""
    if len(views) == 1:
        return views[0]
    scores = [accuracies(view, targets, train, groups, (DEFAULT_C,)) for view in views]
    return views[int(np.argmax([score[0] for score in scores]))] if len(scores[0]) else views[0]
