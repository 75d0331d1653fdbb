"""Models in MLflow's registry: published, loaded by alias, asked in the process and over HTTP; always the numbers of the Python API."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny_model import RATE, make_checkpoint, sweep, tiny_config, write_sweep

from pydreaming import cli
from pydreaming.analysis.sharing.publish import log_page
from pydreaming.analysis.vectors.embed import embed_clip
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import TrackingError, UsageError
from pydreaming.tracking.registry import check_names
from pydreaming.tracking.store import Store, default_store
from pydreaming.tracking.writer import RUN_FILE

Answer = tuple[int, dict[str, Any]]


class Shown(NamedTuple):
    """A published model: the store, the model in it, the run that trained it, and a recording."""

    uri: str
    model: WorldModel
    run_id: str
    clip: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Version 2 of "sweeps" is "champion", version 1 another model."""
    folder = tmp_path_factory.mktemp("publish")
    uri = f"sqlite:///{folder}/mlflow.db"
    run = folder / "run"
    make_checkpoint(run, steps=2)
    (run / "config.yaml").write_text(tiny_config(tracking__uri=uri, source__path="/home/ann/sweeps").to_yaml())
    store = Store(uri)
    run_id = store.create_run(store.experiment("pydreaming"), "run", {})
    (run / RUN_FILE).write_text(json.dumps({"uri": uri, "experiment": "pydreaming", "key": "k", "run_id": run_id}))
    other = make_checkpoint(folder / "other", steps=1, model__dynamics="rssm")
    assert cli.main(["publish", str(other), "--name", "sweeps", "--tracking", uri]) == 0
    assert cli.main(["publish", str(run), "--name", "sweeps", "--alias", "champion"]) == 0
    return Shown(uri, WorldModel.load(run, "cpu"), run_id, write_sweep(folder / "sounds/a.wav", 0.5, seed=3))


@pytest.fixture(scope="module")
def loaded(published: Shown) -> Any:
    """The model as MLflow loads it, allowed to open the folder of the recording."""
    with default_store(published.uri):
        import mlflow

        settings = {"audio_root": str(published.clip.parent), "device": "cpu"}
        return mlflow.pyfunc.load_model("models:/sweeps@champion", model_config=settings)


@pytest.mark.parametrize("name", ["models:/sweeps@champion", "models:/sweeps/2"])
def test_it_loads_by_alias_and_by_version(published: Shown, name: str) -> None:
    found = WorldModel.load(name, "cpu", published.uri)
    assert np.array_equal(found.embed(published.clip).values, published.model.embed(published.clip).values)
    assert found.card.startswith("---\nlibrary_name: pydreaming\n")


def test_the_older_version_is_the_other_model(published: Shown) -> None:
    assert WorldModel.load("models:/sweeps/1", "cpu", published.uri).config.model.dynamics == "rssm"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models:/sweeps/9", "cannot be fetched"), ("models:/sweeps@none", "cannot be fetched"), ("models:/none/1", "cannot be fetched"),
        ("models:/sweeps", "form"), ("models:/a/b/c", "form"), ("models:/../1", "form"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_line(published: Shown, name: str, said: str) -> None:
    with pytest.raises(TrackingError, match=said) as error:
        WorldModel.load(name, "cpu", published.uri)
    assert "\n" not in str(error.value)


def test_what_lies_in_the_registry(published: Shown) -> None:
    with Store(published.uri).calling() as (_, client):
        version = client.get_model_version_by_alias("sweeps", "champion")
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert int(version.version) == 2
    assert version.run_id == published.run_id
    assert version.description.startswith("# A world model of sound")
    for heading in ("## Data", "## Settings", "## Figures", "## Limits"):
        assert heading in version.description
    folder = Path(logged.artifact_location)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc", ".pt", ".wav"))]
    assert {f"artifacts/model/{name}" for name in ("model.safetensors", "config.json", "README.md", "SHA256SUMS")} <= names
    assert "code/pydreaming/analysis/sharing/serving.py" in names
    pinned = (folder / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.partition('+')[0]}" in pinned
    assert all("==" in line and "+" not in line for line in pinned)
    everything = "".join((folder / name).read_text() for name in names if name.endswith((".json", ".md", ".txt", ".yaml", "MLmodel")))
    assert "/home/ann" not in everything
    assert "http" not in (folder / "requirements.txt").read_text() + (folder / "conda.yaml").read_text()


def test_a_page_goes_to_the_run_that_trained_the_model(published: Shown, tmp_path: Path) -> None:
    (tmp_path / "clip.html").write_text("<p>page")
    assert log_page(published.model, tmp_path / "clip.html") == published.run_id
    with Store(published.uri).calling() as (_, client):
        assert [entry.path for entry in client.list_artifacts(published.run_id, "reports")] == ["reports/clip.html"]
    with pytest.raises(TrackingError, match="does not have the run"):
        log_page(published.model, tmp_path / "clip.html", f"{published.uri.removesuffix('mlflow.db')}other.db")


@pytest.mark.parametrize("output", ["embed", "windows", "surprise"])
def test_bytes_arrays_and_paths_give_the_numbers_of_the_python_api(published: Shown, loaded: Any, output: str) -> None:
    import pandas

    samples, _ = _decoded(published.clip)
    frame = pandas.DataFrame(
        {
            "audio": [published.clip.read_bytes(), None, None],
            "samples": [None, samples.astype(float).tolist(), None],
            "sample_rate": [None, RATE, None],
            "path": [None, None, "a.wav"],
        }
    )
    answer = loaded.predict(frame, params={"output": output, "part": "deter"})
    parts = [answer[answer["row"] == row].drop(columns="row").reset_index(drop=True) for row in range(3)]
    assert parts[0].equals(parts[1])
    assert parts[0].equals(parts[2])
    if output == "embed":
        assert np.array_equal(parts[0]["embedding"][0], embed_clip(published.model, published.clip, "deter"))
    elif output == "windows":
        expected = published.model.embed(published.clip, "deter")
        assert np.array_equal(np.stack(parts[0]["embedding"]), expected.values)
        assert np.array_equal(parts[0]["centre_s"], expected.centre_s)
    else:
        assert np.array_equal(parts[0]["kl_bits"], published.model.surprise(published.clip).kl)


@pytest.mark.parametrize(
    ("row", "params", "said"),
    [
        ({"path": "../other/secret.wav"}, {}, "no file under audio_root"),
        ({"path": "/etc/passwd"}, {}, "no file under audio_root"),
        ({"audio": b"not audio"}, {}, "row 0"),
        ({"audio": b""}, {}, "row 0"),
        ({"samples": [0.0, 0.1]}, {}, "sample_rate"),
        ({"samples": [0.0, 0.1], "sample_rate": 1.0}, {}, "sample_rate"),
        ({"samples": [0.0] * 601, "sample_rate": 1.5}, {}, "sample_rate"),
        ({"audio": b"x", "path": "a.wav"}, {}, "exactly one"),
        ({"audio": b"x"}, {"output": "secrets"}, "no output 'secrets'"),
        ({"path": "a.wav"}, {"part": "all"}, "no part 'all'"),
        ({"path": "a.wav"}, {"pooling": "max"}, "no pooling 'max'"),
    ],
)
def test_bad_requests_are_told_in_a_line(loaded: Any, row: dict[str, Any], params: dict[str, str], said: str) -> None:
    import pandas
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=said) as error:
        loaded.predict(pandas.DataFrame([row]), params=params)
    assert error.value.get_http_status_code() == 400
    assert "Traceback" not in str(error.value)


def test_a_served_model_answers_over_http(published: Shown, server: str) -> None:
    audio = base64.b64encode(published.clip.read_bytes()).decode()
    status, answer = _ask(server, {"dataframe_records": [{"audio": audio}], "params": {"output": "surprise"}})
    assert status == 200
    expected = published.model.surprise(published.clip)
    assert [row["kl_bits"] for row in answer["predictions"]] == [float(value) for value in expected.kl]
    status, answer = _ask(server, {"dataframe_records": [{"audio": audio}]})
    assert answer["predictions"][0]["embedding"] == [float(value) for value in embed_clip(published.model, published.clip)]
    samples = sweep(0.5, seed=3).astype(float).tolist()
    status, answer = _ask(server, {"dataframe_records": [{"samples": samples, "sample_rate": RATE}], "params": {"output": "windows"}})
    assert status == 200
    assert len(answer["predictions"]) == len(expected)

    status, answer = _ask(server, {"dataframe_records": [{"path": str(published.clip)}]})
    assert status == 400
    assert "no folder was named" in json.dumps(answer)
    status, answer = _ask(server, {"dataframe_records": [{"audio": base64.b64encode(b"no sound").decode()}]})
    assert status == 400
    assert "row 0" in json.dumps(answer)


@pytest.fixture(scope="module")
def server(published: Shown) -> Iterator[str]:
    """`mlflow models serve` in a process of its own, on this host only; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"MLFLOW_TRACKING_URI": published.uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{environment['PATH']}"
    command = [bin_folder / "mlflow", "models", "serve", "-m", "models:/sweeps@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _await(f"http://127.0.0.1:{port}/ping", process)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the command starts the server in a process below it
        process.communicate(timeout=30)


def _await(url: str, process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.2)


def _ask(url: str, request: dict[str, Any]) -> Answer:
    body = json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def _decoded(path: Path) -> tuple[np.ndarray, int]:
    from pydreaming.audio.decode import decode

    return decode(path)


@pytest.mark.parametrize(("name", "alias"), [("a/b", ""), ("", ""), ("a@b", ""), ("a", "v1"), ("a", "latest"), ("a", "7"), ("a", "x y")])
def test_names_that_could_not_be_loaded_are_refused(name: str, alias: str) -> None:
    with pytest.raises(UsageError, match="cannot"):
        check_names(name, alias)


def test_a_store_that_cannot_be_used_is_one_line(published: Shown, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    line = ["publish", str(published.model.origin), "--name", "x", "--tracking", f"sqlite:///{tmp_path}/mlflow.db"]
    assert cli.main(line) == 1
    assert "is not an sqlite database" in capsys.readouterr().err
