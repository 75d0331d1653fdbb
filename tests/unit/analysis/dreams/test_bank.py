from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.dreams.bank import STRETCH, Bank, BankBuilder, build_bank, file_of, imagined_keys, keys_of, origin_of, tokens_of
from pydreaming.analysis.inputs import find_recordings
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, PydreamingError, UsageError

STRIDE = 320


def test_windows_keep_their_state_their_place_and_their_sound(model: WorldModel, tmp_path: Path) -> None:
    long = write_sweep(tmp_path / "long.wav", 30.0, seed=1)
    short = write_sweep(tmp_path / "short.wav", 0.5, seed=2)
    bank = build_bank(model, [long, short])
    tokens = model.tokens(long).values
    assert len(bank) == len(tokens) + len(model.tokens(short))
    assert bank.sources == [str(long), str(short)]
    np.testing.assert_array_equal(bank.window[: len(tokens)], np.arange(len(tokens)))
    np.testing.assert_allclose(tokens_of(bank.keys[: len(tokens)], model.features), tokens, atol=0.02)
    observed = model.observe(tokens)
    np.testing.assert_allclose(bank.keys[: len(tokens)], keys_of(observed.post.at(0), tokens), atol=2e-3)
    samples = np.concatenate([np.rint(sweep(30.0, seed=1) * 32768) / 32768, np.zeros(RATE)])
    for window in (0, STRETCH - 1, STRETCH, 600):
        sound, begin = bank.sound(int(bank.stretch[window]))
        begin += int(bank.place[window]) * STRIDE
        np.testing.assert_allclose(sound[begin : begin + STRIDE], samples[window * STRIDE : (window + 1) * STRIDE], atol=1e-4)


def test_distance_is_that_of_states_and_log_mel(model: WorldModel) -> None:
    tokens = model.tokens((sweep(0.6), RATE)).values
    a, b = keys_of(model.observe(tokens).post.at(0), tokens)[[2, 7]]
    D, dim = 32, tokens.shape[1]
    parts = [np.square(a[s] - b[s]).sum() for s in (slice(0, D), slice(D, -dim), slice(-dim, None))]
    deter = model.observe(tokens).post.deter[0].numpy()
    cosine = deter[2] @ deter[7] / np.linalg.norm(deter[2]) / np.linalg.norm(deter[7])
    assert parts[0] == pytest.approx(2 - 2 * cosine, abs=1e-4)
    assert parts[2] == pytest.approx(np.square(tokens[2] - tokens[7]).mean(), rel=1e-4)


def test_a_large_collection_is_sampled(model: WorldModel, tmp_path: Path) -> None:
    files = [write_sweep(tmp_path / f"{i}.wav", 0.5, seed=i) for i in range(12)]
    count = len(model.tokens(files[0]))
    bank, again, other = (build_bank(model, files, 4 * count, seed) for seed in (0, 0, 1))
    assert len(bank) == 4 * count
    assert bank.sources == again.sources != other.sources
    np.testing.assert_array_equal(bank.keys, again.keys)
    # What is left of a recording is what it is in a whole bank.
    whole = build_bank(model, files)
    kept = np.isin(np.array(whole.sources)[whole.source], bank.sources)
    np.testing.assert_array_equal(bank.keys, whole.keys[kept])


def test_a_file_that_breaks_off_leaves_nothing_behind(model: WorldModel, tmp_path: Path) -> None:
    good, broken = write_sweep(tmp_path / "a.wav", 0.5), write_sweep(tmp_path / "b.wav", 30.0)
    broken.write_bytes(broken.read_bytes()[:300_000])
    builder = BankBuilder(model)
    builder.add(good)
    with pytest.raises(DecodeError):
        builder.add(broken)
    builder.add(write_sweep(tmp_path / "c.wav", 0.5, seed=3))
    assert [Path(s).name for s in builder.finish().sources] == ["a.wav", "c.wav"]
    with pytest.raises(UsageError, match="at least one"):
        BankBuilder(model).finish()


def test_saved_bank_is_the_same_and_belongs_to_its_model(model: WorldModel, rssm: WorldModel, tmp_path: Path) -> None:
    bank = build_bank(model, [write_sweep(tmp_path / "a.wav", 0.5)])
    bank.save(tmp_path / "x/bank.safetensors")
    read = Bank.load(tmp_path / "x/bank.safetensors").check(model)
    np.testing.assert_array_equal(read.keys, bank.keys)
    np.testing.assert_array_equal(read.audio, bank.audio)
    np.testing.assert_array_equal(read.stretches, bank.stretches)
    assert read.sources == bank.sources
    with pytest.raises(UsageError, match="another model"):
        read.check(rssm)
    with pytest.raises(UsageError, match="safetensors"):
        bank.save(tmp_path / "bank.npz")


def test_damaged_banks(model: WorldModel, tmp_path: Path) -> None:
    bank = build_bank(model, [write_sweep(tmp_path / "a.wav", 0.5)])
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    data = path.read_bytes()
    for damaged in (b"", data[:100], data[:-10], b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(PydreamingError, match="bank"):
            Bank.load(path)
    for column, value in ((0, 1), (2, 5), (5, 10**9), (3, -1)):
        rows = bank.stretches.copy()
        rows[0, column] = value
        replace(bank, stretches=rows).save(path)
        with pytest.raises(PydreamingError, match="no bank"):
            Bank.load(path)
    with pytest.raises(PydreamingError, match="bank"):
        Bank.load(tmp_path / "missing.safetensors")


def test_segments_belong_to_their_file(model: WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path / "long.wav", 2.0)
    (tmp_path / "all.jsonl").write_text('{"audio_filepath": "long.wav", "offset": 0.5, "duration": 0.5}\n')
    (segment,) = find_recordings([tmp_path / "all.jsonl"])
    monkeypatch.chdir(tmp_path)
    assert origin_of(segment) == f"{path}#t=0.5,1"
    assert file_of(origin_of(segment)) == origin_of("long.wav") == str(path)
    assert origin_of((sweep(0.1), RATE)) == "<array>"
    bank = build_bank(model, [segment, write_sweep(tmp_path / "b.wav", 0.5)])
    assert set(bank.source[bank.without("long.wav")]) == {0, 1}  # a name is no origin
    assert set(bank.source[bank.without(origin_of("long.wav"))]) == {1}
    assert bank.without(None).all()


def test_every_model_makes_banks_and_asks_them(each: WorldModel, tmp_path: Path) -> None:
    bank = build_bank(each, [write_sweep(tmp_path / "a.wav", 0.5)])
    states = each.imagine(each.observe(each.tokens((sweep(0.5), RATE))).carry, 3, 2)
    keys = imagined_keys(each, states)
    assert keys.shape == (2, 3, bank.keys.shape[1])
    assert np.isfinite(keys).all()


def test_a_model_without_latents_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1, objective__name="cpc")
    with pytest.raises(UsageError, match="'cpc', which trains no latents"):
        BankBuilder(WorldModel.load(tmp_path, "cpu"))
