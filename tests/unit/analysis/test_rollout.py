from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import tiny_config

from pydreaming.analysis.rollout import NoiseStream, Rechunk, neutral_action
from pydreaming.audio.stages import run
from pydreaming.errors import UsageError
from pydreaming.models.latents import LATENTS


def test_noise_does_not_depend_on_the_chunks() -> None:
    whole = NoiseStream(3, 4, 5).draw(1, 10)
    stream = NoiseStream(3, 4, 5)
    assert torch.equal(whole, torch.cat([stream.draw(1, 3), stream.draw(1, 7)], 1))
    assert abs(float(NoiseStream(0, 10, 100).draw(1, 100).mean()) - 0.5772) < 0.02  # Euler's constant: the mean of a Gumbel
    assert abs(float(NoiseStream(0, 10, 100, LATENTS["gaussian"]).draw(1, 100).mean())) < 0.02


def test_rechunk_keeps_rows() -> None:
    rows = np.arange(23, dtype=np.float32)[:, None]
    chunks = list(run(Rechunk(5), [rows[:1], rows[1:2], rows[2:2], rows[2:20], rows[20:]]))
    assert [len(chunk) for chunk in chunks] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(chunks), rows)


def test_neutral_action() -> None:
    assert neutral_action(tiny_config().action) == [0.0]
    assert neutral_action(tiny_config(action__kind="stride", action__strides="[2, 1]").action) == [0.0, 1.0]
    with pytest.raises(UsageError, match="adjacent"):
        neutral_action(tiny_config(action__kind="stride", action__strides="[2, 4]").action)
