"""What processes do not load: each second of imports is paid before the first step."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SLOW = {"mlflow", "matplotlib", "sklearn", "pandas", "torchaudio", "soundfile", "scipy"}


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("launch", {"torch", "pyarrow", *SLOW}),
        ("workers.supervisor", {"torch", *SLOW} - {"soundfile"}),
        ("workers.learner", {"mlflow", "matplotlib", "sklearn", "pandas", "scipy"}),
        ("workers.audio_worker", {"mlflow", "matplotlib", "sklearn", "pandas", "scipy"}),
        ("workers.coordinator", {"mlflow", "matplotlib", "sklearn", "pandas", "scipy"}),
    ],
)
def test_a_role_does_without_slow_imports(module: str, slow: set[str]) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120).stdout)
    assert not slow & set(loaded)
