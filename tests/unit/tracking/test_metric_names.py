"""Names of metrics in MLflow."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydreaming.errors import TrackingError
from pydreaming.tracking.names import SECTIONS, display_name, family_of, image_key, section_of

MLFLOW_ACCEPTS = re.compile(r"[/\w.\- :]+", re.ASCII)


@pytest.mark.parametrize(
    ("short", "display"),
    [
        ("learning/loss", "1 Is it learning/loss"),
        ("world_model/retrieval_k1", "2 Is it a world model/retrieval_k1"),
        ("workers/clips_per_s_mean", "5 Is the machine busy/workers.clips_per_s_mean"),
        ("machine/workers/clips_per_s_mean", "5 Is the machine busy/workers.clips_per_s_mean"),
        ("loss", "7 Other/loss"),
        ("health/what?", "4 Is it healthy/what_"),
    ],
)
def test_display_name(short: str, display: str) -> None:
    assert display_name(short) == display


@pytest.mark.parametrize("empty", ["", "  ", "learning/", "/"])
def test_empty_name_is_refused(empty: str) -> None:
    with pytest.raises(TrackingError, match="is empty"):
        display_name(empty)


@given(st.text())
def test_any_name_becomes_one_that_mlflow_accepts_in_one_known_section(short: str) -> None:
    try:
        display = display_name(short)
    except TrackingError:
        return
    assert MLFLOW_ACCEPTS.fullmatch(display)
    assert len(display) <= 250
    assert display.count("/") == 1
    assert section_of(display) in SECTIONS


@given(st.text())
def test_any_image_key_becomes_one_that_mlflow_accepts(key: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", image_key(key))


def test_horizons_share_a_family() -> None:
    assert family_of("2 Is it a world model/retrieval_k8") == ("retrieval", 8)
    assert family_of("1 Is it learning/loss") == ("loss", -1)
