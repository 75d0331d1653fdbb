"""What a replay file's columns for people say: counted from two of them, without reading any token."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pydreaming.replay.pages import MAX_TEXT, RowGroups
from pydreaming.replay.store import Bytes


@dataclass(frozen=True)
class Census:
    """Tokens by label and by speaker, of a file; '' stands for none known."""

    labels: Counter[str]
    speakers: Counter[str]


def take_census(data: Bytes) -> Census:
    """Count one file, a row group at a time. Raises ReplayError: it cannot be read."""
    counts: dict[str, Counter[str]] = {"label": Counter(), "speaker": Counter()}
    file = RowGroups(data)
    for group in range(file.footer.num_row_groups):
        for count, values in zip(counts.values(), file.read(group, list(counts), (MAX_TEXT, MAX_TEXT)), strict=True):
            count.update(values)
    return Census(counts["label"], counts["speaker"])
