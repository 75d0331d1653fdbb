"""Which settings a run keeps for good: what its recordings, episodes and weights were made with."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pydreaming.config import Config

# Sections, or single keys. Leases and episodes name recordings by their row in the catalogue, so that this must stay the same one;
# source.path may change, as recordings are moved.
SHAPES = ("features", "action", "model", "objective")
_SOURCE = ("kind", "labels", "channels", "held_out", "held_out_speakers", "max_files", "watch_s")
KEPT = (*SHAPES, "run.seed", *(f"source.{key}" for key in _SOURCE), "workers.lease_items")


class Change(NamedTuple):
    """One key that differs."""

    key: str
    before: object
    now: object


def first_change(before: Config, now: Config, names: tuple[str, ...] = KEPT) -> Change | None:
    """The first key of the sections and keys `names` in which two configurations differ; None where they agree."""
    for name in names:
        section, _, only = name.partition(".")
        old, new = getattr(before, section), getattr(now, section)
        for key in [only] if only else [field.name for field in dataclasses.fields(old)]:
            if getattr(old, key) != getattr(new, key):
                return Change(f"{section}.{key}", getattr(old, key), getattr(new, key))
    return None
