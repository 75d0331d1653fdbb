"""However a recording arrives, the model hears the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import RATE, make_checkpoint, sweep

from pydreaming.analysis.rollout import join_observed
from pydreaming.analysis.world_model import WorldModel

FORMS = {
    "gru": {},
    "belief-transformer": {"core": "transformer", "window": 5},
    "rssm-transformer-gaussian": {"dynamics": "rssm", "posterior": "token", "core": "transformer", "window": 3, "latents": "gaussian"},
}


@pytest.fixture(scope="module", params=FORMS)
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> WorldModel:
    run, keys = tmp_path_factory.mktemp("property-run"), FORMS[request.param]
    objective = "dreaming" if "latents" in keys else "dreaming_v2"
    make_checkpoint(run, steps=2, objective__name=objective, **{f"model__{key}": value for key, value in keys.items()})
    return WorldModel.load(run, "cpu")


@settings(max_examples=25, deadline=None)
@given(
    seconds=st.floats(0.01, 1.5),
    pieces=st.lists(st.integers(1, 6000), max_size=6),
    chunk=st.integers(1, 50),
    seed=st.none() | st.integers(0, 2**32),
)
def test_pieces_and_chunks_do_not_matter(model: WorldModel, seconds: float, pieces: list[int], chunk: int, seed: int | None) -> None:
    samples = sweep(seconds)
    whole = model.tokens((samples, RATE)).values
    parts = list(model.tokenise(np.split(samples, [cut for cut in np.cumsum(pieces) if cut < len(samples)]), RATE))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    once = model.observe(whole, seed)
    chunked = join_observed([observed for _, observed in model.observe_stream(parts, seed, chunk=chunk)])
    torch.testing.assert_close(chunked.post.deter, once.post.deter, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(chunked.post.stoch, once.post.stoch)
