"""Training objectives behind one interface, one file each: `objective.name` is the name of a file here.

To add one, write a file with one subclass of `Objective`, and a test; what several share is in base, contrast and latents.
"""

from __future__ import annotations

import importlib

from pydreaming.config import ObjectiveConfig, objective_names
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Losses, Objective, TensorBatch, Term


def _defined_in(name: str) -> type[Objective]:
    """The objective that a file of this folder defines. Raises TypeError unless it is exactly one."""
    module = importlib.import_module(f"{__name__}.{name}")
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Objective) and c.__module__ == module.__name__]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Objective, it defines {len(found)}")
    return found[0]


OBJECTIVES: dict[str, type[Objective]] = {name: _defined_in(name) for name in objective_names()}

__all__ = ["OBJECTIVES", "Losses", "Objective", "TensorBatch", "Term", "make_objective"]


def make_objective(config: ObjectiveConfig, model: WorldModelNet) -> Objective:
    """The objective named by `objective.name`, with heads fitted to the model's widths.

    Raises ConfigError when it does not go with the model's dynamics or latents.
    """
    return OBJECTIVES[config.name](config, model)
