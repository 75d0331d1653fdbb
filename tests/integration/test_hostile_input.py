"""The quick form of `python -m benchmarks.hostile`: the same code, fewer messages and files."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hostile import inputs
from benchmarks.hostile.messages import MEMORY, flood

ROOT = Path(__file__).resolve().parents[2]


def test_a_coordinator_withstands_hostile_messages(tmp_path: Path) -> None:
    withstood = flood(10_000, 0, tmp_path)
    assert withstood.messages / 2 < withstood.dropped < withstood.messages  # it did hear the others
    assert withstood.peak_rss < withstood.begin_rss + MEMORY
    assert withstood.log_bytes < 100 * withstood.messages


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = inputs.bombard(list(inputs.KINDS), 60, 7, tmp_path)
    assert [outcome.kind for outcome in outcomes] == list(inputs.KINDS)
    for outcome in outcomes:
        assert 10 < outcome.refused < 60
        assert outcome.peak_rss < outcome.begin_rss + inputs.MEMORY / 4


@pytest.mark.parametrize(
    ("deed", "named"),
    [
        ("pickle.loads(open('trap', 'rb').read())", "pickle.find_class"),
        ("os.system('true')", "os.system"),
        ("subprocess.run(['true'])", "subprocess.Popen"),
        ("open('../outside', 'w')", "open"),
        ("open('canary')", "opened"),
        ("os.remove('/tmp/nothing-there')", "os.remove"),
        ("bytearray(1 << 32)", "MemoryError"),
    ],
)
def test_the_confinement_itself_notices(tmp_path: Path, deed: str, named: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "canary").touch()
    (inside / "trap").write_bytes(pickle.dumps(os.getcwd))
    code = (
        "import os, pickle, subprocess\nfrom pathlib import Path\nfrom benchmarks.hostile.confine import Confinement, limit_memory\n"
        f"Confinement([Path()], Path('canary')).begin()\nlimit_memory(1 << 28)\n{deed}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=inside, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert named in done.stderr.splitlines()[-1]
