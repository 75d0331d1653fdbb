"""A world model of sound, learned from unlabelled audio by contrastive prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydreaming.analysis.world_model import WorldModel

__all__ = ["WorldModel", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`pydreaming.WorldModel` on first use: importing the package alone must not import torch (workers, `--help`)."""
    if name == "WorldModel":
        from pydreaming.analysis.world_model import WorldModel

        return WorldModel
    raise AttributeError(f"module 'pydreaming' has no attribute '{name}'")
