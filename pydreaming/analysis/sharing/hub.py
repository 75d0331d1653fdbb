"""Models on the Hugging Face Hub: the folder that `WorldModel.save` writes is a repository there.

huggingface_hub is no dependency of this package; who has it gets a class with `from_pretrained`, `save_pretrained` and `push_to_hub`:

    HubWorldModel = hub_class()
    model = HubWorldModel.from_pretrained("someone/some-model")  # a WorldModel, from the Hub or from a folder
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError
from pydreaming.training.checkpoint import CARD, HUB_CONFIG, SUMS, WEIGHTS


def hub_class() -> type[WorldModel]:
    """`WorldModel` with the methods of huggingface_hub's `ModelHubMixin`.

    Raises UsageError where huggingface_hub is not installed.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as e:
        raise UsageError("this needs huggingface_hub: pip install huggingface_hub") from e

    class HubWorldModel(WorldModel, hub.ModelHubMixin, library_name="pydreaming", tags=["audio", "world-model"]):  # type: ignore[misc, call-arg]
        """A world model that comes from, and goes to, the Hugging Face Hub."""

        def _save_pretrained(self, save_directory: Path) -> None:
            self.save(save_directory)

        @classmethod
        def _from_pretrained(cls, *, model_id: str, device: str = "auto", **download: Any) -> WorldModel:
            if Path(model_id).is_dir():
                return cls.load(model_id, device)
            wanted = [WEIGHTS, HUB_CONFIG, SUMS, CARD]
            return cls.load(hub.snapshot_download(model_id, allow_patterns=wanted, **download), device)

    return cast(type[WorldModel], HubWorldModel)
