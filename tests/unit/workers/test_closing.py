"""The last words of a run."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_model import make_checkpoint, tiny_config

from workers import closing


def test_nobody_reads_the_password_of_the_server_on_the_console(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1)
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"experiment_id": "3", "run_id": "7"}))
    text = "\n".join(closing.lines(tmp_path, tiny_config(tracking__uri="http://ann:secret@ml.host:5000/")))
    assert "http://ml.host:5000/#/experiments/3" in text
    assert "secret" not in text
