"""The table of targets, from figures as the parts of the benchmark leave them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frontend, replay
from benchmarks.targets import TARGETS, Target, load, main, report


@pytest.fixture
def figures() -> dict[str, Any]:
    """Two repeats of everything; the ratio of any two ways is 1, but for the peer's step."""
    same: defaultdict[str, list[float]] = defaultdict(lambda: [2.0, 2.0])
    rows = [{"tokens": n, "open_s": 0.5, "index_mb": 15.0, "uniform_us": 10.0, "curious_us": 14.0} for n in (12_288, 1_003_520, 10_002_432)]
    filter_and_token = {"ours, filter": [4.0, 3.0], "ours, token": [4.0, 3.0]}
    peers = {"pydreamer": [6.0, 6.0], **filter_and_token}
    return {
        "frontend": {"ratios": frontend.compare(same, "10 s", "600 s", "0.5 s")},
        "replay": {replay.SAMPLING: same, replay.WRITING: same},
        "store": rows,
        "step": {"step_ms": {"by hand": [2.0, 2.0], "plain": [3.0, 3.0]}, "peak": [70.0, 70.0]},
        "peers": {"ms": peers, "gflop": dict.fromkeys(filter_and_token, 0.2), "peak": [100.0, 50.0]},
        "whole": {
            "start": {"first_step_s": [4.0, 5.0]},
            "busy": {"data_wait": 0.01},
            "append_us": {"cpu": [9.0] * 200},
            "append_us_in_the_run": [60.0],
        },
    }


def test_every_part_has_what_its_targets_read(figures: dict[str, Any]) -> None:
    table = report(figures, "here")
    assert "not measured" not in table
    assert table.count("\n|") == len(TARGETS) + 1


def test_medians_ranges_and_verdicts(figures: dict[str, Any]) -> None:
    lines = report(figures, "here").splitlines()
    assert "| RSSM step, filter / pydreamer | 1.75 | 1.5 – 2 | ≥ 1.4 | met |" in lines
    assert "| RSSM step, token / pydreamer | 1.75 | 1.5 – 2 | ≥ 1.8 | **missed** |" in lines
    assert "| RSSM step, filter: share of the peak | 0.9167 | 0.5 – 1.333 | ≥ 0.7 | met |" in lines
    assert "| 10⁷ tokens: the same | 1.4 |  | ≤ 1.3 | **missed** |" in lines
    assert "| 10⁷ tokens: index, MB | 15 |  | ≤ 200 | met |" in lines
    assert "| training step: plain / by hand | 1.5 | 1.5 – 1.5 |  |  |" in lines
    assert "| training thread waits for data, % of its time | 1 |  | ≤ 2 | met |" in lines


@pytest.mark.parametrize(
    ("value", "at_least", "verdict"), [(1.4, True, "met"), (1.4, False, "met"), (1.39, True, "**missed**"), (1.41, False, "**missed**")]
)
def test_a_bound_that_is_just_reached_is_met(value: float, at_least: bool, verdict: str) -> None:
    assert Target("x", "p", lambda figures: [value], 1.4, at_least).row({"p": None}).endswith(f"| {verdict} |")


def test_what_is_missed_by_little_does_not_look_as_if_it_were_met() -> None:
    assert Target("x", "p", lambda figures: [1.396], 1.4).row({"p": None}) == "| x | 1.396 |  | ≥ 1.4 | **missed** |"


def test_what_did_not_run_is_not_measured(figures: dict[str, Any]) -> None:
    del figures["whole"]
    del figures["peers"]["ms"]["pydreamer"]
    figures["store"] = figures["store"][:1]
    lines = [line for line in report(figures, "here").splitlines() if "not measured" in line]
    assert len(lines) == 4 + 2 + 2 + 2


def test_from_files(figures: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no figures; make bench leaves them" in capsys.readouterr().err
    (tmp_path / "store.json").write_text(json.dumps(figures["store"]))
    assert load(tmp_path) == {"store": figures["store"]}
    (tmp_path / "step.json").write_text(json.dumps(figures["step"]))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| 10⁷ tokens: to open, s of CPU | 0.5 |" in out
    assert "70 GFLOP/s" in out
