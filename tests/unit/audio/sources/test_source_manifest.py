from __future__ import annotations

import pytest
from source_trees import text

from pydreaming.audio.sources.manifest import LINE_LIMIT, Below, Lookup, lines, split_hints, table
from pydreaming.errors import SourceError


def test_lines_skip_a_byte_order_mark_and_take_any_line_end(tmp_path):
    (tmp_path / "m").write_bytes("\ufeffä\r\nb\n\nc".encode())
    assert list(lines(tmp_path / "m")) == [(1, "ä"), (2, "b"), (3, ""), (4, "c")]


def test_lines_name_what_is_wrong(tmp_path):
    (tmp_path / "latin").write_bytes(b"fine\nM\xfcller\n")
    with pytest.raises(SourceError, match="latin, line 2: not UTF-8"):
        list(lines(tmp_path / "latin"))
    (tmp_path / "long").write_bytes(b"ok\n" + b"x" * (LINE_LIMIT + 1))
    with pytest.raises(SourceError, match="long, line 2: longer than"):
        list(lines(tmp_path / "long"))
    with pytest.raises(SourceError, match="gone: cannot be read"):
        list(lines(tmp_path / "gone"))


def test_table_reads_quoted_fields_over_several_lines(tmp_path):
    path = text(tmp_path / "t.csv", 'a, b \n1,"x, ""y""\nz"\n\n2\n')
    assert list(table(path, ["a"])) == [(f"{path}, line 3", {"a": "1", "b": 'x, "y"\nz'}), (f"{path}, line 5", {"a": "2"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a;b\n1;2\n", r"line 1: no column 'a' \(columns: a;b\)"),
        ("", r"line 1: no column 'a' \(columns: none\)"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header names 2"),
        ("a,b\n1,2\n ,2\n", "line 3: column 'a' is empty"),
        ('a,b\n1,"2\n', "line 2: unexpected end of data"),
    ],
)
def test_table_names_what_is_wrong(tmp_path, content, message):
    with pytest.raises(SourceError, match=rf"t\.csv, {message}"):
        list(table(text(tmp_path / "t.csv", content), ["a"]))


def test_below(tmp_path):
    (tmp_path / "real/lists").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    below = Below(tmp_path / "link", tmp_path / "link/lists")
    assert below("a.wav") == below("./a.wav") == "lists/a.wav"
    assert below(f"{tmp_path}/real/x/a.wav") == below(f"{tmp_path}/link/x/a.wav") == "x/a.wav"
    assert below(f"{tmp_path}/realistic/a.wav") == f"{tmp_path}/realistic/a.wav"
    assert below("../x/a.wav") == "x/a.wav"
    assert below("../../a.wav") == "lists/../../a.wav"
    assert below(f"{tmp_path}/real/../a.wav") == "../a.wav"
    assert Below(tmp_path / "real", tmp_path)("a.wav") == "a.wav"


def test_split_hints_need_both_sorts():
    assert split_hints(["train-clean-100", "dev-clean", "tester"]) == {"train-clean-100": False, "dev-clean": True, "tester": False}
    assert split_hints(["test", "dev"]) == {"test": None, "dev": None}
    assert split_hints(["train", "other"]) == {"train": None, "other": None}


def test_lookup_keeps_the_last_value_and_takes_any_file_name():
    with Lookup([("a", "1"), ("a", "2")]) as found:
        found.add("b\udcff", "3")
        assert (found.get("a"), found.get("b\udcff"), found.get("c")) == ("2", "3", None)
        assert "a" in found
        assert "c" not in found
