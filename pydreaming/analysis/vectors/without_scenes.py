"""Embeddings of what happens in recordings, without what those of a like scene have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pydreaming.analysis.inputs import STDIN, Failed, Recording, named_file
from pydreaming.analysis.names import SCENE
from pydreaming.analysis.vectors.embed import EmbeddingTable, Progress, embed_blocks
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError
from pydreaming.evaluation.scenes import CLIPS_A_GROUP, find_groups


def embed_without_scenes(
    model: WorldModel,
    sources: Iterable[str | Path | Recording],
    part: str = "feat",
    pooling: str = "evaluation",
    seed: int | None = None,
    failed: Failed | None = None,
    progress: Progress = iter,
) -> EmbeddingTable:
    """One vector a recording, less what the recordings whose scene is like its own have in common (`evaluation.scenes`).

    Unlike other embeddings a row depends on what else is embedded, and the table is held in memory. Recordings are read twice.

    Args:
      sources, part, pooling, seed, failed: see `embed`. progress: passes the recordings on and may show how far it is, twice.
    Raises:
      UsageError: see `Embedder`; standard input, which cannot be read twice; too few recordings, or all alike, to find groups among.
    """
    if part == SCENE:
        raise UsageError("a scene without its scene is nothing; name another part")
    content, scene = Embedder(model, "clip", part, pooling, seed=seed), Embedder(model, "clip", SCENE)
    recordings = [source if isinstance(source, Recording) else named_file(source) for source in sources]
    if any(recording.name == STDIN for recording in recordings):
        raise UsageError("groups of scenes need recordings that can be read twice; name files")
    columns = _joined(content, recordings, failed, progress)
    known = set(columns["source"].tolist()) if columns else set()
    scenes = _joined(scene, [recording for recording in recordings if recording.name in known], failed, progress)
    groups = find_groups(scenes["embedding"]) if scenes else None
    if groups is None or len(scenes["embedding"]) != len(columns["embedding"]):
        raise UsageError(
            f"no groups of scenes were found among {len(known)} recordings: {2 * CLIPS_A_GROUP} are the least, and they must differ"
        )
    columns["embedding"] = groups.taken_out(columns["embedding"], scenes["embedding"], np.arange(len(known)))
    return EmbeddingTable(columns, content.about | {"without_scene": True})


def _joined(embedder: Embedder, recordings: list[Recording], failed: Failed | None, progress: Progress) -> dict[str, np.ndarray]:
    blocks = list(embed_blocks(embedder, recordings, failed, progress))
    return {name: np.concatenate([np.asarray(block[name]) for block in blocks]) for name in blocks[0]} if blocks else {}
