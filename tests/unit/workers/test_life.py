from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from workers.life import LIFE_S, SignOfLife


def test_a_sign_is_a_file_that_is_touched_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    life = SignOfLife(path)
    life.show()
    os.utime(path, (0, 0))
    life.show()
    assert path.stat().st_mtime == 0  # one was given just now
    time.sleep(LIFE_S)
    life.show()
    assert path.stat().st_mtime > 0


def test_a_place_that_takes_none_is_told_once_until_it_has_taken_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "status" / "alive"
    life = SignOfLife(path)
    for warned in (1, 1):
        life.show()
        assert len(caplog.records) == warned
        time.sleep(LIFE_S)
    path.parent.mkdir()
    life.show()
    path.unlink()
    path.parent.rmdir()
    time.sleep(LIFE_S)
    life.show()
    assert len(caplog.records) == 2


def test_nobody_looks_for_it(tmp_path: Path) -> None:
    SignOfLife(None).show()
    assert not list(tmp_path.iterdir())
