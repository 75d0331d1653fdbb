from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import RATE, sweep, write_sweep

from pydreaming.analysis.embed import EmbeddingTable, embed, embed_clip, embed_windows, pool
from pydreaming.analysis.inputs import find_recordings
from pydreaming.analysis.names import PARTS, POOLINGS
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, UsageError
from pydreaming.evaluation.pooling import thirds_and_std


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_sweep(tmp_path / f"sounds/{i}.wav", 0.4 + 0.2 * i, seed=i)
    return tmp_path / "sounds"


@pytest.mark.parametrize("part", list(PARTS))
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
def test_pooling_does_not_depend_on_chunks(pooling: str, cuts: list[int]) -> None:
    rows = np.random.default_rng(0).normal(1000.0, 1.0, (30, 4)).astype(np.float32)  # a large mean: the spread must not cancel
    wanted = {
        "mean": rows.mean(0),
        "mean_std_max": np.concatenate([rows.mean(0), rows.std(0), rows.max(0)]),
        "thirds": thirds_and_std(rows),
    }[pooling]
    vector, count = pool(np.split(rows, np.cumsum(cuts)[:-1]), pooling)
    assert count == 30
    np.testing.assert_allclose(vector, wanted, rtol=1e-4)


def test_unknown_names(model: WorldModel) -> None:
    with pytest.raises(UsageError, match="pooling 'median'"):
        embed_clip(model, (sweep(0.5), RATE), pooling="median")
    with pytest.raises(UsageError, match="part 'mind'"):
        embed_clip(model, (sweep(0.5), RATE), part="mind")


@pytest.mark.parametrize("per", ["clip", "window"])
def test_a_clip_is_the_same_alone_and_among_others(model: WorldModel, folder: Path, per: str) -> None:
    files = list(find_recordings([folder]))
    together, alone = EmbeddingTable(model, per), EmbeddingTable(model, per)
    for file in files:
        together.add(file)
    alone.add(files[1])
    together.write(folder / "together.npz")
    alone.write(folder / "alone.npz")
    with np.load(folder / "together.npz") as every, np.load(folder / "alone.npz") as one:
        rows = every["source"] == files[1].name
        assert np.array_equal(every["embedding"][rows], one["embedding"])


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
    failed: list[tuple[str, str]] = []
    table = embed(model, find_recordings([folder, folder / "none.wav"]), failed=lambda path, cause: failed.append((path, cause)))
    assert table.rows == 2
    assert [Path(path).name for path, _ in failed] == ["1.wav", "none.wav"]
    with pytest.raises(DecodeError):
        embed(model, find_recordings([folder]))
    with pytest.raises(UsageError, match="no row"):
        EmbeddingTable(model).write(folder / "nothing.csv")
