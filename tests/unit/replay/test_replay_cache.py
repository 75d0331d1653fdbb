"""Copies of distant files: bounded, checked, shared, and never in the way."""

from __future__ import annotations

import os
import re
import time

import numpy as np
import pytest

from pydreaming.errors import ReplayError
from pydreaming.replay.cache import DIGEST, Cache, key_of


def content(seed: int, size: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def sizes(cache: Cache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_a_copy_comes_back_and_another_process_finds_it(tmp_path):
    cache = Cache(tmp_path / "c", 10**6)
    assert cache.get("a", 1000) is None
    assert np.array_equal(cache.put("a", content(1)), content(1))
    again = Cache(tmp_path / "c", 10**6).get("a", 1000)
    assert again is not None
    assert np.array_equal(again, content(1))
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("how", ["flipped", "torn", "longer", "empty", "digest"])
def test_a_damaged_copy_is_no_copy_and_goes(tmp_path, how):
    Cache(tmp_path, 10**6).put("a", content(1))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if how in ("flipped", "digest"):
        data[500 if how == "flipped" else -1] ^= 1
    path.write_bytes({"torn": data[:700], "longer": data + b"x", "empty": b""}.get(how, bytes(data)))
    cache = Cache(tmp_path, 10**6)
    assert cache.get("a", 1000) is None
    assert np.array_equal(cache.put("a", content(1)), content(1))
    assert cache.get("a", 1000) is not None


def test_a_copy_of_another_length_is_not_taken(tmp_path):
    Cache(tmp_path, 10**6).put("a", content(1))
    assert Cache(tmp_path, 10**6).get("a", 999) is None


def test_it_stays_below_its_limit_and_keeps_what_is_used(tmp_path):
    each = 1000 + DIGEST
    cache = Cache(tmp_path, 10 * each)
    for number in range(60):
        cache.put(f"k{number}", content(number))
        if number >= 1:
            assert cache.get("k0", 1000) is not None  # used all the time
        assert sizes(cache) <= 10 * each
    assert cache.get("k59", 1000) is not None
    assert cache.get("k30", 1000) is None
    assert len(cache._mapped) <= 10


def test_what_another_process_left_goes_first(tmp_path):
    each = 1000 + DIGEST
    old = Cache(tmp_path, 10 * each)
    for number in range(9):
        old.put(f"old{number}", content(number))
    new = Cache(tmp_path, 10 * each)
    for number in range(8):
        new.put(f"new{number}", content(number))
    assert sizes(new) <= 10 * each
    assert all(new.get(f"new{number}", 1000) is not None for number in range(8))


def test_a_copy_in_use_stays_readable_when_it_is_removed(tmp_path):
    cache = Cache(tmp_path, 10**6)
    data = cache.put("a", content(1))
    cache.drop("a")
    cache.drop("a")
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(data, content(1))


def test_one_file_may_be_larger_than_the_limit(tmp_path):
    cache = Cache(tmp_path, 10)
    assert np.array_equal(cache.put("a", content(1)), content(1))
    assert sizes(cache) <= 10


def test_unfinished_copies_of_the_dead_go_and_of_the_living_stay(tmp_path):
    for name, age in (("x.copy.tmp-1", 1e5), ("y.copy.tmp-2", 1.0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    Cache(tmp_path, 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["y.copy.tmp-2"]


def test_a_disk_that_refuses_costs_the_copy_only(tmp_path, caplog):
    cache = Cache(tmp_path / "c", 10**6)
    (tmp_path / "c").rmdir()
    for _ in range(2):
        assert np.array_equal(cache.put("a", content(1)), content(1))
    assert cache.get("a", 1000) is None
    assert caplog.text.count("no copy can be kept") == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplayError, match=r"replay\.cache"):
        Cache(tmp_path / "file" / "c", 10)


def test_keys_are_safe_names_whatever_they_stand_for():
    keys = {key_of(*parts) for parts in (("../../etc/passwd", 1), ("a/b", 1), ("a", "b/1"), ("a", 11), ("a1", 1), ("\0", 2))}
    assert len(keys) == 6
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in keys)
