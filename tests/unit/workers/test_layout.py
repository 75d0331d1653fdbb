from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pydreaming.errors import UsageError
from workers.layout import hold, replace_json


def test_a_folder_is_held_by_one_launch_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(UsageError, match="is at work"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_a_file_system_without_locks_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match=r"cannot be locked .*--run\.dir"), hold(tmp_path):
        pass


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    replace_json(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 1\n}'
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_process_waits_for_its_predecessor_and_not_for_other_roles(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from workers.layout import hold\n"
        "with hold(Path(sys.argv[1]), 'learner'): print(1, flush=True); time.sleep(float(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "1.5"], stdout=subprocess.PIPE) as earlier:
        assert earlier.stdout is not None
        assert earlier.stdout.readline() == b"1\n"
        with hold(tmp_path), hold(tmp_path, "coordinator"):
            pass
        with pytest.raises(UsageError, match=rf"another learner .*pid {earlier.pid}\)"), hold(tmp_path, "learner"):
            pass
        with hold(tmp_path, "learner", wait_s=60.0):
            assert earlier.wait(60) == 0
