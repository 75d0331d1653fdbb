"""benchmarks.quality trains and evaluates for real, on a few bundled digits and with tiny networks; a finished job is not repeated."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.figures.tables import TARGETS
from benchmarks.figures.version import UNKNOWN, signed, version
from benchmarks.quality import main
from pydreaming.training.checkpoint import list_checkpoints, load_networks

DIGITS = Path(__file__).resolve().parents[2] / "pydreaming" / "samples" / "digits"
TINY = (
    "model.encoder_layers=[16]", "model.embed=16", "model.deter=16", "model.hidden=16", "model.groups=4", "model.classes=4",
    "model.decoder_hidden=16", "replay.slack_tokens=500", "replay.prefill_tokens=100", "features.stats_files=20",
    "training.batch_size=4", "training.batch_length=12", "evaluation.streams=8", "evaluation.rollouts=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quality")
    (place / "data" / "fsdd").mkdir(parents=True)
    for digit, speaker, index in itertools.product("0123", ("alan", "beth"), (0, 1, 5, 6, 7, 8, 9)):
        shutil.copy(DIGITS / f"{digit}_{speaker}_{index}.flac", place / "data" / "fsdd")
    return place


@pytest.fixture(scope="module")
def call(place: Path) -> Callable[..., int]:
    def call(*words: str, only: str = "fsdd") -> int:
        settings = [word for setting in TINY for word in ("--set", setting)]
        places = ["--data", str(place / "data"), "--out", str(place / "out")]
        return main([*places, "--only", only, "--seeds", "0", "--seconds", "0.2", "--jobs", "2", *settings, *words])

    return call


@pytest.fixture(scope="module")
def first(call: Callable[..., int], place: Path) -> Path:
    assert call("--rows", "world_model", "mfcc") == 0
    return place / "out"


def test_a_job_leaves_a_checkpoint_and_its_figures(first: Path):
    found = json.loads((first / "fsdd-world_model-0" / "figures.json").read_text())
    (checkpoint,) = list_checkpoints(first / "fsdd-world_model-0" / "checkpoints")
    _, _, state = load_networks(checkpoint, torch.device("cpu"))
    assert found["training"]["seconds"] == state.counters["seconds"] >= 0.2
    assert found["training"]["step"] == state.counters["step"] > 0
    assert found["training"]["steps_per_s"] == pytest.approx(state.counters["step"] / state.counters["seconds"])
    assert found["trained_by"] == [found["code"]] == [version()]
    assert set(found["figures"]["recognition"]) > {"world_model"}
    assert 0 <= found["figures"]["imagination"]["world_model"]["retrieval, k = 1"] <= 1
    assert json.loads((first / "fsdd-mfcc-0" / "figures.json").read_text())["training"] == {}


def test_the_tables_have_the_targets_and_every_line(first: Path):
    text = (first / "quality.md").read_text()
    assert all(f"| {target.title} |" in text for target in TARGETS)
    head, _, _ = text.partition("## What the trainings")
    assert "cpc: not asked for" in head
    found = json.loads((first / "quality.json").read_text())
    for line in found["figures"]["fsdd"]["recognition"]:
        assert f"| {line} |" in text
    assert found["figures"]["fsdd"]["recognition"]["world_model"]
    assert found["figures"]["fsdd"]["recognition"]["MFCC"]


def test_a_second_call_trains_nothing(first: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.name not in ("quality.md", "quality.json")}
    assert call("--rows", "world_model", "mfcc") == 0
    assert "2 jobs, 2 of them done" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.name not in ("quality.md", "quality.json")}
    assert {path for path in before if after.get(path) != before[path]} <= {first}


def test_evaluated_again_a_checkpoint_keeps_the_version_that_trained_it(first: Path, call: Callable[..., int]):
    (checkpoint,) = list_checkpoints(first / "fsdd-world_model-0" / "checkpoints")
    trained, written = checkpoint.stat().st_mtime_ns, checkpoint.parent / "trained_by"
    written.write_text("01dc0de1\n", encoding="utf-8")
    assert call("--rows", "world_model", "--again") == 0
    assert checkpoint.stat().st_mtime_ns == trained
    (job,) = json.loads((first / "quality.json").read_text())["jobs"].values()
    assert (job["trained_by"], job["code"]) == (["01dc0de1"], version())
    text = (first / "quality.md").read_text()
    assert f"Evaluated by: {version()} (" in text
    assert "Trained by: 01dc0de1 (" in text
    written.unlink()  # as in folders from before it was written
    assert signed(checkpoint.parent) == UNKNOWN


def test_a_job_that_fails_is_named_others_go_on_and_a_changed_setting_repeats(
    first: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    old = json.loads((first / "fsdd-mfcc-0" / "figures.json").read_text())["digest"]
    assert call("--rows", "cpc", "mfcc", "--set", "model.dynamics=rssm") == 1
    out = capsys.readouterr().out
    assert "2 jobs, 0 of them done" in out
    assert "fsdd-cpc-0: failed: error: objective.name 'cpc' needs model.dynamics 'belief'" in out
    assert "fsdd-mfcc-0: done" in out
    assert json.loads((first / "fsdd-mfcc-0" / "figures.json").read_text())["digest"] != old
    assert list(json.loads((first / "quality.json").read_text())["problems"]) == ["fsdd-cpc-0"]


def test_a_speaker_left_out_is_in_neither_store_nor_statistics(call: Callable[..., int], place: Path):
    threads = torch.get_num_threads()
    try:
        assert call("--job", "strict-mfcc-0-alan", "--rows", "mfcc", only="strict") == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads((place / "out" / "strict-mfcc-0-alan" / "figures.json").read_text())
    assert found["config"]["source"]["held_out_speakers"] == ["alan"]
    assert found["figures"]["recognition"]
    (store,) = (place / "out" / "stores").glob("strict-0-alan-????????")
    (other,) = (place / "out" / "stores").glob("fsdd-0-????????")
    assert json.loads((store / "stats.json").read_text())["stats"] != json.loads((other / "stats.json").read_text())["stats"]


def test_an_unknown_job_is_answered_with_those_there_are(call: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert call("--job", "fsdd-cpc-7", "--rows", "cpc") == 1
    assert "no job fsdd-cpc-7; there are: fsdd-cpc-0" in capsys.readouterr().err
