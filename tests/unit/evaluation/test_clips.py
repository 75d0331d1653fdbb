"""Recordings put together again from replay stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_model import write_sweep

from pydreaming.audio.sources import Catalogue
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.evaluation.clips import read_clips
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.schema import StoreMeta
from pydreaming.replay.writer import ShardWriter

CONFIG = load_config(["defaults"], ["--features.n_mels", "2", "--features.token_frames", "2", "--features.token_hop", "2"])
META = StoreMeta.of(CONFIG.features, FeatureStats([0.0] * 2, [1.0] * 2, 10), CONFIG.action)


def tokens_of(item: int, steps: int) -> np.ndarray:
    return np.repeat((item + np.arange(steps) / 64)[:, None], 4, 1).astype(np.float16)


def store(folder: Path, clips: list[tuple[str, int, int, str, str]], episode_tokens: int = 8) -> ReplayIndex:
    """A store of (group, item, steps, label, speaker); clips of one group share episodes of so many tokens, one episode to a file."""
    with ShardWriter(folder, shard_prefix(0, 0), META, shard_episodes=1) as writer:
        for group in dict.fromkeys(clip[0] for clip in clips):
            builder = EpisodeBuilder(group, episode_tokens)
            for name, item, steps, label, speaker in clips:
                if name == group:
                    info = ClipInfo(item, f"{item}.wav", label, speaker)
                    starts = np.arange(steps) * CONFIG.features.token_stride_samples
                    for episode in builder.add_tokens(tokens_of(item, steps), np.full((steps, 1), item, np.float32), starts, True, info):
                        writer.add(episode)
            for episode in builder.finish():
                writer.add(episode)
        writer.commit()
    index = ReplayIndex(folder)
    index.refresh()
    return index


def test_long_recordings_are_joined_over_episodes_in_order(tmp_path: Path) -> None:
    heard = store(tmp_path / "heard", [("g", 0, 3, "a", "ann"), ("g", 1, 90, "b", ""), ("h", 2, 1, "", "bob")])
    held_out = store(tmp_path / "held", [("g", 3, 20, "a", "ann")])
    assert heard.episodes > 11
    clips = read_clips(heard, held_out)
    assert len(clips) == 4
    order = np.argsort(clips.paths).tolist()
    assert clips.paths[order].tolist() == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert clips.labels[order].tolist() == ["a", "b", "", "a"]
    assert clips.speakers[order].tolist() == ["ann", "", "bob", "ann"]
    assert clips.groups[order].tolist() == ["g", "g", "h", "g"]
    assert clips.held_out[order].tolist() == [False, False, False, True]
    for item, steps in ((0, 3), (1, 90), (2, 1), (3, 20)):
        assert clips.tokens[order[item]].dtype == np.float32
        np.testing.assert_array_equal(clips.tokens[order[item]], tokens_of(item, steps).astype(np.float32))
        np.testing.assert_array_equal(clips.actions[order[item]], np.full((steps, 1), item, np.float32))


def test_the_same_recording_in_both_stores_stays_two_clips(tmp_path: Path) -> None:
    spec = [("g", 0, 5, "", "")]
    clips = read_clips(store(tmp_path / "heard", spec), store(tmp_path / "held", spec))
    assert sorted(clips.held_out.tolist()) == [False, True]


def test_channels_of_one_item_are_clips_of_their_own(tmp_path: Path) -> None:
    clips = read_clips(store(tmp_path, [("r#ch1", 0, 12, "", ""), ("r#ch2", 0, 12, "", "")]), None)
    assert sorted(clips.groups.tolist()) == ["r#ch1", "r#ch2"]
    assert [len(x) for x in clips.tokens] == [12, 12]


def test_the_recording_is_what_channels_and_segments_have_in_common(tmp_path: Path) -> None:
    clips = read_clips(
        store(tmp_path, [("recording:r#ch1", 0, 4, "", ""), ("recording:r#ch2", 1, 4, "", ""), ("speaker:ann", 2, 4, "", "")]), None
    )
    assert sorted(clips.recordings.tolist()) == ["recording:2.wav", "recording:r", "recording:r"]
    assert clips.folds is None


def test_folds_come_from_the_catalogue(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    for name in ("001 - Dog/1-100-A.wav", "001 - Dog/2-200-A.wav", "002 - Rain/1-300-A.wav"):
        write_sweep(audio / name, 0.2)
    config = load_config(["defaults"], ["--source.kind", "esc50", "--source.path", str(audio)])
    catalogue = Catalogue.build(config.source, config.action, 0, tmp_path / "catalogue")
    spec = [(item.group, item.index, 4, item.labels["label"], "") for item in catalogue]
    clips = read_clips(store(tmp_path / "store", spec), None, catalogue)
    assert clips.folds is not None
    found = dict(zip(clips.groups.tolist(), clips.folds.tolist(), strict=True))
    assert found == {"recording:100": "1", "recording:200": "2", "recording:300": "1"}


def test_nothing_stored_is_no_clips(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = ReplayIndex(tmp_path / "empty")
    empty.refresh()
    for heard in (None, empty):
        clips = read_clips(heard, empty)
        assert len(clips) == 0
        assert clips.labels.shape == (0,)
