"""Chunks and lengths that nobody thought of: the front end's stream against the whole file."""

import functools
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pydreaming.audio.augment import Augment
from pydreaming.audio.decode import decode, seconds_to_samples
from pydreaming.audio.features import FeatureStats, FrontEnd
from pydreaming.audio.resample import Resampler, resampled_length
from pydreaming.audio.sources.item import AudioItem
from pydreaming.audio.tokens import num_frames, num_tokens
from pydreaming.config import load_config

BASE = load_config(["defaults"])
LAYOUTS = [(400, 160, 4, 4), (512, 512, 1, 1), (100, 37, 3, 2), (400, 160, 2, 5), (17, 16, 8, 1)]  # win, hop, token frames and hop
RATES = [16_000, 8_000, 44_100, 48_000, 16_001]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def front_end(layout, normalise=True):
    win, hop, width, step = layout
    features = replace(BASE.features, n_mels=16, win_length=win, hop_length=hop, token_frames=width, token_hop=step)
    return FrontEnd(features, FeatureStats([-4.0] * 16, [2.0] * 16, 1) if normalise else None)


@functools.cache
def noise(num_samples):
    return (np.random.default_rng(num_samples).standard_normal(num_samples) * 0.1).astype(np.float32)


def split(samples, cuts):
    """Chunks at shares of the length; repeated cuts give empty chunks."""
    return np.split(samples, sorted(int(cut * len(samples)) for cut in cuts))


def joined(parts):
    return np.concatenate([np.empty((0, *parts[0].shape[1:]), np.float32), *parts]) if parts else np.empty(0, np.float32)


lengths = st.one_of(st.integers(0, 3000), st.integers(3000, 250_000))
cuts = st.lists(st.floats(0, 1), max_size=40)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(lengths, cuts, st.sampled_from(LAYOUTS), st.sampled_from(RATES))
@example(200_000, [0.5] * 3, (400, 160, 4, 4), 44_100)
def test_chunks_change_no_bit_of_the_tokens(count, where, layout, rate):
    samples = noise(count)
    whole = front_end(layout).tokens_of(samples, rate)
    parts = list(front_end(layout).tokens(split(samples, where), rate))
    assert np.array_equal(joined(parts).reshape(whole.shape), whole)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 4000), st.integers(1, 64))
def test_chunks_of_a_few_samples(count, size):
    samples, layout = noise(count), (100, 37, 3, 2)
    parts = list(front_end(layout).tokens((samples[i : i + size] for i in range(0, count, size)), 44_100))
    assert np.array_equal(joined(parts), front_end(layout).tokens_of(samples, 44_100))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths, st.sampled_from(LAYOUTS), st.sampled_from(RATES))
def test_counts_of_frames_and_tokens(count, layout, rate):
    machine = front_end(layout)
    at_rate = resampled_length(count, rate, 16_000)
    assert len(joined(list(machine.frames([noise(count)], rate)))) == num_frames(at_rate, machine.features)
    assert len(machine.tokens_of(noise(count), rate)) == num_tokens(at_rate, machine.features)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 60_000), cuts, st.integers(1000, 50_000), st.integers(1000, 50_000))
@example(60_000, [0.1, 0.9], 35_467, 16_000)
@example(1, [], 1000, 48_000)
@example(1240, [], 1000, 13_217)  # found: the last output's taps ended one input after the buffer
def test_resampling_any_ratio_in_any_chunks(count, where, orig, new):
    count = min(count, 60_000 * orig // new)  # bound the output
    whole = joined(list(Resampler(orig, new).stream([noise(count)])))
    assert len(whole) == resampled_length(count, orig, new)
    assert np.array_equal(joined(list(Resampler(orig, new).stream(split(noise(count), where)))), whole)
    assert np.abs(whole).max(initial=0) < 1.5 * np.abs(noise(count)).max(initial=0) + 1e-6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 300_000), cuts, st.integers(0, 1000))
@example(300_000, [0.2, 0.7], 1)
def test_augmentation_is_the_same_in_any_chunks(count, where, item):
    augment = Augment(replace(BASE.augment, probability=1.0), 7).of(item, 0)
    machine = front_end((400, 160, 4, 4))
    whole = joined(list(machine.tokens([noise(count)], 16_000, augment)))
    assert np.array_equal(joined(list(machine.tokens(split(noise(count), where), 16_000, augment))), whole)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=8, unique=True), st.sampled_from([8000, 11_025, 44_100]))
def test_adjacent_segments_tile_the_recording(tmp_path_factory, inner, rate):
    path = tmp_path_factory.mktemp("segments") / "x.wav"
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(rate), rate, format="WAV", subtype="FLOAT")
    path.write_bytes(buffer.getvalue())
    edges = [0.0, *sorted(inner), 1.0]
    got = []
    for begin, end in itertools.pairwise(edges):
        if seconds_to_samples(begin + (end - begin), rate) > seconds_to_samples(begin, rate):
            segment = AudioItem(index=0, path="x.wav", group="", offset_s=begin, duration_s=end - begin)
            got.append(decode(path, segment)[0])
    assert np.array_equal(np.concatenate(got), noise(rate))
