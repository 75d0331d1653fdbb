"""p-values: uniform on what is normal, small on what is not, and refused where they would be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import RATE, sweep, write_sweep

from pydreaming.analysis.inputs import Source
from pydreaming.analysis.names import CURVES
from pydreaming.analysis.surprise.calibration import BANDS, LEAST_WINDOWS, Calibration, ModelMark, fit_calibration, fit_survival
from pydreaming.analysis.surprise.curves import surprise
from pydreaming.analysis.surprise.normal import calibrate
from pydreaming.analysis.surprise.segment import RESTART_CURVE
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, PydreamingError, UsageError

MARK = ModelMark("0" * 64, 7, None)
DRAWS = {
    "gamma": lambda random, n: random.gamma(2, size=n),
    "normal": lambda random, n: 3 * random.normal(size=n) - 5,
    "uniform": lambda random, n: random.random(n) * 9,
    "heavy": lambda random, n: random.standard_t(4, size=n),
}


def clips(count: int, length: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Curves that begin high."""
    random = np.random.default_rng(seed)
    begin = np.concatenate([[20.0, 6.0, 3.0, 3.0], np.zeros(length)])[:length]
    return [{"kl": random.gamma(2, size=length) + begin} for _ in range(count)]


@pytest.mark.parametrize("name", DRAWS)
def test_p_values_of_new_normal_values_are_uniform(name: str) -> None:
    fitted = fit_survival(DRAWS[name](np.random.default_rng(0), 20_000))
    p = fitted(DRAWS[name](np.random.default_rng(1), 50_000))
    for level in (0.01, 0.05, 0.2, 0.5, 0.8, 0.95):
        assert (p <= level).mean() == pytest.approx(level, rel=0.25 if level < 0.05 else 0.05)
    assert len(fitted.bits) <= 256
    assert 0.3 < (p <= 1e-3).mean() / 1e-3 < 1.7 or name == "uniform"
    assert (p <= 1e-3).mean() < 1.7e-3  # a tail that ends is taken for a longer one, which errs on the quiet side


def test_the_tail_goes_on_beyond_what_was_heard() -> None:
    fitted = fit_survival(np.random.default_rng(0).exponential(size=20_000))
    assert fitted.tail is not None
    p = fitted(np.array([8.0, 12.0, 16.0, 1e6]))
    assert np.all(np.diff(p) < 0)
    assert p[1] == pytest.approx(math.exp(-12), rel=0.9)
    assert p[-1] > 0
    few = fit_survival(np.random.default_rng(0).exponential(size=300))
    assert few.tail is None
    assert few(np.array([1e6]))[0] == pytest.approx(1 / 301)


def test_p_is_the_share_at_or_above_with_one_added() -> None:
    fitted = fit_survival(np.arange(1.0, 10.0))
    np.testing.assert_allclose(fitted(np.array([0.0, 1.0, 9.5])), [1, 1, 0.1])
    p = fitted(np.arange(1.0, 10.0) + 0.5)
    assert np.all(np.abs(p - np.arange(9, 0, -1) / 10) <= 0.1)


def test_equal_values_are_all_at_or_above_and_rounding_does_not_matter() -> None:
    fitted = fit_survival(np.full(400, 63.99991))
    np.testing.assert_allclose(fitted(np.array([63.0, 63.99991, 63.9999105, 65.0])), [1, 1, 1, 1 / 401], rtol=3e-3)


def test_windows_near_the_beginning_are_judged_among_themselves() -> None:
    found = fit_calibration(MARK, clips(2000, 12))
    p = np.array([found.p_values("kl", clip["kl"]) for clip in clips(2000, 12, seed=1)])
    for window in range(12):
        assert (p[:, window] <= 0.05).mean() == pytest.approx(0.05, abs=0.02), window
    np.testing.assert_array_equal(found.p_values("kl", clips(1, 12)[0]["kl"][5:], first=5), found.p_values("kl", clips(1, 12)[0]["kl"])[5:])


def test_bands_that_no_clip_reaches_take_the_nearest() -> None:
    found = fit_calibration(MARK, clips(200, 3))
    assert found.curves["kl"][-1] == found.curves["kl"][BANDS.index(2)]


def test_too_little_is_refused() -> None:
    with pytest.raises(UsageError, match=f"99 windows .* {LEAST_WINDOWS}"):
        fit_calibration(MARK, clips(9, 11))
    with pytest.raises(UsageError, match="0 windows"):
        fit_calibration(MARK, [])


def test_file(tmp_path: Path) -> None:
    found = fit_calibration(MARK, clips(300, 12))
    found.write(tmp_path / "deep/c.json")
    assert Calibration.read(tmp_path / "deep/c.json") == found
    assert (tmp_path / "deep/c.json").stat().st_size < 60_000


def changed(document: dict[str, Any], name: str) -> object:
    band = document["curves"]["kl"][0]
    match name:
        case "format":
            document["format"] = 2
        case "falls":
            band["bits"].reverse()
        case "rises":
            band["p"].reverse()
        case "lengths":
            band["p"].pop()
        case "empty":
            band["bits"], band["p"] = [], []
        case "above one":
            band["p"][0] = 1.5
        case "zero":
            band["p"][-1] = 0.0
        case "text":
            band["bits"][0] = "1"
        case "huge":
            band["bits"][-1] = 1e300
        case "bands":
            document["bands"] = [0, 1]
        case "order":
            document["bands"] = [1, 0, 2, 4, 8]
        case "unknown":
            document["more"] = 1
        case "tail":
            band["tail"] = {"threshold": 1.0, "share": 0.01, "scale": 0.0, "shape": 0.1}
        case "list":
            return [document]
    return document


@pytest.mark.parametrize(
    "name",
    ["format", "falls", "rises", "lengths", "empty", "above one", "zero", "text", "huge", "bands", "order", "unknown", "tail", "list"],
)
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.json"
    fit_calibration(MARK, clips(20, 12)).write(path)
    path.write_text(json.dumps(changed(json.loads(path.read_text()), name)))
    with pytest.raises(PydreamingError, match=r"c\.json"):
        Calibration.read(path)


def test_what_is_no_calibration_at_all(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe", b"{", b"NaN", b"[" * 100_000, b" " * (1 << 24) + b"{}"):
        (tmp_path / "c.json").write_bytes(content)
        with pytest.raises(PydreamingError, match=r"c\.json"):
            Calibration.read(tmp_path / "c.json")
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(PydreamingError, match="cannot read"):
            Calibration.read(path)


def normal(count: int, seed: int) -> list[Source]:
    return [(sweep(0.8, seed=seed + i), RATE) for i in range(count)]


@pytest.fixture(scope="module")
def calibrated(model: WorldModel) -> Calibration:
    return calibrate(model, normal(60, 1000))


def test_held_out_normal_recordings_have_uniform_p_values(model: WorldModel, calibrated: Calibration) -> None:
    assert calibrated.clips == 60
    assert set(calibrated.curves) == {*CURVES, RESTART_CURVE}
    results = [surprise(model, source, calibration=calibrated) for source in normal(40, 5000)]
    p = np.concatenate([result.p["kl"] for result in results])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p <= level).mean() == pytest.approx(level, abs=0.06)


def test_method_and_function_are_one(model: WorldModel, calibrated: Calibration) -> None:
    assert model.calibrate(normal(60, 1000)) == calibrated
    result = model.surprise(normal(1, 3)[0], calibrated)
    np.testing.assert_array_equal(result.p["nll"], calibrated.p_values("nll", result.nll))
    assert model.surprise(normal(1, 3)[0]).p == {}


def test_a_calibration_of_another_model_or_seed_is_refused(model: WorldModel, rssm: WorldModel, calibrated: Calibration) -> None:
    with pytest.raises(UsageError, match="another model"):
        surprise(rssm, normal(1, 3)[0], calibration=calibrated)
    with pytest.raises(UsageError, match="--seed 4"):
        surprise(model, normal(1, 3)[0], seed=4, calibration=calibrated)


def test_fingerprint_is_of_weights_and_front_end(model: WorldModel, rssm: WorldModel, run_folder: Path) -> None:
    again = WorldModel.load(run_folder, "cpu")
    assert again.fingerprint == model.fingerprint != rssm.fingerprint
    other = WorldModel.load(run_folder, "cpu")
    next(other.net.parameters()).data.view(-1)[0] += 1e-3
    assert other.fingerprint != model.fingerprint


def test_unreadable_recordings_are_left_out_or_raise(model: WorldModel, tmp_path: Path) -> None:
    for i in range(10):
        write_sweep(tmp_path / f"{i}.wav", 0.6, seed=i)
    paths: list[Source] = [*(tmp_path / f"{i}.wav" for i in range(10)), tmp_path / "none.wav"]
    failed: list[str] = []
    assert calibrate(model, paths, failed=lambda error: failed.append(error.path)).clips == 10
    assert failed == [str(tmp_path / "none.wav")]
    with pytest.raises(DecodeError, match=r"none\.wav"):
        calibrate(model, paths)


def test_every_form_of_model(each: WorldModel) -> None:
    found = calibrate(each, normal(12, 0), seed=3)
    result = surprise(each, normal(1, 0)[0], seed=3, calibration=found)
    assert all(p.min() > 0 and p.max() <= 1 for p in result.p.values())
