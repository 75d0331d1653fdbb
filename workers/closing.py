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
from pydreaming.training.checkpoint import latest_intact, read_state

UI = "http://127.0.0.1:5000"


def lines(run_dir: Path, config: Config) -> list[str]:
    """What a run has left, as lines for the console; things that are not there are not named."""
    run, checkpoint = RunFolder(run_dir), latest_intact(run_dir / "checkpoints")
    if checkpoint is None:
        result = [f"No checkpoint was written; the logs are in {short(run_dir)}/logs."]
    else:
        result = ["", f"checkpoint   {short(checkpoint)}"]
        if (run_dir / "report.html").is_file():
            result.append(f"report       {short(run_dir / 'report.html')}   (open it in a browser)")
        result += _mlflow_lines(run_dir, config)
    for quarantine, of in ((run.quarantine, "files"), (run.quarantine_of_evaluation, "files of the evaluation")):
        if quarantine.is_file():
            result.append(f"unreadable   {short(quarantine)}   ({of} that were left out, and why)")
    trained = checkpoint is not None and read_state(checkpoint).counters["step"] > 0
    commands = [command for _, command in run.next_commands(config)] if trained else _to_go_on(run_dir)
    return [*result, "", "next:", *(f"  {command}" for command in commands)]


def _to_go_on(run_dir: Path) -> list[str]:
    """What there is to do with a run that has learnt nothing yet."""
    shown = shlex.quote(short(run_dir))
    return [f"{program('python')} launch.py --resume {shown}", f"{program('pydreaming')} status {shown}"]


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
