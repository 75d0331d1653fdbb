"""The dashboard tag and the links."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from pydreaming.tracking.names import display_name
from pydreaming.tracking.views import MAX_TAG, dashboard, dashboard_content, run_link, runs_link

NAMES = {display_name(n) for n in ("learning/loss", "world_model/retrieval_k8", "world_model/retrieval_k1", "machine/steps_per_s")}


def _state(tag: str) -> dict[str, Any]:
    assert tag.startswith("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(tag.removeprefix("deflate;"))))
    assert isinstance(state, dict)
    return state


def test_one_chart_per_family_under_the_question_it_answers() -> None:
    state = _state(dashboard(NAMES, {"dream"}))
    charts = {chart["displayName"]: chart for chart in state["compareRunCharts"]}
    assert list(charts) == ["loss", "retrieval by horizon k", "steps per s", "dream"]
    assert charts["retrieval by horizon k"]["selectedMetricKeys"] == [
        "2 Does it predict/retrieval_k1",
        "2 Does it predict/retrieval_k8",
    ]
    sections = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    assert sections[charts["loss"]["metricSectionId"]] == "1. Is it learning?"
    assert sections[charts["dream"]["metricSectionId"]] == "6. Look and listen"
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == 4


def test_state_has_the_fields_that_mlflow_was_seen_to_accept() -> None:
    """The format is undocumented; the example beside this file is one that MLflow 3.17.2 showed in a real browser."""
    accepted = json.loads(Path(__file__).with_name("accepted-view-state.json").read_text())["state"]
    ours = _state(dashboard(NAMES, {"dream"}))
    assert ours.keys() == accepted.keys()
    for kind in ("LINE", "IMAGE"):
        [want, *_] = [chart for chart in accepted["compareRunCharts"] if chart["type"] == kind]
        [have, *_] = [chart for chart in ours["compareRunCharts"] if chart["type"] == kind]
        assert want.keys() <= have.keys()


def test_dashboard_is_deterministic_and_read_back() -> None:
    tag = dashboard(NAMES, {"dream", "surprise"})
    assert tag == dashboard(sorted(NAMES, reverse=True), ["surprise", "dream"])
    assert dashboard_content(tag) == (NAMES, {"dream", "surprise"})


@pytest.mark.parametrize(
    "foreign", ["", "deflate;", "deflate;AAAA", "deflate;%%%", "{}", "deflate;" + base64.b64encode(zlib.compress(b"[1]")).decode()]
)
def test_foreign_tag_counts_as_empty(foreign: str) -> None:
    assert dashboard_content(foreign) == (set(), set())


def test_hundreds_of_metrics_fit_into_the_tag() -> None:
    names = {display_name(f"health/metric_number_{i}") for i in range(300)}
    assert len(dashboard(names, set())) < MAX_TAG


def test_links() -> None:
    assert runs_link("http://h:1/", "3") == (
        "http://h:1/#/experiments/3/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=main"
    )
    assert run_link("http://h:1", "3", "abc", "artifacts") == "http://h:1/#/experiments/3/runs/abc/artifacts"
