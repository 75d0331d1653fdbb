import msgspec
import numpy as np
import pytest

from pydreaming.audio.stats import MIN_STD, FeatureStats, StatsAccumulator, StatsSums, merge_stats


def parts(count=20):
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((int(rng.integers(1, 500)), 5)) * [1, 2, 3, 0, 1e-3] + [0, -9, 1e3, 4, -13]).astype(np.float32)
        for _ in range(count)
    ]


def summed(frames):
    accumulator = StatsAccumulator(frames.shape[1])
    accumulator.add(frames)
    return accumulator.sums()


def test_mean_and_deviation_are_numpys():
    every = np.concatenate(parts()).astype(np.float64)
    stats = merge_stats([summed(p) for p in parts()], 5)
    assert stats.frames == len(every)
    np.testing.assert_allclose(stats.mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, np.maximum(every.std(axis=0), MIN_STD), rtol=1e-6)
    assert stats.std[3:] == [MIN_STD, MIN_STD]


def test_the_order_of_parts_changes_nothing():
    sums = [summed(p) for p in parts()]
    assert merge_stats(sums, 5) == merge_stats(sums[::-1], 5)


def test_merging_in_any_order_agrees_to_rounding():
    sums = [summed(p) for p in parts()]
    forward, backward = StatsAccumulator(5), StatsAccumulator(5)
    for s in sums:
        forward.merge(s)
    for s in sums[::-1]:
        backward.merge(s)
    np.testing.assert_allclose(forward.finish().mean, backward.finish().mean, rtol=1e-13)
    np.testing.assert_allclose(forward.finish().std, backward.finish().std, rtol=1e-9)


def test_sums_survive_a_message():
    sums = summed(parts()[0])
    assert msgspec.json.decode(msgspec.json.encode(sums), type=StatsSums) == sums
    stats = merge_stats([sums], 5)
    assert msgspec.json.decode(msgspec.json.encode(stats), type=FeatureStats) == stats


def test_what_cannot_be_sums_is_refused():
    accumulator = StatsAccumulator(5)
    good = summed(parts()[0])
    for wrong in (
        StatsSums(-1, good.total, good.square),
        StatsSums(3, good.total[:4], good.square),
        StatsSums(3, good.total, [*good.square, 1.0]),
        StatsSums(3, [float("nan")] * 5, good.square),
    ):
        with pytest.raises(ValueError, match=r"sums must be|finite"):
            accumulator.merge(wrong)
        with pytest.raises(ValueError, match=r"sums must be|finite"):
            merge_stats([good, wrong], 5)
    for frames in (np.zeros((3, 4)), np.zeros(5), np.full((2, 5), np.nan)):
        with pytest.raises(ValueError, match="frames must be"):
            accumulator.add(frames)
    with pytest.raises(ValueError, match="no frames were added"):
        accumulator.finish()
    with pytest.raises(ValueError, match="no frames were added"):
        merge_stats([], 5)
