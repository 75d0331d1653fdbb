from __future__ import annotations

import pytest
from source_trees import audio, config_of, read, text

from pydreaming.audio.sources import LAYOUTS, misfit
from pydreaming.errors import SourceError


def by_path(items):
    return {item.path: item for item in items}


@pytest.mark.parametrize(("folder", "suffix"), [("recordings/", "wav"), ("", "flac")])
def test_fsdd(tmp_path, folder, suffix):
    for name in ["7_theo_4", "7_theo_5", "0_jackson_12"]:
        audio(tmp_path / f"{folder}{name}.{suffix}")
    text(tmp_path / folder / "SOURCE.txt", "x")
    kind, items = read(tmp_path)
    found = by_path(items)
    assert kind == "fsdd"
    assert found[f"{folder}7_theo_4.{suffix}"].held_out is True
    assert found[f"{folder}7_theo_5.{suffix}"].held_out is False
    item = found[f"{folder}0_jackson_12.{suffix}"]
    assert item.labels == {"label": "0", "speaker": "jackson"}
    assert item.group == "speaker:jackson"


def test_esc50(tmp_path):
    for name in ["1-100032-A-0.wav", "5-100032-B-14.wav"]:
        audio(tmp_path / "audio" / name)
    text(
        tmp_path / "meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-100032-B-14.wav,5,14,chirping_birds,False,100032,B\n",
    )
    kind, items = read(tmp_path)
    assert kind == "esc50"
    assert [item.path for item in items] == ["audio/1-100032-A-0.wav", "audio/5-100032-B-14.wav"]
    assert [item.labels["label"] for item in items] == ["dog", "chirping_birds"]
    assert [item.held_out for item in items] == [False, True]
    assert {item.group for item in items} == {"recording:100032"}


def test_esc10(tmp_path):
    for name in ["001 - Dog bark/1-100032-A.ogg", "010 - Fire crackling/5-4211-A.ogg", "010 - Fire crackling/5-4211-B.ogg"]:
        audio(tmp_path / name)
    kind, items = read(tmp_path)
    assert kind == "esc50"
    assert [(item.labels["label"], item.held_out, item.group) for item in items] == [
        ("Dog bark", False, "recording:100032"),
        ("Fire crackling", True, "recording:4211"),
        ("Fire crackling", True, "recording:4211"),
    ]


UTTERANCES = ["dev-clean/84/121/84-121-0000.flac", "train-clean-100/19/198/19-198-0000.flac", "train-clean-100/19/198/19-198-0001.flac"]


@pytest.mark.parametrize("prefix", ["", "LibriSpeech/"])
def test_librispeech(tmp_path, prefix):
    for name in UTTERANCES:
        audio(tmp_path / prefix / name)
    text(tmp_path / prefix / "train-clean-100/19/198/19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE WORK\n")
    kind, items = read(tmp_path)
    assert kind == "librispeech"
    assert [item.path for item in items] == [prefix + name for name in UTTERANCES]
    assert [item.held_out for item in items] == [True, False, False]
    assert [item.labels.get("text") for item in items] == [None, "NORTHANGER ABBEY", "THIS LITTLE WORK"]
    assert [item.group for item in items] == ["speaker:84", "speaker:19", "speaker:19"]


def test_librispeech_subset_alone_is_undecided(tmp_path):
    audio(tmp_path / "LibriSpeech" / UTTERANCES[0])
    for path in [tmp_path, tmp_path / "LibriSpeech/dev-clean"]:
        kind, items = read(path)
        assert kind == "librispeech"
        assert [(item.held_out, item.group) for item in items] == [(None, "speaker:84")]


HEADER = "client_id\tpath\tsentence_id\tsentence\tage\tgender\tlocale\n"


def common_voice(root):
    for n in range(4):
        audio(root / f"clips/common_voice_cy_{n}.mp3", 0.2)
    rows = [f'spk{n}\tcommon_voice_cy_{n}.mp3\tid{n}\tHe said "{n}\t\tfemale\tcy\n' for n in range(4)]
    text(root / "train.tsv", HEADER + rows[0] + rows[1])
    text(root / "dev.tsv", HEADER + rows[2])
    text(root / "test.tsv", HEADER + rows[3])
    text(root / "validated.tsv", HEADER + "".join(rows))
    text(root / "clip_durations.tsv", "clip\tduration[ms]\ncommon_voice_cy_0.mp3\t200\n")


@pytest.mark.parametrize("prefix", ["", "cy/"])
def test_common_voice_release_and_language(tmp_path, prefix):
    common_voice(tmp_path / prefix)
    kind, items = read(tmp_path)
    assert kind == "common_voice"
    assert [item.path for item in items] == [f"{prefix}clips/common_voice_cy_{n}.mp3" for n in range(4)]
    assert [item.held_out for item in items] == [False, False, True, True]
    assert items[0].labels == {"speaker": "spk0", "text": 'He said "0', "sentence_id": "id0", "gender": "female", "locale": "cy"}
    assert items[0].group == "speaker:spk0"


def test_common_voice_one_table(tmp_path):
    common_voice(tmp_path)
    kind, items = read(tmp_path / "validated.tsv")
    assert kind == "common_voice"
    assert [(item.path, item.held_out) for item in items] == [(f"clips/common_voice_cy_{n}.mp3", None) for n in range(4)]


def test_common_voice_without_train_reads_validated_and_without_tables_the_clips(tmp_path):
    common_voice(tmp_path)
    (tmp_path / "train.tsv").unlink()
    assert len(read(tmp_path)[1]) == 4
    for table in tmp_path.glob("*.tsv"):
        table.unlink()
    items = read(tmp_path, kind="common_voice")[1]
    assert [(item.path, item.labels) for item in items] == [(f"clips/common_voice_cy_{n}.mp3", {}) for n in range(4)]
    with pytest.raises(SourceError, match="no folder clips/"):
        read(tmp_path / "clips", kind="common_voice")


def speech_commands(root):
    for name in ["yes/a1_nohash_0.wav", "yes/b2_nohash_0.wav", "no/a1_nohash_0.wav", "no/c3_nohash_1.wav", "_background_noise_/tap.wav"]:
        audio(root / name)


def test_speech_commands(tmp_path):
    speech_commands(tmp_path)
    text(tmp_path / "validation_list.txt", "yes/b2_nohash_0.wav\n")
    text(tmp_path / "testing_list.txt", "no/c3_nohash_1.wav\nno/gone_nohash_0.wav\n")
    kind, items = read(tmp_path)
    found = by_path(items)
    assert kind == "speech_commands"
    assert found["_background_noise_/tap.wav"].labels == {}
    assert found["yes/a1_nohash_0.wav"].labels == {"label": "yes", "speaker": "a1"}
    assert {path for path, item in found.items() if item.held_out} == {
        "yes/b2_nohash_0.wav",
        "no/c3_nohash_1.wav",
        "no/gone_nohash_0.wav",  # not there: listed all the same, and reported when it is decoded
    }
    assert found["yes/a1_nohash_0.wav"].group == found["no/a1_nohash_0.wav"].group == "speaker:a1"


def test_speech_commands_without_lists_is_undecided(tmp_path):
    speech_commands(tmp_path)
    assert {item.held_out for item in read(tmp_path)[1]} == {None}


def test_ljspeech(tmp_path):
    for n in (1, 2, 3):
        audio(tmp_path / f"wavs/LJ001-000{n}.wav")
    text(tmp_path / "metadata.csv", 'LJ001-0002|in "1455|in fourteen fifty-five\nLJ001-0001|Printing|\n')
    kind, items = read(tmp_path)
    assert kind == "ljspeech"
    assert [(item.path, item.labels.get("text")) for item in items] == [
        ("wavs/LJ001-0002.wav", "in fourteen fifty-five"),
        ("wavs/LJ001-0001.wav", "Printing"),
        ("wavs/LJ001-0003.wav", None),
    ]
    assert {item.group for item in items} == {"speaker:LJ"}
    text(tmp_path / "metadata.csv", "LJ001-0002|x\nnothing\n")
    with pytest.raises(SourceError, match=r"metadata\.csv, line 2: expected 'id\|text"):
        read(tmp_path)


def test_nemo(tmp_path):
    text(
        tmp_path / "manifest.json",
        '{"audio_filepath": "wavs/a.wav", "duration": 1.5, "text": "one", "speaker": 7}\n\n'
        f'{{"audio_filepath": "{tmp_path}/wavs/b.wav", "offset": 2.5, "duration": 0.5, "command": "go", "rpm": 1200, "tags": [1]}}\n'
        '{"audio_filepath": "/etc/passwd", "duration": 1}\n{"audio_filepath": "../up.wav"}\n',
    )
    kind, (a, b, outside, above) = read(tmp_path / "manifest.json")
    assert kind == "nemo"
    assert read(tmp_path)[0] == "nemo"
    assert (a.path, a.offset_s, a.duration_s, a.group) == ("wavs/a.wav", 0.0, None, "speaker:7")
    assert a.labels == {"text": "one", "speaker": "7"}
    assert (b.path, b.offset_s, b.duration_s, b.labels) == ("wavs/b.wav", 2.5, 0.5, {"label": "go", "rpm": "1200"})
    assert (outside.path, above.path) == ("/etc/passwd", "../up.wav")  # as they stand: the decoder refuses them


def test_nemo_paths_follow_the_manifest_and_train_and_dev_are_a_split(tmp_path):
    for name in ("train_manifest", "dev_manifest"):
        text(tmp_path / f"lists/{name}.json", f'{{"audio_filepath": "{name}.wav"}}\n')
    items = read(tmp_path / "lists", root=str(tmp_path))[1]
    assert [(item.path, item.held_out) for item in items] == [("lists/dev_manifest.wav", True), ("lists/train_manifest.wav", False)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_filepath": "a.wav"', r"line 2: not a JSON object"),
        ("[1]", r"line 2: not a JSON object"),
        ('{"path": "a.wav"}', r"line 2: no 'audio_filepath'"),
        ('{"audio_filepath": "a.wav", "offset": -1}', r"line 2: 'offset' is -1"),
        ('{"audio_filepath": "a.wav", "duration": "long"}', r"line 2: 'duration' is 'long'"),
    ],
)
def test_nemo_names_file_and_line_of_what_is_wrong(tmp_path, line, message):
    manifest = text(tmp_path / "m.jsonl", '{"audio_filepath": "ok.wav"}\n' + line + "\n")
    with pytest.raises(SourceError, match=rf"m\.jsonl, {message}"):
        read(manifest)


def kaldi(root):
    text(root / "wav.scp", f"rec1 {root}/audio/one two.wav\nrec2 audio/b.flac\n")


def test_kaldi_recordings(tmp_path):
    kaldi(tmp_path)
    text(tmp_path / "utt2spk", "rec1 anna\nrec2 rec2\n")
    text(tmp_path / "text", "rec1 GOOD MORNING\n")
    kind, items = read(tmp_path)
    assert kind == "kaldi"
    assert [(item.path, item.group) for item in items] == [
        ("audio/one two.wav", "speaker:anna"),
        ("audio/b.flac", "recording:audio/b.flac"),
    ]
    assert items[0].labels == {"speaker": "anna", "text": "GOOD MORNING"}


def test_kaldi_segments(tmp_path):
    kaldi(tmp_path)
    text(tmp_path / "segments", "u1 rec1 0.5 2.0\nu2 rec2 1 -1\n")
    items = read(tmp_path / "wav.scp")[1]
    assert [(item.path, item.offset_s, item.duration_s) for item in items] == [("audio/one two.wav", 0.5, 1.5), ("audio/b.flac", 1.0, None)]
    for wrong, message in [
        ("u1 rec9 0 1", "recording 'rec9' is not in wav.scp"),
        ("u1 rec1 2 1", "expected"),
        ("u1 rec1 nan 1", "expected"),
    ]:
        text(tmp_path / "segments", f"u0 rec1 0 1\n{wrong}\n")
        with pytest.raises(SourceError, match=f"segments, line 2: {message}"):
            read(tmp_path)


@pytest.mark.parametrize("command", ["touch {0} |", "| tee {0}"])
def test_kaldi_never_runs_a_command(tmp_path, command):
    victim = tmp_path / "ran"
    text(tmp_path / "wav.scp", f"rec1 a.wav\nrec2 {command.format(victim)}\n")
    with pytest.raises(SourceError, match=r"wav\.scp, line 2: .* is a command"):
        read(tmp_path)
    assert not victim.exists()


def test_audiofolder(tmp_path):
    for name in ["a.wav", "sub/b.wav", "unlisted.wav"]:
        audio(tmp_path / name)
    text(tmp_path / "metadata.csv", 'file_name,transcription,speaker_id,rpm\na.wav,"one, two",ann,10\nsub/b.wav,,,12.5\n')
    kind, items = read(tmp_path)
    assert kind == "audiofolder"
    assert [(item.path, item.group) for item in items] == [
        ("a.wav", "speaker:ann"),
        ("sub/b.wav", "recording:sub/b.wav"),
        ("unlisted.wav", "recording:unlisted.wav"),
    ]
    assert items[0].labels == {"text": "one, two", "speaker": "ann", "rpm": "10"}
    assert read(tmp_path, kind="folder")[1] == items
    assert all("text" not in item.labels for item in read(tmp_path, labels="folders")[1])


def test_audiofolder_split_folders(tmp_path):
    for split in ("train", "test"):
        audio(tmp_path / split / "a.wav")
        text(tmp_path / split / "metadata.csv", "file_name,label\na.wav,x\n")
    kind, items = read(tmp_path)
    assert kind == "audiofolder"
    assert [(item.path, item.held_out) for item in items] == [("test/a.wav", True), ("train/a.wav", False)]


def test_controls(tmp_path):
    audio(tmp_path / "a.wav")
    audio(tmp_path / "b.wav")
    table = tmp_path / "metadata.csv"
    text(table, "file_name,rpm,load\na.wav,1200,0.5\nb.wav,900,-1e-3\n")
    assert [item.controls for item in read(tmp_path, columns=("load", "rpm"))[1]] == [(0.5, 1200.0), (-0.001, 900.0)]
    for value, message in [("", "is ''"), ("nan", "is 'nan'"), ("inf", "is 'inf'"), ("fast", "is 'fast'")]:
        text(table, f"file_name,rpm\na.wav,1\nb.wav,{value}\n")
        with pytest.raises(SourceError, match=rf"metadata\.csv, line 3: control column 'rpm' {message}, not a finite number"):
            read(tmp_path, columns=("rpm",))
    with pytest.raises(SourceError, match="control column 'torque' is missing"):
        read(tmp_path, columns=("torque",))
    text(table, "file_name,rpm\na.wav,1\n")
    with pytest.raises(SourceError, match=r"b\.wav, which has no row in metadata\.csv: control column 'rpm' is missing"):
        read(tmp_path, columns=("rpm",))


def test_fairseq(tmp_path):
    text(tmp_path / "train.tsv", f"{tmp_path}/audio\na b.wav\t16000\nsub/c.flac\t8000\n")
    text(tmp_path / "valid.tsv", "audio\nd.wav\t16000\n")
    kind, items = read(tmp_path)
    assert kind == "fairseq"
    assert [(item.path, item.held_out) for item in items] == [("audio/a b.wav", False), ("audio/sub/c.flac", False), ("audio/d.wav", True)]
    assert read(tmp_path / "train.tsv")[0] == "fairseq"


@pytest.mark.parametrize("start", ["/", "..", "/etc"])
def test_fairseq_root_must_lie_in_the_source_root(tmp_path, start):
    text(tmp_path / "set/train.tsv", f"{start}\na.wav\t1\n")
    with pytest.raises(SourceError, match=r"train\.tsv, line 1: the folder .* is not inside the source root"):
        read(tmp_path / "set")


def test_fairseq_bad_row(tmp_path):
    text(tmp_path / "train.tsv", "\na.wav\t1\nb.wav 2\n")
    with pytest.raises(SourceError, match=r"train\.tsv, line 3: expected"):
        read(tmp_path / "train.tsv", kind="fairseq")


@pytest.mark.parametrize("kind", sorted(set(LAYOUTS) - {"folder"}))
def test_no_layout_claims_a_plain_folder_or_an_empty_one(tmp_path, kind):
    assert not LAYOUTS[kind].matches(tmp_path)
    audio(tmp_path / "music/a.wav")
    audio(tmp_path / "b.flac")
    for name in ["metadata.csv", "train.tsv", "list.json", "wavs.txt"]:
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01,|\t\n\x80")
    assert not LAYOUTS[kind].matches(tmp_path)


@pytest.mark.parametrize(("kind", "fitting"), [
    ("fsdd", "7_theo_4.wav"),
    ("fsdd", "recordings/7_theo_4.wav"),
    ("esc50", "001 - Dog bark/1-100032-A.ogg"),
    ("librispeech", UTTERANCES[0]),
    ("speech_commands", "yes/a1_nohash_0.wav"),
])  # fmt: skip
def test_a_forced_layout_of_which_no_file_has_the_names_is_told(tmp_path, kind, fitting):
    assert misfit(config_of(tmp_path, kind=kind)) == ""  # a source that grows
    audio(tmp_path / "some" / "take.wav")
    assert f"source.kind is '{kind}', but nothing in {tmp_path} is named " in misfit(config_of(tmp_path, kind=kind))
    assert misfit(config_of(tmp_path, kind="auto")) == misfit(config_of(tmp_path, kind="folder")) == ""
    audio(tmp_path / fitting)
    assert misfit(config_of(tmp_path, kind=kind)) == ""


def test_common_voice_without_any_table_is_told(tmp_path):
    common_voice(tmp_path)
    assert misfit(config_of(tmp_path, kind="common_voice")) == ""
    for table in tmp_path.glob("*.tsv"):
        table.unlink()
    assert "is named train.tsv or validated.tsv" in misfit(config_of(tmp_path, kind="common_voice"))


def test_data_sets_of_their_own_layout_fit_it(tmp_path):
    text(tmp_path / "meta/esc50.csv", "filename,fold,category,src_file\na.wav,1,dog,1\n")
    assert misfit(config_of(tmp_path, kind="esc50")) == ""
