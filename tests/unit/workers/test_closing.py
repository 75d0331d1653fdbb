"""The last words of a run."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_model import make_checkpoint, tiny_config

from pydreaming.analysis.run_folder import program
from pydreaming.tracking.spool import SPOOL, Spool
from pydreaming.tracking.writer import CURSOR
from workers import closing

PYTHON = program("python")


def test_nobody_reads_the_password_of_the_server_on_the_console(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1)
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"experiment_id": "3", "run_id": "7"}))
    text = "\n".join(closing.lines(tmp_path, tiny_config(tracking__uri="http://ann:secret@ml.host:5000/")))
    assert "http://ml.host:5000/#/experiments/3" in text
    assert "secret" not in text


def test_what_mlflow_has_not_got_yet_is_said_with_the_command_that_sends_it(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1)
    drain = f"-m workers.tracker --run {tmp_path} --drain"
    assert f"not written yet: {PYTHON} {drain}" in "\n".join(closing.lines(tmp_path, tiny_config()))
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"experiment_id": "3", "run_id": "7"}))
    assert drain not in "\n".join(closing.lines(tmp_path, tiny_config()))
    spool = Spool(tmp_path / SPOOL)
    spool.metrics(1, {"learning/loss": 1.0})
    for uri in ("", "http://ml.host:5000"):
        assert f"not all of it yet; the rest: {PYTHON} {drain}" in "\n".join(closing.lines(tmp_path, tiny_config(tracking__uri=uri)))
    (tmp_path / CURSOR).write_text(json.dumps({"offset": (tmp_path / SPOOL).stat().st_size}))
    assert drain not in "\n".join(closing.lines(tmp_path, tiny_config()))
