"""`pydreaming anomaly` and `pydreaming horizon` as a user runs them, on generated recordings and a tiny model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from quick_training import train
from sklearn.metrics import roc_auc_score
from tiny_model import RATE, make_checkpoint, write_sweep

from pydreaming import cli
from pydreaming.analysis.anomaly.scoring import Scoring, fit_detector
from pydreaming.analysis.inputs import find_recordings
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.sources import Catalogue
from pydreaming.replay.index import ReplayIndex
from workers.layout import RunDir


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli-anomaly-run")
    make_checkpoint(folder)
    return str(folder)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 sweeps that are normal, of two machines, and 4 of noise that are not."""
    folder = tmp_path_factory.mktemp("machines")
    rows = []
    for i in range(20):
        write_sweep(folder / f"good{i:02d}.wav", 0.5, seed=i)
        rows.append(f"good{i:02d}.wav,normal,{'fan' if i < 11 else 'pump'}")
    for i in range(4):
        noise = 0.3 * np.random.default_rng(i).standard_normal(RATE // 2)
        soundfile.write(folder / f"bad{i}.wav", noise, RATE)
        rows.append(f"bad{i}.wav,anomalous,{'fan' if i < 2 else 'pump'}")
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,machine", *rows]) + "\n")
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in `tmp_path`; exit code, and what it told the user."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str]:
        code = cli.main([str(word) for word in words])
        text = capfd.readouterr().err
        assert "Traceback" not in text
        return code, text

    return call


Run = Callable[..., tuple[int, str]]


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#")))


def auc_by_machine(rows: list[dict[str, str]]) -> dict[str, float]:
    """By scikit-learn, from the table that was written."""
    return {
        machine: float(
            roc_auc_score(
                [row["label"] == "anomalous" for row in rows if row["condition"] == machine],
                [float(row["score"]) for row in rows if row["condition"] == machine],
            )
        )
        for machine in ("fan", "pump")
    }


class TestAnomaly:
    def test_fit_and_score(self, run: Run, run_folder: str, machines: Path, tmp_path: Path) -> None:
        how = ("--normal", "normal", "--by", "machine", "--piece", 0.2)
        code, text = run("anomaly", "fit", run_folder, machines, *how, "--out", "d.safetensors")
        assert code == 0, text
        assert "fitted on 20 normal clips, by surprise and embedding; conditions of their own: fan, pump" in text
        assert "4 files without label 'normal' left out" in text
        assert "can be asked for: 0.048" in text
        code, text = run(
            *("anomaly", "score", run_folder, "d.safetensors", machines, "--normal", "normal", "--false-alarms", 0.1),
            *("--out", "s.csv", "--times", "t.csv"),
        )
        assert code == 0, text
        rows = rows_of(tmp_path / "s.csv")
        assert len(rows) == 24
        auc = auc_by_machine(rows)
        assert min(auc.values()) > 0.6, "a model of 20 steps puts noise above sweeps, on every processor, if not above each of them"
        for machine, value in auc.items():
            assert f"  {machine:<4}  AUC {value:.3f}  pAUC " in text
        assert f"AUC {2 / sum(1 / value for value in auc.values()):.3f} (harmonic mean; 95 % interval " in text
        assert all((row["alarm"] == "True") == (float(row["p_value"]) <= 0.1) for row in rows)
        alarms = sum(row["alarm"] == "True" for row in rows)
        assert f"{alarms} of 24 clips are alarms at a false-alarm rate of 0.1" in text
        assert {row["condition"] for row in rows} == {"fan", "pump"}
        assert [row["fitted"] for row in rows].count("True") == 20
        assert sum(row["alarm"] == "True" for row in rows if row["label"] == "normal") <= 2
        times = rows_of(tmp_path / "t.csv")
        assert set(times[0]) == {"source", "start_s", "end_s", "score", "p_value", "alarm"}
        words = (machines / "bad0.wav", "--false-alarms", 0.1, "--out", "one.csv", "--picture", "bad0.png")
        code, text = run("anomaly", "score", run_folder, "d.safetensors", *words)
        assert (code, " of 1 clips are alarms" in text) == (0, True)
        assert (tmp_path / "bad0.png").stat().st_size > 10_000
        (kept,) = (line for line in (tmp_path / "s.csv").read_text().splitlines() if line.startswith("# auc: "))
        assert json.loads(kept.removeprefix("# auc: ")) == pytest.approx(auc)

    def test_bad_files_and_wrong_wishes(self, run: Run, run_folder: str, machines: Path, tmp_path: Path) -> None:
        (tmp_path / "text.wav").write_text("no sound")
        code, text = run("anomaly", "fit", run_folder, machines, "text.wav", "--piece", 0.2, "--out", "d.safetensors")
        assert code == 1
        assert "text.wav: " in text
        assert "1 of 25 files could not be read" in text
        code, text = run("anomaly", "score", run_folder, "d.safetensors", "text.wav", "--out", "s.csv")
        assert (code, "no file could be read" in text) == (1, True)
        assert not (tmp_path / "s.csv").exists()
        for words, wanted, said in (
            (("fit", run_folder, machines, "--out", "d.json"), 2, "d.json must end in .safetensors"),
            (("fit", run_folder, machines, "--normal", "fine", "--out", "d.safetensors"), 2, "no recording has 'fine' in column 'label'"),
            (("fit", run_folder, machines, "--by", "colour", "--out", "d.safetensors"), 2, "no recording has a column 'colour'"),
            (("fit", run_folder, machines / "good00.wav", "--out", "d.safetensors"), 2, "1 normal clips are too few"),
            (("score", run_folder, "none.safetensors", machines), 1, "cannot read the detector none.safetensors"),
            (
                ("score", run_folder, "d.safetensors", machines, "--false-alarms", "0.001"),
                2,
                "say nothing of false alarms as rare as 0.001",
            ),
        ):
            code, text = run("anomaly", *words)
            assert (code, said in text) == (wanted, True), text

    @pytest.mark.parametrize("step", ["fit", "score"])
    def test_help_of_each_step(self, step: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["anomaly", step, "--help"])
        assert end.value.code == 0
        assert "example:" in capsys.readouterr().out

    def test_standard_input_is_heard_once(self, run: Run, run_folder: str, machines: Path) -> None:
        code, text = run("anomaly", "fit", run_folder, "-", "--clip", 1, "--out", "d.safetensors")
        assert (code, "standard input can be heard once only" in text) == (2, True)
        assert run("anomaly", "fit", run_folder, machines, "--piece", 0.2, "--out", "d.safetensors")[0] == 0
        code, text = run("anomaly", "score", run_folder, "d.safetensors", "-", "--out", "s.csv", "--picture", "p.png")
        assert (code, "there is no --picture of it" in text) == (2, True)


class TestHorizon:
    def test_table_picture_and_verdicts(self, run: Run, run_folder: str, machines: Path, tmp_path: Path) -> None:
        how = ("--by", "machine", "--context", 4, "--steps", 1, 2, 16, "--samples", 2)
        code, text = run("horizon", run_folder, machines, *how, "--out", "h.csv", "--picture", "h.png")
        assert code == 0, text
        assert any(line.startswith("fan: ") for line in text.splitlines())
        assert "too short, with 4 windows heard first (--context), and left out there, of 24 recordings: k = 16: 24" in text
        rows = rows_of(tmp_path / "h.csv")
        assert [(row["group"], row["k"]) for row in rows] == [(g, k) for g in ("all", "fan", "pump") for k in ("1", "2")]
        assert rows[0]["recordings"] == "24"
        assert (tmp_path / "h.png").stat().st_size > 20_000

    def test_a_column_that_nobody_has(self, run: Run, run_folder: str, machines: Path) -> None:
        code, text = run("horizon", run_folder, machines, "--by", "labels", "--out", "h.csv")
        assert (code, "no recording has a column 'labels'; there are: label, machine (or source, corpus)" in text) == (2, True)

    def test_nothing_readable(self, run: Run, run_folder: str, tmp_path: Path) -> None:
        code, text = run("horizon", run_folder, "missing.wav", "--out", "h.csv")
        assert (code, "no file could be read" in text) == (1, True)


def test_controls_reach_the_model_as_in_training(make_run: Callable[..., RunDir], recordings: Callable[..., Path], run: Run) -> None:
    audio = recordings(12)
    rows = [f"{path.name},{i},{10 - 2 * i}" for i, path in enumerate(sorted(audio.glob("*.wav")))]
    (audio / "metadata.csv").write_text("\n".join(["file_name,height,weight", *rows]) + "\n")
    made = make_run(audio, "--action.kind", "controls", "--action.columns", "[height,weight]")
    checkpoint = train(made)
    model = WorldModel.load(checkpoint, "cpu")
    info = Catalogue.open(made.catalogue).info
    assert msgspec.to_builtins(model.state.controls) == {"mean": info.control_mean, "std": info.control_std}
    index = ReplayIndex(made.replay(made.read_config()))
    index.refresh()
    stored = {}
    for number in range(index.episodes):
        episode = index.episode(number)
        stored |= {clip.path: episode.action[clip.start + 1] for clip in episode.clips if not clip.start_sample}
    for recording in find_recordings([audio], ["height", "weight"]):
        assert model.action_of(recording) == pytest.approx(stored[recording.item.path])
    assert run("anomaly", "fit", checkpoint, audio, "--piece", 0.2, "--out", "d.safetensors")[0] == 0
    code, text = run("anomaly", "score", checkpoint, "d.safetensors", audio / "good-000.wav", "--out", "s.csv", "--false-alarms", 0.2)
    assert (code, "no values for the model's control columns (height, weight)" in text) == (1, True)


def test_false_alarms_on_spoken_digits_are_as_many_as_asked_for(run_folder: str, data_dir: Path) -> None:
    """Each half of 200 clips judges the other; that a clip is of another digit or speaker than the last is normal here."""
    clips = [recording for recording in find_recordings([data_dir / "fsdd"]) if recording.item.held_out]
    order = np.random.default_rng(0).permutation(len(clips))[:200]
    halves = [[clips[i] for i in part] for part in (order[:100], order[100:])]
    model, p_values = WorldModel.load(run_folder, "cpu"), list[float]()
    for normal, others in (halves, halves[::-1]):
        scoring = Scoring(model, fit_detector(model, normal))
        for recording in others:
            scoring.add(recording)
        p_values += [clip.score.p_value for clip in scoring.clips]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.12)
