"""The layouts on real data sets; PYDREAMING_DATA is a folder with fsdd/, esc10/, librispeech_mini/, ljspeech_mini/, machines/."""

from __future__ import annotations

import functools
import os
import tarfile
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pydreaming.audio.decode import decode, resolve_inside
from pydreaming.audio.sources import Catalogue, layout_of, source_root
from pydreaming.audio.sources.fsdd_download import REVISION, SHA256, digest, ensure_fsdd
from pydreaming.config import Config, load_config

DATA = Path(os.environ.get("PYDREAMING_DATA", ""))
pytestmark = pytest.mark.skipif("PYDREAMING_DATA" not in os.environ, reason="PYDREAMING_DATA is not set")


def config_of(name: str, *overrides: str) -> Config:
    return load_config(["defaults"], ["--source.path", str(DATA / name), *overrides])


def catalogue_of(name: str, folder: Path, *overrides: str) -> tuple[str, Catalogue]:
    config = config_of(name, *overrides)
    return layout_of(config.source), Catalogue.build(config.source, config.action, 0, folder / "catalogue")


def decodes(name: str, catalogue: Catalogue, every: int) -> None:
    root = source_root(config_of(name).source)
    for item in list(catalogue)[::every]:
        samples, rate = decode(resolve_inside(root, item.path), item)
        assert len(samples) > rate * 0.1


def test_fsdd(tmp_path):
    kind, catalogue = catalogue_of("fsdd", tmp_path)
    assert kind == "fsdd"
    assert len(catalogue) == 3000
    assert (catalogue.info.split, catalogue.info.held_out, catalogue.info.speakers) == ("official", 300, 6)
    assert Counter(item.labels["label"] for item in catalogue) == {str(digit): 300 for digit in range(10)}
    decodes("fsdd", catalogue, 500)


def test_the_pinned_checksum_is_that_of_the_real_data_set():
    assert digest(DATA / "fsdd/recordings") == SHA256


def test_the_real_data_set_passes_through_the_download(tmp_path):
    top = tmp_path / "served" / f"{REVISION}.tar.gz"
    top.parent.mkdir()
    with tarfile.open(top, "w:gz", compresslevel=1) as tar:
        tar.add(DATA / "fsdd/recordings", arcname=f"free-spoken-digit-dataset-{REVISION}/recordings")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(top.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        folder = ensure_fsdd(tmp_path / "fsdd", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert len(list((folder / "recordings").iterdir())) == 3000


def test_esc10(tmp_path):
    kind, catalogue = catalogue_of("esc10", tmp_path)
    assert kind == "esc50"
    assert Counter(item.labels["label"] for item in catalogue) == {item.labels["label"]: 40 for item in catalogue}
    assert (len(catalogue), catalogue.info.held_out, catalogue.info.split) == (400, 80, "official")
    held, train = ({catalogue[int(i)].group for i in side} for side in (catalogue.held_out_indices, catalogue.train_indices))
    assert not held & train
    decodes("esc10", catalogue, 150)


def test_librispeech(tmp_path):
    kind, catalogue = catalogue_of("librispeech_mini", tmp_path)
    assert kind == "librispeech"
    assert [item.held_out for item in catalogue] == [True, True, False, False, False, False]
    assert {item.group for item in catalogue} == {f"speaker:{n}" for n in (198, 1088, 2412, 3436, 5703)}
    decodes("librispeech_mini", catalogue, 3)


def test_ljspeech(tmp_path):
    kind, catalogue = catalogue_of("ljspeech_mini", tmp_path)
    assert kind == "ljspeech"
    assert len(catalogue) == 16
    assert len({item.path for item in catalogue}) == 16
    assert catalogue[0].labels["text"].startswith("Printing, in the only sense")
    decodes("ljspeech_mini", catalogue, 8)


def test_machines(tmp_path):
    kind, catalogue = catalogue_of("machines", tmp_path, "--action.kind", "controls", "--action.columns", "[id]")
    assert kind == "audiofolder"
    assert len(catalogue) == 93
    assert catalogue.info.label_columns == ["id", "label", "machine"]
    assert {item.labels["label"] for item in catalogue} == {"normal", "anomalous"}
    assert len({item.labels["machine"] for item in catalogue}) == 6
    assert all(item.controls == (float(item.labels["id"]),) for item in catalogue)
    decodes("machines", catalogue, 40)


@pytest.mark.parametrize("kind", ["auto", "folder"])
def test_the_mixed_folder_as_a_whole(tmp_path, kind):
    found, catalogue = catalogue_of(".", tmp_path, "--source.kind", kind)
    assert found == "folder"
    paths = [item.path for item in catalogue]
    assert len(paths) == len(set(paths)) > 3500
    assert {path.split("/")[0] for path in paths} >= {"codecs", "esc10", "fsdd", "librispeech_mini", "ljspeech_mini", "long", "machines"}
    assert not [path for path in paths if path.endswith((".txt", ".csv"))]
    assert catalogue.info.label_columns == []
    assert all((DATA / path).is_file() for path in paths)
