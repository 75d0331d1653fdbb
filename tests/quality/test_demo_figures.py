"""The figures that the demonstration promises, on real speech: trains for five minutes (make quality)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.demo import run_demo

pytestmark = [pytest.mark.quality, pytest.mark.timeout(1200)]


def test_the_demo_reaches_its_figures_on_fsdd(data_dir: Path, tmp_path: Path) -> None:
    result = run_demo(data_dir / "fsdd", tmp_path, seed=0)
    probes = {(p["protocol"], p["features"]): p["linear"] for p in result["probes"] if p["label"] == "label"}
    ours = probes["leave-one-speaker-out", "world model"]
    assert ours >= 0.85
    assert ours > max(value for (protocol, name), value in probes.items() if protocol == "leave-one-speaker-out" and "log-mel" in name)
    assert ours > probes["leave-one-speaker-out", "untrained network"]
    assert result["open_loop"]["candidates"] == 256
    assert result["open_loop"]["retrieval"]["1"] >= 0.50
    assert min(result["open_loop"]["gain"].values()) > 0
    assert result["open_loop"]["error"] < min(result["open_loop"]["error_copy"], result["open_loop"]["error_mean"])
    assert result["counters"]["seconds"] <= 360
