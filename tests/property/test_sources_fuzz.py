"""Whatever stands in a manifest: recordings, or a SourceError that names the file. Nothing else escapes."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydreaming.audio.decode import resolve_inside
from pydreaming.audio.sources import AudioItem, iter_source, layout_of
from pydreaming.config import SourceConfig, load_config
from pydreaming.errors import DecodeError, SourceError

MANIFESTS = {
    "audiofolder": ["metadata.csv"],
    "common_voice": ["clips/x.mp3", "train.tsv"],
    "esc50": ["meta/esc50.csv"],
    "fairseq": ["train.tsv"],
    "kaldi": ["wav.scp", "segments", "utt2spk"],
    "librispeech": ["train-a/1/2/1-2-0.flac", "train-a/1/2/1-2.trans.txt"],
    "ljspeech": ["wavs/x.wav", "metadata.csv"],
    "nemo": ["manifest.json"],
    "speech_commands": ["yes/a_nohash_0.wav", "testing_list.txt"],
}
STARTS = [
    b"",
    b"file_name,rpm\n",
    b"client_id\tpath\n",
    b"filename,fold,category,src_file\n",
    b'{"audio_filepath": ',
    b"a b\n",
    b".\n",
    b"\xef\xbb\xbf",
]
PIECES = st.sampled_from(
    [
        b"a.wav",
        b"../b.wav",
        b"/etc/passwd",
        b"\n",
        b"\t",
        b",",
        b"|",
        b'"',
        b"{",
        b"}",
        b"1",
        b"-1",
        b"nan",
        b"\x00",
        b"\xff",
        b"\\ud800",
        b" ",
    ]
)


@pytest.mark.parametrize("first", ["a\0b", "/" * 5000])
def test_a_fairseq_manifest_that_begins_with_no_folder_is_refused(tmp_path, first):
    (tmp_path / "train.tsv").write_text(f"{first}\na.wav\t100\n")
    config = load_config(["defaults"], ["--source.path", str(tmp_path / "train.tsv"), "--source.kind", "fairseq"]).source
    with pytest.raises(SourceError, match=r"train\.tsv, line 1"):
        list(iter_source(config))


@pytest.mark.parametrize("kind", sorted(MANIFESTS))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(start=st.sampled_from(STARTS), pieces=st.lists(PIECES, max_size=30))
def test_any_manifest_gives_items_or_a_source_error(kind, start, pieces):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for file in MANIFESTS[kind]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(start + b"".join(pieces))
        config = load_config(["defaults"], ["--source.path", name, "--source.kind", kind]).source
        layout_of(dataclasses.replace(config, kind="auto"))  # sniffing never raises for a folder
        for item in items_or_error(config, name):
            assert msgspec.json.decode(msgspec.json.encode(item), type=AudioItem) == item
            with contextlib.suppress(DecodeError):  # refused, or not there: either way reported for this file alone
                assert resolve_inside(root, item.path).is_relative_to(root.resolve())


def items_or_error(config: SourceConfig, name: str) -> list[AudioItem]:
    """What the source gives; nothing where it is refused with the file's name."""
    try:
        return list(iter_source(config))
    except SourceError as e:
        if name not in str(e):
            raise
        return []
