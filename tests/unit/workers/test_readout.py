"""What the learner says of its own time."""

from __future__ import annotations

import time

import pytest

from workers.readout import Meter


def test_shares_are_of_the_time_since_the_last_look() -> None:
    meter = Meter()
    begin = time.monotonic()
    for _ in range(2):
        with meter.spend("data_wait"):
            time.sleep(0.02)
    with meter.spend("step"):
        time.sleep(0.01)
    meter.stepped(100)
    meter.append_s = 1e-5
    elapsed = time.monotonic() - begin
    found = meter.take()
    assert 0.04 / elapsed * 0.9 < found["busy/data_wait"] <= 1
    assert 0 < found["busy/step"] < found["busy/data_wait"]
    assert found["busy/log"] == found["busy/save"] == 0
    assert found["busy/append_us"] == pytest.approx(10)
    assert found["machine/tokens_per_s"] == pytest.approx(100 * found["machine/steps_per_s"])
    again = meter.take()
    assert again["busy/data_wait"] == again["busy/step"] == again["machine/steps_per_s"] == 0
