from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

import pydreaming.analysis.vectors.embed as embed_module
from pydreaming.analysis.inputs import Recording, find_recordings
from pydreaming.analysis.names import PARTS, PER, POOLINGS, SCENE
from pydreaming.analysis.rollout import CHUNK_TOKENS
from pydreaming.analysis.vectors.embed import embed, embed_clip, embed_windows, write_embeddings
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.vectors.pooling import pool
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.sources.item import AudioItem
from pydreaming.errors import DecodeError, UsageError
from pydreaming.evaluation.features import centred_bands, clip_features, join_parts, scene_vectors
from pydreaming.evaluation.pooling import thirds_and_std
from pydreaming.models.scene import STRETCH


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_sweep(tmp_path / f"sounds/{i}.wav", 0.4 + 0.2 * i, seed=i)
    return tmp_path / "sounds"


@pytest.mark.parametrize("part", [part for part in PARTS if part != SCENE])
def test_every_part_has_a_row_a_window(model: WorldModel, part: str) -> None:
    windows = embed_windows(model, (sweep(0.6), RATE), part)
    m = model.config.model
    width = {"feat": m.deter + m.groups * m.classes, "deter": m.deter, "embed": m.embed}.get(part, m.groups * m.classes)
    assert windows.values.shape == (len(windows.start_s), width)
    assert windows.values.dtype == np.float32
    assert (np.diff(windows.centre_s) > 0).all()
    if part in ("stoch", "code"):
        np.testing.assert_allclose(windows.values.sum(1), m.groups, rtol=1e-5)
    assert part != "code" or set(np.unique(windows.values)) == {0.0, 1.0}


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize("cuts", [[30], [1, 29], [7, 7, 16]])
@pytest.mark.parametrize("windows", [30, None])
def test_pooling_does_not_depend_on_chunks(pooling: str, cuts: list[int], windows: int | None) -> None:
    rows = np.random.default_rng(0).normal(1000.0, 1.0, (30, 4)).astype(np.float32)  # a large mean: the spread must not cancel
    wanted = {"mean": rows.mean(0), "mean_std_max": np.concatenate([rows.mean(0), rows.std(0), rows.max(0)])}
    vector, count = pool(np.split(rows, np.cumsum(cuts)[:-1]), pooling, windows)
    assert count == 30
    np.testing.assert_allclose(vector, wanted.get(pooling, thirds_and_std(rows)), rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_thirds_of_few_windows(steps: int) -> None:
    rows = np.random.default_rng(0).normal(size=(steps, 4)).astype(np.float32)
    np.testing.assert_allclose(pool([rows], "thirds", steps)[0], thirds_and_std(rows), atol=1e-6)


def test_the_scene_of_a_clip_is_the_evaluations_however_long_it_is(model: WorldModel, folder: Path) -> None:
    files = list(find_recordings([folder]))
    tokens = [model.tokens(file).values for file in files]
    wanted = clip_features(model.net, tokens, [np.zeros((len(x), model.config.action.dim), np.float32) for x in tokens])[SCENE]
    table = embed(model, files, part=SCENE)
    np.testing.assert_allclose(table.columns["embedding"], wanted, atol=1e-6)
    assert table.about["pooling"] == "none"
    for file, row in zip(files, wanted, strict=True):
        np.testing.assert_allclose(embed_clip(model, file, SCENE), row, atol=1e-5)  # as a long recording is done
    long = (sweep(4.0), RATE)
    values = model.tokens(long).values
    assert len(values) > 2 * STRETCH
    np.testing.assert_allclose(embed_clip(model, long, SCENE), scene_vectors(model.net, [values])[0], atol=1e-5)
    assert embed(model, files[:1], "moment", SCENE, moment_s=0.3).rows >= 1
    with pytest.raises(UsageError, match="not of windows"):
        embed(model, files, "window", SCENE)


def test_unknown_names(model: WorldModel) -> None:
    with pytest.raises(UsageError, match="pooling 'median'"):
        embed_clip(model, (sweep(0.5), RATE), pooling="median")
    with pytest.raises(UsageError, match="part 'mind'"):
        embed_clip(model, (sweep(0.5), RATE), part="mind")
    with pytest.raises(UsageError, match="row per 'hour'"):
        embed(model, [], per="hour")
    for seconds in (0.0, 0.05, 21.0, float("nan")):
        with pytest.raises(UsageError, match="a moment of"):
            embed(model, [], per="moment", moment_s=seconds)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("per", list(PER))
def test_a_recording_is_the_same_alone_and_among_others(each: WorldModel, folder: Path, per: str, seed: int | None) -> None:
    files = list(find_recordings([folder]))
    every = embed(each, files, per, pooling="evaluation", moment_s=0.3, seed=seed)
    assert list(dict.fromkeys(every.columns["source"])) == [file.name for file in files]
    for file in files:
        one = embed(each, [file], per, pooling="evaluation", moment_s=0.3, seed=seed)
        rows = every.columns["source"] == file.name
        for name, column in one.columns.items():
            if name == "embedding":
                np.testing.assert_allclose(every.columns[name][rows], column, atol=1e-5)
            else:
                assert np.array_equal(every.columns[name][rows], column)


@pytest.mark.parametrize("part", ["feat", "deter", "embed"])
def test_the_evaluations_vector_is_the_evaluations(model: WorldModel, folder: Path, part: str) -> None:
    files = list(find_recordings([folder]))
    tokens = [model.tokens(file).values for file in files]
    actions = [np.zeros((len(x), model.config.action.dim), np.float32) for x in tokens]
    bands = centred_bands(model.config)
    features = clip_features(model.net, tokens, actions, centred_bands=bands)
    wanted = join_parts(features) if part == "feat" else join_parts(features, (part, f"{part}, centred"))
    assert bands == model.features.n_mels
    np.testing.assert_allclose(embed(model, files, part=part, pooling="evaluation").columns["embedding"], wanted, atol=1e-5)
    for file, row in zip(files, wanted, strict=True):
        np.testing.assert_allclose(embed_clip(model, file, part, "evaluation"), row, atol=1e-5)  # as a long recording is done


def test_the_evaluations_vector_without_centring_is_thirds(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, steps=1, augment__centre=0)
    model = WorldModel.load(tmp_path, "cpu")
    vector, thirds = (embed_clip(model, (sweep(0.6), RATE), pooling=name) for name in ("evaluation", "thirds"))
    assert len(vector) == len(thirds)
    np.testing.assert_array_equal(np.sort(vector), np.sort(thirds))  # deter and stoch one after the other, not side by side


@pytest.mark.parametrize(("per", "pooling"), [("clip", "mean"), ("clip", "evaluation"), ("window", "mean"), ("moment", "mean")])
def test_long_and_short_recordings_in_one_table(
    model: WorldModel, folder: Path, monkeypatch: pytest.MonkeyPatch, per: str, pooling: str
) -> None:
    files = list(find_recordings([folder]))
    plain = embed(model, files, per, pooling=pooling, moment_s=0.3).columns
    monkeypatch.setattr(embed_module, "CHUNK_TOKENS", 10)  # the second and third are then long
    monkeypatch.setattr(embed_module, "HELD_TOKENS", 12)
    streamed = embed(model, files, per, pooling=pooling, moment_s=0.3).columns
    assert all(np.array_equal(plain[name], streamed[name]) for name in plain if name != "embedding")
    np.testing.assert_allclose(streamed["embedding"], plain["embedding"], atol=1e-5)


def test_a_moment_is_heard_like_a_clip_and_moments_leave_nothing_out(model: WorldModel, folder: Path) -> None:
    (file,) = list(find_recordings([folder]))[2:]
    tokens = model.tokens(file).values
    assert len(tokens) == 19
    table = embed(model, [file], "moment", moment_s=0.3).columns  # 7 windows of 40 ms, 4 apart
    first = np.array([0, 4, 8, 12])
    np.testing.assert_allclose(table["start_s"], first * 0.04)
    np.testing.assert_allclose(table["end_s"] - table["start_s"], 0.295)
    wanted = Embedder(model).vectors([tokens[i : i + 7] for i in first])
    np.testing.assert_allclose(table["embedding"], wanted, atol=1e-5)
    cut = list(Embedder(model, "moment", moment_s=0.3).cut([tokens[:5], tokens[5:18]]))
    assert [i for i, _ in cut] == [0, 4, 8, 11]  # the last one ends with the recording
    assert all(np.array_equal(part, tokens[i : i + 7]) for i, part in cut)
    assert [(i, len(part)) for i, part in Embedder(model, "moment", moment_s=0.3).cut([tokens[:3]])] == [(0, 3)]


def test_labels_have_columns(model: WorldModel, folder: Path) -> None:
    labels = [{"label": "bird", "text": "tweet", "source": "forest"}, {"speaker": "ann"}, {}]
    files = [
        Recording(str(folder / f"{i}.wav"), AudioItem(index=-1, path=str(folder / f"{i}.wav"), group="", labels=known))
        for i, known in enumerate(labels)
    ]
    clips, windows = embed(model, files).columns, embed(model, files, "window").columns
    assert list(clips) == ["source", "label", "speaker", "text", "metadata_source", "windows", "covered_s", "embedding"]
    assert [clips[name].tolist() for name in ("label", "speaker", "text")] == [["bird", "", ""], ["", "ann", ""], ["tweet", "", ""]]
    assert list(windows) == ["source", "label", "speaker", "window", "start_s", "centre_s", "embedding"]
    assert set(windows["speaker"][windows["source"] == files[1].name]) == {"ann"}


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
@pytest.mark.parametrize("per", list(PER))
def test_a_table_written_as_it_grows_is_the_table_in_memory(
    model: WorldModel, folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str, per: str
) -> None:
    monkeypatch.setattr(embed_module, "HELD_TOKENS", 12)
    files = list(find_recordings([folder]))
    embed(model, files, per, moment_s=0.3).write(folder / f"memory.{ending}")
    rows = write_embeddings(folder / f"grown.{ending}", Embedder(model, per, moment_s=0.3), files)
    assert rows == {"clip": 3, "moment": 2 + 3 + 4, "window": 9 + 14 + 19}[per]
    assert (folder / f"grown.{ending}").read_bytes() == (folder / f"memory.{ending}").read_bytes()


def test_formats_agree(model: WorldModel, folder: Path) -> None:
    table = embed(model, find_recordings([folder]), per="window", part="embed")
    for ending in ("parquet", "npz", "csv"):
        table.write(folder / f"out.{ending}")
    parquet = pq.read_table(folder / "out.parquet")
    with np.load(folder / "out.npz") as arrays:
        assert np.array_equal(np.array(parquet["embedding"].to_pylist(), np.float32), arrays["embedding"])
        np.testing.assert_allclose(parquet["centre_s"].to_numpy(), arrays["centre_s"])
        with (folder / "out.csv").open(newline="") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        np.testing.assert_allclose([float(row["embedding_3"]) for row in rows], arrays["embedding"][:, 3], rtol=1e-6)
    assert json.loads(parquet.schema.metadata[b"sample_rate_hz"]) == RATE
    assert len(rows) == table.rows == 9 + 14 + 19


def test_unreadable_files_are_reported_and_left_out(model: WorldModel, folder: Path) -> None:
    (folder / "1.wav").write_bytes(b"RIFF")
    failed: list[DecodeError] = []
    table = embed(model, find_recordings([folder, folder / "none.wav"]), failed=failed.append)
    assert table.rows == 2
    assert [Path(error.path).name for error in failed] == ["1.wav", "none.wav"]
    with pytest.raises(DecodeError):
        embed(model, find_recordings([folder]))
    with pytest.raises(UsageError, match="no row"):
        embed(model, []).write(folder / "nothing.csv")
    assert write_embeddings(folder / "nothing.csv", Embedder(model), [folder / "1.wav"], failed.append) == 0
    assert not (folder / "nothing.csv").exists()


def test_of_a_long_recording_that_breaks_off_rows_before_the_fault_stay(model: WorldModel, tmp_path: Path) -> None:
    sound = sweep(45.0)
    sound[43 * RATE] = np.nan  # in the fifth block that is decoded
    soundfile.write(tmp_path / "bad.wav", sound, RATE, subtype="FLOAT")
    write_sweep(tmp_path / "good.wav", 0.4)
    for per, rows in (("clip", 0), ("window", 2 * CHUNK_TOKENS)):
        failed: list[DecodeError] = []
        table = embed(model, [tmp_path / "bad.wav", tmp_path / "good.wav"], per, "deter", failed=failed.append).columns
        assert len(failed) == 1
        assert "not finite" in failed[0].cause
        assert np.sum(table["source"] == str(tmp_path / "bad.wav")) == pytest.approx(rows, abs=CHUNK_TOKENS)
        assert np.sum(table["source"] == str(tmp_path / "good.wav")) >= 1
