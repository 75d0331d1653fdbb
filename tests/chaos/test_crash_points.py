"""kill -9 at every single operation on files while a checkpoint, replay files or the coordinator's state are written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crash_points import at_every_file_operation
from tiny_models import STRIDES, TOKEN_DIM, tiny_batch, tiny_config

from pydreaming.audio.features import FeatureStats
from pydreaming.replay.index import ReplayIndex
from pydreaming.training.checkpoint import latest_intact, list_checkpoints, read_state, recover, restore, save_checkpoint
from pydreaming.training.trainer import Trainer
from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

STATS = FeatureStats([0.5] * 64, [1.5] * 64, 1000)


def trained(steps: int, folder: Path, keep: int = 2) -> Trainer:
    """A trainer after so many steps, a checkpoint after each of them."""
    torch.manual_seed(0)
    trainer = Trainer(tiny_config(), TOKEN_DIM, STRIDES)
    for step in range(steps):
        trainer.train_step(tiny_batch(seed=step), progress=step / 9)
        save(folder, trainer, keep)
    return trainer


def save(folder: Path, trainer: Trainer, keep: int = 2, seconds: float = 1.0) -> Path:
    return save_checkpoint(folder, trainer, STATS, {}, seconds, keep)


def weights(folder: Path) -> list[torch.Tensor]:
    trainer = Trainer(tiny_config(), TOKEN_DIM, STRIDES)
    newest = latest_intact(folder)
    assert newest is not None
    restore(newest, trainer)
    return [p.detach().clone() for p in trainer.world]


def test_a_checkpoint_is_there_whole_or_the_one_before_it_is(tmp_path: Path) -> None:
    before, here = tmp_path / "before", tmp_path / "here"
    trainer = trained(2, before)
    old = [p.detach().clone() for p in trainer.world]
    trainer.train_step(tiny_batch(seed=2), progress=2 / 9)
    new = [p.detach().clone() for p in trainer.world]
    shutil.copytree(before, here)
    seen = set()
    for _ in at_every_file_operation(lambda: save(here, trainer)):
        newest = latest_intact(here)
        assert newest is not None
        assert len(list_checkpoints(here)) in (2, 3)  # the oldest goes last
        expected = {"step-00000002": old, "step-00000003": new}[newest.name]
        assert all(map(torch.equal, weights(here), expected))
        seen.add(newest.name)
        assert save(here, trainer).name == "step-00000003"  # what the next session does
        assert sorted(p.name for p in here.iterdir()) == ["step-00000002", "step-00000003"]
        shutil.rmtree(here)
        shutil.copytree(before, here)
    assert seen == {"step-00000002", "step-00000003"}


def test_the_only_checkpoint_is_never_lost_while_it_is_replaced(tmp_path: Path) -> None:
    """As an evaluation and a checkpoint fall due at the same step, or a resumed run ends at once."""
    before, here = tmp_path / "before", tmp_path / "here"
    trainer = trained(1, before, keep=1)
    shutil.copytree(before, here)
    seconds = set()
    for _ in at_every_file_operation(lambda: save(here, trainer, keep=1, seconds=2.0)):
        recover(here)  # what a learner begins with
        newest = latest_intact(here)
        assert newest is not None
        seconds.add(read_state(newest).counters["seconds"])
        shutil.rmtree(here)
        shutil.copytree(before, here)
    assert seconds == {1.0, 2.0}


def test_collecting_goes_on_wherever_it_was_killed(make_run: Callable[..., RunDir], recordings: Callable[..., Path]) -> None:
    audio = recordings(4)
    settings = ("--workers.passes", "1", "--workers.lease_items", "2", "--replay.shard_episodes", "1", "--features.stats_files", "2")
    whole = make_run(audio, *settings, name="whole")
    collect(whole, whole.read_config())
    expected = {path.name: path.read_bytes() for path in whole.replay(whole.read_config()).iterdir()}
    assert len(expected) > 2
    run = make_run(audio, *settings)
    config, replay = run.read_config(), run.replay(run.read_config())
    kept = run.config.read_bytes()
    for _ in at_every_file_operation(lambda: collect(run, config)):
        index = ReplayIndex(replay)
        index.refresh()
        assert index.damaged == {}  # no half-written file can be seen
        for name in {p.name for p in replay.glob("*.parquet")} if replay.is_dir() else ():
            assert (replay / name).read_bytes() == expected[name]
        collect(run, config)
        assert {path.name: path.read_bytes() for path in replay.iterdir()} == expected
        assert not list(run.path.rglob("*.tmp*"))
        shutil.rmtree(run.path)
        run.path.mkdir()
        run.config.write_bytes(kept)
