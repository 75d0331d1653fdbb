"""The notebooks run from beginning to end, for somebody with a model and a few recordings, and lie in the repository without outputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_model import make_checkpoint

from pydreaming.audio.sources.fsdd_download import bundled_digits

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "docs/notebooks"
PICTURE, FRAME, PLAYER = "picture", "frame", "player"
EXPECTED = {  # the least that each shows
    "first_steps": {PICTURE: 2, FRAME: 4, PLAYER: 4},
    "surprise_and_anomaly": {PICTURE: 3, FRAME: 7, PLAYER: 1},
    "dreams_and_units": {PICTURE: 4, FRAME: 4, PLAYER: 6},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 48 digits as FSDD, by two speakers, where the notebooks look for it."""
    folder = tmp_path_factory.mktemp("notebook-data")
    digits = sorted(bundled_digits().rglob("*.flac"))
    speakers = sorted({path.stem.split("_")[1] for path in digits})[:2]
    chosen = [path for path in digits if path.stem.split("_")[1] in speakers and int(path.stem.split("_")[2]) < 3][:48]
    for path in chosen:
        target = folder / "fsdd" / "recordings" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("notebook-run"), steps=3)


def shown(notebook: Any) -> dict[str, int]:
    """How many outputs of each kind there are."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    pages = [entry.get("text/html", "") for entry in data]
    return {
        PICTURE: sum("image/png" in entry for entry in data),
        FRAME: sum("dataframe" in page for page in pages),
        PLAYER: sum("<audio" in page for page in pages),
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs_and_shows_what_it_speaks_of(name: str, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {
        "PYDREAMING_MODEL": str(model), "PYDREAMING_DATA": str(data), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()  # raises what a cell raises
    found = shown(notebook)
    assert all(found[kind] >= least for kind, least in EXPECTED[name].items()), found
    said = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not [text for text in said if "Warning" in text]


def test_they_are_all_there_and_lie_without_outputs() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(EXPECTED)
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5), path
        assert path.stat().st_size < 40_000, path
        for cell in notebook.cells:
            assert cell.id
            assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None), (path, cell.id)
