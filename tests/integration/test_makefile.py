"""What make answers before it sets anything up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "RUNS", "VENV", "PORT", "DATA", "MODEL"}  # of `make test`, which may be what runs this
    own = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *words], capture_output=True, text=True, timeout=60, cwd=ROOT, env=own)


def test_help_lists_targets_and_variables() -> None:
    lines = make("help", "RUNS=elsewhere").stdout.splitlines()
    assert any(line.startswith("  make demo") for line in lines)
    assert lines[-1].startswith("variables: RUNS=elsewhere PORT=5000 VENV=.venv DATA=")


def test_the_gallery_asks_for_its_model() -> None:
    assert "set MODEL=<run trained on FSDD>" in make("--dry-run", "gallery").stderr
    done = make("--dry-run", "gallery", "MODEL=runs/digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert '--model "runs/digits"' in done.stdout
