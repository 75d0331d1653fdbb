"""What a run that is taken up again has behind it."""

from __future__ import annotations

from pathlib import Path

from pydreaming.training.checkpoint import latest_intact, read_state
from workers.protocol import Progress


def saved_progress(checkpoints: Path) -> Progress:
    """What the newest intact checkpoint has behind it."""
    newest = latest_intact(checkpoints)
    if newest is None:
        return Progress(0, 0)
    counters = read_state(newest).counters
    return Progress(int(counters["trained_tokens"]), int(counters["step"]), str(newest))


def written_at(checkpoint: str) -> float:
    """When a checkpoint was written, s since the epoch; 0 for none."""
    try:
        return Path(checkpoint).stat().st_mtime if checkpoint else 0.0
    except OSError:  # removed since
        return 0.0
