"""Batches drawn ahead: the same as drawn in turn, whatever the threads do, also after a resume."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.errors import ReplayError
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.priority import Curiosity
from pydreaming.replay.sampler import Batch, ReplaySampler
from pydreaming.replay.schema import StoreMeta
from pydreaming.replay.writer import ShardWriter
from workers.batches import Batches
from workers.lookout import Stopping

RULE = Curiosity(share=0.5, visits=100.0, decay=0.5, power=1.0, cap=1e5)


def small_index(folder: Path) -> ReplayIndex:
    """60 clips of 4 to 8 tokens of three speakers."""
    config = load_config(["defaults"], ["--features.n_mels", "3"])
    meta = StoreMeta.of(config.features, FeatureStats([0.0] * 3, [1.0] * 3, 1), config.action)
    for speaker in range(3):
        builder, episodes = EpisodeBuilder(f"speaker:{speaker}", 16), []
        for item in range(20 * speaker, 20 * speaker + 20):
            steps = 4 + item % 5
            tokens = np.full((steps, meta.token_dim), item, np.float16)
            start = np.arange(steps) * meta.token_stride
            episodes += builder.add_tokens(tokens, np.zeros((steps, 1)), start, True, ClipInfo(item, f"{item}.wav"))
        with ShardWriter(folder, shard_prefix(0, speaker), meta, 4) as writer:
            for episode in episodes + builder.finish():
                writer.add(episode)
            writer.commit()
    index = ReplayIndex(folder)
    index.refresh()
    return index


def make_sampler(index: ReplayIndex, curiosity: Curiosity | None = None, seed: int = 0) -> ReplaySampler:
    return ReplaySampler(index, 4, 5, 0.5, 0.3, seed, curiosity)


def losses(batch: Batch) -> np.ndarray:
    """Of each sequence, by what it holds; one is not known."""
    values = (batch.token_id[:, 0] % 13).astype(np.float32)
    values[0] = np.nan
    return values


def step(batches: Batches, refused: bool = False) -> np.ndarray:
    batch = batches.take()
    batches.learn(None if refused else losses(batch))
    return batch.token_id


def test_uniform_batches_are_those_drawn_in_turn(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    plain, batches = make_sampler(index), Batches(make_sampler(index))
    for _ in range(20):
        assert np.array_equal(plain.sample().token_id, batches.take().token_id)
    batches.close()


@pytest.mark.parametrize("curiosity", [None, RULE])
def test_a_resumed_one_goes_on_with_the_same_batches(tmp_path: Path, curiosity: Curiosity | None) -> None:
    index = small_index(tmp_path)
    whole = Batches(make_sampler(index, curiosity))
    states, drawn = [json.dumps(whole.state_dict())], []
    for number in range(12):
        drawn.append(step(whole, refused=number == 4))
        states.append(json.dumps(whole.state_dict()))
    whole.close()
    for begin in (0, 1, 2, 5, 9):
        again = Batches(make_sampler(index, curiosity, seed=7))
        again.load_state_dict(json.loads(states[begin]))
        for number in range(begin, 12):
            assert np.array_equal(step(again, refused=number == 4), drawn[number]), (begin, number)
        assert json.dumps(again.state_dict()) == states[12]
        again.close()


@pytest.mark.parametrize("curiosity", [None, RULE])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_batch_that_was_waited_for_when_the_run_was_stopped_is_the_next_after_a_resume(
    tmp_path: Path, curiosity: Curiosity | None, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = small_index(tmp_path)
    whole, stopped, again = (Batches(make_sampler(index, curiosity)) for _ in range(3))
    expected = [step(whole) for _ in range(steps + 3)][steps:]
    whole.close()
    read_into, calls = index.read_into, itertools.count()

    def until_stopped(*arguments: Any) -> None:
        if next(calls) == steps:
            raise Stopping
        read_into(*arguments)

    monkeypatch.setattr(index, "read_into", until_stopped)
    for _ in range(steps):
        step(stopped)
    with pytest.raises(Stopping):
        stopped.take()
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for batch in expected:
        assert np.array_equal(step(again), batch)
    stopped.close()
    again.close()


def test_speed_of_the_threads_changes_nothing(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    sequences = []
    for pauses in ((0.0, 0.0), (0.004, 0.0), (0.0, 0.004)):
        batches = Batches(make_sampler(index, RULE), look=lambda pause=pauses[0]: time.sleep(pause))  # type: ignore[misc]
        drawn = []
        for _ in range(10):
            drawn.append(step(batches).tolist())
            time.sleep(pauses[1])
        batches.close()
        sequences.append(drawn)
    assert sequences[0] == sequences[1] == sequences[2]


def test_whoever_waits_for_a_slow_store_does_something_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.batches.MEANWHILE_S", 0.01)
    asked, answer, answered = threading.Event(), threading.Semaphore(0), []

    def look() -> None:
        asked.set()
        assert answer.acquire(timeout=30)

    def meanwhile() -> None:
        if asked.is_set():
            asked.clear()
            answered.append(threading.current_thread())
            answer.release()

    batches = Batches(make_sampler(small_index(tmp_path)), look=look, meanwhile=meanwhile)
    for number, wait in enumerate((batches.take, batches.state_dict, batches.look), start=1):
        wait()  # a look that only `meanwhile` lets go on
        assert answered == number * [threading.current_thread()]
    batches.close()


def test_the_next_batch_is_made_while_the_last_is_used(tmp_path: Path) -> None:
    made = threading.Semaphore(0)
    threads = []

    def prepare(batch: Batch) -> Batch:
        threads.append(threading.current_thread())
        made.release()
        return batch

    batches = Batches(make_sampler(small_index(tmp_path)), prepare=prepare)
    batches.take()
    assert made.acquire(timeout=10)
    assert made.acquire(timeout=10)  # the second, which nobody has asked for yet
    assert set(threads).isdisjoint({threading.main_thread()})
    batches.close()


def test_an_empty_store_is_an_error_that_passes(tmp_path: Path) -> None:
    index = ReplayIndex(tmp_path)
    batches = Batches(make_sampler(index), look=lambda: index.refresh() and None)
    for _ in range(2):
        with pytest.raises(ReplayError, match="holds no episode yet"):
            batches.take()
    state = batches.state_dict()
    small_index(tmp_path)
    batches.look()
    first = batches.take().token_id
    batches.close()
    again = Batches(make_sampler(index, seed=3))
    again.load_state_dict(state)
    assert np.array_equal(again.take().token_id, first)
    again.close()


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    batches = Batches(make_sampler(small_index(tmp_path)))
    good = batches.state_dict()
    for change in ({"told": "x"}, {"told": [["x"]]}, {"more": 1}):
        with pytest.raises(ReplayError, match="not a sampler state"):
            batches.load_state_dict(good | change)
    batches.close()
