"""The evaluator over real stores and a quickly trained model: figures, pictures, sounds, report, and notes on what is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from quick_training import train
from tones import RATE, write_tone

from pydreaming.analysis.reports.clip import clip_report
from pydreaming.analysis.reports.exhibits import DREAM_S, SHOWN_S
from pydreaming.analysis.reports.run import read_evaluation, run_report
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.sources import Catalogue
from pydreaming.errors import CheckpointError
from pydreaming.evaluation.clips import read_clips
from pydreaming.replay.index import ReplayIndex
from pydreaming.tracking.spool import SPOOL
from workers.eval_set import MAX_CLIP_S
from workers.evaluator import evaluate
from workers.layout import RunDir

MakeRun = Callable[..., RunDir]
OFFLINE = ("--workers.count", "0", "--workers.passes", "1", "--evaluation.streams", "4")
DREAM_WINDOWS_S = 0.04  # one window of these settings: 4 frames of 80 samples at 8 kHz


def folders_as_classes(root: Path, each: int = 8) -> Path:
    for number, label in enumerate(("cat", "dog")):
        for i in range(each):
            write_tone(root / label / f"{label}-{i}.wav", 0.5 + 0.1 * i, seed=100 * number + i)
    return root


def metrics_of(run: RunDir, checkpoint: Path) -> dict[str, Any]:
    assert read_evaluation(run, checkpoint) is not None  # what is written can be read again, for a report that is made later
    read: dict[str, Any] = json.loads((run.path / "evals" / checkpoint.name / "metrics.json").read_text())
    return read


def report_of(run: RunDir) -> str:
    return (run.path / "report.html").read_text(encoding="utf-8")


def test_a_labelled_corpus_with_a_held_out_part(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(folders_as_classes(tmp_path / "audio"), *OFFLINE, "--source.held_out", "0.25")
    checkpoint = train(run)
    (run.path / ".eval_set.999999999.tmp" / "heard").mkdir(parents=True)  # of a process that was killed
    command = [sys.executable, "-m", "workers.evaluator", "--run", str(run.path), "--checkpoint", str(checkpoint), "--final"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "evaluated step-00000003" in done.stderr
    folder = run.path / "evals" / checkpoint.name
    figures = metrics_of(run, checkpoint)
    assert np.isfinite(figures["metrics"]["learning/held_out_loss"])
    assert set(figures["open_loop"]["retrieval"]) >= {"1", "2", "4"}
    assert set(figures["open_loop"]["gain_trigram"]) == set(figures["open_loop"]["gain"])
    rows = {(row["label"], row["protocol"], row["features"]) for row in figures["probes"]}
    for features in ("world model", "log-mel", "log-mel, clip-normalised", "log-mel, flat", "MFCC", "untrained network"):
        assert {("label", protocol, features) for protocol in ("grouped folds", "held-out clips", "1-shot")} <= rows
    assert ("label", "grouped folds", "world model, deter only") in rows
    assert figures["notes"][0] == "No speaker probe: no speaker is known with at least 2 clips."
    assert [note.partition(":")[0] for note in figures["notes"][1:]] == [
        "Not asked what is out of distribution", "No utterance boundaries", "No ABX", "No bitrate of the code",
    ]  # fmt: skip
    lines = json.loads((folder / "summary.json").read_text())["lines"]
    assert lines[0].startswith("1 token ahead, imagined: right one of ")
    assert any(line.startswith("label probe, grouped folds: world model ") and "log-mel" in line for line in lines)
    assert lines[-5:] == figures["notes"]

    names = {"retrieval", "gain", "probes", "code_usage", "prediction_1", "surprise_1", "dream_1"}
    assert names <= {path.stem for path in folder.glob("*.png")}
    for path in folder.glob("*.png"):
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert 200 < width < 4000
        assert 100 < height < 4000
    held_out = {Catalogue.open(run.catalogue)[int(i)].path: i for i in Catalogue.open(run.catalogue).held_out_indices}
    lengths = sorted(soundfile.info(tmp_path / "audio" / path).duration for path in held_out)
    sounds = sorted(folder.glob("real_*.wav"))
    assert sounds
    for path in sounds:
        real, dreamed = soundfile.info(path), soundfile.info(folder / path.name.replace("real", "dream"))
        assert real.samplerate == dreamed.samplerate == RATE
        assert real.duration in lengths
        assert real.duration <= SHOWN_S
        heard = real.duration / 2
        assert heard + DREAM_S - 2 * DREAM_WINDOWS_S < dreamed.duration < heard + DREAM_S + 0.6  # a tick between pauses, last frames
        samples, _ = soundfile.read(folder / path.name.replace("real", "dream"))
        assert 0 < np.abs(samples).max() <= 1

    text = report_of(run)
    assert all(source.startswith("data:") for source in re.findall(r'\bsrc="([^"]*)"', text))
    assert not re.search(r"<(script|link|iframe|object|base)\b|\bhref=|url\(|@import", text)
    assert text.count("data:image/png") == len(list(folder.glob("*.png")))
    assert text.count("data:audio/wav") == 2 * len(sounds)
    events = [json.loads(line) for line in (run.path / SPOOL).read_text().splitlines()]
    assert {e["path"].rpartition("/")[2] for e in events if e["event"] == "artifact"} >= {"report.html", "metrics.json", "real_1.wav"}
    assert {e["key"] for e in events if e["event"] == "image"} >= {"look/retrieval", "look/probes", "look/code_usage"}
    assert {e["step"] for e in events if e["event"] in ("metrics", "image")} == {3}

    # A second evaluation takes the recordings and the baselines as they are.
    kept = [run.path / "eval_set" / name for name in ("baselines.json", "done.json")]
    times = [path.stat().st_mtime_ns for path in kept]
    again = train(run, steps=4)
    evaluate(run, again, final=False)
    assert [path.stat().st_mtime_ns for path in kept] == times
    quick = metrics_of(run, again)
    assert [row for row in quick["probes"] if not row["features"].startswith("world")] == [
        row for row in figures["probes"] if not row["features"].startswith("world")
    ]
    assert [(r["protocol"], r["features"]) for r in quick["probes"] if r["features"].startswith("world")] == [
        ("grouped folds", "world model")
    ]
    assert not list((run.path / "evals" / again.name).glob("*.wav"))
    assert not list(run.path.glob(".eval_set*"))


def test_an_unlabelled_corpus_of_which_nothing_was_held_out(make_run: MakeRun, recordings: Callable[..., Path]) -> None:
    run = make_run(recordings(5), *OFFLINE)
    checkpoint = train(run)
    evaluate(run, checkpoint, final=True)
    figures = metrics_of(run, checkpoint)
    assert figures["notes"][:3] == [
        "Nothing was held out: the figures are on recordings that were trained on.",
        "No label probe: no label is known with at least 2 clips.",
        "No speaker probe: no speaker is known with at least 2 clips.",
    ]
    assert figures["probes"] == []
    assert figures["open_loop"]["count"]["1"] > 0
    assert figures["held_out"] is False
    assert "learning/heard_loss" in figures["metrics"]
    assert not [name for name in figures["metrics"] if "held_out" in name]
    text = report_of(run)
    assert "Nothing was held out" in text
    assert "Its predictions are tested on recordings it was trained on" in text
    assert "loss on recordings that were trained on (nats)" in text
    assert not (run.path / "evals" / checkpoint.name / "probes.png").exists()


def test_held_out_files_that_became_unreadable_are_counted(make_run: MakeRun, recordings: Callable[..., Path]) -> None:
    audio = recordings(12)
    run = make_run(audio, *OFFLINE, "--source.held_out", "0.3")
    checkpoint = train(run)
    catalogue = Catalogue.open(run.catalogue)
    held_out = [audio / catalogue[int(i)].path for i in catalogue.held_out_indices]
    held_out[0].write_bytes(b"RIFF" + bytes(40))
    evaluate(run, checkpoint, final=True)
    assert "1 recording of the evaluation set could not be read." in metrics_of(run, checkpoint)["notes"]
    heard = read_clips(None, opened(run, "held_out"))
    assert len(heard) == len(held_out) - 1
    assert f"{held_out[0].name}: Format not recognised" in report_of(run)

    # Nothing is left of the set: the training store steps in.
    shutil.rmtree(run.path / "eval_set")
    for path in audio.glob("*.wav"):
        path.unlink()
    evaluate(run, checkpoint, final=True)
    figures = metrics_of(run, checkpoint)
    assert figures["notes"] == [
        "Figures are on training data, and no probes were run: no recording of the evaluation set could be read.",
        "12 recordings of the evaluation set could not be read.",
    ]
    assert figures["open_loop"]["count"]["1"] > 0


def test_what_surprise_and_codes_are_worth_stands_in_the_report(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(folders_as_classes(tmp_path / "audio", each=26), *OFFLINE, "--source.held_out", "0.5")
    checkpoint = train(run)
    evaluate(run, checkpoint, final=True)
    world = metrics_of(run, checkpoint)["world"]
    assert set(world["out_of_distribution"]["kl"]) == {"reversed", "white", "phase_randomised", "tone", "shuffled", "speed"}
    assert set(world["boundaries"]["rows"]) == {"surprise", "restart", "expectation", "spectral flux", "random"}
    assert world["codes"]["bitrate"] > 0
    assert world["abx"] is None  # no speakers
    text = report_of(run)
    for title in ("Does it notice what it never heard", "Does it hear where something begins", "What the code costs"):
        assert title in text
    assert "No ABX" in text
    lines = json.loads((run.path / "evals" / checkpoint.name / "summary.json").read_text())["lines"]
    assert any(line.startswith("where clips begin in a stream, F1: surprise ") for line in lines)

    # Made again later, the report says and shows the same.
    again = run_report(WorldModel.load(run.path, "cpu"), tmp_path / "again.html").read_text(encoding="utf-8")
    parts = re.compile(r"<h[123]>.*?</h[123]>|<li .*?</li>|<td.*?</td>")
    assert parts.findall(again) == parts.findall(text)
    assert again.count("src=") == text.count("src=")
    near = clip_report(WorldModel.load(run.path, "cpu"), next((tmp_path / "audio").rglob("*.wav")), tmp_path / "clip.html")
    assert "(the recordings that its run was evaluated on)" in near.read_text(encoding="utf-8")


def test_no_readable_held_out_file_beside_labelled_ones(make_run: MakeRun, tmp_path: Path) -> None:
    audio = folders_as_classes(tmp_path / "audio", each=5)
    run = make_run(audio, *OFFLINE, "--source.held_out", "0.2")
    checkpoint = train(run)
    catalogue = Catalogue.open(run.catalogue)
    for i in catalogue.held_out_indices:
        (audio / catalogue[int(i)].path).write_bytes(b"")
    evaluate(run, checkpoint, final=False)
    figures = metrics_of(run, checkpoint)
    assert figures["notes"][:2] == [
        "None of the held-out recordings could be read: the figures are on recordings that were trained on.",
        f"{len(catalogue.held_out_indices)} recordings of the evaluation set could not be read.",
    ]
    assert {row["protocol"] for row in figures["probes"]} == {"grouped folds"}


def test_the_quarantine_list_stands_in_the_report_even_if_a_line_of_it_is_torn(make_run: MakeRun, recordings: Callable[..., Path]) -> None:
    run = make_run(recordings(5, broken=2), *OFFLINE)
    checkpoint = train(run)
    whole = run.quarantine.read_text()
    run.quarantine.write_text(whole + '{"path":"half')  # the coordinator was killed, or is writing
    evaluate(run, checkpoint, final=True)
    text = report_of(run)
    assert "2 files could not be read" in text
    assert text.count("broken-000.wav: ") == 1  # found by the workers and by the evaluation alike


@pytest.mark.parametrize("missing", ["catalogue", "recordings"])
def test_a_store_on_a_host_without_the_recordings(make_run: MakeRun, recordings: Callable[..., Path], missing: str) -> None:
    audio = recordings(5)
    run = make_run(audio, *OFFLINE)
    checkpoint = train(run)
    shutil.rmtree(run.catalogue if missing == "catalogue" else audio)
    evaluate(run, checkpoint, final=True)
    figures = metrics_of(run, checkpoint)
    assert len(figures["notes"]) == 1
    assert figures["notes"][0].startswith("Figures are on training data, and no probes were run: ")
    assert "\n" not in figures["notes"][0]
    assert figures["open_loop"] is not None
    assert figures["probes"] == []
    assert "Figures are on training data" in report_of(run)


def test_long_recordings_are_cut(make_run: MakeRun, tmp_path: Path) -> None:
    for i in range(3):
        write_tone(tmp_path / "audio" / f"{i}.wav", 34.0 + i, seed=i)
    run = make_run(tmp_path / "audio", *OFFLINE, "--source.held_out", "0.3")
    checkpoint = train(run, steps=1)
    evaluate(run, checkpoint, final=False)
    clips = read_clips(None, opened(run, "held_out"))
    features = run.read_config().features
    stride_s = features.token_stride_samples / features.sample_rate
    assert [len(tokens) for tokens in clips.tokens] == [pytest.approx(MAX_CLIP_S / stride_s, abs=1)]


@pytest.mark.parametrize("kind", ["stride", "controls"])
def test_models_with_actions(make_run: MakeRun, recordings: Callable[..., Path], kind: str) -> None:
    audio = recordings(8)
    rows = [f"{path.name},{i},{10 - 2 * i}" for i, path in enumerate(sorted(audio.glob("*.wav")))]
    (audio / "metadata.csv").write_text("\n".join(["file_name,height,weight", *rows]) + "\n")
    columns = ["--action.columns", "[height,weight]"] if kind == "controls" else []
    run = make_run(audio, *OFFLINE, "--source.held_out", "0.2", "--action.kind", kind, *columns)
    checkpoint = train(run)
    evaluate(run, checkpoint, final=True)
    clips = read_clips(None, opened(run, "held_out"))
    assert {actions.shape[1] for actions in clips.actions} == {3 if kind == "stride" else 2}
    assert any(actions.any() for actions in clips.actions)
    assert metrics_of(run, checkpoint)["open_loop"]["count"]["1"] > 0
    assert list((run.path / "evals" / checkpoint.name).glob("dream_*.wav"))


def test_an_objective_without_latents_gets_no_figures_of_imagining(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(folders_as_classes(tmp_path / "audio"), *OFFLINE, "--source.held_out", "0.25", "--objective.name", "cpc")
    checkpoint = train(run)
    evaluate(run, checkpoint, final=True)
    figures = metrics_of(run, checkpoint)
    assert figures["open_loop"] is None
    assert figures["notes"][0] == "No open-loop figures, no surprise and no dreams: objective cpc trains no latents."
    assert any(row["features"] == "world model" for row in figures["probes"])
    assert [path.stem for path in (run.path / "evals" / checkpoint.name).glob("*.png")] == ["probes"]
    assert "trains no latents" in report_of(run)


def test_a_missing_checkpoint_is_one_line(make_run: MakeRun, recordings: Callable[..., Path]) -> None:
    run = make_run(recordings(1), *OFFLINE)
    with pytest.raises(CheckpointError, match="none") as error:
        evaluate(run, run.path / "checkpoints" / "none", final=False)
    assert "\n" not in str(error.value)


def opened(run: RunDir, name: str) -> ReplayIndex:
    index = ReplayIndex(run.path / "eval_set" / name)
    index.refresh()
    return index
