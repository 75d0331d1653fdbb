from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.dreams.bank import build_bank, origin_of
from pydreaming.analysis.gaps.evaluation import InpaintingTest, linear_fill, place_gap
from pydreaming.analysis.gaps.inpaint import Gap, edge_samples, fill_gaps, find_gaps, inpaint, log_evidence, roll, systematic
from pydreaming.analysis.gaps.pictures import draw_inpainting
from pydreaming.analysis.gaps.sound import real_sound, spectrogram_sound, write_fills
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import PydreamingError, UsageError

STRIDE, SPAN = 320, 440
FEW = {"particles": 16, "samples": 2}


def test_windows_that_a_gap_touches(model: WorldModel) -> None:
    """By looking at every window."""
    for begin, end in ((0.0551, 0.06), (0.2, 0.4), (0.32, 0.36), (0.335, 0.3751), (0.7, 0.9999)):
        (gap,) = find_gaps([(begin, end)], 1.0, model.features, "x")
        touched = [i for i in range(30) if i * STRIDE < round(end * RATE) and i * STRIDE + SPAN > round(begin * RATE)]
        assert (gap.first, gap.stop) == (touched[0], touched[-1] + 1)
        edge = edge_samples(model.features)
        assert gap.first * STRIDE + edge <= round(begin * RATE)
        assert (gap.stop - 1) * STRIDE + SPAN >= round(end * RATE) + edge


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ([(0.0, 0.2)], "no whole window before it; the first one ends at 0.055 s"),
        ([(0.9, 1.1)], "reaches beyond the end, 1.000 s"),
        ([(0.3, 0.5), (0.4, 0.6)], "between it and the gap before"),
        ([(0.3, 0.5), (0.51, 0.6)], "between it and the gap before"),
        ([(0.5, 0.5)], "makes no sense"),
        ([(0.5, float("nan"))], "makes no sense"),
        ([], "no gap"),
    ],
)
def test_gaps_that_cannot_be_filled(model: WorldModel, gaps: list[tuple[float, float]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        inpaint(model, (sweep(1.0), RATE), gaps, **FEW)


def test_senseless_wishes(model: WorldModel, tmp_path: Path) -> None:
    sound, gap = (sweep(1.0), RATE), [(0.4, 0.6)]
    for wrong in ({"particles": 0}, {"look": -1}, {"samples": 0}, {"particles": 10**6}):
        with pytest.raises(UsageError):
            inpaint(model, sound, gap, **wrong)
    make_checkpoint(tmp_path / "apart", steps=1, features__token_hop=6)
    with pytest.raises(UsageError, match="lie apart"):
        inpaint(WorldModel.load(tmp_path / "apart", "cpu"), sound, gap, **FEW)
    make_checkpoint(tmp_path / "cpc", steps=1, objective__name="cpc")
    with pytest.raises(UsageError, match="trains no latents"):
        inpaint(WorldModel.load(tmp_path / "cpc", "cpu"), sound, gap, **FEW)


def test_the_gap_is_not_heard(model: WorldModel) -> None:
    sound = sweep(1.0)
    other = sound.copy()
    other[round(0.4 * RATE) : round(0.6 * RATE)] = 0.3
    a, b = (inpaint(model, (x, RATE), [(0.4, 0.6)], **FEW).fills[0] for x in (sound, other))
    np.testing.assert_array_equal(a.mean, b.mean)
    np.testing.assert_array_equal(a.samples, b.samples)
    other[round(0.7 * RATE) :] = 0
    changed = inpaint(model, (other, RATE), [(0.4, 0.6)], **FEW).fills[0]
    assert not np.array_equal(a.mean, changed.mean)  # what follows is


def test_evidence_is_that_of_each_state_alone(model: WorldModel) -> None:
    tokens = model.tokens((sweep(1.0), RATE)).values
    states = model.imagine(model.observe(tokens[:8]).carry, 3, 5).at(slice(None), -1)
    together = log_evidence(model, states, tokens[11:14])
    for n in range(5):
        expected, carry = 0.0, states.at(slice(n, n + 1))
        for token in tokens[11:14]:
            still = torch.zeros(1, 1, dtype=torch.bool)
            with torch.inference_mode():
                observed = model.net.observe(torch.from_numpy(token)[None, None], model.actions(1), still, carry)
            expected -= float(observed.kl())
            carry = observed.carry
        assert float(together[n]) == pytest.approx(expected, abs=1e-4)
    assert log_evidence(model, states, tokens[:0]).tolist() == [0.0] * 5


def test_guided_and_plain_particles_have_the_same_target(model: WorldModel) -> None:
    """The twist and its resampling change the variance, not what is estimated: with many particles both agree."""
    tokens = model.tokens((sweep(1.0), RATE)).values
    carry = model.observe(tokens[:8]).carry
    cloud = roll(model, carry, 4, tokens[12:15], 4000, model.noise(0), np.random.default_rng(0))
    guided = np.einsum("n,nd->d", cloud.weights, cloud.states.mean[:, -1].numpy())
    plain = []
    for seed in (1, 2):
        states = model.imagine(carry, 4, 4000, seed=seed)
        weights = log_evidence(model, states.at(slice(None), -1), tokens[12:15]).softmax(0).numpy()
        plain.append(np.einsum("n,nd->d", weights, states.mean[:, -1].numpy()))
        assert len(np.unique(cloud.states.deter[:, 0].numpy(), axis=0)) < 4000  # it was resampled
    assert np.abs(guided - plain[0]).max() < max(0.02, 3 * np.abs(plain[0] - plain[1]).max())


def test_systematic_resampling_keeps_shares() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        weights = random.dirichlet(np.full(40, 0.2))
        drawn = np.bincount(systematic(weights, random), minlength=40)
        assert drawn.sum() == 40
        assert (np.abs(drawn - 40 * weights) < 1 + 1e-9).all()


def test_what_follows_chooses_among_particles(model: WorldModel) -> None:
    """A right side imagined from one particle is explained best by those like it."""
    tokens = model.tokens((sweep(1.0), RATE)).values
    fill = fill_gaps(model, tokens, [Gap(0, 0, 8, 12)], 64, 4, 3, 0)[0]
    assert 1 <= fill.effective < 64
    assert fill.reweighted
    assert fill.samples.shape == (3, 4, tokens.shape[1])
    np.testing.assert_array_equal(fill.before, tokens[7])
    np.testing.assert_array_equal(fill.after, tokens[12])
    blind = fill_gaps(model, tokens[:12], [Gap(0, 0, 8, 12)], 64, 4, 3, 0)[0]
    assert blind.effective == pytest.approx(64)
    assert not blind.reweighted
    assert blind.after is None


def test_seed_repeats_a_fill(model: WorldModel) -> None:
    a, b, c = (inpaint(model, (sweep(1.0), RATE), [(0.4, 0.6)], **FEW, seed=seed).fills[0].mean for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_several_gaps_from_left_to_right(each: WorldModel) -> None:
    sound = (sweep(1.5), RATE)
    both = inpaint(each, sound, [(0.9, 1.0), (0.3, 0.45)], **FEW)
    assert [fill.gap.begin_s for fill in both.fills] == [0.3, 0.9]
    first = inpaint(each, sound, [(0.3, 0.45)], **FEW)
    np.testing.assert_array_equal(both.fills[0].mean, first.fills[0].mean)
    assert all(np.isfinite(fill.mean).all() and fill.effective >= 1 for fill in both.fills)


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_only_the_gap_and_its_edges_change(model: WorldModel, tmp_path: Path, rate: int) -> None:
    path = write_sweep(tmp_path / "a.wav", 1.0, rate)
    bank = build_bank(model, [write_sweep(tmp_path / f"{i}.wav", 0.6, seed=i) for i in (1, 2)])
    result = inpaint(model, path, [(0.3, 0.45), (0.7, 0.8)], **FEW)
    real, _ = real_sound(model, result, bank, 0, origin_of(path))
    edge = edge_samples(model.features, rate)
    assert 0 < edge <= 0.01 * rate
    outside = np.ones(rate, bool)
    for begin, end in ((0.3, 0.45), (0.7, 0.8)):
        outside[round(begin * rate) - edge : round(end * rate) + edge] = False
    before, _ = soundfile.read(path, dtype="int16")
    for sound in (real, spectrogram_sound(model, result), spectrogram_sound(model, result, 1)):
        (written,) = write_fills(result, [sound], tmp_path / "out.wav")
        after, after_rate = soundfile.read(written, dtype="int16")
        assert after_rate == rate
        assert len(after) == len(before)
        np.testing.assert_array_equal(after[outside], before[outside])
        assert not np.array_equal(after[~outside], before[~outside])
    assert np.abs(np.diff(real)).max() < 1.6 * np.abs(np.diff(result.samples)).max() + 0.05  # no clicks where it begins and ends


def test_a_gap_up_to_the_end(model: WorldModel, tmp_path: Path) -> None:
    result = inpaint(model, (sweep(1.0), RATE), [(0.8, 1.0)], **FEW)
    assert not result.fills[0].reweighted
    sound = spectrogram_sound(model, result)
    assert len(sound) == RATE
    np.testing.assert_array_equal(sound[: round(0.78 * RATE)], result.samples[: round(0.78 * RATE)])
    assert draw_inpainting(tmp_path / "x.png", model, result).stat().st_size > 10_000


def test_straight_line_between_frames(model: WorldModel) -> None:
    ramp = np.repeat(np.arange(40, dtype=np.float32)[:, None], 16, 1)  # frames whose value is their number
    tokens = ramp.reshape(10, -1)
    np.testing.assert_allclose(linear_fill(tokens[2], tokens[6], 3, model.features), tokens[3:6], atol=1e-5)
    lapped = replace(model.features, token_hop=2)
    windows = np.stack([ramp[2 * i : 2 * i + 4].reshape(-1) for i in range(10)])
    np.testing.assert_allclose(linear_fill(windows[2], windows[6], 3, lapped), windows[3:6], atol=1e-5)


def test_places_leave_room_on_both_sides(model: WorldModel) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        gap = place_gap(20, 0.2, 4, model.features, random)
        assert gap is not None
        assert gap.first >= 1
        assert gap.stop + 4 <= 20
    assert place_gap(8, 0.2, 4, model.features, random) is None


def test_table_and_intervals(model: WorldModel, tmp_path: Path) -> None:
    test = InpaintingTest(model, 0.1, particles=8)
    for seed in range(3):
        test.add((sweep(1.0, seed=seed), RATE))
    test.add((sweep(0.2), RATE))
    assert (len(test), test.skipped) == (3, 1)
    scores, differences = test.scores("mel_error"), test.differences("mel_error")
    assert scores["copy"].low <= scores["copy"].mean <= scores["copy"].high
    assert differences["copy"].mean == pytest.approx(scores["mean"].mean - scores["copy"].mean)
    test.write(tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3 * 7 + 1 + 5
    with pytest.raises(UsageError, match="no recording is long enough"):
        InpaintingTest(model, 5.0).scores("mel_error")
    for wrong in ({"gap_s": 0.0}, {"particles": 1}, {"look": 0}):
        with pytest.raises(UsageError):
            InpaintingTest(model, **wrong)  # type: ignore[arg-type]


def test_a_place_that_cannot_be_written(model: WorldModel, tmp_path: Path) -> None:
    result = inpaint(model, (sweep(1.0), RATE), [(0.4, 0.6)], **FEW)
    (tmp_path / "file").touch()
    with pytest.raises(PydreamingError, match=r"cannot write .*file/out.wav"):
        write_fills(result, [result.samples], tmp_path / "file/out.wav")
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(PydreamingError, match=r"cannot write .*taken.wav"):
        write_fills(result, [result.samples], tmp_path / "taken.wav")
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []
