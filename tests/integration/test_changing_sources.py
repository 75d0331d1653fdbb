"""Recordings that grow, shrink, change or vanish while a worker reads them: whole, or reported with the cause, and nothing in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tones import RATE, write_tone

from pydreaming.audio.sources import AudioItem
from pydreaming.audio.stats import merge_stats
from pydreaming.replay.index import ReplayIndex
from workers.layout import RunDir
from workers.produce import BLOCK_S, Producer

MakeRun = Callable[..., RunDir]
CHANGED = "changed while it was read"


def overwrite(path: Path) -> None:
    """Other samples in the same file, as an editor saves them; the length stays."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 4000)
        file.write(bytes(4000))


def replace(path: Path) -> None:
    """Another recording under the same name, as a synchronisation puts it there."""
    write_tone(path.with_name("new.tmp.wav"), 25.0, seed=9)
    path.with_name("new.tmp.wav").replace(path)


def grow(path: Path) -> None:
    """More samples at the end, as a recorder that is still at work writes them."""
    with path.open("ab") as file:
        file.write(os.urandom(2 * RATE))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def tokens(replay: Path) -> np.ndarray:
    index = ReplayIndex(replay)
    index.refresh()
    assert not index.damaged
    return np.concatenate([index.episode(i).tokens for i in range(index.episodes)])


@pytest.mark.parametrize("before", ["it is opened", "its second block"])
@pytest.mark.parametrize(
    ("change", "cause"),
    [(overwrite, CHANGED), (grow, CHANGED), (shrink, "truncated|" + CHANGED), (replace, None), (Path.unlink, None)],
)
def test_a_recording_that_changes(
    make_run: MakeRun, tmp_path: Path, change: Callable[[Path], object], cause: str | None, before: str
) -> None:
    audio = tmp_path / "audio"
    for i, name in enumerate(("first.wav", "second.wav", "third.wav")):
        write_tone(audio / name, 2.5 * BLOCK_S, seed=i)
    run = make_run(audio)
    items = [AudioItem(index=i, path=name, group=name) for i, name in enumerate(("first.wav", "second.wav", "third.wav"))]
    producer = Producer(run.read_config(), audio, tmp_path / "whole")
    stats = merge_stats([producer.measure(items)[0]], run.read_config().features.n_mels)
    producer.produce(0, 0, items, stats)
    whole = tokens(tmp_path / "whole")
    part = len(whole) // 3

    calls = 0

    def on_block() -> None:
        nonlocal calls
        calls += 1
        # Each recording: one call before it, one after each of three blocks; before all one more, for the first might have been short.
        if calls == (6 if before == "it is opened" else 7):
            change(audio / "second.wav")

    producer = Producer(run.read_config(), audio, tmp_path / "replay", on_block=on_block)
    files, unreadable = producer.produce(0, 0, items, stats)
    assert calls > 7
    assert sum(file.tokens for file in files) == len(tokens(tmp_path / "replay"))
    if before == "it is opened":  # then it is simply another recording, or none
        got = [entry.path for entry in unreadable]
        assert got == (["second.wav"] if change in (Path.unlink, shrink) else [])
        return
    if cause is None:  # who has it open still reads the old one, whole
        assert unreadable == []
        assert np.array_equal(tokens(tmp_path / "replay"), whole)
        return
    (entry,) = unreadable
    assert entry.path == "second.wav"
    assert any(words in entry.cause for words in cause.split("|")), entry.cause
    assert np.array_equal(tokens(tmp_path / "replay"), np.concatenate([whole[:part], whole[2 * part :]]))  # nothing of it stays
