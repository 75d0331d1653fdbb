"""Where a model is: a checkpoint folder, a run folder or an MLflow run."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydreaming.errors import CheckpointError
from pydreaming.training.checkpoint import latest_intact

_NEEDED = ("model.safetensors", "state.json")  # inference does without the optimiser


@contextmanager
def checkpoint_folder(source: str | Path, tracking_uri: str = "") -> Iterator[Path]:
    """A verified checkpoint folder; what was downloaded for it is removed afterwards.

    Args:
      source: a checkpoint folder, a run folder (its newest intact checkpoint) or `runs:/<run id>`.
      tracking_uri: MLflow store for `runs:/`, see `pydreaming.tracking.fetch`.
    Raises:
      CheckpointError: nothing there, or damaged. TrackingError: the run cannot be fetched.
    """
    if str(source).startswith("runs:/"):
        from pydreaming.tracking.fetch import fetch_checkpoint

        with tempfile.TemporaryDirectory(prefix="pydreaming-model-") as scratch:
            folder = fetch_checkpoint(str(source), tracking_uri, Path(scratch))
            _verify(folder)
            yield folder
        return
    folder = _local(Path(source))
    _verify(folder)
    yield folder


def _local(path: Path) -> Path:
    if (path / "state.json").is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no model at {path}: name a checkpoint folder, a run folder or runs:/<run id>")
    for folder in (path / "checkpoints", path):
        found = latest_intact(folder)
        if found is not None:
            return found
    raise CheckpointError(f"no intact checkpoint in {path}: neither state.json nor checkpoints/step-* is there")


def _verify(folder: Path) -> None:
    """Checksums of what is needed here; a copy without its optimiser is a good model."""
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        for name in _NEEDED:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sums.get(name):
                    raise CheckpointError(f"{folder / name} is damaged: its checksum differs; use another checkpoint")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{folder} is no complete checkpoint: {e}") from e
