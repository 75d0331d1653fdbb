"""What a stranger may point the system at: each gives a model and a report, or one clear line."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from quick_training import train
from tones import RATE, write_tone

from pydreaming.errors import SourceError
from workers.evaluator import evaluate
from workers.layout import RunDir
from workers.serial import collect

OFFLINE = ("--workers.count", "0", "--workers.passes", "1", "--evaluation.streams", "4", "--source.held_out", "0.2")
TOKEN_S = 0.055  # what one window sees at these settings: three hops of 80 samples and 200 more


def silence(folder: Path) -> None:
    for i in range(6):
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"{i}.wav", np.zeros(RATE), RATE, subtype="PCM_16")


def shorter_than_a_token(folder: Path) -> None:
    for i in range(6):
        write_tone(folder / f"{i}.wav", TOKEN_S * (i + 1) / 8, seed=i)


def a_single_file(folder: Path) -> None:
    write_tone(folder / "one.wav", 2.0, seed=0)


def a_single_short_file(folder: Path) -> None:
    write_tone(folder / "one.wav", TOKEN_S / 2, seed=0)


def one_class(folder: Path) -> None:
    (folder / "metadata.csv").parent.mkdir()
    (folder / "metadata.csv").write_text("file_name,label\n" + "".join(f"{i}.wav,dog\n" for i in range(6)))
    for i in range(6):
        write_tone(folder / f"{i}.wav", 0.5, seed=i)


def one_speaker(folder: Path) -> None:
    (folder / "metadata.csv").parent.mkdir()
    (folder / "metadata.csv").write_text("file_name,label,speaker\n" + "".join(f"{i}.wav,{i % 2},ann\n" for i in range(12)))
    for i in range(12):
        write_tone(folder / f"{i}.wav", 0.5, seed=i)


def full_scale_noise_beside_silence(folder: Path) -> None:
    silence(folder)
    noise = np.random.default_rng(0).choice([-1.0, 1.0], RATE)
    soundfile.write(folder / "loud.wav", noise, RATE, subtype="FLOAT")


def names_with_spaces_and_quotes(folder: Path) -> None:
    for i, name in enumerate(("a b.wav", "it's.wav", "ünï.wav", "<b>&.wav")):
        write_tone(folder / name, 0.5, seed=i)


@pytest.mark.parametrize(
    "fill",
    [
        silence, shorter_than_a_token, a_single_file, a_single_short_file, one_class, one_speaker,
        full_scale_noise_beside_silence, names_with_spaces_and_quotes,
    ],
)  # fmt: skip
def test_a_strange_corpus_gives_a_model_and_a_report(fill: Callable[[Path], None], make_run: Callable[..., RunDir], tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    fill(folder)
    run = make_run(folder, *OFFLINE)
    checkpoint = train(run)
    evaluate(run, checkpoint, final=True)
    metrics = json.loads((run.path / "evals" / checkpoint.name / "metrics.json").read_text())["metrics"]
    assert metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert (run.path / "report.html").stat().st_size > 10_000
    assert not run.quarantine.exists()


def test_one_speaker_is_probed_for_labels_over_recordings(make_run: Callable[..., RunDir], tmp_path: Path) -> None:
    one_speaker(tmp_path / "audio")
    run = make_run(tmp_path / "audio", *OFFLINE)
    checkpoint = train(run)
    evaluate(run, checkpoint, final=False)
    figures = json.loads((run.path / "evals" / checkpoint.name / "metrics.json").read_text())
    assert {row["protocol"] for row in figures["probes"]} >= {"grouped folds"}
    assert "No speaker probe: only one speaker is known with at least 2 clips." in figures["notes"]


def test_the_commands_to_try_next_survive_spaces_and_quotes(make_run: Callable[..., RunDir], tmp_path: Path) -> None:
    folder = tmp_path / "my sounds; it's"
    names_with_spaces_and_quotes(folder)
    run = make_run(folder, *OFFLINE, name="my run")
    collect(run, run.read_config())
    for meaning, command in run.next_commands(run.read_config()):
        words = shlex.split(command)
        assert meaning
        assert shutil.which(words[0])
        assert words[2] == str(run.path)
        assert Path(words[3]).exists()
        assert words[4].startswith("--")


def test_recordings_without_a_sample_are_quarantined(make_run: Callable[..., RunDir], tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    soundfile.write(folder / "none.wav", np.zeros(0), RATE)
    run = make_run(folder, *OFFLINE)
    assert collect(run, run.read_config()).all_failed
    assert "none.wav" in run.quarantine.read_text()


def test_a_folder_of_other_things_is_refused(make_run: Callable[..., RunDir], tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "notes.txt").write_text("no audio")
    run = make_run(folder, *OFFLINE)
    with pytest.raises(SourceError, match="no audio found"):
        collect(run, run.read_config())
