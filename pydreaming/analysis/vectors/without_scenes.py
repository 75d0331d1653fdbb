"""Embeddings of what happens in recordings, without what those of a like scene have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pydreaming.analysis.inputs import STDIN, Failed, Recording, named_file
from pydreaming.analysis.names import SCENE
from pydreaming.analysis.vectors.embed import EmbeddingTable, Progress, embed_blocks
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.vectors.pooling import Moments, Vectors
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError
from pydreaming.evaluation.scenes import CLIPS_A_GROUP, scene_groups


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
    embedder = Embedder(model, "clip", part, pooling, seed=seed)
    recordings = [source if isinstance(source, Recording) else named_file(source) for source in sources]
    if any(recording.name == STDIN for recording in recordings):
        raise UsageError("groups of scenes need recordings that can be read twice; name files")
    blocks = list(embed_blocks(embedder, recordings, failed, progress))
    known = {str(name) for block in blocks for name in block["source"]}
    statistics = [_statistics(model, r) for r in progress([r for r in recordings if r.name in known])]
    groups = scene_groups(np.stack(statistics), np.arange(len(statistics))) if statistics else None
    if groups is None:
        raise UsageError(
            f"no groups of scenes were found among {len(statistics)} recordings: {2 * CLIPS_A_GROUP} are the least, and they must differ"
        )
    columns = {name: np.concatenate([np.asarray(block[name]) for block in blocks]) for name in blocks[0]}
    columns["embedding"] = groups.taken_out(columns["embedding"])
    return EmbeddingTable(columns, embedder.about | {"without_scene": True})


def _statistics(model: WorldModel, recording: Recording) -> Vectors:
    """See `scenes.clip_statistics`, of a recording of any length."""
    bands = Moments()
    for part in model.stream_tokens(recording):
        bands.add(part.reshape(-1, model.features.n_mels))
    return np.concatenate([bands.mean, bands.std]).astype(np.float32)
