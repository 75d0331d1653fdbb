"""Hysteresis: where events begin and end, what is bridged and dropped, and that a stream finds the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_config

from pydreaming.analysis.surprise.events import (
    Event,
    EventFinder,
    Hysteresis,
    event_label,
    find_events,
    label_line,
    own_shares,
    write_events,
    write_labels,
)
from pydreaming.analysis.world_model import token_times
from pydreaming.errors import UsageError

FEATURES = tiny_config().features  # windows 40 ms apart
STRIDE, SPAN = 0.04, ((4 - 1) * 80 + 200) / 8000
HIGH, LOW, NONE = 1e-4, 0.01, 0.5


def spans(p: list[float], rule: Hysteresis) -> list[tuple[int, int]]:
    """First and last window of each event."""
    events = find_events(np.ones(len(p)), np.array(p), FEATURES, rule)
    return [(round(event.start_s / STRIDE), round((event.end_s - SPAN) / STRIDE)) for event in events]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([NONE, LOW, HIGH, LOW, NONE, NONE], [(1, 3)]),
        ([NONE, LOW, LOW, NONE], []),
        ([HIGH, NONE, HIGH], [(0, 0), (2, 2)]),
        ([LOW, NONE, HIGH], [(2, 2)]),
        ([NONE, NONE, LOW, HIGH], [(2, 3)]),
        ([], []),
        ([0.001], []),  # thresholds are strict
        ([HIGH] * 5, [(0, 4)]),
    ],
)
def test_where_events_lie(p: list[float], expected: list[tuple[int, int]]) -> None:
    assert spans(p, Hysteresis(gap_s=0)) == expected


def test_gaps_are_bridged_and_short_events_dropped() -> None:
    p = [HIGH, NONE, NONE, LOW, NONE, NONE, NONE, HIGH, HIGH]
    assert spans(p, Hysteresis(gap_s=0.08)) == [(0, 3), (7, 8)]
    assert spans(p, Hysteresis(gap_s=0.079)) == [(0, 0), (7, 8)]
    assert spans(p, Hysteresis(gap_s=0, minimum_s=0.09)) == [(7, 8)]
    assert spans(p, Hysteresis(gap_s=10)) == [(0, 8)]


def test_what_an_event_says() -> None:
    bits, p = np.array([1.0, 4.0, 9.0, 5.0, 1.0]), np.array([NONE, LOW, HIGH, LOW, NONE])
    (event,) = find_events(bits, p, FEATURES, Hysteresis())
    assert event == Event(STRIDE, pytest.approx(3 * STRIDE + SPAN), 2 * STRIDE + SPAN / 2, 9.0, HIGH, pytest.approx(18 * STRIDE))
    assert event_label(event, calibrated=True) == "9.0 bits p=0.0001"
    assert event_label(event, calibrated=False) == "9.0 bits"


def test_the_times_of_an_event_are_those_of_its_windows() -> None:
    """To the bit: a table of events is joined with that of the windows by them."""
    p = np.full(200, NONE)
    p[::4] = HIGH
    start_s, centre_s = token_times(len(p), FEATURES)
    events = find_events(np.ones(len(p)), p, FEATURES, Hysteresis(gap_s=0))
    assert [event.start_s for event in events] == start_s[::4].tolist()
    assert [event.peak_s for event in events] == centre_s[::4].tolist()
    assert [event.end_s for event in events] == [round(start + SPAN, 4) for start in start_s[::4].tolist()]


def test_a_stream_finds_the_same_and_marks_from_the_onset_on() -> None:
    random = np.random.default_rng(0)
    p = 10.0 ** random.uniform(-4, 0, 400)
    bits = -np.log2(p)
    rule = Hysteresis(minimum_s=0.12)
    for size in (1, 3, 400):
        finder, events, marks = EventFinder(FEATURES, rule), [], []
        for i in range(0, 400, size):
            marked, ended = finder.push(bits[i : i + size], p[i : i + size])
            marks += marked.tolist()
            events += ended
        assert events + finder.finish() == find_events(bits, p, FEATURES, rule)
        first = int(np.flatnonzero(p < rule.onset)[0])
        assert not any(marks[:first])
        assert marks[first]
        assert all(share < rule.offset for share, mark in zip(p, marks, strict=True) if mark)


def test_own_shares_find_the_highest_but_not_the_beginning() -> None:
    bits = np.concatenate([[50.0] * 8, np.arange(100.0)])
    shares = own_shares(bits)
    assert (shares[:8] == 1).all()
    assert shares[-1] == 0
    assert shares[8] == pytest.approx(0.99)
    (event,) = find_events(bits, None, FEATURES, Hysteresis(0.01, 0.1))
    assert event.peak_bits == 99
    assert (own_shares(np.ones(5)) == 1).all()
    assert find_events(np.empty(0), None, FEATURES, Hysteresis()) == []


@pytest.mark.parametrize(
    "words",
    [
        {"onset": 0.0},
        {"onset": 0.1, "offset": 0.05},
        {"offset": 1.5},
        {"onset": float("nan")},
        {"gap_s": -1.0},
        {"minimum_s": float("inf")},
    ],
)
def test_rules_that_make_no_sense(words: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Hysteresis(**words)


def test_tables_and_labels(tmp_path: Path) -> None:
    event = Event(1.0, 2.5, 1.5, 20.0, 1e-5, 12.0)
    write_events(tmp_path / "e.npz", [("a.wav", [event, event]), ("b.wav", [])], calibrated=True)
    with np.load(tmp_path / "e.npz") as table:
        assert table["source"].tolist() == ["a.wav"] * 2
        assert [float(table[name][0]) for name in ("start_s", "end_s", "peak_s", "peak_bits", "min_p", "area_bit_s")] == [
            1, 2.5, 1.5, 20, 1e-5, 12
        ]  # fmt: skip
    write_events(tmp_path / "none.csv", [("b.wav", [])], calibrated=False)
    assert (tmp_path / "none.csv").read_text().splitlines()[-1] == "source,start_s,end_s,peak_s,peak_bits,area_bit_s"
    write_labels(tmp_path / "l.txt", [(0.5, 1.25, "a"), (2, 3, "b\tc\nd")])
    assert (tmp_path / "l.txt").read_text() == "0.500000\t1.250000\ta\n2.000000\t3.000000\tb c d\n"
    assert label_line(1 / 3, 36_000.04, "x") == "0.333333\t36000.040000\tx\n"
