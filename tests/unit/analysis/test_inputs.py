from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, write_sweep

from pydreaming.analysis.inputs import Recording, find_recordings, name_of, open_source
from pydreaming.errors import DecodeError, SourceError, UsageError


def read(source: Recording | str | Path) -> np.ndarray:
    with open_source(source, "mix") as (chunks, rate):
        assert rate == RATE
        return np.concatenate(list(chunks))


def test_folders_have_labels_and_files_stand_for_themselves(tmp_path: Path) -> None:
    for kind, number in (("a", 0), ("a", 1), ("b", 2)):
        write_sweep(tmp_path / f"sounds/{kind}/{number}.wav", 0.4, seed=number)
    alone = write_sweep(tmp_path / "alone.wav", 0.4)
    found = list(find_recordings([tmp_path / "sounds", alone, "-", "missing.wav"]))
    assert [Path(r.name).name for r in found] == ["0.wav", "1.wav", "2.wav", "alone.wav", "-", "missing.wav"]
    assert [r.labels.get("label") for r in found] == ["a", "a", "b", None, None, None]
    assert found[0].name == str(tmp_path / "sounds/a/0.wav")
    assert np.array_equal(read(found[0]), read(found[0].name))
    assert found[4].stem == "stdin"


def test_what_cannot_be_read_is_named_as_the_user_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sounds/a").mkdir(parents=True)
    Path("sounds/a/text.wav").write_text("not audio")
    soundfile.write("sounds/a/nan.wav", np.full(800, np.nan), RATE, subtype="FLOAT")
    for recording in find_recordings(["sounds"]):
        with pytest.raises(DecodeError) as error:
            read(recording)
        assert error.value.path == recording.name
        assert str(error.value).startswith(f"sounds/a/{Path(recording.name).name}: ")
    Path("sounds/metadata.csv").write_text("file_name,label\na/gone.wav,x\n")
    with pytest.raises(DecodeError, match=r"^sounds/a/gone\.wav: not found"):
        read(next(find_recordings(["sounds"])))


def test_segments_of_a_manifest(tmp_path: Path) -> None:
    write_sweep(tmp_path / "long.wav", 2.0)
    manifest = tmp_path / "all.jsonl"
    manifest.write_text(
        '{"audio_filepath": "long.wav", "offset": 0.5, "duration": 0.25, "label": "x"}\n{"audio_filepath": "long.wav", "duration": 2.0}\n'
    )
    part, whole = find_recordings([manifest])
    assert part.name == f"{tmp_path / 'long.wav'}#t=0.5,0.75"
    assert part.labels["label"] == "x"
    assert np.array_equal(read(part), read(whole)[4000:6000])


def test_controls_come_from_the_metadata(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a.wav", 0.4)
    (tmp_path / "metadata.csv").write_text("file_name,rpm\na.wav,900\n")
    (found,) = find_recordings([tmp_path], columns=["rpm"])
    assert found.item.controls == (900.0,)
    with pytest.raises(SourceError, match="'load' is missing"):
        list(find_recordings([tmp_path], columns=["load"]))


def test_a_manifest_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    write_sweep(tmp_path / "secret.wav", 0.4)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/metadata.csv").write_text("file_name\n../secret.wav\n")
    (found,) = find_recordings([tmp_path / "in"])
    with pytest.raises(DecodeError, match=r"secret\.wav: not a relative path inside"):
        read(found)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a int is no audio source"), open_source(3, "mix"):  # type: ignore[arg-type]
        pass
    assert name_of((np.zeros(3), RATE)) == "<array>"
    assert name_of(tmp_path / "x.wav") == str(tmp_path / "x.wav")
