"""Cases of the builder that the properties do not name; see tests/property/test_replay_properties.py."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.replay.builder import ClipInfo, EpisodeBuilder

A, B = ClipInfo(0, "a.wav", "cat", "ann"), ClipInfo(1, "b.wav")


def arrays(steps: int, value: float = 0.0):
    return np.full((steps, 2), value), np.zeros((steps, 1)), np.arange(steps) * 160


def test_one_left_over_token_stays_with_the_episode_before():
    builder = EpisodeBuilder("g", 4)
    assert builder.add_tokens(*arrays(5), True, A) == []
    assert [len(e) for e in builder.finish()] == [5]
    assert [len(e) for e in builder.add_tokens(*arrays(6), True, A)] == [4]
    assert [len(e) for e in builder.finish()] == [2]
    assert builder.finish() == []


def test_a_continuation_begins_anew_and_keeps_its_labels():
    builder = EpisodeBuilder("g", 4)
    first, second = builder.add_tokens(*arrays(6), True, A) + builder.finish()
    assert first.is_first.tolist() == [True, False, False, False]
    assert second.is_first.tolist() == [True, False]
    (clip,) = second.clips
    assert (clip.start, clip.item, clip.path, clip.start_sample, clip.label, clip.speaker) == (0, 0, "a.wav", 640, "cat", "ann")


def test_a_cut_between_two_chunks_of_a_clip_is_marked_too():
    builder = EpisodeBuilder("g", 4)
    episodes = [e for k in range(3) for e in builder.add_tokens(*arrays(4), k == 0, A)] + builder.finish()
    assert [e.is_first.tolist() for e in episodes] == [[True, False, False, False]] * 3


def test_the_callers_buffer_may_be_used_again():
    builder, (tokens, action, start) = EpisodeBuilder("g", 4), arrays(3, value=1.0)
    tokens = tokens.astype(np.float16)
    builder.add_tokens(tokens, action, start, True, A)
    tokens[:] = 9
    assert (builder.finish()[0].tokens == 1).all()


def test_wrong_input_is_refused_and_changes_nothing():
    builder = EpisodeBuilder("g", 4)
    with pytest.raises(ValueError, match="not begun"):
        builder.add_tokens(*arrays(2), False, A)
    builder.add_tokens(*arrays(2), True, A)
    for wrong, message in [
        ((np.zeros((2, 2)), np.zeros((3, 1)), np.arange(2)), "shapes disagree"),
        ((np.zeros(2), np.zeros((2, 1)), np.arange(2)), "shapes disagree"),
        (arrays(2, np.nan), "not finite"),
        (arrays(2, 1e6), "not finite"),  # beyond float16
    ]:
        with pytest.raises(ValueError, match=message):
            builder.add_tokens(*wrong, True, B)
    with pytest.raises(ValueError, match="not begun"):
        builder.add_tokens(*arrays(2), False, B)
    with pytest.raises(ValueError, match="at least one token"):
        builder.add_tokens(*arrays(0), True, B)
    assert builder.add_tokens(*arrays(0), False, A) == []
    (episode,) = builder.finish()
    assert len(episode) == 2
    with pytest.raises(ValueError, match="not begun"):  # the group has ended
        builder.add_tokens(*arrays(2), False, A)
    with pytest.raises(ValueError, match="at least 2"):
        EpisodeBuilder("g", 1)
