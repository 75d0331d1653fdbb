"""The ready-made MLflow dashboard, and links that open it.

MLflow's page opens in a mode that hides training runs, so users get links that name the right view. The dashboard itself is an
experiment tag in MLflow's undocumented "shared view state"; where a later MLflow does not know it, the same links still open the charts.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from typing import Any

from pydreaming.tracking.names import SECTIONS, family_of, family_rank, section_of

VIEW_TAG = "mlflow.sharedViewState.main"
MAX_TAG = 20_000  # characters of an experiment tag
_PREFIX = "deflate;"
_MAX_STATE = 4 * 2**20  # bytes of JSON; a tag that inflates to more is not ours


def runs_link(base_url: str, experiment_id: str, with_dashboard: bool = True) -> str:
    """Address of the runs of an experiment as charts. `with_dashboard` needs the tag VIEW_TAG to be set: MLflow answers a link to a view
    it does not have with an empty page."""
    query = "workflowType=machine_learning&compareRunsMode=CHART" + ("&viewStateShareKey=main" if with_dashboard else "")
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def run_link(base_url: str, experiment_id: str, run_id: str, tab: str = "") -> str:
    """Address of one run; `tab` may be `artifacts` or `model-metrics`."""
    page = f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{page}{'/' if tab else ''}{tab}?workflowType=machine_learning"


def dashboard(metrics: Iterable[str], images: Iterable[str]) -> str:
    """Value of the tag `VIEW_TAG`: one line chart per metric family, one grid for each image series.

    Args:
      metrics: display names, see `names.display_name`; `retrieval_k1`, `retrieval_k2`, ... share a chart.
      images: keys of image series.
    """
    charts = [*_line_charts(set(metrics)), *_image_charts(set(images))]
    used = {chart["metricSectionId"] for chart in charts}
    sections = [_section(key, section.question) for key, section in SECTIONS.items() if key in used]
    return _pack(_view_state(charts, sections))


def dashboard_content(tag: str) -> tuple[set[str], set[str]]:
    """Metric names and image keys of a dashboard tag; both empty where the tag is not one that we wrote."""
    try:
        inflater = zlib.decompressobj()
        packed = base64.b64decode(tag.removeprefix(_PREFIX), validate=True)
        charts = json.loads(inflater.decompress(packed, _MAX_STATE))["compareRunCharts"]
        metrics = {name for chart in charts for name in chart.get("selectedMetricKeys", [])}
        images = {key for chart in charts for key in chart.get("imageKeys", [])}
    except (ValueError, zlib.error, KeyError, TypeError, AttributeError):
        return set(), set()
    return metrics, images


def _line_charts(metrics: set[str]) -> list[dict[str, Any]]:
    families: dict[tuple[str, str], list[str]] = {}
    for name in metrics:
        families.setdefault((section_of(name), family_of(name)[0]), []).append(name)
    order = list(SECTIONS)
    charts = []
    for section, family in sorted(families, key=lambda key: (order.index(key[0]), family_rank(key[1]))):
        first, *more = sorted(families[section, family], key=lambda name: family_of(name)[1])
        charts.append(_line_chart(section, family, family, [first, *more]))
        # MLflow adds a chart of its own for every metric that leads none; a deleted one counts, and is not shown.
        charts += [{**_line_chart(section, name, family, [name]), "deleted": True} for name in more]
    return charts


def _line_chart(section: str, uuid: str, family: str, names: list[str]) -> dict[str, Any]:
    return {
        **_chart(f"line-{section}-{uuid}", "LINE", section),
        "metricKey": names[0],
        "selectedMetricKeys": names,
        "displayName": family.replace("_", " ") + (" by horizon k" if family_of(names[0])[1] >= 0 else ""),
        # MLflow titles this page's charts by the full names of their metrics, unless this field is there: then by displayName.
        "nodeLevelSystemMetricConfiguration": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _image_charts(images: set[str]) -> list[dict[str, Any]]:
    return [
        {**_chart(f"image-{key}", "IMAGE", "look"), "displayName": key, "imageKeys": [key], "step": 0, "showRunParams": False}
        for key in sorted(images)
    ]


def _chart(uuid: str, kind: str, section: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }


def _section(uuid: str, name: str) -> dict[str, Any]:
    fixed = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, "columns": 2, "cardHeight": 420 if uuid == "look" else 320, **fixed}


def _view_state(charts: list[dict[str, Any]], sections: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [],
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _pack(state: dict[str, Any]) -> str:
    text = json.dumps(state, separators=(",", ":"), sort_keys=True)
    return _PREFIX + base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")
