"""File names and labels are strangers' words: a page shows them, and neither it nor a terminal does what they say."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pytest
from tiny_model import write_sweep

from pydreaming import cli
from pydreaming.analysis.reports.clip import clip_report
from pydreaming.analysis.vectors.search import search, write_index
from pydreaming.analysis.vectors.search_page import write_search_page
from pydreaming.analysis.world_model import WorldModel

LABEL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
NAME = "<script>alert(3)<img src=x onerror=alert(4)>&quot;'.wav"


class Page(html.parser.HTMLParser):
    """What a browser would run or fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.deeds: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "base", "form"):
            self.deeds.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in ("src", "href", "srcset", "action") and not (value or "").startswith("data:")):
                self.deeds.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    for i, name in enumerate(("a.wav", NAME, "b.wav")):
        write_sweep(folder / name, 0.6, seed=i)
    rows = [f'"{name}","{LABEL}","{LABEL}"' for name in ("a.wav", NAME, "b.wav")]
    (folder / "metadata.csv").write_text("file_name,label,speaker_id\n" + "\n".join(rows) + "\n")
    return folder


def test_the_search_page_shows_names_and_labels_and_runs_nothing(model: WorldModel, library: Path, tmp_path: Path) -> None:
    index = write_index(model, [library], tmp_path / "index.parquet")
    assert index is not None
    query = library / NAME
    hits = search(index, query, top=3)
    text = write_search_page(tmp_path / "hits.html", index, query, hits, failed=pytest.fail).read_text()
    page = Page(text)
    assert page.deeds == []
    assert NAME in page.words
    assert LABEL in page.words
    assert "default-src 'none'" in text  # and if anything were left: the page may run and fetch nothing


def test_the_page_of_a_recording_runs_nothing(model: WorldModel, library: Path, tmp_path: Path) -> None:
    page = Page(clip_report(model, library / NAME, tmp_path / "clip.html").read_text())
    assert page.deeds == []
    assert NAME in page.words


def test_a_file_name_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    name = tmp_path / "\x1b]0;title\x07\x1b[2Jall is well\nreally\u202e.wav"
    name.write_bytes(b"RIFF")
    assert cli.main(["surprise", str(run_folder), str(name), "--out", str(tmp_path / "o.csv")]) == 1
    error = capsys.readouterr().err
    assert "all is well really" in error
    assert not any(ch in error for ch in "\x1b\x07\u202e")
