from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import RATE, sweep

from pydreaming.analysis import world_model
from pydreaming.analysis.reports.pictures import surprise_picture
from pydreaming.analysis.surprise.curves import CURVES, curves_of, draw_surprise, surprise, surprise_figure, surprise_of, write_surprise
from pydreaming.analysis.world_model import WorldModel
from pydreaming.replay.tables import read_blocks


def test_curves_are_what_they_say_in_bits(model: WorldModel) -> None:
    observed = model.observe(model.tokens((sweep(0.6), RATE)), seed=1)
    q, p = observed.post.logits[0].double().exp(), observed.prior_logits[0].double().exp()
    curves = {name: value[0].double() for name, value in curves_of(observed).items()}
    torch.testing.assert_close(curves["kl"], (q * (q / p).log2()).sum((-2, -1)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(curves["prior_entropy"], -(p * p.log2()).sum((-2, -1)), rtol=1e-4, atol=1e-4)
    chosen = (p * observed.post.stoch[0]).sum(-1)  # (T, S)
    torch.testing.assert_close(curves["nll"], -chosen.log2().sum(-1), rtol=1e-4, atol=1e-4)


def test_bounds(model: WorldModel) -> None:
    result = surprise(model, (sweep(1.0), RATE))
    m = model.config.model
    assert (result.kl >= 0).all()
    assert (result.prior_entropy <= m.groups * math.log2(m.classes) + 1e-3).all()
    assert (result.nll <= m.groups * math.log2(m.classes / m.unimix) + 1e-3).all()
    assert len(result) == len(result.start_s) == 24


def test_chunks_equal_one_pass(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = surprise(model, (sweep(1.0), RATE), seed=3)
    stream = model.observe_stream
    monkeypatch.setattr(model, "observe_stream", lambda parts, seed, action: stream(parts, seed, action, chunk=5))
    parts = surprise(model, (sweep(1.0), RATE), seed=3)
    assert world_model.CHUNK_TOKENS > len(whole) > 5
    for name in CURVES:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-3, atol=1e-3)


def test_picture_keeps_only_what_is_asked_for(model: WorldModel, tmp_path: Path) -> None:
    assert len(surprise(model, (sweep(1.0), RATE)).log_mel) == 0
    result = surprise(model, (sweep(1.0), RATE), picture_s=0.5)
    assert len(result.log_mel) == 4 * math.ceil(0.5 / 0.04)
    path = draw_surprise(tmp_path / "deep/x.png", result, model.features, "some/x.wav")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_table(model: WorldModel, tmp_path: Path) -> None:
    results = [(name, surprise(model, (sweep(seconds), RATE))) for name, seconds in (("a", 0.5), ("b", 0.7))]
    write_surprise(tmp_path / "s.npz", results)
    with np.load(tmp_path / "s.npz") as table:
        assert list(table["source"]).count("a") == len(results[0][1])
        np.testing.assert_array_equal(table["kl_bits"][table["source"] == "b"], results[1][1].kl)
        assert {"window", "start_s", "centre_s", "prior_entropy_bits", "nll_bits"} <= set(table.files)


def test_writing_takes_the_memory_of_one_recording_however_many_there_are(model: WorldModel, tmp_path: Path) -> None:
    one = surprise_of({name: np.zeros(5000, np.float32) for name in CURVES}, model.features)
    results = [(f"{n:03d}".ljust(200, "x"), one) for n in range(100)]  # 500 000 rows, 400 MB of names
    tracemalloc.start()
    write_surprise(tmp_path / "s.parquet", results)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    assert sum(len(block["source"]) for block in read_blocks(tmp_path / "s.parquet", ("source",))) == 500_000


def test_gaussian_latents_have_curves_that_may_lie_below_zero(gaussian: WorldModel) -> None:
    observed = gaussian.observe(gaussian.tokens((sweep(0.6), RATE)), seed=1)
    prior = torch.distributions.Normal(*observed.prior_logits.double().unbind(-1))
    post = torch.distributions.Normal(*observed.post.logits.double().unbind(-1))
    curves = {name: value.double() * math.log(2) for name, value in curves_of(observed).items()}
    wanted = {
        "kl": torch.distributions.kl_divergence(post, prior),
        "prior_entropy": prior.entropy(),
        "nll": -prior.log_prob(observed.post.stoch.double().squeeze(-1)),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(curves[name], value.sum(-1), rtol=1e-4, atol=1e-4)
    result = surprise(gaussian, (sweep(1.0), RATE), picture_s=1.0)
    sharp = replace(result, prior_entropy=result.prior_entropy - 100)
    figure = surprise_picture(sharp.log_mel, sharp.centre_s, {"uncertainty": sharp.prior_entropy}, gaussian.features)
    assert figure.axes[1].get_ylim()[0] <= sharp.prior_entropy.min()


@pytest.mark.parametrize(("seconds", "title"), [(0.01, "a.wav"), (0.5, "a.wav"), (1.02, "a.wav"), (3.0, "a.wav (first 1 s of 3 s)")])
def test_a_picture_of_the_beginning_says_so(model: WorldModel, seconds: float, title: str) -> None:
    result = surprise(model, (sweep(seconds), RATE), picture_s=1.0)
    figure = surprise_figure(result, model.features, "folder/a.wav")
    assert figure.get_suptitle() == title
