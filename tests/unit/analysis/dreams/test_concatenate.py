from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.dreams.bank import Bank, build_bank, keys_of, tokens_of
from pydreaming.analysis.dreams.concatenate import CANDIDATES, concatenate, imagine_sound, provenance, select, write_provenance
from pydreaming.analysis.dreams.dream import dream, dream_audio, dream_sounds
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError

STRIDE, SPAN = 320, 440


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank-sounds")
    for i in range(6):
        write_sweep(folder / f"{i}.wav", 1.0, seed=i)
    return folder


@pytest.fixture(scope="module")
def bank(model: WorldModel, folder: Path) -> Bank:
    return build_bank(model, sorted(folder.glob("*.wav")))


def own_keys(model: WorldModel, sound: np.ndarray) -> np.ndarray:
    tokens = model.tokens((sound, RATE)).values
    return keys_of(model.observe(tokens).post.at(0), tokens)


def test_a_recording_of_the_bank_is_found_and_played_as_it_is(model: WorldModel, bank: Bank) -> None:
    sound = np.rint(sweep(1.0, seed=2) * 32768).astype(np.float32) / 32768
    found = select(bank, own_keys(model, sound), model.features)
    assert set(bank.source[found.windows]) == {2}
    np.testing.assert_array_equal(bank.window[found.windows], np.arange(len(found.windows)))
    assert found.distances.max() < 0.01
    played = concatenate(bank, found.windows, model.features)
    assert len(played) == (len(found.windows) - 1) * STRIDE + SPAN
    np.testing.assert_allclose(played, sound[: len(played)], atol=1e-4)


def test_viterbi_finds_the_cheapest_of_all_orders(model: WorldModel, tmp_path: Path) -> None:
    """Against every order there is, in a bank so small that all windows are candidates."""
    small = build_bank(model, [write_sweep(tmp_path / f"{i}.wav", 0.18, seed=i) for i in (10, 11)])
    W, N = len(small), 4
    assert W <= CANDIDATES
    queries = own_keys(model, sweep(0.5, seed=3))[:N]
    tokens = model.tokens((sweep(0.5, seed=4), RATE)).values
    found = select(small, queries, model.features, before=tokens[0], after=tokens[1])
    frames = tokens_of(small.keys, model.features).reshape(W, 4, 16)
    target = np.square(small.keys[None].astype(np.float64) - queries[:, None]).sum(-1)
    join = 0.1 * (np.square(frames[:, None, -1] - frames[None, :, 0]).mean(-1) + 2.0)
    successive = (small.stretch[:, None] == small.stretch[None]) & (small.place[:, None] + 1 == small.place[None])
    join[successive] = 0
    first = 0.1 * np.square(tokens[0][-16:] - frames[:, 0]).mean(-1)
    last = 0.1 * np.square(frames[:, -1] - tokens[1][:16]).mean(-1)

    def cost(path: np.ndarray) -> float:
        return float(target[np.arange(N), path].sum() + join[path[:-1], path[1:]].sum() + first[path[0]] + last[path[-1]])

    best = min((np.array(path) for path in np.ndindex(*[W] * N)), key=cost)
    assert cost(found.windows) == pytest.approx(cost(best), rel=1e-4)


def test_joins_make_no_clicks(model: WorldModel, bank: Bank) -> None:
    """Any windows in any order: no step between samples is larger than the fade of two such sounds can make it."""
    windows = np.random.default_rng(0).permutation(len(bank))[:60]
    played = concatenate(bank, windows, model.features)
    step = max(np.abs(np.diff(bank.sound(s)[0])).max() for s in range(len(bank.stretches)))
    # f + g <= sqrt(2); each weight changes by at most pi / 120 a sample, in sounds of at most 0.4
    assert np.abs(np.diff(played)).max() < np.sqrt(2) * step + 2 * 0.4 * np.pi / 120
    assert len(played) == 59 * STRIDE + SPAN
    loud = np.sqrt(np.convolve(np.square(played), np.ones(160) / 160, "valid"))
    assert loud.min() > 0.15  # of 0.28: tones joined against each other's phase would vanish


def test_own_file_is_left_out(model: WorldModel, bank: Bank, folder: Path) -> None:
    result = dream(model, folder / "2.wav", 0.4, samples=2, at_s=0.5)
    used = [{Path(s).name for s in columns["source"]} for _, columns in dream_sounds(model, result, bank)]
    assert not any("2.wav" in names for names in used)
    keys = own_keys(model, sweep(1.0, seed=2))
    assert {Path(s).name for s in provenance(bank, select(bank, keys, model.features), model.features, 0.0)["source"]} == {"2.wav"}
    left = select(bank, keys, model.features, exclude=str(folder / "2.wav"))
    assert 2 not in bank.source[left.windows]
    alone = build_bank(model, [folder / "2.wav"])
    with pytest.raises(UsageError, match="nothing but"):
        imagine_sound(model, alone, result.states.at(0), result.origin)
    assert list(dream_sounds(model, result, alone, own=True))


def test_dream_of_real_windows(model: WorldModel, bank: Bank, tmp_path: Path) -> None:
    result = dream(model, (sweep(1.5, seed=9), RATE), 0.4, samples=2, at_s=1.0, context_s=0.4)
    made = list(dream_sounds(model, result, bank))
    assert [len(sound) for sound, _ in made] == [9 * STRIDE + SPAN] * 2
    marked, plain = (dream_audio(model, result, 0, mark, made[0][0]) for mark in (True, False))
    np.testing.assert_array_equal(marked[-len(made[0][0]) :], made[0][0])
    n = len(result.context)
    np.testing.assert_array_equal(plain[:n], result.context)
    np.testing.assert_array_equal(plain[n + SPAN - STRIDE :], made[0][0][SPAN - STRIDE :])
    columns = made[0][1]
    np.testing.assert_allclose(columns["time_s"], result.begins_s + np.arange(10) * 0.04)
    write_provenance(tmp_path / "p.csv", [columns for _, columns in made])
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[1] == "sample,time_s,source,source_start_s,distance"
    assert [line.split(",")[0] for line in lines[2:]] == ["1"] * 10 + ["2"] * 10


@pytest.mark.parametrize("token_hop", [2, 6])
def test_windows_that_overlap_or_lie_apart(tmp_path: Path, token_hop: int) -> None:
    make_checkpoint(tmp_path, steps=1, features__token_hop=token_hop)
    model = WorldModel.load(tmp_path, "cpu")
    sound = np.rint(sweep(1.0, seed=2) * 32768).astype(np.float32) / 32768
    bank = build_bank(model, [write_sweep(tmp_path / f"{i}.wav", 1.0, seed=i) for i in range(3)])
    found = select(bank, own_keys(model, sound), model.features)
    assert set(bank.source[found.windows]) == {2}
    played = concatenate(bank, found.windows, model.features)
    np.testing.assert_allclose(played, sound[: len(played)], atol=1e-4)
    assert np.isfinite(concatenate(bank, np.random.default_rng(0).permutation(len(bank)), model.features)).all()


def test_a_recording_shorter_than_a_window_can_be_used(model: WorldModel, tmp_path: Path) -> None:
    bank = build_bank(model, [write_sweep(tmp_path / "a.wav", 0.01), write_sweep(tmp_path / "b.wav", 0.06)])
    assert len(concatenate(bank, np.array([0, 1, 0, 0, 1]), model.features)) == 4 * STRIDE + SPAN
