"""What is said of corpora, stores and checkpoints whose contents are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.inspect.audio import AudioReport, inspect_audio
from pydreaming.analysis.inspect.model import inspect_checkpoint, inspect_run
from pydreaming.analysis.inspect.path import inspect_path, kind_of
from pydreaming.analysis.inspect.pictures import draw_inspection
from pydreaming.analysis.inspect.store import inspect_store
from pydreaming.analysis.inspect.text import inspection_lines
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.errors import PydreamingError, UsageError
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.census import take_census
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.schema import StoreMeta
from pydreaming.replay.tables import write_table
from pydreaming.replay.writer import ShardWriter


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five sounds of class a, one of class b, silence, a clipped one, a copy, a stereo one, one of 10 ms and two that are broken."""
    folder = tmp_path / "corpus"
    for i in range(5):
        write_sweep(folder / f"a/{i}.wav", 1.0, seed=i)
    shutil.copy(folder / "a/3.wav", folder / "a/copy.wav")
    write_sweep(folder / "b/stereo.flac", 1.0, rate=16_000, channels=2, seed=9)
    soundfile.write(folder / "a/silence.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "a/clipped.wav", np.clip(8 * sweep(1.0), -1, 1), RATE)
    soundfile.write(folder / "a/short.wav", sweep(0.01), RATE)
    (folder / "a/text.wav").write_text("not audio")
    soundfile.write(folder / "a/nan.wav", np.full(800, np.nan), RATE, subtype="FLOAT")
    return folder


def said(report: AudioReport, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in report.warnings)


def test_a_corpus_with_everything_in_it(corpus: Path) -> None:
    report, measured = inspect_audio(corpus)
    assert (report.layout, report.recordings, report.files) == ("folder", 12, 12)
    assert report.seconds == pytest.approx(9 + 0.01 + 0.1, abs=0.01)
    assert report.rates == {RATE: 10, 16_000: 1}
    assert report.channels == {1: 10, 2: 1}
    assert report.formats == {"WAV PCM_16": 9, "FLAC PCM_16": 1, "WAV FLOAT": 1}
    assert report.labels == {"label": {"a": 11, "b": 1}}
    assert [(Path(name).name, cause) for name, cause in report.unreadable] == [
        ("text.wav", "Format not recognised"),
        ("nan.wav", "800 samples are not finite numbers"),  # its header is fine: decoding tells
    ]
    assert [[Path(name).name for name in group] for group in report.duplicates] == [["3.wav", "copy.wav"]]
    assert report.levels is not None
    assert (report.levels.recordings, report.levels.silent, report.levels.clipped) == (10, 1, 1)
    assert len(measured) == 10
    for words in (
        ("2 recordings cannot be read", "leaves them out"), ("1 recording is shorter", "it teaches nothing"),
        ("0.2 minutes",), ("copy.wav of 3.wav",), ("2 sample rates",),
        ("silent", "silence.wav"), ("clipped", "clipped.wav"), ("several channels",), ("'a' has 92%",), ("1 label with fewer than 5",),
    ):  # fmt: skip
        assert said(report, *words), words
    assert report.command == f"python launch.py --configs defaults folder --source.path {corpus}"


def test_all_is_well(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "fine" / "xy"[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * random.standard_normal(16_000 * 51), 16_000)
    found = inspect_path(tmp_path / "fine", measure=3)
    assert isinstance(found.report, AudioReport)
    assert found.report.warnings == []
    assert found.broken == 0
    assert found.report.levels is not None
    assert found.report.levels.rms_dbfs == pytest.approx((-20.0,) * 3, abs=0.1)
    assert "measured on 3 of 12 recordings" in "\n".join(inspection_lines(found))
    others = inspect_audio(tmp_path / "fine", measure=3, seed=1)[1]
    assert {r.name for r in found.recordings} != {r.name for r in others}
    assert {r.name for r in inspect_audio(tmp_path / "fine", measure=3)[1]} == {r.name for r in found.recordings}


def test_folders_that_are_not_taken_for_classes_are_said(corpus: Path) -> None:
    write_sweep(corpus / "loose.wav", 1.0, seed=20)
    report, _ = inspect_audio(corpus)
    assert report.labels == {}
    assert said(report, "no labels", "3 folders", "--source.labels folders")
    assert not said(inspect_audio(corpus / "a")[0], "no labels")  # one folder is no class


def test_where_nothing_can_be_read_nothing_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.wav").write_text("not audio")
    soundfile.write(tmp_path / "a/nan.wav", np.full(800, np.nan), RATE, subtype="FLOAT")
    for path in (tmp_path / "notes.txt", tmp_path / "a"):
        found = inspect_path(path)
        lines = inspection_lines(found)
        assert lines[-1] == "nothing here can be read, so there is nothing to train on"
        assert "launch.py" not in "\n".join(lines)
        assert (found.to_dict()["command"], found.to_dict()["warnings"]) == ("", [])
    write_sweep(tmp_path / "a/c.wav", 1.0)
    (tmp_path / "a/nan.wav").unlink()
    assert said(inspect_audio(tmp_path / "a")[0], "1 recording cannot be read (see above): training leaves it out.")


def test_the_command_fits_low_rates(tmp_path: Path) -> None:
    write_sweep(tmp_path / "low/a.wav", 1.0)
    report, _ = inspect_audio(tmp_path / "low")
    words = report.command.split()
    config = load_config(["defaults", "folder"], words[words.index("--source.path") :])
    assert config.features.sample_rate == RATE
    assert (config.features.win_length, config.features.hop_length) == (200, 80)
    assert report.window_s == pytest.approx(0.055)


def test_names_and_json_of_strange_files(tmp_path: Path) -> None:
    write_sweep(tmp_path / "odd/a $(x)|ü.wav", 1.0)
    found = inspect_path(tmp_path / "odd")
    assert json.loads(json.dumps(found.to_dict()))["recordings"] == 1
    with pytest.raises(UsageError, match="nothing at"):
        inspect_path(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no audio"):
        inspect_path(tmp_path / "empty")


def write_store(folder: Path) -> None:
    """Four clips by two speakers, 24 tokens each."""
    config = load_config(["defaults"], ["--features.sample_rate", str(RATE), "--features.win_length", "200", "--features.hop_length", "80"])
    f = config.features
    meta = StoreMeta.of(f, FeatureStats([0.0] * f.n_mels, [1.0] * f.n_mels, 10), config.action)
    for group in range(2):
        builder = EpisodeBuilder(f"speaker:{group}", 16)
        episodes = []
        for clip in range(2):
            info = ClipInfo(2 * group + clip, f"{group}/{clip}.wav", "xy"[clip], str(group))
            tokens, action = np.zeros((24, f.token_dim), np.float16), np.zeros((24, 1), np.float32)
            episodes += builder.add_tokens(tokens, action, np.arange(24) * f.token_stride_samples, True, info)
        with ShardWriter(folder, shard_prefix(0, group), meta, 4) as writer:
            for episode in episodes + builder.finish():
                writer.add(episode)
            writer.commit()


def test_a_store(tmp_path: Path) -> None:
    write_store(tmp_path / "replay")
    report = inspect_store(tmp_path / "replay")
    assert (report.files, report.episodes, report.tokens, report.recordings, report.groups) == (2, 6, 96, 4, 2)
    assert report.seconds == pytest.approx(96 * 0.04)
    assert report.labels == {"label": {"x": 48, "y": 48}, "speaker": {"0": 48, "1": 48}}
    census = take_census(np.fromfile(next((tmp_path / "replay").glob("*.parquet")), np.uint8))
    assert census.labels.total() == 48
    (tmp_path / "replay/e00000-000009-000.parquet").write_bytes(b"torn")
    found = inspect_path(tmp_path / "replay")
    assert (found.kind, found.broken) == ("store", 1)
    assert "e00000-000009-000.parquet" in "\n".join(inspection_lines(found))
    draw_inspection(tmp_path / "s.png", found)
    assert (tmp_path / "s.png").stat().st_size > 10_000


def test_tables_are_no_damaged_store(tmp_path: Path) -> None:
    table = tmp_path / "made/birds.parquet"
    write_table(table, {"source": ["a.wav"]}, {"what": "pydreaming embeddings, one row per clip"})
    what = r"birds\.parquet \(pydreaming embeddings, one row per clip\)"
    for path, said in (
        (tmp_path / "made", f"no audio files in .*made; it has the table {what}"),
        (table, f"parquet is a table, no recording: {what}"),
    ):
        with pytest.raises(UsageError, match=said):
            inspect_path(path)
    write_sweep(tmp_path / "made/a.wav", 1.0)
    found = inspect_path(tmp_path / "made")
    assert (found.kind, found.broken) == ("audio", 0)
    (table.parent / "e00000-000009-000.parquet").write_bytes(b"torn")
    assert kind_of(tmp_path / "made") == "store"  # what is torn may have been of one


def test_a_checkpoint(run_folder: Path) -> None:
    folder = next((run_folder / "checkpoints").iterdir())
    report = inspect_checkpoint(folder)
    model = WorldModel.load(folder, "cpu")
    assert report.intact
    assert report.parameters == sum(p.numel() for p in model.net.state_dict().values())
    assert (report.step, report.objective) == (20, "dreaming_v2")
    lines = "\n".join(inspection_lines(inspect_path(folder)))
    assert "4 groups of 4 classes" in lines
    assert "16 mel bands every 10 ms at 8000 Hz" in lines


def test_damaged_checkpoints_are_said_to_be(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    folder = next((tmp_path / "run/checkpoints").iterdir())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    report = inspect_checkpoint(folder)
    assert not report.intact
    assert "checksum" in report.problem
    assert report.step == 20  # what can be read is said
    (folder / "state.json").write_text("{")
    found = inspect_path(tmp_path / "run")
    assert (found.kind, found.broken) == ("run", 1)
    assert "intact      no:" in "\n".join(inspection_lines(found))


def test_a_run(run_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    make_checkpoint(run, steps=3)
    write_store(run / "replay")
    (run / "quarantine.jsonl").write_text("{}\n{}\n")
    (run / "evals/step-00000020").mkdir(parents=True)
    (run / "evals/step-00000020/summary.json").write_text(json.dumps({"lines": ["digit probe: 0.9"]}))
    report = inspect_run(run)
    assert [checkpoint.step for checkpoint in report.checkpoints] == [3, 20]
    assert (report.unreadable, report.evaluation) == (2, ["digit probe: 0.9"])
    assert report.store is not None
    text = "\n".join(inspection_lines(inspect_path(run)))
    for words in ("step 3, intact", "newest checkpoint", "digit probe: 0.9", "96 (3.84 s of sound)"):
        assert words in text
    (run / "evals/step-00000020/summary.json").write_text("{")
    assert "summary.json" in inspect_run(run).problems[0]


@pytest.mark.parametrize(("held_out", "speakers", "split", "words"), [
    (0, 0, "none", "1 recording, none held out"),
    (1, 1, "official", "1 recording, 1 speaker, 1 held out (the official split)"),
    (1, 0, "recording", "1 recording, 1 held out (whole recordings)"),
])  # fmt: skip
def test_the_catalogue_of_a_run_in_words(held_out: int, speakers: int, split: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "catalogue").mkdir()
    content = {"items": 1, "held_out": held_out, "speakers": speakers, "split": split}
    (tmp_path / "catalogue/catalogue.json").write_text(json.dumps(content))
    assert f"  catalogue   {words}" in inspection_lines(inspect_path(tmp_path))


def test_kinds(run_folder: Path, tmp_path: Path) -> None:
    assert kind_of(run_folder) == "run"
    assert kind_of(run_folder / "checkpoints") == "run"
    assert kind_of(tmp_path) == "audio"


def test_pictures(corpus: Path, run_folder: Path, tmp_path: Path) -> None:
    found = inspect_path(corpus)
    draw_inspection(tmp_path / "a.png", found)
    assert (tmp_path / "a.png").stat().st_size > 30_000
    with pytest.raises(UsageError, match="no recordings to draw"):
        draw_inspection(tmp_path / "b.png", inspect_path(run_folder))
    with pytest.raises(PydreamingError, match="cannot write"):
        draw_inspection(corpus / "a/0.wav/x.png", found)
