"""Small stores of recognisable tokens: the value of each token says which item and step it is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.replay import shard
from pydreaming.replay.address import Location
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.evict import oldest_files
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.schema import Episode, StoreMeta, decode_metadata
from pydreaming.replay.store import Store, open_store, read_footer
from pydreaming.replay.writer import FileReport, ShardWriter

STRIDE = 320  # samples between the starts of adjacent tokens
SMALL = ["--features.n_mels", "3", "--features.token_frames", "2", "--features.token_hop", "2"]
SMALL += ["--action.kind", "stride", "--action.strides", "[1,2]"]


def store_meta(*overrides: str, mean: float = 0.0, seed: int = 0) -> StoreMeta:
    """A store of six values a token and two an action."""
    config = load_config(["defaults"], [*SMALL, *overrides])
    bands = config.features.n_mels
    return StoreMeta.of(config.features, FeatureStats([mean] * bands, [1.0] * bands, 10), config.action, seed)


def clip_arrays(item: int, steps: int, meta: StoreMeta, begin: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens (t, D), action (t, A) and start_sample (t,) of steps `begin` … of an item."""
    number = np.arange(begin, begin + steps)
    tokens = np.tile((item % 500 + number / 1000)[:, None], meta.token_dim) + np.arange(meta.token_dim) / 8
    action = np.tile(number[:, None] % 7, meta.action_dim) + 100 * (item % 50)
    return tokens.astype(np.float16), action.astype(np.float32), number * STRIDE


def build_group(group: str, clips: list[tuple[int, int]], meta: StoreMeta, episode_tokens: int = 16) -> list[Episode]:
    """Episodes of one group's clips, given as (item, steps)."""
    builder = EpisodeBuilder(group, episode_tokens)
    episodes = []
    for item, steps in clips:
        info = ClipInfo(item, f"{group}/{item}.wav", f"label {item % 3}", group)
        episodes += builder.add_tokens(*clip_arrays(item, steps, meta), True, info)
    return episodes + builder.finish()


def write_lease(
    where: Location | Store, lease: int, episodes: list[Episode], meta: StoreMeta, shard_episodes: int = 4, epoch: int = 0
) -> list[FileReport]:
    """Write and commit one lease."""
    with ShardWriter(where, shard_prefix(epoch, lease), meta, shard_episodes) as writer:
        for episode in episodes:
            writer.add(episode)
        return writer.commit()


def small_store(where: Location | Store, groups: int = 3, clips: int = 20, shard_episodes: int = 4, steps: int = 7) -> ReplayIndex:
    """A store with one lease a group, of clips of about `steps` steps."""
    meta = store_meta()
    for g in range(groups):
        spec = [(g * clips + k, steps - 2 + (g + k) % 5) for k in range(clips)]
        write_lease(where, g, build_group(f"speaker:{g}", spec, meta), meta, shard_episodes)
    index = ReplayIndex(where)
    index.refresh()
    return index


def evict(where: Location | Store, capacity_tokens: int) -> list[str]:
    """Remove the oldest files, as the coordinator does, and return their names."""
    store = open_store(where)
    names = oldest_files(store, capacity_tokens)
    store.remove(names)
    return names


def assert_equal_episodes(a: Episode, b: Episode) -> None:
    """Bitwise equality of arrays, clips and group."""
    for name in ("tokens", "is_first", "action", "start_sample"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right), name
    assert a.clips == b.clips
    assert a.group == b.group


def positions_in(content: bytes) -> np.ndarray:
    """(episodes, 3) where obs, action and start_sample of each episode lie in a file."""
    footer = read_footer(pa.py_buffer(content))
    meta, table = decode_metadata(footer.metadata)
    return shard._positions(footer, table.lengths, True, meta, len(content) - 8 - footer.serialized_size)
