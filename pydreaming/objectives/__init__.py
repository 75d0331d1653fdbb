"""Training objectives behind one interface, one file each."""

from __future__ import annotations

from pydreaming.config import ObjectiveConfig
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Losses, Objective, TensorBatch, Term
from pydreaming.objectives.dreaming_v2 import DreamingV2

OBJECTIVES: dict[str, type[Objective]] = {"dreaming_v2": DreamingV2}

__all__ = ["OBJECTIVES", "Losses", "Objective", "TensorBatch", "Term", "make_objective"]


def make_objective(config: ObjectiveConfig, model: WorldModelNet) -> Objective:
    """The objective named by `objective.name`, with heads fitted to the model's widths."""
    return OBJECTIVES[config.name](config, model)
