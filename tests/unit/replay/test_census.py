from __future__ import annotations

import numpy as np
import pytest

from pydreaming.errors import ReplayError
from pydreaming.replay.census import take_census


def test_damaged_file() -> None:
    with pytest.raises(ReplayError, match="not a readable Parquet file"):
        take_census(np.frombuffer(b"PAR1 not much more", np.uint8))
