"""What a request needs of a model, and how it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.world_model import WorldModel


def require_latents(model: WorldModel, without: str) -> None:
    """Refuse a model whose training leaves out the latents: its expectations and what it imagines mean nothing.

    Args:
      without: what there is not without them, for the message.
    Raises:
      UsageError: the objective trains none.
    """
    if not model.objective.trains_latents:
        name = model.config.objective.name
        raise UsageError(f"the model was trained with objective.name '{name}', which trains no latents: {without}")


def require_same_model(model: WorldModel, fingerprint: str, where: str) -> None:
    """Refuse what another model has made. Raises UsageError, which names `where` it was found."""
    if fingerprint != model.fingerprint:
        raise UsageError(f"{where} was made by another model ({fingerprint}, not {model.fingerprint}): make it anew")
