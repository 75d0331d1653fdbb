"""Segments: the evaluation's curve in bounded memory, peaks above a threshold, and tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tiny_model import RATE, sweep

from pydreaming.analysis.surprise.calibration import Calibration
from pydreaming.analysis.surprise.curves import surprise_stream
from pydreaming.analysis.surprise.normal import calibrate
from pydreaming.analysis.surprise.segment import Restarts, Segments, segment, write_segments
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.stages import run
from pydreaming.errors import UsageError
from pydreaming.evaluation.boundaries import Picker, boundary_scores

STRIDE = 0.04


def joined(count: int = 12) -> tuple[np.ndarray, int]:
    return np.concatenate([sweep(0.5, seed=i) for i in range(count)]), RATE


def scores_of(model: WorldModel) -> np.ndarray:
    tokens = model.tokens(joined()).values
    random = np.random.default_rng(0)
    action = np.zeros(model.config.action.dim, np.float32)
    return boundary_scores(model.net, model.objective, model.features, tokens, action, random)["restart"] / math.log(2)


def test_the_curve_is_the_evaluation_s_in_parts_of_any_size(each: WorldModel) -> None:
    expected = scores_of(each)
    stream = list(surprise_stream(each, joined()))
    tokens, kl = stream[0][0], stream[0][1]["kl"]
    for cuts in ([], [3, 4, 50], list(range(1, len(tokens), 4))):
        parts = zip(np.split(tokens, cuts), np.split(kl, cuts), strict=True)
        found = np.concatenate(list(run(Restarts(each), [(part, {"kl": curve}) for part, curve in parts])))
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_only_a_few_windows_are_held_back(model: WorldModel) -> None:
    restarts = Restarts(model)
    tokens = model.tokens(joined()).values
    for begin in range(0, 140, 20):
        (scored,) = restarts.push((tokens[begin : begin + 20], {"kl": np.zeros(20, np.float32)}))
        assert len(scored) == (15 if begin == 0 else 20)


def test_boundaries_are_peaks_above_the_threshold(model: WorldModel) -> None:
    scores = scores_of(model)
    for sensitivity, threshold in ((0.5, 0.0), (0.45, 3.0), (0.55, -3.0)):
        found = segment(model, joined(), sensitivity)
        peaks = Picker(2, 1.0)(scores)
        assert np.rint(found.start_s / STRIDE).astype(int).tolist() == [0, *(t for t in peaks if t and scores[t] > threshold)]
        assert math.isnan(found.strength_bits[0])
        assert (found.strength_bits[1:] > threshold).all()
        np.testing.assert_array_equal(found.end_s[:-1], found.start_s[1:])
        assert found.p is None
    counts = [len(segment(model, joined(), sensitivity)) for sensitivity in (0, 0.4, 0.5, 0.6, 1)]
    assert counts == sorted(counts)
    assert np.diff(segment(model, joined(), 1, minimum_s=0.5).start_s).min() > 0.5 - 1e-9


def test_a_sound_of_one_window_is_one_segment(model: WorldModel) -> None:
    found = segment(model, (sweep(0.01), RATE))
    assert (found.start_s.tolist(), found.end_s.tolist()) == ([0.0], [pytest.approx(0.055)])
    assert found.labels == [(0.0, pytest.approx(0.055), "1")]


@pytest.fixture(scope="module")
def calibrated(model: WorldModel) -> Calibration:
    return calibrate(model, [(sweep(0.8, seed=i), RATE) for i in range(40)])


def test_a_calibration_says_how_many(model: WorldModel, calibrated: Calibration) -> None:
    found = segment(model, joined(), calibration=calibrated, p=0.2)
    assert found.p is not None
    assert (found.p[1:] <= 0.2).all()
    expected = scores_of(model)[np.rint(found.start_s[1:] / STRIDE).astype(int)]
    np.testing.assert_allclose(found.strength_bits[1:], expected, atol=1e-5)
    assert len(segment(model, joined(), calibration=calibrated, p=0.05)) <= len(found)


@pytest.mark.parametrize(
    "words", [{"sensitivity": 1.1}, {"sensitivity": math.nan}, {"minimum_s": -1.0}, {"minimum_s": math.nan}, {"p": 0.0}]
)
def test_wrong_wishes(model: WorldModel, words: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        segment(model, joined(2), **words)


def test_table(tmp_path: Path) -> None:
    one = Segments(np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.array([np.nan, 5.0]))
    write_segments(tmp_path / "s.npz", [("a", one), ("b", one)])
    with np.load(tmp_path / "s.npz") as table:
        assert set(table.files) == {"source", "segment", "start_s", "end_s", "strength_bits", "metadata"}
        assert table["segment"].tolist() == [1, 2, 1, 2]
        assert table["source"].tolist() == ["a", "a", "b", "b"]
