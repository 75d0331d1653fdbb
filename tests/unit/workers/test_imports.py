"""What processes do not load: each second of imports is paid before the first step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


FIRST_LEASE = """
import json, sys
from pathlib import Path
import workers.audio_worker
from pydreaming.audio.sources import Catalogue
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from workers.produce import Producer
audio, work = map(Path, sys.argv[1:])
config = load_config(["defaults"], ["--source.kind", "folder", "--source.path", str(audio)])
catalogue = Catalogue.build(config.source, config.action, 0, work / "catalogue")
producer = Producer(config, audio, work)
producer.warm_up()
before = set(sys.modules)
bands = config.features.n_mels
files, unreadable = producer.produce(0, 0, list(catalogue), FeatureStats([0.0] * bands, [1.0] * bands, 1))
print(json.dumps([len(files), len(unreadable), sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""


def test_the_first_lease_of_a_worker_loads_nothing_more(recordings: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_LEASE, str(recordings(2)), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert json.loads(said) == [1, 0, []]
