"""The last words of a run: where everything is, and what to try next."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pydreaming.config import Config
from pydreaming.tracking.views import run_link, runs_link
from pydreaming.training.checkpoint import latest_intact

UI = "http://127.0.0.1:5000"


def lines(run_dir: Path, config: Config) -> list[str]:
    """What a run has left, as lines for the console; things that are not there are not named."""
    shown = _short(run_dir)
    result = [""]
    checkpoint = latest_intact(run_dir / "checkpoints")
    if checkpoint is None:
        return [f"No checkpoint was written; the logs are in {shown}/logs."]
    result.append(f"checkpoint   {_short(checkpoint)}")
    if (run_dir / "report.html").is_file():
        result.append(f"report       {_short(run_dir / 'report.html')}   (open it in a browser)")
    result += _mlflow_lines(run_dir, config)
    if (run_dir / "quarantine.jsonl").is_file():
        result.append(f"unreadable   {_short(run_dir / 'quarantine.jsonl')}   (files that were left out, and why)")
    example = config.source.path or "RECORDINGS"
    result += [
        "",
        "next:",
        f"  .venv/bin/pydreaming embed {shown} {example} --out embeddings.parquet",
        f"  .venv/bin/pydreaming surprise {shown} A_RECORDING.wav --out surprise.csv --picture surprise.png",
        f"  .venv/bin/pydreaming dream {shown} A_RECORDING.wav --seconds 2 --out dream.wav",
    ]
    return result


def _mlflow_lines(run_dir: Path, config: Config) -> list[str]:
    try:
        ids = msgspec.json.decode((run_dir / "mlflow_run.json").read_bytes(), type=dict[str, str])
        experiment, run = ids["experiment_id"], ids["run_id"]
    except (OSError, msgspec.MsgspecError, KeyError):
        return [f"MLflow       not written yet: .venv/bin/python -m workers.tracker --run {_short(run_dir)} --drain"]
    if config.tracking.uri.startswith("http"):
        return [f"MLflow       {runs_link(config.tracking.uri.rstrip('/'), experiment)}"]
    return [
        f"MLflow       {runs_link(UI, experiment)}",
        f"             {run_link(UI, experiment, run)}   (this run; start the page with: make ui)",
    ]


def _short(path: Path) -> str:
    """Relative to the working folder where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
