"""The download against a local server: what arrives, and everything that can go wrong on the way."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import soundfile
from source_trees import read, text

from pydreaming.audio.sources import fsdd_download
from pydreaming.audio.sources.fsdd_download import REVISION, bundled_digits, digest, ensure_fsdd
from pydreaming.errors import SourceError

RECORDINGS = {"0_ann_0.wav": b"zero", "0_ann_10.wav": b"ten", "9_bob_49.wav": b"nine" * 1000}
# Computed by hand: sha256sum *.wav | sha256sum, in a folder with these files.
DIGEST = "de680da423902796029676bc034c9d09ba93b3450a5a6b21545adc02d180a1e9"


def archive(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return out.getvalue()


def good(prefix: str = f"free-spoken-digit-dataset-{REVISION}") -> dict[str, bytes]:
    return {f"{prefix}/recordings/{name}": content for name, content in RECORDINGS.items()} | {f"{prefix}/README.md": b"# FSDD"}


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., str]]:
    """Serves one body at /<revision>.tar.gz and expects the small data set above; gives the address."""
    monkeypatch.setattr(fsdd_download, "SHA256", DIGEST)
    servers = []

    def start(body: bytes, status: int = 200, length: int | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == f"/{REVISION}.tar.gz" else 404)
                if length != -1:
                    self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def nothing_left(folder: Path) -> bool:
    return not folder.exists() and list(folder.parent.iterdir()) == []


def test_downloads_verifies_and_does_not_ask_again(tmp_path, serve):
    assert ensure_fsdd(tmp_path / "data/fsdd", serve(archive(good()))) == tmp_path / "data/fsdd"
    found = {path.name: path.read_bytes() for path in (tmp_path / "data/fsdd/recordings").iterdir()}
    assert found == RECORDINGS
    assert sorted(path.name for path in (tmp_path / "data/fsdd").iterdir()) == ["SOURCE.txt", "recordings"]
    assert ensure_fsdd(tmp_path / "data/fsdd", "http://127.0.0.1:9") == tmp_path / "data/fsdd"


def test_only_recordings_are_unpacked(tmp_path, serve):
    other = "free-spoken-digit-dataset"
    bad = {
        "../evil.wav": b"x",
        f"{other}/recordings/../../../evil.wav": b"x",
        "/recordings/1_abs_1.wav": b"x",
        f"{other}/recordings/deep/1_ann_1.wav": b"x",
        f"{other}/recordings/notes.txt": b"x",
        f"{other}/acquire_data/1_ann_1.wav": b"x",
    }
    body = archive(good() | bad, links={f"{other}/recordings/1_link_1.wav": "/etc/passwd"})
    ensure_fsdd(tmp_path / "fsdd", serve(body))
    assert {path.name for path in (tmp_path / "fsdd/recordings").iterdir()} == set(RECORDINGS)
    assert not list(tmp_path.rglob("evil.wav"))


def test_other_content_is_not_kept(tmp_path, serve):
    changed = {name: content + b"!" for name, content in good().items()}
    with pytest.raises(SourceError, match=r"checksum .* instead of"):
        ensure_fsdd(tmp_path / "fsdd", serve(archive(changed)))
    assert nothing_left(tmp_path / "fsdd")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_breaks_off_is_not_kept(tmp_path, serve, announced):
    body = archive(good())
    with pytest.raises(SourceError, match=r"bytes arrived|not a complete archive"):
        ensure_fsdd(tmp_path / "fsdd", serve(body[: len(body) // 2], length=len(body) if announced else -1))
    assert nothing_left(tmp_path / "fsdd")


def test_not_found_is_one_line_with_the_address(tmp_path, serve):
    with pytest.raises(SourceError, match=rf"http://127.0.0.1:\d+/{REVISION}\.tar\.gz: cannot be downloaded to .*Not Found") as caught:
        ensure_fsdd(tmp_path / "fsdd", serve(b"", status=404))
    assert "\n" not in str(caught.value)
    assert nothing_left(tmp_path / "fsdd")


def test_nobody_listens(tmp_path):
    with pytest.raises(SourceError, match="cannot be downloaded"):
        ensure_fsdd(tmp_path / "fsdd", "http://127.0.0.1:9")


def test_a_page_instead_of_an_archive(tmp_path, serve):
    with pytest.raises(SourceError, match="not a complete archive"):
        ensure_fsdd(tmp_path / "fsdd", serve(b"<html>please sign in</html>"))


def test_limits(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(fsdd_download, "RECORDING_BYTES", 1000)
    with pytest.raises(SourceError, match="too large"):
        ensure_fsdd(tmp_path / "fsdd", serve(archive(good())))
    monkeypatch.setattr(fsdd_download, "ARCHIVE_BYTES", 100)
    with pytest.raises(SourceError, match="longer than"):
        ensure_fsdd(tmp_path / "fsdd", serve(archive(good())))
    monkeypatch.setattr(fsdd_download, "ARCHIVE_BYTES", 1 << 17)
    with pytest.raises(SourceError, match="unpacks to more than"):
        ensure_fsdd(tmp_path / "fsdd", serve(archive({"x/bomb": bytes(1 << 20)})))
    with pytest.raises(SourceError, match="not complete after"):
        ensure_fsdd(tmp_path / "fsdd", serve(archive(good())), total_s=0.0)


def test_command_line(tmp_path, capsys):
    (tmp_path / "fsdd/recordings").mkdir(parents=True)
    assert fsdd_download.main([str(tmp_path / "fsdd")]) == 0
    text(tmp_path / "file", "")
    assert fsdd_download.main([str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("error: https://github.com/")


def test_only_web_addresses(tmp_path):
    with pytest.raises(SourceError, match="only http and https"):
        ensure_fsdd(tmp_path / "fsdd", f"file://{tmp_path}")


def test_the_checksum_is_that_of_sha256sum(tmp_path):
    for name, content in RECORDINGS.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("not counted")
    assert digest(tmp_path) == DIGEST


def test_bundled_digits_are_what_they_say():
    folder = bundled_digits()
    kind, items = read(folder)
    assert kind == "fsdd"
    assert len(items) == 600
    assert {item.labels["label"] for item in items} == set("0123456789")
    assert len({item.group for item in items}) == 6
    assert sum(item.held_out is True for item in items) == 300
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 << 20
    for item in items[::60]:
        samples, rate = soundfile.read(folder / item.path, dtype="float32")
        assert rate == 8000
        assert 0.15 < len(samples) / rate < 1.5
        assert 0.1 < abs(samples).max() <= 1.0
    assert (folder / "SOURCE.txt").is_file()
