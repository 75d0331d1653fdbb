from __future__ import annotations

from pathlib import Path

import pytest

from pydreaming.errors import ReplayError
from pydreaming.replay.census import take_census


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not much more")
    with pytest.raises(ReplayError, match=r"x\.parquet"):
        take_census(tmp_path / "x.parquet")
