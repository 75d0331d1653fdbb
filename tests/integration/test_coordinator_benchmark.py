"""The simulation of many workers against the real coordinator, small."""

from __future__ import annotations

from pathlib import Path

from benchmarks.coordinator import measure


def test_simulated_workers_are_served(tmp_path: Path) -> None:
    row = measure(tmp_path / "bench", workers=40, recordings=2000, stored=50, lease_s=0.5, warm_s=1.0, seconds=2.0)
    assert row["leases_per_s"] > 5  # 80 when the host is idle
    assert 0 < row["answer_ms_median"] < 2000
    assert 10e6 < 1e6 * row["rss_mb"] < 500e6
    assert 0 < row["cpu_share"] < 1.5
