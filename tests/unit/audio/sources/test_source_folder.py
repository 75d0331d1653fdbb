from __future__ import annotations

import os
from pathlib import Path

import pytest
from source_trees import audio, read, text

from pydreaming.errors import SourceError


def test_any_folder_is_read_recursively_in_order(tmp_path):
    for name in ["b/x.wav", "a/deep/er/y.FLAC", "a/x.ogg", "z.wav", "a.wav"]:
        audio(tmp_path / name)
    for name in ["notes.txt", "junk.csv", "a/list.tsv", "broken.json", ".hidden.wav", ".git/x.wav", "._z.wav"]:
        text(tmp_path / name, "\x00not\ta;manifest\n1")
    kind, items = read(tmp_path)
    assert kind == "folder"
    assert [item.path for item in items] == ["a/deep/er/y.FLAC", "a/x.ogg", "a.wav", "b/x.wav", "z.wav"]
    assert {item.group for item in items} == {f"recording:{item.path}" for item in items}
    assert all(item.labels == {} and item.held_out is None and item.index == -1 for item in items)


def test_formats_nobody_here_can_decode_are_listed_so_that_they_are_reported(tmp_path):
    text(tmp_path / "x.m4a", "?")
    assert [item.path for item in read(tmp_path)[1]] == ["x.m4a"]


def test_folders_are_classes_when_all_files_lie_one_level_down(tmp_path):
    for name in ["cat/1.wav", "cat/2.wav", "dog/1.wav"]:
        audio(tmp_path / name)
    assert [item.labels for item in read(tmp_path)[1]] == [{"label": "cat"}, {"label": "cat"}, {"label": "dog"}]
    assert all(item.labels == {} for item in read(tmp_path, labels="none")[1])


@pytest.mark.parametrize("extra", ["top.wav", "dog/deep/1.wav"])
def test_folders_are_no_classes_when_one_file_lies_elsewhere(tmp_path, extra):
    for name in ["cat/1.wav", "dog/1.wav", extra]:
        audio(tmp_path / name)
    assert all(item.labels == {} for item in read(tmp_path)[1])
    labels = {item.path: item.labels for item in read(tmp_path, labels="folders")[1]}
    assert labels["cat/1.wav"] == {"label": "cat"}
    assert labels.get("top.wav", {}) == {}


def test_one_folder_is_no_class(tmp_path):
    audio(tmp_path / "only/1.wav")
    assert read(tmp_path)[1][0].labels == {}


def test_labels_metadata_needs_a_metadata_csv(tmp_path):
    audio(tmp_path / "a/1.wav")
    with pytest.raises(SourceError, match=r"no metadata\.csv"):
        read(tmp_path, labels="metadata")


def test_a_single_file_is_a_source(tmp_path):
    kind, items = read(audio(tmp_path / "one.wav"))
    assert (kind, [item.path for item in items]) == ("folder", ["one.wav"])


def test_source_root_above_the_folder_prefixes_paths(tmp_path):
    audio(tmp_path / "set/a.wav")
    assert [item.path for item in read(tmp_path / "set", root=str(tmp_path))[1]] == ["set/a.wav"]
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match=r"not inside source\.root"):
        read(tmp_path / "set", root=str(tmp_path / "other"))


def test_links_do_not_hang_the_walk_and_folders_behind_them_are_not_read(tmp_path):
    audio(tmp_path / "in/a.wav")
    (tmp_path / "in/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "in/self.wav").symlink_to(tmp_path / "in/self.wav")
    (tmp_path / "in/link.wav").symlink_to(tmp_path / "in/a.wav")
    os.mkfifo(tmp_path / "in/pipe.wav")
    assert [item.path for item in read(tmp_path)[1]] == ["in/a.wav", "in/link.wav", "in/self.wav"]


def test_an_unlistable_folder_is_reported_as_an_item(tmp_path, monkeypatch):
    audio(tmp_path / "a.wav")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [item.path for item in read(tmp_path)[1]] == ["a.wav", "locked"]


def test_names_that_are_not_utf8_are_spelt_out(tmp_path):
    audio(tmp_path / "a.wav").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav"))
    assert [item.path for item in read(tmp_path)[1]] == ["\\xff.wav"]


@pytest.mark.parametrize(("path", "message"), [("", "not set"), ("/nowhere/at/all", "does not exist")])
def test_a_missing_source_is_one_clear_line(path, message):
    with pytest.raises(SourceError, match=message):
        read(path)


def test_a_file_that_is_nothing_names_the_kinds(tmp_path):
    with pytest.raises(SourceError, match=r"set source\.kind \(esc50"):
        read(text(tmp_path / "x.txt", "hello"))
