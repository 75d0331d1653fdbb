"""The last words of a run: where everything is, and what to try next."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from pydreaming.analysis.run_folder import RunFolder, make_ui, program, short
from pydreaming.config import Config
from pydreaming.errors import redact
from pydreaming.tracking.views import run_link, runs_link
from pydreaming.tracking.writer import unsent
from pydreaming.training.checkpoint import latest_intact

UI = "http://127.0.0.1:5000"


def lines(run_dir: Path, config: Config) -> list[str]:
    """What a run has left, as lines for the console; things that are not there are not named."""
    shown = short(run_dir)
    result = [""]
    checkpoint = latest_intact(run_dir / "checkpoints")
    if checkpoint is None:
        return [f"No checkpoint was written; the logs are in {shown}/logs."]
    result.append(f"checkpoint   {short(checkpoint)}")
    if (run_dir / "report.html").is_file():
        result.append(f"report       {short(run_dir / 'report.html')}   (open it in a browser)")
    result += _mlflow_lines(run_dir, config)
    if (run_dir / "quarantine.jsonl").is_file():
        result.append(f"unreadable   {short(run_dir / 'quarantine.jsonl')}   (files that were left out, and why)")
    return [*result, "", "next:", *(f"  {command}" for _, command in RunFolder(run_dir).next_commands(config))]


def _mlflow_lines(run_dir: Path, config: Config) -> list[str]:
    drain = f"{program('python')} -m workers.tracker --run {shlex.quote(short(run_dir))} --drain"
    try:
        ids = msgspec.json.decode((run_dir / "mlflow_run.json").read_bytes(), type=dict[str, str])
        experiment, run = ids["experiment_id"], ids["run_id"]
    except (OSError, msgspec.MsgspecError, KeyError):
        return [f"MLflow       not written yet: {drain}"]
    rest = [f"             not all of it yet; the rest: {drain}"] if unsent(run_dir) else []
    if config.tracking.uri.startswith("http"):
        return [f"MLflow       {runs_link(redact(config.tracking.uri), experiment)}", *rest]
    return [
        f"MLflow       {runs_link(UI, experiment)}",
        f"             {run_link(UI, experiment, run)}   (this run; start the page with: {make_ui(run_dir.parent)})",
        *rest,
    ]
