"""The supervisor of one run in a process of its own, for the tests to break: `python -m tests.chaos.supervise RUN [--without ROLE ...]`.

It does what launch.py does with a run's folder that is there already: a log on stderr, and an error in one line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydreaming.errors import PydreamingError
from workers import logs
from workers.layout import RunDir
from workers.supervisor import ALL, Role, Supervisor

ROOT = Path(__file__).resolve().parents[2]


def supervised(run: RunDir, *without: Role) -> dict[str, Any]:
    """What subprocess.run or Popen need to start all roles of a run but some."""
    left_out = ["--without", *without] if without else []
    return {"args": [sys.executable, "-m", "tests.chaos.supervise", str(run.path), *left_out], "cwd": ROOT}


def main() -> int:
    """The run's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--without", nargs="+", choices=sorted(ALL), default=[])
    options = parser.parse_args()
    run = RunDir(options.run)
    logs.begin("supervisor", run, console=sys.stderr)
    try:
        return Supervisor(run.path, run.read_config(), ALL - set(options.without)).run()
    except PydreamingError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
