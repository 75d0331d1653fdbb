from __future__ import annotations

import numpy as np
import pytest
from tiny_model import RATE, sweep

from pydreaming.analysis.reports.condition import condition, condition_verdicts
from pydreaming.analysis.world_model import WorldModel


def said(model: WorldModel, samples: np.ndarray, rate: int = RATE) -> str:
    tokens = model.tokens((samples, rate))
    found = condition([samples[:100], samples[100:]], rate)
    return " ".join(v.text for v in condition_verdicts(found, model.log_mel(tokens.values), model.state.stats, model.features))


def like_the_training(seconds: float = 1.0) -> np.ndarray:
    return np.concatenate([sweep(seconds / 2, seed=seed) for seed in (1, 2)])


def test_figures_do_not_depend_on_the_chunks() -> None:
    samples = np.array([0.5, -1.0, -1.0, -1.0, 0.25, 0.0], dtype=np.float32)
    found = condition([samples[:2], samples[2:]], 6)
    assert found == condition([samples], 6)
    assert found.seconds == 1.0
    assert found.loudness.peak_dbfs == 0.0
    assert found.clipped == 0.5
    assert found.loudness.rms_dbfs == pytest.approx(10 * np.log10((0.25 + 3 + 0.0625) / 6))


def test_what_was_trained_on_has_nothing_said_against_it(model: WorldModel) -> None:
    assert said(model, like_the_training()) == "Its level and bandwidth are like those of the training recordings."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (np.zeros_like, "digital silence"),
        (lambda x: x * np.float32(1e-3), "almost silent"),
        (lambda x: np.where(np.arange(len(x)) < 3, np.float32(1), x), "clipped in places: 3 of its samples"),
        (lambda x: np.clip(9 * x, -1, 1), "clipped"),
        (lambda x: x + np.float32(0.3) * np.random.default_rng(0).standard_normal(len(x)).astype(np.float32).clip(-1, 1), "louder"),
    ],
)
def test_what_is_unlike_it_is_said(model: WorldModel, change: object, words: str) -> None:
    assert callable(change)
    assert words in said(model, change(like_the_training()))


def test_missing_bands_are_noticed(model: WorldModel) -> None:
    """The training recordings had a level of 0 nats in every band; this one has it in the lower half."""
    f, bands = model.features, model.features.n_mels
    stats = type(model.state.stats)([0.0] * bands, [1.0] * bands, 100)
    found = condition([like_the_training()], RATE)
    log_mel = np.zeros((20, bands), dtype=np.float32)
    log_mel[:, bands // 2 :] = -8.0
    texts = [v.text for v in condition_verdicts(found, log_mel, stats, f)]
    assert len(texts) == 1
    assert "narrow-band" in texts[0]
    assert "above 1.3 kHz" in texts[0]
    log_mel[:, bands // 2 :] = -2.0  # 9 dB less is another microphone
    assert [v.good for v in condition_verdicts(found, log_mel, stats, f)] == [True]


def test_another_level_is_said_in_decibel(model: WorldModel) -> None:
    bands = model.features.n_mels
    stats = type(model.state.stats)([0.0] * bands, [1.0] * bands, 100)
    found = condition([like_the_training()], RATE)
    texts = [v.text for v in condition_verdicts(found, np.full((20, bands), -4.0, dtype=np.float32), stats, model.features)]
    assert texts == ["It is 17 dB quieter than the training recordings on average; the model hears level too."]


def test_a_low_rate_is_said_by_its_number(model: WorldModel) -> None:
    assert "4000 Hz carries nothing above 2 kHz" in said(model, like_the_training()[::2], 4000)
