from __future__ import annotations

import errno
import fcntl
import os
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
