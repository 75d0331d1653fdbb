"""What a model's surprise and codes are worth on the recordings of a run: all that a final evaluation can afford."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pydreaming.audio.features import FrontEnd
from pydreaming.evaluation.abx import Abx, abx
from pydreaming.evaluation.boundaries import Boundaries, utterance_boundaries
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.codes import CodeStatistics, code_statistics
from pydreaming.evaluation.out_of_distribution import OutOfDistribution, out_of_distribution
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.transforms import Sound
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective

_Figures = TypeVar("_Figures", OutOfDistribution, Boundaries, Abx, CodeStatistics)


@dataclass
class WorldFigures:
    """Figures that could be had, and a sentence in `notes` for each that could not."""

    out_of_distribution: OutOfDistribution | None = None
    boundaries: Boundaries | None = None
    abx: Abx | None = None
    codes: CodeStatistics | None = None
    notes: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Scalars by short name for the log."""
        result: dict[str, float] = {}
        if self.out_of_distribution is not None:
            result |= {f"world_model/unusual_auc.{kind}": value for kind, value in self.out_of_distribution.typicality.items()}
            result |= {f"world_model/unusual_auc_raw_kl.{kind}": value for kind, value in self.out_of_distribution.kl.items()}
        if self.boundaries is not None:
            rows = self.boundaries.rows.items()
            result |= {f"world_model/boundary_f1.{name.replace(' ', '_')}": found.f1 for name, found in rows}
        if self.abx is not None:
            result |= {f"use/abx_error.{name.replace('-', '_')}": value for name, value in self.abx.error.items()}
        if self.codes is not None:
            result |= {
                "world_model/code_bits_per_s": self.codes.bitrate,
                "world_model/code_bits_per_s_predicted": self.codes.bitrate_predicted,
            }
        return result


def world_figures(
    model: WorldModelNet, objective: Objective, front_end: FrontEnd, clips: Clips, sounds: Sequence[Sound], action: Array, seed: int
) -> WorldFigures:
    """Figures on the recordings of a run.

    Args:
      sounds: beginnings of held-out recordings, as samples. action: (A,) of listening on. seed: of transforms, orders and triples.
    """
    heard = [clip for clip, out in zip(clips.tokens, clips.held_out, strict=True) if not out]
    new = [clip for clip, out in zip(clips.tokens, clips.held_out, strict=True) if out]
    features, result = front_end.features, WorldFigures()
    found_unusual = out_of_distribution(model, objective, front_end, heard, sounds, action, seed)
    found_begins = utterance_boundaries(model, objective, features, heard, new, action, seed)
    result.out_of_distribution = _kept(found_unusual, result.notes)
    result.boundaries = _kept(found_begins, result.notes)
    # Held-out clips where there are any: the codes of clips that were trained on are a little cheaper than those of new ones.
    rows = np.flatnonzero(clips.held_out) if clips.held_out.any() else np.arange(len(clips))
    tokens, actions = [clips.tokens[i] for i in rows], [clips.actions[i] for i in rows]
    result.abx = _kept(abx(model, tokens, actions, clips.labels[rows], clips.speakers[rows], seed), result.notes)
    if objective.trains_latents:
        token_s = features.token_stride_samples / features.sample_rate
        result.codes = _kept(code_statistics(model, tokens, actions, token_s), result.notes)
    return result


def _kept(found: _Figures | str, notes: list[str]) -> _Figures | None:
    """The figures; or None, and the sentence goes to the notes."""
    if isinstance(found, str):
        notes.append(found)
        return None
    return found
