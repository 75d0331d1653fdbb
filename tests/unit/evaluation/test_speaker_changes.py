"""Speaker changes in a recording whose spectrum changes where the speaker does."""

from __future__ import annotations

import numpy as np
import torch
from tiny_model import tiny_config

from pydreaming.evaluation.speaker_changes import speaker_changes
from pydreaming.models.world_model import WorldModelNet

CONFIG = tiny_config()
FEATURES = CONFIG.features
TOKEN_S = FEATURES.token_stride_samples / FEATURES.sample_rate


def test_changes_of_the_spectrum_are_found() -> None:
    torch.manual_seed(0)
    model = WorldModelNet(CONFIG.model, FEATURES.token_dim, 1).eval()
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((3, FEATURES.token_dim))
    tokens = np.concatenate([voice + rng.standard_normal((400, FEATURES.token_dim)) for voice in voices]).astype(np.float32)
    found = speaker_changes(model, FEATURES, tokens, [400 * TOKEN_S, 800 * TOKEN_S], np.zeros(1, np.float32), 0)
    assert not isinstance(found, str)
    assert found.changes == 2
    for row in ("world model", "world model, embed only", "log-mel"):
        assert found.found[row] == 2
        assert found.missed_share[row] < 0.03
    assert set(found.found) >= {"spectral flux", "random"}


def test_a_short_recording_is_a_sentence() -> None:
    model = WorldModelNet(CONFIG.model, FEATURES.token_dim, 1).eval()
    tokens = np.zeros((50, FEATURES.token_dim), np.float32)
    found = speaker_changes(model, FEATURES, tokens, [1.0], np.zeros(1, np.float32), 0)
    assert found == "No speaker changes: none lies 5 s from both ends of the recording."
