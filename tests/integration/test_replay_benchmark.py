"""The benchmark behind README's replay figures runs, and its ways all do their work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run_prints_tables_and_writes_json(tmp_path, bucket):
    command = [sys.executable, "-m", "benchmarks.replay", "--quick", "--json", str(tmp_path / "out.json"), "--s3", bucket.location]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert set(figures) == {"sampling, sequences/s", "writing, MB/s", "a sequence from a store, µs"}
    assert all(len(values) == 2 and min(values) > 0 for ways in figures.values() for values in ways.values())
    for ways in figures.values():
        for way in ways:
            assert f"| {way} |" in done.stdout
    assert bucket.names() == []
