"""Result tables come back through one line of pandas or numpy, in every format."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pydreaming.errors import ReplayError, UsageError
from pydreaming.replay.tables import write_table

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
