"""What is in a replay store: episodes of tokens that were made of recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pydreaming.audio.features import FrontEnd
from pydreaming.config import FeatureConfig
from pydreaming.errors import ReplayError, UnreachableError
from pydreaming.replay.address import Location
from pydreaming.replay.census import take_census
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.schema import StoreMeta
from pydreaming.replay.store import Store, open_store

Progress = Callable[[Iterable[str], str], Iterable[str]]


@dataclass
class StoreReport:
    """What was found.

    Attributes:
      files, bytes: readable files of episodes. damaged: name and cause. unfinished: temporary files that a writer has, or has left.
      episodes, tokens, clips: of all files; a clip is a recording, or the part of one, in an episode. recordings: different ones.
      seconds: of audio. least, median, most: tokens of an episode. groups: different speakers or recordings that episodes are of.
      labels: tokens by value, by "label" and "speaker". features, action: the settings that every file shares.
    """

    path: str
    files: int = 0
    bytes: int = 0
    unfinished: int = 0
    episodes: int = 0
    tokens: int = 0
    clips: int = 0
    recordings: int = 0
    seconds: float = 0.0
    least: int = 0
    median: float = 0.0
    most: int = 0
    groups: int = 0
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    action: dict[str, Any] = field(default_factory=dict)
    damaged: list[tuple[str, str]] = field(default_factory=list)


def inspect_store(where: Location, progress: Progress | None = None) -> StoreReport:
    """Look at a store: a folder of replay files, or an address.

    Args:
      progress: wraps the files as they are worked through, with what is done; for a bar.
    Raises:
      ReplayError: the store holds no replay file, or files of different settings; or it does not answer.
    """
    store, watch = open_store(where), progress or (lambda items, what: items)
    index = ReplayIndex(store)
    index.refresh()
    report = StoreReport(store.location, damaged=sorted(index.damaged.items()))
    report.unfinished = store.unfinished()
    if index.meta is None:
        if not report.damaged:
            raise ReplayError(f"no replay files in {store.location}")
        return report
    features = _features(index.meta)
    report.episodes, report.tokens, report.clips = index.episodes, index.tokens, len(index.clip_start)
    report.recordings, report.groups = len(np.unique(index.clip_item)), len(index.groups)
    report.seconds = index.tokens * features.token_stride_samples / features.sample_rate
    report.least, report.median, report.most = int(index.lengths.min()), float(np.median(index.lengths)), int(index.lengths.max())
    report.features, report.action = asdict(features), index.meta.action
    _count_files(report, store, watch)
    return report


def _count_files(report: StoreReport, store: Store, watch: Progress) -> None:
    counts: dict[str, Counter[str]] = {"label": Counter(), "speaker": Counter()}
    damaged, present = dict(report.damaged), store.scan()
    for name in watch(sorted(present.keys() - damaged.keys()), "counting labels"):
        try:
            census = take_census(store.fetch([store.open(name, present[name])])[0])
        except FileNotFoundError:  # evicted meanwhile
            continue
        except UnreachableError:
            raise
        except ReplayError as e:
            report.damaged.append((name, str(e)))
            continue
        report.bytes += present[name].size
        report.files += 1
        counts["label"] += census.labels
        counts["speaker"] += census.speakers
    report.labels = {key: dict(count.most_common()) for key, count in counts.items() if set(count) - {""}}


def store_log_mels(where: Location, count: int, seed: int = 0) -> tuple[list[tuple[str, npt.NDArray[np.float32]]], FeatureConfig]:
    """Log-mel (F, n_mels) of `count` random clips with their paths, and their features. Raises ReplayError: damaged, or none there."""
    index = ReplayIndex(where)
    index.refresh()
    if index.meta is None or not index.episodes:
        raise ReplayError(f"no readable replay files in {where}")
    features = _features(index.meta)
    front_end = FrontEnd(features, index.meta.stats)
    found = []
    random = np.random.default_rng(seed)
    for number in sorted(random.permutation(index.episodes)[:count].tolist()):
        episode = index.episode(number)
        place = int(random.integers(len(episode.clips)))
        ends = [clip.start for clip in episode.clips[1:]] + [len(episode)]
        clip = episode.clips[place]
        found.append((clip.path, front_end.denormalise(episode.tokens[clip.start : ends[place]])))
    return found, features


def _features(meta: StoreMeta) -> FeatureConfig:
    return msgspec.convert(meta.features, FeatureConfig)
