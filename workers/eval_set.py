"""The fixed recordings that every checkpoint of a run is evaluated on, as two small replay stores in RUN/eval_set.

They are made once, by the same code as the training data (without augmentation), by whichever evaluation comes first.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil

from pydreaming.analysis.run_folder import QUARANTINE
from pydreaming.audio.controls import ControlScale
from pydreaming.audio.decode import probe, resolve_inside
from pydreaming.audio.sources import AudioItem, Catalogue, source_root
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config
from pydreaming.errors import DecodeError
from pydreaming.replay.index import ReplayIndex
from workers.layout import RunDir, replace_json
from workers.produce import Producer
from workers.quarantine import Quarantine

MAX_CLIP_S = 30.0  # of a recording; more would add little to a pooled vector and much time
LEASE = 64
UNLABELLED = 200  # clips that were trained on, where none has a label


@dataclass(frozen=True)
class EvalSet:
    """Stores of recordings that were trained on, and that were not; either may be empty. `unreadable` counts files left out."""

    heard: ReplayIndex
    held_out: ReplayIndex
    unreadable: int


def prepare_eval_set(run: RunDir, config: Config, stats: FeatureStats) -> EvalSet:
    """Open the evaluation set of a run, making it if this is the first evaluation.

    Raises:
      SourceError: the run has no catalogue (it trained from a finished store), or the recordings are not on this host.
    """
    folder = run.path / "eval_set"
    if not (folder / "done.json").is_file():
        _make(run, config, stats, folder)
    done = msgspec.json.decode((folder / "done.json").read_bytes(), type=dict[str, int])
    result = EvalSet(ReplayIndex(folder / "heard"), ReplayIndex(folder / "held_out"), done["unreadable"])
    result.heard.refresh()
    result.held_out.refresh()
    return result


def _make(run: RunDir, config: Config, stats: FeatureStats, folder: Path) -> None:
    catalogue = Catalogue.open(run.catalogue)
    root = source_root(config.source)
    plain = dataclasses.replace(config, augment=dataclasses.replace(config.augment, probability=0.0))
    controls = ControlScale(catalogue.info.control_mean, catalogue.info.control_std)
    most = config.evaluation.max_clips
    rng = np.random.default_rng(config.run.seed)
    held_out = rng.permutation(catalogue.held_out_indices)[: max(1, most // 2)]
    # Without labels the clips that were trained on serve to say what is normal; fewer do for that.
    labelled = any(name in catalogue.info.label_columns for name in ("label", "speaker"))
    heard_count = min(most - len(held_out), most if labelled else UNLABELLED)
    temporary = folder.with_name(f".eval_set.{os.getpid()}.tmp")
    for left in folder.parent.glob(".eval_set.*.tmp"):  # of evaluations that were ended in the middle of this
        if left == temporary or not psutil.pid_exists(int(left.name.split(".")[2])):
            shutil.rmtree(left, ignore_errors=True)
    quarantine = Quarantine(temporary / QUARANTINE)
    for name, rows in (("heard", catalogue.sample(heard_count, config.run.seed)), ("held_out", held_out)):
        (temporary / name).mkdir(parents=True)
        producer = Producer(plain, root, temporary / name, controls)
        items = sorted((_shortened(root, catalogue[int(i)]) for i in rows), key=lambda item: (item.group, item.index))
        for number, start in enumerate(range(0, len(items), LEASE)):
            for entry in producer.produce(0, number, items[start : start + LEASE], stats)[1]:
                quarantine.add(catalogue[entry.item].path, entry.cause, entry.item, 0)
    replace_json(temporary / "done.json", {"unreadable": len(quarantine)})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _shortened(root: Path, item: AudioItem) -> AudioItem:
    """The item cut to MAX_CLIP_S where it is known to be longer; one that cannot be probed is left for decoding to refuse."""
    if item.duration_s is not None:
        return msgspec.structs.replace(item, duration_s=min(item.duration_s, MAX_CLIP_S))
    try:
        length = probe(resolve_inside(root, item.path)).duration_s
    except DecodeError:
        return item
    if length is None or length - item.offset_s <= MAX_CLIP_S:
        return item
    return msgspec.structs.replace(item, duration_s=MAX_CLIP_S)
