"""The last words of a run: where everything is, and what to try next."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from pydreaming.audio.decode import resolve_inside
from pydreaming.audio.sources import Catalogue, source_root
from pydreaming.config import Config
from pydreaming.errors import PydreamingError
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
    return [*result, "", "next:", *(f"  {command}" for _, command in next_commands(run_dir, config))]


def next_commands(run_dir: Path, config: Config) -> list[tuple[str, str]]:
    """What to try with a trained run: (what it does, the command)."""
    shown, audio = shlex.quote(_short(run_dir)), shlex.quote(config.source.path or "RECORDINGS")
    recording = _a_recording(run_dir, config)
    return [
        ("Features of every recording, one row each", f".venv/bin/pydreaming embed {shown} {audio} --out embeddings.parquet"),
        (
            "How surprising a recording is, moment by moment",
            f".venv/bin/pydreaming surprise {shown} {recording} --out surprise.csv --picture surprise.png",
        ),
        ("Let it dream a recording on", f".venv/bin/pydreaming dream {shown} {recording} --seconds 2 --out dream.wav"),
    ]


def _a_recording(run_dir: Path, config: Config) -> str:
    """A recording of the run that a command can be tried on."""
    try:
        item = Catalogue.open(run_dir / "catalogue")[0]
        return shlex.quote(_short(resolve_inside(source_root(config.source), item.path)))
    except PydreamingError:
        return "RECORDING"


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
