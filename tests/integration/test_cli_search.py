"""`pydreaming search`, and what `pydreaming embed` gained, as a user runs them."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("search-run")
    make_checkpoint(folder, steps=3)
    return str(folder)


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six labelled sweeps; `low/0.wav` comes once more as `high/copy.wav`."""
    for i in range(5):
        write_sweep(tmp_path / f"sounds/{'low' if i % 2 == 0 else 'high'}/{i}.wav", 0.5, seed=i)
    write_sweep(tmp_path / "sounds/high/copy.wav", 0.5, seed=0)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sounds"


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in io.StringIO(text) if not line.startswith("#")))


def test_table_page_and_index(run: str, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sounds/low/0.wav", "sounds", "--index", "i.parquet", "--top", "3", "--page", "hits.html"]
    assert cli.main(["search", run, *words]) == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert [Path(row["source"]).name for row in rows][:1] == ["copy.wav"]
    assert (rows[0]["label"], rows[0]["rank"]) == ("high", "1")
    assert float(rows[0]["score"]) > 0.999
    assert list(rows[0]) == ["rank", "score", "source", "start_s", "end_s", "query_start_s", "label", "speaker"]
    assert "wrote i.parquet" in err
    assert Path("hits.html").read_text().count("<audio") == 4
    (sounds / "high/copy.wav").unlink()  # the library is not read again
    assert cli.main(["search", run, "sounds/low/0.wav", "--index", "i.parquet", "--top", "3", "--out", "again.csv"]) == 0
    assert rows_of(Path("again.csv").read_text()) == rows
    assert "wrote again.csv: 3 hits" in capsys.readouterr().err


def test_moments_from_a_pipe(run: str, sounds: Path) -> None:
    soundfile.write("long.wav", np.concatenate([sweep(0.48, seed=seed) for seed in (3, 4, 5, 1, 6)]), RATE)
    write_sweep(Path("query.wav"), 0.48, seed=1)
    words = ["--per", "moment", "--moment", "0.5", "--page", "p.html", "--top", "1", "--part", "embed", "--pooling", "thirds"]
    line = [sys.executable, "-m", "pydreaming.cli", "search", run, "-", "long.wav", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, input=Path("query.wav").read_bytes(), capture_output=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(done.stdout.decode())
    assert float(row["start_s"]) == pytest.approx(3 * 0.48)
    page = Path("p.html").read_text()
    assert "Sounds like standard input" in page
    assert "long.wav --per moment --page more.html" in page  # no index was kept to go on with


def test_unreadable_files_and_queries(run: str, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sounds / "bad.wav").write_text("no audio")
    assert cli.main(["search", run, "sounds/low/0.wav", "sounds", "--out", "hits.parquet"]) == 1
    err = capsys.readouterr().err
    assert "bad.wav:" in err
    assert "1 of 7 files could not be read" in err
    assert len(pandas.read_parquet("hits.parquet")) == 5
    assert cli.main(["search", run, "sounds/bad.wav", "sounds", "--index", "new.parquet"]) == 1
    assert not Path("new.parquet").exists()  # the query is looked at first
    assert cli.main(["search", run, "sounds/low/0.wav", "sounds/bad.wav"]) == 1
    assert "no file of the library could be read" in capsys.readouterr().err


def test_wrong_wishes(run: str, sounds: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    query = "sounds/low/0.wav"
    assert cli.main(["search", run, query, "sounds", "--index", "i.parquet"]) == 0
    other = tmp_path_factory.mktemp("other-run")
    make_checkpoint(other, steps=2)
    for words, message in (
        (["--index", "i.parquet", "--per", "moment"], "i.parquet was made with --per clip, not moment"),
        (["--index", "i.parquet", "--part", "feat"], "made with --part deter, not feat"),
        (["--index", "i.parquet", "--moment", "1"], "--moment is for --per moment; i.parquet has a row per clip"),
        (["--index", "none.parquet"], "there is no index at none.parquet"),
        ([], "name a LIBRARY"),
        (["sounds", "--top", "0"], "--top 0"),
        (["sounds", "--page", "hits.txt"], "must end in .html"),
        (["sounds", "--index", "i.csv"], "must end in .parquet"),
        (["sounds", "--per", "moment", "--moment", "100"], "a moment of 100 s"),
    ):
        assert cli.main(["search", run, query, *words]) == 2, words
        assert message in capsys.readouterr().err
    assert cli.main(["search", str(other), query, "--index", "i.parquet"]) == 2
    assert "i.parquet was made by another model" in capsys.readouterr().err
    Path("i.parquet").write_bytes(b"PAR1")
    assert cli.main(["search", run, query, "--index", "i.parquet"]) == 1
    assert "no Parquet file" in capsys.readouterr().err


def test_embed_with_labels_moments_and_the_evaluations_vector(run: str, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", run, "sounds", "--pooling", "evaluation", "--out", "clips.parquet"]) == 0
    clips = pandas.read_parquet("clips.parquet")  # one line of pandas
    assert clips.label.tolist() == ["high"] * 3 + ["low"] * 3
    assert np.stack(clips.embedding).shape == (6, 8 * 48)
    assert cli.main(["embed", run, "sounds", "--per", "moment", "--moment", "0.3", "--out", "-"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 6 * 3
    assert rows[1]["label"] == "high"
    assert float(rows[1]["start_s"]) == pytest.approx(0.16)
    assert cli.main(["search", run, "sounds/low/0.wav", "--index", "clips.parquet", "--top", "1"]) == 0  # its table is an index
    assert cli.main(["embed", run, "missing.wav", "--out", "-"]) == 1
    assert "no file could be read" in capsys.readouterr().err
