"""What is in a checkpoint, or in a run's folder, without loading any weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors

from pydreaming.analysis.inspect.store import Progress, StoreReport, inspect_store
from pydreaming.analysis.run_folder import RunFolder
from pydreaming.errors import CheckpointError, ConfigError, ReplayError
from pydreaming.replay.address import Location
from pydreaming.training.checkpoint import HUB_CONFIG, list_checkpoints, read_state, state_name, verify, verify_model


@dataclass
class CheckpointReport:
    """What a checkpoint says of itself.

    Attributes:
      intact: every file has the checksum it was written with; else `problem` says what is wrong.
      written: seconds since 1970. step, seconds, trained_tokens: how long it was trained. bytes: of its files.
      parameters: of the world model, and `heads`, of the objective. objective: its name. model, features, action, source: settings.
    """

    path: str
    intact: bool = True
    problem: str = ""
    written: float = 0.0
    bytes: int = 0
    step: int = 0
    seconds: float = 0.0
    trained_tokens: int = 0
    parameters: int = 0
    heads: int = 0
    objective: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    action: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunReport:
    """What a run's folder holds.

    Attributes:
      checkpoints: oldest first. store: its replay store; None where there is none. problems: what could not be read, and why.
      catalogue: recordings, speakers, held_out, ... as in catalogue.json. unreadable: lines of quarantine.jsonl.
      evaluated: name of the newest evaluation; `evaluation`: its lines for people.
    """

    path: str
    checkpoints: list[CheckpointReport] = field(default_factory=list)
    store: StoreReport | None = None
    problems: list[str] = field(default_factory=list)
    catalogue: dict[str, Any] = field(default_factory=dict)
    unreadable: int = 0
    evaluated: str = ""
    evaluation: list[str] = field(default_factory=list)


def inspect_checkpoint(folder: str | Path) -> CheckpointReport:
    """Look at a checkpoint. What is damaged is reported, as far as it can be read."""
    folder = Path(folder)
    report = CheckpointReport(str(folder))
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
        report.bytes = sum(path.stat().st_size for path in files)
        report.written = max((path.stat().st_mtime for path in files), default=0.0)
        (verify_model if state_name(folder) == HUB_CONFIG else verify)(folder)  # an exported model has no optimiser to miss
    except (CheckpointError, OSError) as e:
        report.intact, report.problem = False, str(e)
    try:
        state = read_state(folder)
        report.parameters, report.heads = _parameters(folder / "model.safetensors")
    except CheckpointError as e:
        report.intact, report.problem = False, report.problem or str(e)
        return report
    counters, config = state.counters, state.config
    report.step, report.seconds, report.trained_tokens = int(counters["step"]), counters["seconds"], int(counters["trained_tokens"])
    report.objective = config.objective.name
    report.model, report.features, report.action, report.source = (
        asdict(section) for section in (config.model, config.features, config.action, config.source)
    )
    return report


def inspect_run(folder: str | Path, progress: Progress | None = None) -> RunReport:
    """Look at a run's folder: checkpoints, replay store, catalogue, newest evaluation. `progress` as for `inspect_store`."""
    folder = Path(folder)
    report = RunReport(str(folder))
    places = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    report.checkpoints = [inspect_checkpoint(path) for path in list_checkpoints(places)]
    if (store := _store_of(folder)) is not None:
        try:
            report.store = inspect_store(store, progress)
        except ReplayError as e:
            report.problems.append(str(e))
    catalogue = _json(folder / "catalogue" / "catalogue.json", report.problems)
    report.catalogue = {key: catalogue[key] for key in ("items", "held_out", "groups", "speakers", "split") if key in catalogue}
    quarantine = folder / "quarantine.jsonl"
    report.unreadable = len(quarantine.read_text(encoding="utf-8").splitlines()) if quarantine.is_file() else 0
    summaries = sorted((folder / "evals").glob("*/summary.json"))
    if summaries:
        report.evaluated = summaries[-1].parent.name
        report.evaluation = [str(line) for line in _json(summaries[-1], report.problems).get("lines", [])]
    return report


def _store_of(folder: Path) -> Location | None:
    """Where a run's episodes are: in its folder, or where its settings say; None where neither is known."""
    if (folder / "replay").is_dir():
        return folder / "replay"
    try:
        config = RunFolder(folder).read_config()
    except ConfigError:
        return None
    return RunFolder(folder).replay(config) if config.replay.dir else None


def _parameters(path: Path) -> tuple[int, int]:
    """Numbers of the world model and of the objective's heads, from the header of the weights. Raises CheckpointError."""
    counts = {"model": 0, "objective": 0}
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part = name.partition(".")[0]
                counts[part] = counts.get(part, 0) + math.prod(file.get_slice(name).get_shape())
    except (OSError, safetensors.SafetensorError) as e:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(e).split())}") from e
    return counts["model"], counts["objective"]


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    """A small JSON object; empty where it is missing, or damaged, which is added to the problems."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        problems.append(f"{path} cannot be read: {e}")
        return {}
    return found
