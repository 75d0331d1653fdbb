"""The last words of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
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


def test_unreadable_recordings_are_pointed_to_the_held_out_ones_too(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1)
    (tmp_path / "eval_set").mkdir()

    def unreadable() -> list[str]:
        return [line for line in closing.lines(tmp_path, tiny_config()) if "quarantine.jsonl" in line]

    assert unreadable() == []
    (tmp_path / "eval_set/quarantine.jsonl").write_text("{}\n")
    (held_out,) = unreadable()
    assert held_out.startswith(f"unreadable   {tmp_path}/eval_set/quarantine.jsonl ")
    (tmp_path / "quarantine.jsonl").write_text("{}\n")
    trained, again = unreadable()
    assert trained.startswith(f"unreadable   {tmp_path}/quarantine.jsonl ")
    assert again == held_out


@pytest.mark.parametrize("steps", [None, 0])
def test_a_run_that_ended_before_its_first_step_is_gone_on_with(tmp_path: Path, steps: int | None) -> None:
    run = tmp_path / "my runs/a"
    run.mkdir(parents=True)
    if steps is not None:
        make_checkpoint(run, steps=steps)
    result = closing.lines(run, tiny_config())
    begin = result.index("next:")
    assert result[begin + 1 :] == [f"  {PYTHON} launch.py --resume '{run}'", f"  {program('pydreaming')} status '{run}'"]
    assert ("No checkpoint was written" in result[0]) is (steps is None)


def test_what_a_trained_run_can_do_is_offered(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1)
    text = "\n".join(closing.lines(tmp_path, tiny_config()))
    assert f"{program('pydreaming')} dream {tmp_path}" in text
    assert "--resume" not in text
