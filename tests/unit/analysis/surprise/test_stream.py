"""A stream gives what the whole recording gives."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import RATE, make_checkpoint, sweep

from pydreaming.analysis.names import CURVES
from pydreaming.analysis.surprise.calibration import Calibration
from pydreaming.analysis.surprise.curves import events_of, surprise
from pydreaming.analysis.surprise.events import Event, Hysteresis
from pydreaming.analysis.surprise.normal import calibrate
from pydreaming.analysis.surprise.stream import SurpriseStream
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError

RULE = Hysteresis(0.2, 0.4)


def listen(stream: SurpriseStream, samples: np.ndarray, cuts: list[int]) -> tuple[dict[str, np.ndarray], list[Event]]:
    """The table of all rows, and the events."""
    rows = [stream.push(part) for part in np.split(samples, cuts)] + [stream.finish()]
    tables = [row.columns() for row in rows]
    return {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}, [event for row in rows for event in row.events]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.floats(0.01, 1.2),
    rate=st.sampled_from([RATE, 16_000, 11_025]),
    cuts=st.lists(st.integers(0, 20_000), max_size=8).map(sorted),
    chunk=st.sampled_from([1, 2, 5, 40]),
    seed=st.none() | st.integers(0, 2**32),
)
def test_any_split_of_any_stream_equals_the_whole(
    each: WorldModel, seconds: float, rate: int, cuts: list[int], chunk: int, seed: int | None
) -> None:
    samples = sweep(seconds, rate)
    whole = surprise(each, (samples, rate), seed).columns()
    table, events = listen(SurpriseStream(each, rate, chunk=chunk, seed=seed), samples, cuts)
    assert list(table) == list(whole)
    assert events == []
    at_once, _ = listen(SurpriseStream(each, rate, chunk=chunk, seed=seed), samples, [])
    for name in ("window", "start_s", "centre_s"):
        np.testing.assert_array_equal(table[name], whole[name])
    for name in (f"{curve}_bits" for curve in CURVES):
        np.testing.assert_array_equal(table[name], at_once[name])  # however it is split: the same bits, on any machine
        np.testing.assert_allclose(table[name], whole[name], atol=1e-3)
        if each.config.model.core == "gru" and platform.machine() == "x86_64":
            np.testing.assert_array_equal(table[name], whole[name])


@pytest.fixture(scope="module")
def calibrated(model: WorldModel) -> Calibration:
    return calibrate(model, [(sweep(0.8, seed=i), RATE) for i in range(20)])


@pytest.mark.parametrize("chunk", [1, 7])
def test_p_values_and_events_are_those_of_the_whole(model: WorldModel, calibrated: Calibration, chunk: int) -> None:
    samples = np.concatenate([sweep(0.7, seed=i) for i in range(6)])
    whole = surprise(model, (samples, RATE), calibration=calibrated)
    stream = SurpriseStream(model, RATE, calibrated, RULE, "nll", chunk)
    table, events = listen(stream, samples, [10, 5000, 5001])
    assert stream.windows == len(whole)
    for curve in CURVES:
        np.testing.assert_allclose(table[f"{curve}_p"], whole.p[curve], rtol=1e-2)
    expected = events_of(whole, model.features, RULE, "nll")
    assert len(expected) > 1
    assert [event.start_s for event in events] == [event.start_s for event in expected]
    assert set(table["event"]) == {0, 1}
    marked = table["start_s"][table["event"] == 1]
    assert all(any(event.start_s <= start < event.end_s for event in events) for start in marked)


def test_rows_come_as_soon_as_they_are_told_to(model: WorldModel) -> None:
    for rate, chunk in ((RATE, 1), (16_000, 1), (RATE, 4)):
        stream = SurpriseStream(model, rate, chunk=chunk)
        samples, step, span = sweep(1.0, rate), rate // 200, 0.055
        late = []
        for begin in range(0, len(samples), step):
            late += [(begin + step) / rate - start - span for start in stream.push(samples[begin : begin + step]).surprise.start_s]
        assert len(late) >= 20
        assert max(late) <= stream.latency_s + 2 / 200


def test_nothing_and_little(model: WorldModel) -> None:
    stream = SurpriseStream(model, RATE)
    assert len(stream.push(np.empty(0))) == len(stream.finish()) == 0
    stream = SurpriseStream(model, RATE)
    assert len(stream.push(np.zeros(1))) == 0
    assert len(stream.finish()) == 1


def test_memory_does_not_grow(model: WorldModel, attending: WorldModel) -> None:
    for each in (model, attending):
        stream = SurpriseStream(each, RATE, chunk=4)
        held = []
        for _ in range(3):
            for _ in range(10):
                stream.push(sweep(0.5))
            held.append(size_of(stream))
        assert max(held) - min(held) < 20_000  # ten more pushes are 160,000 bytes of samples


def size_of(root: object) -> int:
    """Bytes of arrays and tensors that hang on a stream (not on its model)."""
    found, seen, queue = 0, set(), [root]
    while queue:
        value = queue.pop()
        if id(value) in seen or isinstance(value, WorldModel | type):
            continue
        seen.add(id(value))
        if hasattr(value, "untyped_storage"):
            found += value.untyped_storage().nbytes()
        elif isinstance(value, np.ndarray):
            found += value.nbytes if value.base is None else getattr(value.base, "nbytes", 0)
        elif isinstance(value, list | tuple):
            queue += value
        elif type(value).__module__.startswith("pydreaming") and hasattr(value, "__dict__"):
            queue += vars(value).values()
    return found


def test_wrong_wishes(model: WorldModel, rssm: WorldModel, calibrated: Calibration) -> None:
    for words in ({"sample_rate": 0}, {"sample_rate": 10**9}, {"chunk": 0}, {"chunk": 513}, {"curve": "loudness"}):
        with pytest.raises(UsageError):
            SurpriseStream(model, **{"sample_rate": RATE, **words})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="another model"):
        SurpriseStream(rssm, RATE, calibrated)
    stream = SurpriseStream(model, RATE)
    for samples in (np.zeros((2, 2)), np.zeros(3, np.int16), np.array([0.0, np.nan])):
        with pytest.raises(UsageError, match="finite floats"):
            stream.push(samples)


def test_a_model_without_latents_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("stream-cpc")
    make_checkpoint(run, steps=1, objective__name="cpc")
    cpc = WorldModel.load(run, "cpu")
    for use in (lambda: SurpriseStream(cpc, RATE), lambda: surprise(cpc, (sweep(0.5), RATE)), lambda: calibrate(cpc, [(sweep(0.5), RATE)])):
        with pytest.raises(UsageError, match="'cpc', which trains no latents"):
            use()
