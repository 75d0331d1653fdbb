"""How far ahead: every form of model is asked, what cannot be asked is counted, and verdicts are no luckier than their intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_checkpoint, write_sweep

from pydreaming.analysis.inputs import Recording, find_recordings, named_file
from pydreaming.analysis.surprise.horizon import ALL, Horizon, Measuring, Step, _step, horizon, mixed, write_horizon
from pydreaming.analysis.surprise.horizon_pictures import MOST, draw_horizon, drawn_groups
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, UsageError

STEPS = (1, 2, 4)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Two folders, which are labels, of 15 and 25 windows; and a clip of a single window."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(4):
        write_sweep(folder / "short" / f"{i}.wav", 0.62, seed=i)
        write_sweep(folder / "long" / f"{i}.wav", 1.02, seed=10 + i)
    write_sweep(folder / "long" / "tiny.wav", 0.02)
    return list(find_recordings([folder]))


def test_every_form_of_model_is_asked(each: WorldModel, sounds: list[Recording]) -> None:
    result = horizon(each, sounds, by="label", context=4, steps=STEPS, samples=2)
    assert list(result.groups) == [ALL, "long", "short"]
    assert result.recordings == 9
    for steps in result.groups.values():
        assert [step.k for step in steps] == list(STEPS)
        for step in steps:
            assert step.ahead_s == pytest.approx(0.04 * step.k)
            assert 0 <= step.retrieval_low <= step.retrieval <= step.retrieval_high <= 1
            assert step.gain_low_bits <= step.gain_bits <= step.gain_high_bits
            assert step.recordings in (4, 8)
    every, long, short = result.groups.values()
    for a, b, c in zip(every, long, short, strict=True):
        assert a.predictions == b.predictions + c.predictions
        assert a.retrieval * a.predictions == pytest.approx(b.retrieval * b.predictions + c.retrieval * c.predictions)


def test_recordings_that_are_too_short_are_left_out_and_counted(model: WorldModel, sounds: list[Recording]) -> None:
    result = horizon(model, sounds, context=12, steps=(1, 8), samples=2)
    assert result.too_short == {1: 1, 8: 5}  # the short ones have 15 windows
    assert [step.recordings for step in result.groups[ALL]] == [8, 4]


def test_the_same_seed_gives_the_same_figures(model: WorldModel, sounds: list[Recording]) -> None:
    a, b, c = (horizon(model, sounds, context=4, steps=(1,), samples=2, seed=seed).groups[ALL] for seed in (0, 0, 1))
    assert a == b
    assert a != c
    assert sorted(r.name for r in mixed(sounds)) == sorted(r.name for r in sounds)
    assert mixed(sounds) != sounds


def test_a_single_recording_is_resampled_by_its_stretches(model: WorldModel, tmp_path: Path) -> None:
    one, two = (named_file(write_sweep(tmp_path / f"{s}.wav", s, seed=3)) for s in (9.0, 0.6))
    by_source = horizon(model, [one, two], by="source", context=4, steps=(1,), samples=2)
    assert np.isfinite(by_source.groups[one.name][0].retrieval_low)
    assert np.isnan(by_source.groups[two.name][0].retrieval_low)
    assert not by_source.groups[two.name][0].better
    assert list(horizon(model, [two], by="corpus", context=4, steps=(1,), samples=2).groups) == [ALL, str(tmp_path)]


def test_what_cannot_be_asked(model: WorldModel, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "cpc", steps=1, objective__name="cpc")
    with pytest.raises(UsageError, match="'cpc', which trains no latents"):
        Measuring(WorldModel.load(tmp_path / "cpc", "cpu"))
    with pytest.raises(UsageError, match="from 1 on"):
        Measuring(model, steps=[0])
    with pytest.raises(UsageError, match="no recording is longer than one window"):
        horizon(model, [named_file(write_sweep(tmp_path / "tiny.wav", 0.02))])
    with pytest.raises(UsageError, match=r"no recording is longer than 100 windows \(--steps\)"):
        horizon(model, [named_file(write_sweep(tmp_path / "short.wav", 0.6))], steps=(100, 200))
    (tmp_path / "text.wav").write_text("no sound")
    good, bad = named_file(write_sweep(tmp_path / "good.wav", 0.6)), named_file(tmp_path / "text.wav")
    with pytest.raises(DecodeError):
        horizon(model, [bad])
    failed: list[str] = []
    assert horizon(model, [bad, good], context=4, steps=(1,), samples=2, failed=lambda error: failed.append(error.path)).recordings == 1
    assert failed == [str(tmp_path / "text.wav")]


@pytest.mark.parametrize(("spread", "better"), [(0.05, True), (2.0, False)])
def test_better_means_by_the_interval_of_the_differences(spread: float, better: bool) -> None:
    random = np.random.default_rng(0)
    counts = np.full(40, 5.0)
    noise = spread * random.standard_normal(40)
    means = {"retrieval": 0.5 + noise, "retrieval_copy": np.full(40, 0.3), "chance": np.full(40, 0.1)}
    means |= {"gain": 2 + noise, "gain_copy": np.ones(40)}
    step = _step(1, 0.04, counts, {name: values * counts for name, values in means.items()}, 40, random)
    assert step.better is better
    assert step.retrieval == pytest.approx(means["retrieval"].mean())
    assert step.gain_bits == pytest.approx(means["gain"].mean() / np.log(2))
    assert step.predictions == 200


def steps_of(*better: bool) -> list[Step]:
    return [Step(2**i, 0.04 * 2**i, 0.5, 0.4, 0.6, 0.1, 0.01, 3.0, 2.0, 4.0, -9.0, ok, 10 * (i + 1), 5) for i, ok in enumerate(better)]


def test_sentences() -> None:
    groups = {ALL: steps_of(True, True, False, True), "a": steps_of(True), "b": steps_of(False)}
    result = Horizon(groups, 5, {}, 0.04)
    assert result.sentence() == "all: better than copying the last window and the average code up to 2 windows ahead (0.08 s)"
    assert result.sentence("a").endswith("up to 1 window ahead (0.04 s)")
    assert result.sentence("b") == "b: not better than copying the last window and the average code, even 1 window ahead (0.04 s)"


def test_table_and_picture(tmp_path: Path) -> None:
    groups = {ALL: steps_of(True, True)} | {f"g{i}": steps_of(*[True] * (i + 1)) for i in range(7)}
    result = Horizon(groups, 5, {1: 0, 2: 3}, 0.04)
    write_horizon(tmp_path / "h.npz", result, {"by": "label"})
    with np.load(tmp_path / "h.npz") as table:
        assert table["group"].tolist()[:3] == [ALL, ALL, "g0"]
        assert table["k"].tolist()[:3] == [1, 2, 1]
        about = json.loads(str(table["metadata"]))
    assert about["recordings_too_short"] == {"1": 0, "2": 3}
    assert len(about["verdicts"]) == 8
    assert drawn_groups(result) == [f"g{i}" for i in range(7 - MOST, 7)]
    assert draw_horizon(tmp_path / "h.png", result).stat().st_size > 20_000
