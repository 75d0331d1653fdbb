"""What one replay file holds: episodes in memory, columns on disk, and the metadata in its footer.

Shapes: T steps of an episode, D values of a token, A of an action.

On disk one row is one step and one row group is one episode. `obs` and `action` are fixed-size binary (float16 and float32, little
endian), non-nullable, uncompressed, in one plain V1 page, so that a reader may take them straight from the mapped file:

    np.frombuffer(b"".join(df.obs), "<f2").reshape(-1, D)        # df = pandas.read_parquet(file)
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pydreaming.audio.controls import NO_CONTROLS, ControlScale
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import ActionConfig, FeatureConfig
from pydreaming.errors import ReplayError
from pydreaming.replay.names import CHECK_KEY, META_KEY, TABLE_KEY

SCHEMA_VERSION = 1
MAX_ITEM = 2**27  # items of a catalogue; with the 36 bits below a token's identity fits one int64
MAX_START_SAMPLE = 2**36  # samples: 49 days at 16 kHz
ID_STEPS = 16  # by which the identities of successive tokens differ

TOKEN_DTYPE = np.dtype("<f2")
ACTION_DTYPE = np.dtype("<f4")
START_DTYPE = np.dtype("<i8")


class Clip(msgspec.Struct, frozen=True):
    """A part of an episode that comes from one item, beginning at step `start` of the episode."""

    start: int
    item: int  # row in the catalogue
    path: str  # relative to the source root
    start_sample: int  # of the clip's first token in its recording, at the features' sample_rate
    label: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class Episode:
    """Consecutive tokens of one group.

    tokens (T, D) float16, is_first (T,) bool, action (T, A) float32, start_sample (T,) int64 in samples of each token's recording.
    `is_first` is True exactly where a clip begins, and a clip begins at step 0.
    """

    tokens: NDArray[np.float16]
    is_first: NDArray[np.bool_]
    action: NDArray[np.float32]
    start_sample: NDArray[np.int64]
    clips: list[Clip]
    group: str

    def __len__(self) -> int:
        return len(self.tokens)


class StoreMeta(msgspec.Struct, frozen=True):
    """Settings that every file of a store shares, and that a learner must share too.

    `seed` and `controls` (what the actions were normalised with; stores from before it was kept have none) are records, and not compared.
    """

    schema_version: int
    features: dict[str, Any]
    stats: FeatureStats
    action: dict[str, Any]
    seed: int = 0
    controls: ControlScale = NO_CONTROLS

    @staticmethod
    def of(
        features: FeatureConfig, stats: FeatureStats, action: ActionConfig, seed: int = 0, controls: ControlScale = NO_CONTROLS
    ) -> StoreMeta:
        """Metadata of a run's store."""
        return StoreMeta(SCHEMA_VERSION, asdict(features), stats, asdict(action), seed, controls)

    @property
    def token_dim(self) -> int:
        """D, values in one token."""
        return int(self.features["token_frames"]) * int(self.features["n_mels"])

    @property
    def token_stride(self) -> int:
        """Samples between the beginnings of adjacent tokens."""
        return int(self.features["token_hop"]) * int(self.features["hop_length"])

    @property
    def action_dim(self) -> int:
        """A, values in one action."""
        return msgspec.convert(self.action, ActionConfig).dim


class EpisodeTable(msgspec.Struct, frozen=True):
    """The episodes of one file, column by column: all that the index needs, read with the footer."""

    lengths: list[int]  # steps of each episode
    groups: list[str]  # group of each episode
    clips: list[int]  # number of clips of each episode
    clip_start: list[int]  # of each clip, episodes one after the other: its first step in the episode
    clip_item: list[int]  # of each clip: row in the catalogue
    crc: list[int] = []  # of each episode: `checksum`; none in files of earlier versions


def checksum(obs: NDArray[Any], action: NDArray[Any], start_sample: NDArray[Any]) -> int:
    """CRC-32 of the bytes of an episode's three columns, which lie without gaps, as a sampler gets them."""
    return zlib.crc32(start_sample.data, zlib.crc32(action.data, zlib.crc32(obs.data)))


def check_episode(episode: Episode, token_dim: int, action_dim: int) -> None:
    """Raises ValueError, naming the fault, when an episode contradicts itself or the store's widths D and A."""
    steps, starts = len(episode.tokens), [clip.start for clip in episode.clips]
    shapes = [
        ("tokens", episode.tokens, (steps, token_dim), TOKEN_DTYPE),
        ("is_first", episode.is_first, (steps,), np.dtype(bool)),
        ("action", episode.action, (steps, action_dim), ACTION_DTYPE),
        ("start_sample", episode.start_sample, (steps,), START_DTYPE),
    ]
    for name, array, shape, dtype in shapes:
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} must be {shape} {dtype}, got {array.shape} {array.dtype}")
    if steps == 0 or np.flatnonzero(episode.is_first).tolist() != starts or starts[0] != 0:
        raise ValueError("is_first must be True exactly where the clips start, and at step 0")
    if not all(0 <= clip.item < MAX_ITEM for clip in episode.clips):
        raise ValueError(f"items must lie in [0, {MAX_ITEM})")
    if not (episode.start_sample.min() >= 0 and episode.start_sample.max() < MAX_START_SAMPLE):
        raise ValueError(f"start_sample must lie in [0, {MAX_START_SAMPLE}) samples")


def difference(ours: StoreMeta, theirs: StoreMeta) -> str | None:
    """The first setting in which two stores differ, with both values; None when they agree."""
    if ours is theirs:
        return None
    for section in ("schema_version", "features", "action", "stats"):
        a, b = (_flat(section, msgspec.to_builtins(getattr(meta, section))) for meta in (ours, theirs))
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return f"{key} is {_brief(a.get(key))} there and {_brief(b.get(key))} here"
    return None


def _flat(name: str, value: Any) -> dict[str, Any]:
    return {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(f'{v:.6g}' if isinstance(v, float) else str(v) for v in value[:3])}, … {len(value)} values]"
    return "not set" if value is None else str(value)


def arrow_schema(token_dim: int, action_dim: int) -> pa.Schema:
    """Columns of a replay file. The last three are read by the sampler, the others are for people."""
    columns = {
        "episode": pa.int32(),  # number of the episode in this file
        "step": pa.int32(),
        "is_first": pa.bool_(),
        "group": pa.string(),
        "source": pa.string(),  # path of the recording, relative to the source root
        "label": pa.string(),
        "speaker": pa.string(),
        "item": pa.int64(),
        "start_sample": pa.int64(),
        "action": pa.binary(action_dim * ACTION_DTYPE.itemsize),
        "obs": pa.binary(token_dim * TOKEN_DTYPE.itemsize),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def encode_metadata(meta: StoreMeta, table: EpisodeTable) -> dict[bytes, bytes]:
    """Key-value metadata of a file's footer."""
    store, episodes = msgspec.json.encode(meta), msgspec.json.encode(table)
    return {META_KEY: store, TABLE_KEY: episodes, CHECK_KEY: str(zlib.crc32(store + episodes)).encode()}


def decode_metadata(values: dict[bytes, bytes] | None) -> tuple[StoreMeta, EpisodeTable]:
    """Read and check what `encode_metadata` wrote. Raises ReplayError: it is not ours, damaged or inconsistent."""
    values = values or {}
    try:
        store, episodes, check = values[META_KEY], values[TABLE_KEY], values[CHECK_KEY]
    except KeyError as e:
        raise ReplayError("not a replay file of pydreaming (no store metadata in its footer)") from e
    if check != str(zlib.crc32(store + episodes)).encode():
        raise ReplayError("the metadata in its footer is damaged (checksum)")
    try:
        meta, table = _decode_store(store), _TABLE.decode(episodes)
    except msgspec.MsgspecError as e:
        raise ReplayError(f"the metadata in its footer is not valid: {e}") from e
    _check_table(table)
    return meta, table


class _Version(msgspec.Struct):
    schema_version: int


_TABLE = msgspec.json.Decoder(EpisodeTable)


@lru_cache(maxsize=16)  # the files of a store share it; so does memory
def _decode_store(text: bytes) -> StoreMeta:
    version = msgspec.json.decode(text, type=_Version).schema_version
    if version != SCHEMA_VERSION:
        raise ReplayError(
            f"schema version {version}; this program reads version {SCHEMA_VERSION}: use the one that wrote it, or collect anew"
        )
    return msgspec.json.decode(text, type=StoreMeta)


def _check_table(table: EpisodeTable) -> None:
    """A consistent file passes; a forged one must not make the sampler read outside an episode."""
    starts, first = np.asarray(table.clip_start, np.int64), np.concatenate([[0], np.cumsum(table.clips, dtype=np.int64)])
    lengths = np.asarray(table.lengths, np.int64)
    sound = (
        len(table.lengths) == len(table.groups) == len(table.clips)
        and len(table.clip_start) == len(table.clip_item) == first[-1]
        and min(table.clips, default=1) >= 1
        and all(1 <= steps < 2**31 for steps in table.lengths)  # the index keeps them in 32 bits; Parquet's own count may say the same
        and all(0 <= item < MAX_ITEM for item in table.clip_item)
        and len(table.crc) in (0, len(table.lengths))
        and all(0 <= crc < 2**32 for crc in table.crc)
    )
    if sound and len(lengths):
        base = np.repeat(np.cumsum(lengths) - lengths, table.clips)
        ends = base + np.repeat(lengths, table.clips)
        position = base + starts
        sound = bool(
            (starts[first[:-1]] == 0).all() and (np.diff(position) > 0).all() and (position >= base).all() and (position < ends).all()
        )
    if not sound:
        raise ReplayError("its table of episodes contradicts itself")
