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
    shown = [chart for chart in state["compareRunCharts"] if not chart["deleted"]]
    sections = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    assert [(sections[chart["metricSectionId"]], chart.get("selectedMetricKeys", chart.get("imageKeys"))) for chart in shown] == [
        ("1. Is it learning?", ["1 Is it learning/loss"]),
        ("2. Is it a world model?", ["2 Is it a world model/retrieval_k1", "2 Is it a world model/retrieval_k8"]),
        ("5. Is the machine busy?", ["5 Is the machine busy/steps_per_s"]),
        ("6. Look and listen", ["dream"]),
    ]
    assert [chart["displayName"] for chart in shown] == ["loss", "retrieval by horizon k", "steps per s", "dream"]


def test_every_metric_leads_a_chart_so_that_mlflow_adds_none() -> None:
    charts = _state(dashboard(NAMES, set()))["compareRunCharts"]
    assert {chart["metricKey"] for chart in charts} == NAMES
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_state_has_the_fields_that_mlflow_was_seen_to_accept() -> None:
    """The format is undocumented; the example beside this file is one that MLflow 3.17.2 showed in a real browser."""
    accepted = json.loads(Path(__file__).with_name("accepted-view-state.json").read_text())["state"]
    ours = _state(dashboard(NAMES, {"dream"}))
    assert ours.keys() == accepted.keys()
    assert accepted["compareRunSections"][0].keys() <= ours["compareRunSections"][0].keys()
    for kind in ("LINE", "IMAGE"):
        [want, *_] = [chart for chart in accepted["compareRunCharts"] if chart["type"] == kind]
        [have, *_] = [chart for chart in ours["compareRunCharts"] if chart["type"] == kind]
        assert want.keys() - {"displayName"} <= have.keys()


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
    assert "viewStateShareKey" not in runs_link("http://h:1", "3", with_dashboard=False)
    assert run_link("http://h:1", "3", "abc", "artifacts") == "http://h:1/#/experiments/3/runs/abc/artifacts?workflowType=machine_learning"
    assert run_link("http://h:1", "3", "abc") == "http://h:1/#/experiments/3/runs/abc?workflowType=machine_learning"
