from dataclasses import replace

import numpy as np
import pytest

from pydreaming.audio.tokens import cut_tokens, join_tokens, num_frames, num_tokens, token_start_samples
from pydreaming.config import load_config

FEATURES = replace(load_config(["defaults"]).features, n_mels=2)


def ramp(count):
    """Frames that carry their own number."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 2, axis=1)


def cut(frames, features):
    return np.concatenate([np.empty((0, features.token_dim), np.float32), *cut_tokens(frames, features)])


@pytest.mark.parametrize(("width", "hop"), [(4, 4), (4, 2), (4, 1), (2, 5), (1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 29])
def test_token_i_covers_its_frames(width, hop, count):
    features = replace(FEATURES, token_frames=width, token_hop=hop)
    expected = [np.arange(i, i + width) for i in range(0, count - width + 1, hop)]
    for step in (1, 2, 7, 100):
        tokens = cut([ramp(count)[i : i + step] for i in range(0, count, step)], features)
        assert tokens[:, ::2].tolist() == [e.tolist() for e in expected]


@pytest.mark.parametrize(("width", "hop"), [(4, 4), (4, 2), (4, 1), (3, 2), (1, 1)])
def test_joining_undoes_cutting(width, hop):
    features = replace(FEATURES, token_frames=width, token_hop=hop)
    joined = join_tokens(cut([ramp(30)], features), features)
    np.testing.assert_array_equal(joined, ramp(len(joined)))
    assert len(joined) == (30 - width) // hop * hop + width


def test_joining_averages_overlaps_and_repeats_across_gaps():
    overlapping = replace(FEATURES, token_frames=2, token_hop=1)
    assert join_tokens(np.array([[0, 0, 1, 1], [3, 3, 5, 5]], np.float32), overlapping)[:, 0].tolist() == [0, 2, 5]
    apart = replace(FEATURES, token_frames=1, token_hop=3)
    assert join_tokens(np.array([[7, 7], [8, 8]], np.float32), apart)[:, 0].tolist() == [7, 7, 7, 8]


def test_joining_refuses_other_shapes():
    for wrong in (np.zeros((0, 8)), np.zeros((2, 7)), np.zeros(8)):
        with pytest.raises(ValueError, match="tokens must be"):
            join_tokens(wrong, FEATURES)


def test_counts():
    assert [num_frames(n, FEATURES) for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]
    assert [num_tokens(n, FEATURES) for n in (0, 1, 400, 880, 1519, 1520)] == [0, 1, 1, 1, 1, 2]
    assert token_start_samples(3, FEATURES).tolist() == [0, 640, 1280]
