from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from tiny_model import tiny_config

from pydreaming.analysis.reports.pictures import (
    Curve,
    Panel,
    code_usage,
    draw_mel,
    dream_picture,
    hz_ticks,
    mel_panels,
    open_loop_curves,
    probe_bars,
    save,
    surprise_picture,
)
from pydreaming.audio.features import mel_filters
from pydreaming.config import load_config
from pydreaming.errors import PydreamingError

FEATURES = tiny_config().features


def noise(frames: int) -> np.ndarray:
    return np.random.default_rng(0).normal(-5, 2, (frames, FEATURES.n_mels)).astype(np.float32)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_hz_ticks_lie_at_the_bands_of_the_front_end() -> None:
    features = load_config(["defaults", "fsdd"]).features
    bank = mel_filters(features).numpy()  # (bins, bands)
    bands, labels = hz_ticks(features)
    for band, label in zip(bands, labels, strict=True):
        hz = float(label.replace("k", "000"))
        bin_ = round(hz * features.n_fft / features.sample_rate)
        assert abs(bank[bin_].argmax() - band) <= 1.5


def test_time_axis_is_in_seconds() -> None:
    ax = Figure().subplots()
    image = draw_mel(ax, noise(100), FEATURES, 2.0, -10, 0)
    assert image.get_extent()[:2] == [2.0, pytest.approx(2.0 + 100 * 80 / 8000)]


def test_long_recordings_are_averaged_not_cut() -> None:
    frames = noise(10_001)
    image = draw_mel(Figure().subplots(), frames, FEATURES, 0.0, -10, 0)
    assert image.get_array().shape[1] <= 2000
    assert image.get_extent()[1] == pytest.approx(100.01)
    group = -(-10_001 // 2000)
    np.testing.assert_allclose(image.get_array()[:, 0], frames[:group].mean(0), rtol=1e-5)
    np.testing.assert_allclose(image.get_array()[:, -1], frames[-(10_001 % group or group) :].mean(0), rtol=1e-5)


@pytest.mark.parametrize("steps", [[1], [1, 2, 4, 8]])
def test_all_pictures_carry_units_and_names(tmp_path: Path, steps: list[int]) -> None:
    times = np.arange(20) * 0.04
    curve = Curve("ours", [3.0] * len(steps))
    scores = {"digit": {"ours": (90.0, 88.0, 92.0), "log-mel": 70.0}, "speaker of many": {"ours": 99.0, "untrained": 5.0}}
    panels = [Panel("real", noise(40)), Panel("imagined", noise(40), 0.2)]
    curves = [curve, Curve("copy", [1.0] * len(steps))]
    figures = {
        "panels": (mel_panels(panels, FEATURES), ["real", "imagined", "time (s)", "Hz"]),
        "dream": (dream_picture(noise(20), np.stack([noise(12)] * 3), FEATURES, 4.2, noise(8)), ["really", "3 continuations", "time (s)"]),
        "one": (dream_picture(noise(20), noise(12)[None], FEATURES, 4.2), ["one continuation", "time (s)"]),
        "surprise": (surprise_picture(noise(80), times, {"kl": times}, FEATURES, "a $\\frac$ b"), ["kl", "bits", "time (s)", "$"]),
        "codes": (code_usage(np.full((4, 5), 0.2)), ["group", "perplexity (of 5)", "%"]),
        "probes": (probe_bars(scores), ["ours", "log-mel", "untrained", "accuracy (%)", "90"]),
        "curves": (open_loop_curves(steps, curves, 0.04, "gain (bits)", "marginal"), ["40 ms", "bits", "copy", "marginal"]),
    }
    for name, (figure, wanted) in figures.items():
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
        assert not [word for word in wanted if word not in texts(figure)], name


def test_long_curves_keep_their_peaks_and_their_times() -> None:
    values = np.zeros(2000)
    values[1200] = 90.0
    times = np.arange(2000) * 0.04
    figure = surprise_picture(noise(8000), times, {"kl": values}, FEATURES)
    raw, smooth = figure.axes[1].get_lines()
    assert raw.get_ydata().max() == 90.0
    assert times[1200] == pytest.approx(smooth.get_xdata()[smooth.get_ydata() > 1].mean(), abs=0.04)


def test_perplexity_of_uniform_and_collapsed_codes() -> None:
    figure = code_usage(np.array([[0.25] * 4, [1.0, 0, 0, 0]]))
    bars = [bar.get_width() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(bars, [4.0, 1.0], rtol=1e-6)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PydreamingError, match="cannot write"):
        save(Figure(), tmp_path / "file/x.png")


def test_events_are_marked_above_the_log_mel_and_behind_the_curves() -> None:
    times = np.arange(20) * 0.04
    plain, marked = (surprise_picture(noise(80), times, {"kl": times}, FEATURES, spans=spans) for spans in ((), ((0.1, 0.3), (0.5, 0.6))))
    assert len(marked.axes[0].lines) - len(plain.axes[0].lines) == 2
    assert len(marked.axes[1].patches) - len(plain.axes[1].patches) == 2
    (words,) = marked.axes[0].texts
    assert words.get_text() == "orange: events"
    marked.draw_without_rendering()
    bar = max(line.get_window_extent().y1 for line in marked.axes[0].lines[-2:]) + marked.dpi * 5 / 72 / 2  # half of its 5 points
    assert words.get_window_extent().y0 >= bar
