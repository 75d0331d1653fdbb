"""From a manifest to samples: what is there decodes, and every bad row is refused on its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pydreaming.audio.decode import decode, resolve_inside
from pydreaming.audio.sources import Catalogue, source_root
from pydreaming.config import load_config
from pydreaming.errors import DecodeError

RATE = 8000


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """corpus/wavs/tone.wav (1 s, rising from 0 to 0.5), corpus/lists/, and a secret beside the corpus."""
    (tmp_path / "corpus/wavs").mkdir(parents=True)
    (tmp_path / "corpus/lists").mkdir()
    ramp = np.linspace(0, 0.5, RATE, dtype=np.float32)
    for path in ("corpus/wavs/tone.wav", "secret.wav"):
        soundfile.write(tmp_path / path, ramp, RATE, subtype="FLOAT")
    (tmp_path / "corpus/wavs/link.wav").symlink_to(tmp_path / "secret.wav")
    return tmp_path / "corpus"


def catalogue_of(corpus: Path, rows: list[dict[str, object]]) -> tuple[Path, Catalogue]:
    manifest = corpus / "lists/m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(["defaults"], ["--source.path", str(manifest), "--source.root", str(corpus)])
    return source_root(config.source), Catalogue.build(config.source, config.action, 0, corpus.parent / "catalogue")


def test_good_rows_decode(corpus):
    rows: list[dict[str, object]] = [
        {"audio_filepath": "../wavs/tone.wav"},
        {"audio_filepath": str(corpus / "wavs/tone.wav"), "offset": 0.25, "duration": 0.5},
    ]
    root, catalogue = catalogue_of(corpus, rows)
    whole, part = (decode(resolve_inside(root, item.path), item) for item in catalogue)
    assert (len(whole[0]), whole[1]) == (RATE, RATE)
    np.testing.assert_array_equal(part[0], whole[0][RATE // 4 : 3 * RATE // 4])


def test_bad_rows_are_listed_and_refused_one_by_one(corpus):
    paths = ["gone.wav", "../../secret.wav", str(corpus.parent / "secret.wav"), "../wavs/link.wav", "/etc/passwd", "."]
    root, catalogue = catalogue_of(corpus, [{"audio_filepath": path} for path in paths])
    assert len(catalogue) == len(paths)
    for item in catalogue:
        with pytest.raises(DecodeError):
            decode(resolve_inside(root, item.path), item)
