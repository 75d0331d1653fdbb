from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.dreams.dream import MARK_PAUSE_S, MARK_S, draw_dream, dream, dream_audio, write_dreams
from pydreaming.analysis.reports.panels import code_marginal, one_step, prediction_panels
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError

STRIDE = 320  # samples


def test_seed_repeats_the_dream_and_samples_differ(model: WorldModel) -> None:
    a, b, c = (dream(model, (sweep(0.8), RATE), 0.5, samples=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.imagined, b.imagined)
    assert not np.array_equal(a.imagined, c.imagined)
    assert not np.array_equal(a.imagined[0], a.imagined[1])
    assert a.imagined.shape == (3, 4 * 13, 16)


def test_begins_where_listening_stopped(model: WorldModel) -> None:
    sound = sweep(2.0)
    result = dream(model, (sound, RATE), 0.4, at_s=1.0, context_s=0.2)
    windows = 24  # whole windows within 1 s: 1 + (8000 - 440) // 320
    assert result.begins_s == pytest.approx(windows * STRIDE / RATE)
    np.testing.assert_array_equal(result.context, sound[(windows - 5) * STRIDE : windows * STRIDE])
    np.testing.assert_allclose(result.context_mel, model.log_mel(model.tokens((sound, RATE)).values[windows - 5 : windows]), atol=1e-5)
    np.testing.assert_allclose(result.real, model.log_mel(model.tokens((sound, RATE)).values[windows : windows + 10]), atol=1e-5)


def test_what_follows_does_not_reach_the_dream(model: WorldModel) -> None:
    sound = sweep(2.0)
    other = sound.copy()
    other[RATE:] = 0
    a, b = (dream(model, (x, RATE), 0.4, at_s=1.0) for x in (sound, other))
    np.testing.assert_array_equal(a.imagined, b.imagined)
    assert not np.array_equal(a.real, b.real)


def test_long_context_is_heard_in_chunks(model: WorldModel) -> None:
    sound = np.tile(sweep(1.0), 30)  # more windows than a chunk holds
    result = dream(model, (sound, RATE), 0.1, context_s=25.0)
    carry = model.observe(model.tokens((sound, RATE))).carry
    np.testing.assert_allclose(result.imagined[:1], model.log_mel(model.decode(model.imagine(carry, 3, 4))[0])[None], atol=1e-3)
    end = int(result.begins_s * RATE)
    np.testing.assert_array_equal(result.context, sound[end - 625 * STRIDE : end])
    assert len(result.context_mel) == 625 * 4


def test_recording_shorter_than_a_window(model: WorldModel) -> None:
    result = dream(model, (sweep(0.02), RATE), 0.1, samples=1)
    assert result.imagined.shape == (1, 12, 16)
    assert len(dream_audio(model, result, 0)) > 0


def test_sound_is_context_tick_dream(model: WorldModel, tmp_path: Path) -> None:
    result = dream(model, (sweep(1.0), RATE), 0.4, samples=2, context_s=0.4)
    marked, plain = dream_audio(model, result, 0), dream_audio(model, result, 0, mark=False)
    n = len(result.context)
    np.testing.assert_array_equal(marked[:n], result.context)
    assert len(marked) - len(plain) == 2 * round(MARK_PAUSE_S * RATE) + round(MARK_S * RATE)
    shared = 440 - STRIDE  # a window's tail that the next one begins in: without a tick the dream fades in over it
    np.testing.assert_array_equal(marked[-(len(plain) - n) + shared :], plain[n + shared :])
    np.testing.assert_array_equal(result.overlap, sweep(1.0)[n + int(result.begins_s * RATE) - n :][:shared])
    assert abs(plain[n] - result.overlap[0]) < 0.01
    paths = write_dreams(model, result, tmp_path / "new/d.wav")
    assert [path.name for path in paths] == ["d-1.wav", "d-2.wav"]
    assert soundfile.info(paths[0]).samplerate == RATE
    assert draw_dream(tmp_path / "d.png", result, model.features).stat().st_size > 10_000


@pytest.mark.parametrize("token_hop", [2, 6])
def test_windows_that_overlap_or_lie_apart(tmp_path: Path, token_hop: int) -> None:
    make_checkpoint(tmp_path, steps=1, features__token_hop=token_hop)
    model = WorldModel.load(tmp_path, "cpu")
    result = dream(model, (sweep(2.0), RATE), 0.4, at_s=1.0, context_s=0.4)
    stride = token_hop * 80
    windows = 1 + (RATE - 440) // stride
    assert result.begins_s == pytest.approx(windows * stride / RATE)
    assert len(result.context) == -(-int(0.4 * RATE) // stride) * stride
    assert result.imagined.shape[1] == result.real.shape[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0},
        {"seconds": float("nan")},
        {"samples": 0},
        {"temperature": 0},
        {"temperature": float("inf")},
        {"at_s": 0.0},
        {"context_s": 0},
    ],
)
def test_senseless_wishes(model: WorldModel, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        dream(model, (sweep(0.5), RATE), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_nothing_is_dreamed_from_beyond_the_end(model: WorldModel, rate: int, tmp_path: Path) -> None:
    clip = write_sweep(tmp_path / "clip.wav", 0.455, rate=rate)
    assert dream(model, clip, 0.1, at_s=0.455).begins_s == dream(model, clip, 0.1).begins_s
    with pytest.raises(UsageError, match=r"clip\.wav: --at 9 is beyond the end, 0\.455 s"):
        dream(model, clip, 0.1, at_s=9.0)
    with pytest.raises(UsageError, match=r"<array>: --at 0\.46 is beyond the end, 0\.455 s"):  # no whole window lies between
        dream(model, (sweep(0.455, rate), rate), 0.1, at_s=0.46)
    assert dream(model, (sweep(0.02, rate), rate), 0.1, at_s=0.01).begins_s > 0  # within the first window, which is filled up


def test_a_model_without_latents_does_not_dream(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1, objective__name="cpc")
    with pytest.raises(UsageError, match="trains no latents"):
        dream(WorldModel.load(tmp_path, "cpu"), (sweep(0.5), RATE))


def test_one_step_prediction_does_not_see_its_window(model: WorldModel) -> None:
    values = model.tokens((sweep(1.0), RATE)).values
    changed = values.copy()
    changed[10:] += 2.0
    a, b = one_step(model, values), one_step(model, changed)
    assert a.shape == values.shape
    np.testing.assert_allclose(a[:11], b[:11], atol=1e-5)  # window 10 is predicted from those before it
    assert np.abs(a[11:] - b[11:]).max() > 1e-3


def test_panels_and_codes(model: WorldModel, tmp_path: Path) -> None:
    tokens = model.tokens((sweep(1.0), RATE))
    panels = prediction_panels(model, tokens, 8)
    assert len({panel.log_mel.shape for panel in panels}) == 1
    np.testing.assert_allclose(panels[0].log_mel[:32], panels[2].log_mel[:32])
    with pytest.raises(UsageError, match="too few"):
        prediction_panels(model, tokens, len(tokens))
    marginal = code_marginal(model, [write_sweep(tmp_path / "a.wav", 0.5)])
    np.testing.assert_allclose(marginal.sum(1), 1, rtol=1e-6)
    assert marginal.shape == (4, 4)


def test_every_model_shows_what_it_predicts_and_imagines(each: WorldModel) -> None:
    tokens = each.tokens((sweep(0.8), RATE))
    real, predicted, imagined = prediction_panels(each, tokens, context=8, samples=2)
    assert real.log_mel.shape == predicted.log_mel.shape == imagined.log_mel.shape
    assert np.array_equal(imagined.log_mel[:32], real.log_mel[:32])
    assert np.isfinite(imagined.log_mel).all()


def test_one_step_is_predicted_from_each_window_s_own_past(attending_rssm: WorldModel) -> None:
    """Windows that come later, and what a memory holds of them, do not matter."""
    tokens = attending_rssm.tokens((sweep(0.8), RATE)).values
    changed = tokens.copy()
    changed[12:] += 1
    a, b = (one_step(attending_rssm, values, samples=1) for values in (tokens, changed))
    np.testing.assert_allclose(a[:13], b[:13], atol=1e-4)
    assert not np.allclose(a[14:], b[14:], atol=1e-2)


def test_gaussian_latents_have_no_code_usage(gaussian: WorldModel) -> None:
    with pytest.raises(UsageError, match="the model has gaussian latents"):
        code_marginal(gaussian, [(sweep(0.5), RATE)])
