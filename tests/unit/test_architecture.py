"""The rules of the map: which room may import which, and who owns an I/O library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# errors, config < audio, models (never each other) < replay, objectives < training < evaluation, analysis < workers < launch
ALLOWED = {
    "errors": set(),
    "config_hints": {"errors"},
    "config_files": {"errors", "config_hints"},
    "config_checks": {"errors", "config"},  # the latter for its type alone
    "config": {"errors", "config_checks", "config_hints", "config_files"},
    "config_changes": {"config"},
    "config_public": {"errors", "config"},
    "keys": {"errors"},
    "tracking": {"errors", "config"},
    "audio": {"errors", "config"},
    "samples": {"errors", "config", "audio"},
    "models": {"errors", "config"},
    "replay": {"errors", "config", "audio"},
    "objectives": {"errors", "config", "models"},
    "training": {"errors", "config", "config_changes", "config_public", "audio", "models", "replay", "objectives"},
    "evaluation": {"errors", "config", "audio", "models", "replay", "objectives", "training"},
    "analysis": {"errors", "config", "config_public", "audio", "models", "replay", "objectives", "training", "evaluation", "tracking"},
    "cli": {"errors", "config", "audio", "models", "replay", "objectives", "training", "evaluation", "analysis", "tracking", "keys"},
    "hear": {"errors", "audio", "analysis"},
}
OWNERS = {
    "soundfile": {"pydreaming/audio/decode.py", "pydreaming/audio/encode.py", "pydreaming/samples/make_digits.py"},
    "torchaudio": {"pydreaming/audio/features.py", "pydreaming/audio/render.py", "pydreaming/samples/make_digits.py"},
    "pyarrow": {"pydreaming/replay/"},
    "prometheus_client": {"workers/exporter.py"},
    "structlog": {"workers/logs.py"},
    "zmq": {"workers/transport.py", "workers/doorman.py", "pydreaming/keys.py"},  # the last for the format of key files
    "mlflow": {"pydreaming/tracking/"},
}


def source_files() -> list[Path]:
    return sorted([*(ROOT / "pydreaming").rglob("*.py"), *(ROOT / "workers").rglob("*.py"), ROOT / "launch.py"])


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "pydreaming")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "pydreaming").parts[0].removesuffix(".py")


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = []
    for path in sorted((ROOT / "pydreaming").rglob("*.py")):
        room = room_of(path)
        if room == "__init__":
            continue  # offers WorldModel lazily
        for name in imported(path):
            parts = name.split(".")
            if parts[0] in ("workers", "launch"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if parts[0] == "pydreaming" and len(parts) > 1 and parts[1] not in {room, "__version__"} | ALLOWED[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_workers_do_not_import_the_launcher() -> None:
    # The demonstration is a command line in front of the launcher's.
    found = [path.name for path in (ROOT / "workers").rglob("*.py") if "launch" in imported(path)]
    assert found == ["demo.py"]


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_one_room_owns_each_io_library(library: str) -> None:
    strangers = [
        str(path.relative_to(ROOT))
        for path in source_files()
        if library in {name.split(".")[0] for name in imported(path)}
        and not any(str(path.relative_to(ROOT)).startswith(owner) for owner in OWNERS[library])
    ]
    assert strangers == []


def test_files_are_no_longer_than_a_room() -> None:
    long = {str(p.relative_to(ROOT)): n for p in source_files() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 420}
    assert long == {}


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [p for p in source_files() if p.stem in ("utils", "util", "helpers", "misc", "common")]


def test_importing_everything_has_no_side_effect(tmp_path: Path) -> None:
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in source_files() if p.name != "__init__.py"]
    code = f"""
import importlib, os, socket, sys, threading
sys.path.insert(0, {str(ROOT)!r})
before = set(os.listdir('.'))
for name in {modules!r}:
    importlib.import_module(name)
assert set(os.listdir('.')) == before, 'an import wrote a file'
assert threading.active_count() == 1, 'an import started a thread'
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, pydreaming, pydreaming.cli; assert 'torch' not in sys.modules; assert 'mlflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
