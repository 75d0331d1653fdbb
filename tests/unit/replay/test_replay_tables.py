"""Result tables come back through one line of pandas or numpy, in every format."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pydreaming.errors import ReplayError, UsageError
from pydreaming.replay.tables import TableWriter, read_about, read_blocks, write_table

FEAT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
COLUMNS = {
    "path": ["a,b.wav", 'c"d.wav', "ü.wav", ""],
    "time_s": np.arange(4) * 0.04,
    "index": [3, 2, 1, 0],
    "flag": [True, False, True, False],
    "feat": FEAT,
}
METADATA = {"checkpoint": "step-7", "features": {"n_mels": 64}}


def test_parquet(tmp_path):
    write_table(tmp_path / "deep" / "t.parquet", COLUMNS, METADATA)
    df = pd.read_parquet(tmp_path / "deep" / "t.parquet")
    assert np.array_equal(np.stack(df["feat"]), FEAT)
    assert np.stack(df["feat"]).dtype == np.float32
    assert df["path"].tolist() == COLUMNS["path"]
    assert df["flag"].tolist() == COLUMNS["flag"]
    stored = pq.read_metadata(tmp_path / "deep" / "t.parquet").metadata
    assert json.loads(stored[b"features"]) == {"n_mels": 64}


def test_csv(tmp_path):
    write_table(tmp_path / "t.csv", COLUMNS, METADATA)
    df = pd.read_csv(tmp_path / "t.csv", comment="#", keep_default_na=False)
    assert list(df.columns) == ["path", "time_s", "index", "flag", "feat_0", "feat_1", "feat_2"]
    assert df["path"].tolist() == COLUMNS["path"]
    assert np.array_equal(df[["feat_0", "feat_1", "feat_2"]].to_numpy(np.float32), FEAT)
    assert (tmp_path / "t.csv").read_text(encoding="utf-8").startswith('# checkpoint: "step-7"\n')


def test_npz(tmp_path):
    write_table(tmp_path / "t.npz", COLUMNS, METADATA)
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        assert np.array_equal(file["feat"], FEAT)
        assert file["path"].tolist() == COLUMNS["path"]
        assert json.loads(str(file["metadata"])) == METADATA


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.npz"])
def test_empty_columns_and_no_metadata(tmp_path, name):
    write_table(tmp_path / name, {"x": np.zeros(0), "feat": np.zeros((0, 3))})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_errors(tmp_path):
    with pytest.raises(UsageError, match=r"\.parquet, \.csv or \.npz"):
        write_table(tmp_path / "t.xls", COLUMNS)
    with pytest.raises(ValueError, match="length"):
        write_table(tmp_path / "t.csv", {"a": [1, 2], "b": [1]})
    for wrong in ([{"a": 1}], [None, 1], np.zeros((2, 2, 2)), np.zeros(2, complex)):
        with pytest.raises(ValueError, match="column 'a'"):
            write_table(tmp_path / "t.csv", {"a": wrong})
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplayError, match="cannot write"):
        write_table(tmp_path / "file" / "t.csv", {"a": [1]})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
@pytest.mark.parametrize("group", [1, 1 << 20])
def test_a_table_in_blocks_is_the_table_in_one(tmp_path, monkeypatch, ending, group):
    monkeypatch.setattr("pydreaming.replay.tables.GROUP_BYTES", group)
    write_table(tmp_path / f"one.{ending}", COLUMNS, METADATA)
    with TableWriter(tmp_path / f"blocks.{ending}", METADATA) as table:
        for part in (slice(0, 1), slice(1, 1), slice(1, 4)):
            table.append({name: np.asarray(values)[part] for name, values in COLUMNS.items()})
        assert table.rows == 4
        assert not (tmp_path / f"blocks.{ending}").exists()
    if ending == "parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "blocks.parquet"), pd.read_parquet(tmp_path / "one.parquet"))
        assert pq.read_metadata(tmp_path / "blocks.parquet").num_row_groups == (2 if group == 1 else 1)
    else:
        assert (tmp_path / f"blocks.{ending}").read_bytes() == (tmp_path / f"one.{ending}").read_bytes()


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.npz"])
def test_an_interrupted_table_leaves_nothing_and_the_old_one_stays(tmp_path, monkeypatch, name):
    monkeypatch.setattr("pydreaming.replay.tables.GROUP_BYTES", 1)
    write_table(tmp_path / name, {"a": [1]})
    before = (tmp_path / name).read_bytes()

    def interrupted():
        with TableWriter(tmp_path / name) as table:
            table.append({"a": [2]})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with TableWriter(tmp_path / "never.csv"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


def test_blocks_with_other_columns_are_refused(tmp_path):
    table = TableWriter(tmp_path / "t.csv")
    table.append({"a": [1]})
    with pytest.raises(ValueError, match="columns"):
        table.append({"b": [1]})
    assert list(tmp_path.iterdir()) == []


def test_parquet_is_read_in_blocks(tmp_path):
    write_table(tmp_path / "t.parquet", COLUMNS, METADATA)
    assert read_about(tmp_path / "t.parquet") == METADATA
    blocks = list(read_blocks(tmp_path / "t.parquet", ("feat", "path"), rows=3))
    assert [len(block["path"]) for block in blocks] == [3, 1]
    assert np.array_equal(np.concatenate([block["feat"] for block in blocks]), FEAT)
    assert np.concatenate([block["path"] for block in blocks]).tolist() == COLUMNS["path"]
    assert set(next(read_blocks(tmp_path / "t.parquet"))) == set(COLUMNS)


def test_what_cannot_be_read(tmp_path):
    write_table(tmp_path / "t.parquet", COLUMNS)
    (tmp_path / "x.parquet").write_text("not a table")
    with pytest.raises(ReplayError, match="no column 'speed'"):
        list(read_blocks(tmp_path / "t.parquet", ["speed"]))
    with pytest.raises(ReplayError, match=r"x\.parquet: it is no Parquet file"):
        read_about(tmp_path / "x.parquet")
    with pytest.raises(ReplayError, match=r"none\.parquet: it is not there"):
        list(read_blocks(tmp_path / "none.parquet"))
