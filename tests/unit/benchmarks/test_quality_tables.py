from __future__ import annotations

from pathlib import Path

import pytest
from tones import write_tone

from benchmarks import quality
from benchmarks.figures.jobs import CORPORA, ROWS, Job, make_plan
from benchmarks.figures.row import Row
from benchmarks.figures.tables import TARGETS, Figures, report, summary
from pydreaming.errors import ConfigError, SourceError


def done(suite: str = "recognition", notes: dict[str, list[str]] | None = None, **lines: dict[str, float]) -> dict[str, object]:
    return {"figures": {suite: lines} if lines else {}, "notes": notes or {}, "training": {}, "code": "c0de"}


def test_the_interval_is_students():
    assert Row("a", [1.0, 2.0, 3.0]).mean == 2.0
    assert Row("a", [1.0, 2.0, 3.0]).interval == pytest.approx(4.30 / 3**0.5)


def test_a_seed_counts_once_every_speaker_that_is_left_out_in_turn_is_done():
    jobs = [Job("strict", "cpc", seed, speaker) for seed in (0, 1) for speaker in ("ann", "bob")]
    results = {job: done(cpc={"accuracy": value}) for job, value in zip(jobs, (0.5, 0.7, 0.9), strict=False)}
    figures = Figures(jobs, results, {jobs[3]: "failed: error: out of luck"})
    assert figures.row("strict", "recognition", "cpc", "accuracy").values == [pytest.approx(0.6)]
    assert figures.why_not("strict", "recognition", "cpc") == "strict-cpc-1-bob failed: error: out of luck"


def test_peers_are_shown_at_their_best_and_missing_figures_say_why():
    target = next(t for t in TARGETS if t.corpus == "fsdd" and t.suite == "recognition")
    ours, cpc, base = (Job("fsdd", row, 0) for row in ("world_model", "cpc", "log-mel"))
    results = {
        ours: done(world_model={target.figure: target.least}),
        cpc: done(**{"cpc": {target.figure: 0.1}, "cpc, deter only": {target.figure: 0.3}}, notes={"imagination": ["It has none."]}),
        base: done(**{"log-mel, flat": {target.figure: 0.2}, "log-mel": {target.figure: 0.15}}),
    }
    figures = Figures([ours, cpc, base], results, {})
    assert figures.best("fsdd", "recognition", "cpc", target.figure).values == [0.3]
    text = report(figures, {}, 300.0)
    row = next(line for line in text.splitlines() if line.startswith(f"| {target.title} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [f"≥ {target.least:.3f}", f"{target.least:.3f}", f"{target.least:.3f}", "0.300", "0.200", "–", "yes", "yes"]
    assert "cpc: It has none." in text
    assert "cpc: not asked for" in text  # ESC-10
    assert summary(figures)["fsdd"]["recognition"]["cpc"][target.figure] == {"mean": 0.1, "interval": None, "values": [0.1]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("1_ann_0", "1_ann_5", "2_bob_0", "2_bob_7"):
        write_tone(tmp_path / f"data/fsdd/{name}.wav", 0.1, seed=0)
    return tmp_path / "data"


def test_one_job_for_each_speaker_left_out_and_one_seed_for_rows_without_chance(data: Path, tmp_path: Path):
    plan = make_plan(data, tmp_path, 300, [], ["strict"], ["world_model", "log-mel"], [3, 4], {})
    names = [job.name for job in plan.jobs]
    assert names == [
        *(f"strict-{row}-3-{speaker}" for row in ("world_model", "log-mel") for speaker in ("ann", "bob")),
        *(f"strict-world_model-4-{speaker}" for speaker in ("ann", "bob")),
    ]
    config = plan.config(plan.jobs[0])
    assert (config.source.held_out_speakers, config.run.seed, config.training.seconds, config.training.steps) == (["ann"], 3, 300.0, 0)
    assert len({plan.digest(job) for job in plan.jobs}) == len(plan.jobs)


def test_peers_differ_from_the_world_model_in_the_objective_alone(data: Path, tmp_path: Path):
    plan = make_plan(data, tmp_path, 300, ["training.batch_size=7"], ["fsdd"], ROWS, [0], {})
    configs = {job.row: plan.config(job).to_dict() for job in plan.jobs}
    assert set(configs) == set(CORPORA["fsdd"].rows)
    for row in ("cpc", "dreamer_v2"):
        assert configs[row]["objective"].pop("name") == row
        configs[row]["objective"]["name"] = configs["world_model"]["objective"]["name"]
        assert configs[row] == configs["world_model"]
    assert configs["world_model"]["training"]["batch_size"] == 7


def test_a_row_with_a_pace_trains_for_as_many_steps_as_a_quiet_core_makes(data: Path, tmp_path: Path):
    plan = make_plan(data, tmp_path, 300, [], ["fsdd"], ["world_model", "cpc"], [0], {"cpc": 14.0})
    assert {job.row: plan.config(job).training.steps for job in plan.jobs} == {"world_model": 0, "cpc": 4200}


def test_paces_may_be_given_together_or_one_by_one():
    for words in (["--pace", "cpc=14.7", "world_model=10.6"], ["--pace", "cpc=14.7", "--pace", "world_model=10.6"]):
        options = quality._parser().parse_args(["--data", "d", "--out", "o", *words])
        assert dict(options.pace) == {"cpc": 14.7, "world_model": 10.6}


def test_missing_data_and_wrong_settings_are_named_before_any_job(tmp_path: Path, data: Path):
    with pytest.raises(SourceError, match="esc10 does not exist"):
        make_plan(data, tmp_path, 300, [], ["esc10"], ROWS, [0], {})
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        make_plan(data, tmp_path, 300, ["training.batchsize=7"], ["fsdd"], ROWS, [0], {})
