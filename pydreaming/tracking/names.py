"""Names of metrics: what callers write, and what people read in MLflow.

Callers write short names, `section/name` such as `learning/loss` or `world_model/retrieval_k1`. MLflow groups metrics by everything
before the last slash, so the display name puts each metric under a section that reads like a question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydreaming.errors import TrackingError


class Section(NamedTuple):
    """A group of metrics: `prefix` begins the MLflow name (which may not hold '?'), `question` heads the dashboard section."""

    prefix: str
    question: str


SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "learning": Section("1 Is it learning", "1. Is it learning?"),  # loss, nce_accuracy_k1, ...
        "world_model": Section("2 Is it a world model", "2. Is it a world model?"),  # open_loop_gain_k1, retrieval_k1, ...
        "use": Section("3 Is it useful", "3. Is it useful?"),  # probes, ABX, anomaly scores
        "health": Section("4 Is it healthy", "4. Is it healthy?"),  # kl, perplexity, effective_rank, grad_norm, ...
        "machine": Section("5 Is the machine busy", "5. Is the machine busy?"),  # steps_per_s, busy/data_wait, ...
        "look": Section("6 Look and listen", "6. Look and listen"),  # images
        "other": Section("7 Other", "7. Other"),
    }
)

_ALIASES = {"workers": "machine", "replay": "machine", "busy": "machine", "system": "machine", "probe": "use", "eval": "use"}

# Charts people look at first; families not named here follow in alphabetical order.
_FIRST = ("loss", "nce_accuracy", "open_loop_gain", "retrieval", "kl", "grad_norm", "steps_per_s", "busy.data_wait")

MAX_NAME = 250  # MLflow's limit for a metric, parameter or tag key


def split_name(short: str) -> tuple[str, str]:
    """Section and plain name of a short metric name; `workers/x` becomes `workers.x` of section `machine`.

    Raises:
      TrackingError: the name is empty.
    """
    head, slash, rest = short.strip().partition("/")
    section = head if head in SECTIONS else _ALIASES.get(head, "other")
    name = rest if slash and head in SECTIONS else short.strip()
    # One level only: a further slash would make a section of its own in MLflow.
    name = _clean(name.strip("/").replace("/", "."))
    if not name:
        raise TrackingError(f"metric name '{short}' is empty; write section/name such as learning/loss")
    return section, name


def display_name(short: str) -> str:
    """The MLflow name of a metric: `learning/loss` -> `1 Is it learning/loss`; characters MLflow refuses become '_'."""
    section, name = split_name(short)
    return f"{SECTIONS[section].prefix}/{name}"[:MAX_NAME]


def image_key(short: str) -> str:
    """The MLflow key of an image series; characters that MLflow refuses become '_'."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", short.strip("/ "))[:100] or "image"


def section_of(display: str) -> str:
    """The section key that a display name belongs to; `other` where there is none."""
    prefix = display.rpartition("/")[0]
    return next((key for key, section in SECTIONS.items() if section.prefix == prefix), "other")


def family_of(display: str) -> tuple[str, int]:
    """Chart that a metric is drawn in and its place there: `.../retrieval_k8` -> (`retrieval`, 8); (`loss`, -1) without a horizon."""
    name = display.rpartition("/")[2]
    found = re.fullmatch(r"(.+)_k(\d+)", name)
    return (found[1], int(found[2])) if found else (name, -1)


def family_rank(family: str) -> tuple[int, str]:
    """Sort key that puts the charts people look at first to the front."""
    return (_FIRST.index(family) if family in _FIRST else len(_FIRST), family)


def _clean(name: str) -> str:
    return re.sub(r"[^\w.\- :]", "_", name, flags=re.ASCII)
