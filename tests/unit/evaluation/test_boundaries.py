"""Boundaries: where joins lie, how peaks are picked and matched, and that a restart is preferred where the world changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_model import tiny_config

from pydreaming.audio.tokens import join_tokens
from pydreaming.evaluation.boundaries import (
    LEAST_CLIPS,
    MAX_STREAM,
    RESTART,
    Picker,
    boundary_scores,
    choose_picker,
    f1,
    join_clips,
    utterance_boundaries,
)
from pydreaming.evaluation.listening import listen
from pydreaming.models.distributions import kl_divergence
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective

CONFIG = tiny_config()
D = CONFIG.features.token_dim
ACTION = np.zeros(1, np.float32)


def networks(name: str = "dreaming_v2") -> tuple[WorldModelNet, Objective]:
    config = tiny_config(objective__name=name)
    torch.manual_seed(0)
    model = WorldModelNet(config.model, D, 1).eval()
    return model, make_objective(config.objective, model).eval()


def clips_of(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, D)).astype(np.float32) for n in lengths]


def test_a_boundary_is_the_first_window_with_a_frame_of_the_new_clip() -> None:
    features = CONFIG.features
    clips = [np.full((n, D), float(number), np.float32) for number, n in enumerate((3, 5, 2, 4))]
    seen = set()
    for seed in range(20):
        stream = join_clips(clips, features, np.random.default_rng(seed))
        frames = join_tokens(stream.tokens, features)[:, 0]
        changes = np.flatnonzero(np.diff(frames)) + 1
        assert stream.begins.tolist() == [frame // features.token_frames for frame in changes]
        seen |= {frame % features.token_frames for frame in changes}
    assert seen == set(range(features.token_frames))  # joins lie anywhere in a window


@settings(deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(2, 6), min_size=4, max_size=8), frames=st.integers(1, 5), hop=st.integers(1, 6), seed=st.integers(0, 2**32)
)
@example(lengths=[2, 2, 2, 2], frames=4, hop=1, seed=0)  # the first window already holds frames of the second clip
def test_so_it_is_however_windows_overlap_or_lie_apart(lengths: list[int], frames: int, hop: int, seed: int) -> None:
    features = tiny_config(features__token_frames=frames, features__token_hop=hop, features__n_mels=2).features
    clips = [np.full((n, features.token_dim), float(number), np.float32) for number, n in enumerate(lengths)]
    stream = join_clips(clips, features, np.random.default_rng(seed))
    newest = stream.tokens.max(1)  # number of the last clip that each window holds a frame of
    assert stream.begins.tolist() == np.flatnonzero(np.diff(newest, prepend=0)).tolist()


def test_peaks_are_apart_and_among_the_highest() -> None:
    score = np.array([0.0, 3, 1, 2, 0, 5, 5, 0, 1, 0, 0])
    assert Picker(1, 1.0)(score).tolist() == [1, 3, 5, 8]
    assert Picker(2, 1.0)(score).tolist() == [1, 5]
    assert Picker(1, 0.2)(score).tolist() == [1, 5]


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [([2, 10], [1, 11], 1.0), ([1, 2], [1], 2 / 3), ([1, 2], [1, 2], 1.0), ([5], [1], 0.0), ([], [], 0.0), ([], [3], 0.0), ([3], [], 0.0)],
)
def test_matches_are_one_to_one(found: list[int], true: list[int], expected: float) -> None:
    assert f1(np.array(found, int), np.array(true, int)) == pytest.approx(expected)


def test_the_search_finds_peaks_that_are_there_and_survives_constant_scores() -> None:
    begins = np.arange(7, 200, 11)
    score = np.zeros(210)
    score[begins] = 1
    noisy = score + 0.01 * np.random.default_rng(0).random(210)
    best, picker = choose_picker(noisy, begins)
    assert best == f1(picker(noisy), begins) == 1
    assert 0 <= choose_picker(np.ones(210), begins)[0] < 0.5


def test_restart_is_what_beginning_afresh_saves() -> None:
    model, objective = networks()
    (tokens,) = clips_of([12])
    scores = boundary_scores(model, objective, CONFIG.features, tokens, ACTION, np.random.default_rng(0))

    def surprise(part: np.ndarray) -> np.ndarray:
        first = torch.zeros(1, len(part), dtype=torch.bool)
        first[:, 0] = True
        with torch.no_grad():
            observed = model.observe(torch.from_numpy(part)[None], torch.zeros(1, len(part), 1), first)
        return kl_divergence(observed.post.logits, observed.prior_logits)[0].numpy()

    whole = surprise(tokens)
    np.testing.assert_allclose(scores["surprise"], whole, rtol=1e-4)
    expected = [whole[t : t + RESTART].sum() - surprise(tokens[t : t + RESTART]).sum() for t in range(12)]
    np.testing.assert_allclose(scores["restart"], expected, atol=1e-3)
    assert scores["restart"][0] == pytest.approx(0, abs=1e-3)


def test_expectation_is_the_mismatch_of_what_was_expected_a_window_ago() -> None:
    model, objective = networks()
    (tokens,) = clips_of([12])
    found = boundary_scores(model, objective, CONFIG.features, tokens, ACTION, np.random.default_rng(0))["expectation"]
    (heard,) = listen(model, [tokens])
    with torch.no_grad():
        ahead = objective.ahead_of(heard.observed)
    assert ahead is not None
    assert len(ahead.expected) > 1
    expected = [0.0]  # nobody has expected the first window
    for t in range(1, 12):
        pairs = [(made[0, t - 1], ahead.target[0, t - 1 + k]) for k, made in ahead.expected.items() if t - 1 + k < 12]
        expected.append(float(np.mean([1 - float((made * came).sum()) for made, came in pairs])))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("dreaming_v2", {"surprise", "restart", "expectation"}),
        ("cpc", {"expectation"}),
        ("barlow", {"surprise", "restart"}),
        ("twister", {"surprise", "restart", "expectation"}),
    ],
)
def test_rows_are_those_that_an_objective_can_give(name: str, rows: set[str]) -> None:
    model, objective = networks(name)
    found = utterance_boundaries(model, objective, CONFIG.features, clips_of([4, 6, 3] * 8), clips_of([5] * LEAST_CLIPS), ACTION, 0)
    assert not isinstance(found, str)
    assert set(found.rows) == rows | {"spectral flux", "random"}
    assert found.begins == LEAST_CLIPS - 1
    assert all(0 <= row.f1 <= 1 for row in found.rows.values())


def test_flux_hears_a_change_and_silence_is_survived() -> None:
    model, objective = networks()
    tokens = np.zeros((40, D), np.float32)
    tokens[17:] = 1
    flux = boundary_scores(model, objective, CONFIG.features, tokens, ACTION, np.random.default_rng(0))["spectral flux"]
    assert flux.argmax() == 17
    assert (flux > 0).sum() == 1
    silent = [np.zeros((5, D), np.float32)] * LEAST_CLIPS
    found = utterance_boundaries(model, objective, CONFIG.features, silent, silent, ACTION, 0)
    assert not isinstance(found, str)


@pytest.mark.parametrize(("training", "held_out"), [([], []), ([5] * 50, [5] * 3), ([1] * 50, [5] * 50)])
def test_too_few_clips_are_a_sentence(training: list[int], held_out: list[int]) -> None:
    model, objective = networks()
    found = utterance_boundaries(model, objective, CONFIG.features, clips_of(training), clips_of(held_out), ACTION, 0)
    assert isinstance(found, str)
    assert found.startswith("No utterance boundaries: ")


def test_long_clips_are_cut() -> None:
    model, objective = networks("cpc")
    clips = [np.zeros((300, D), np.float32)] * 100
    found = utterance_boundaries(model, objective, CONFIG.features, clips, clips, ACTION, 0)
    assert not isinstance(found, str)
    assert found.windows <= MAX_STREAM
