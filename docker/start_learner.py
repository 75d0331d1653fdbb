"""Entry point of the learner's container: starts the run the first time, and goes on with it after every restart.

    python start_learner.py --configs defaults folder --run.dir /runs --run.name main ...

A container is started again with the words it was first started with, while `launch.py` refuses to begin a run twice. So, where the
folder of the run holds one, the presets are replaced by --resume; single settings keep applying.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import launch
from pydreaming.errors import PydreamingError, UsageError


def command(arguments: Sequence[str]) -> list[str]:
    """Arguments of launch.py. Raises PydreamingError: a wrong setting, or a run without a name."""
    options, overrides = launch.parse(arguments)
    config, run_dir = launch.resolve(options, overrides)
    if not config.run.name:
        raise UsageError("set --run.name: after a restart the run is found by it")
    if (run_dir / "config.yaml").is_file():
        return ["--role", "learner", "--resume", str(run_dir), *overrides]
    return ["--role", "learner", *arguments]


def main(arguments: Sequence[str]) -> int:
    """The exit code of launch.py, or 2 for a wrong setting."""
    try:
        return launch.main(command(arguments))
    except PydreamingError as e:
        sys.stderr.write(f"error: {e}\n")
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
