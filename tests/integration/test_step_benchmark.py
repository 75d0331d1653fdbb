"""The benchmark of the training step runs, on a store that it makes itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_quick_run_gives_parts_operations_and_both_ways(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.step", "--quick", "--json", str(tmp_path / "out.json")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "plain / by hand" in printed
    assert all(min(values) > 0 for group in ("ms", "step_ms") for values in figures[group].values())
    assert 0 < figures["gflop"]["by hand"] < figures["gflop"]["plain"]  # valid steps alone


def test_threads_are_compared_alone_and_in_company(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.threads", "--quick", "--json", str(tmp_path / "threads.json")]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200).stdout
    assert "beside busy workers | as chosen |" in said
    found = json.loads((tmp_path / "threads.json").read_text())
    assert all(ms > 0 for by_threads in found.values() for values in by_threads.values() for ms in values)
