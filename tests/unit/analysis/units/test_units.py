from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from tiny_model import RATE, sweep, write_sweep

from pydreaming.analysis.inputs import Recording, find_recordings, named_file
from pydreaming.analysis.units.book import write_book
from pydreaming.analysis.units.figures import figure_lines, unit_figures, write_figures
from pydreaming.analysis.units.inventory import Fitter, Inventory, Transcriber, fit_units, transcribe, write_codes, write_text, write_units
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import decode
from pydreaming.errors import DecodeError, PydreamingError, UsageError
from pydreaming.evaluation.codes import CodeStatistics, code_statistics


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Six sweeps in two folders, which are their labels."""
    folder = tmp_path_factory.mktemp("unit-sounds")
    for i in range(6):
        write_sweep(folder / f"{'ab'[i % 2]}/{i}.wav", 0.5 + 0.1 * i, seed=i % 2)
    return list(find_recordings([folder]))


@pytest.fixture(scope="session")
def inventory(model: WorldModel, sounds: list[Recording]) -> Inventory:
    return fit_units(model, sounds, 8)


@pytest.fixture(scope="session")
def written(model: WorldModel, sounds: list[Recording], inventory: Inventory) -> Transcriber:
    return transcribe(model, sounds, inventory, codes=True)


def test_every_form_of_model_has_units(each: WorldModel, sounds: list[Recording]) -> None:
    found = transcribe(each, sounds, fit_units(each, sounds, 5))
    units = np.concatenate([t.runs.units for t in found.transcripts])
    assert set(units.tolist()) <= set(range(5))
    assert [t.windows for t in found.transcripts] == [len(each.tokens(sound)) for sound in sounds]
    assert len(figure_lines(unit_figures(found))) > 10


def test_a_recording_alone_is_written_as_among_others(model: WorldModel, sounds: list[Recording], written: Transcriber) -> None:
    alone = transcribe(model, sounds[3:4], written.inventory).transcripts[0]
    assert np.array_equal(alone.runs.units, written.transcripts[3].runs.units)
    assert np.array_equal(alone.runs.windows, written.transcripts[3].runs.windows)


def test_a_seed_gives_the_same_inventory(model: WorldModel, sounds: list[Recording], inventory: Inventory) -> None:
    assert np.array_equal(fit_units(model, sounds, 8).units.centres, inventory.units.centres)
    assert not np.array_equal(fit_units(model, sounds, 8, seed=1).units.centres, inventory.units.centres)


def test_runs_tile_the_recording(written: Transcriber, sounds: list[Recording], tmp_path: Path) -> None:
    write_units(tmp_path / "u.parquet", written)
    table = pandas.read_parquet(tmp_path / "u.parquet")
    assert list(table) == ["source", "index", "unit", "windows", "start_s", "end_s", "label", "speaker"]
    for sound in sounds:
        rows = table[table.source == sound.name]
        assert rows["index"].tolist() == list(range(len(rows)))
        assert rows.start_s.iloc[0] == 0
        assert np.allclose(rows.end_s.iloc[:-1], rows.start_s.iloc[1:])
        assert np.allclose((rows.end_s - rows.start_s).iloc[:-1], rows.windows.iloc[:-1] * written.token_s)
        assert rows.end_s.iloc[-1] <= len(decode(sound.path)[0]) / RATE
        assert (rows.unit.diff() != 0).all()
        assert set(rows.label) == {sound.labels["label"]}


def test_text_and_codes(written: Transcriber, model: WorldModel, sounds: list[Recording], tmp_path: Path) -> None:
    write_text(tmp_path / "u.txt", written.transcripts)
    lines = (tmp_path / "u.txt").read_text().splitlines()
    name, units = lines[2].rsplit("|", 1)
    assert name == sounds[2].name
    assert units.split() == [f"u{unit}" for unit in written.transcripts[2].runs.units]
    write_codes(tmp_path / "c.npz", written)
    with np.load(tmp_path / "c.npz") as table:
        rows = table["codes"][table["source"] == sounds[2].name]
    wanted = model.observe(model.tokens(sounds[2])).post.logits[0].argmax(-1)
    assert np.array_equal(rows, wanted)


def test_codes_cost_what_the_evaluation_says(written: Transcriber, model: WorldModel, sounds: list[Recording]) -> None:
    tokens = [model.tokens(sound).values for sound in sounds]
    actions = [np.zeros((len(clip), 1), np.float32) for clip in tokens]
    wanted = code_statistics(model.net, tokens, actions, written.token_s)
    assert isinstance(wanted, CodeStatistics)
    assert written.counter is not None
    found = written.counter.statistics(written.token_s)
    for key in ("bitrate", "bitrate_deduplicated", "bitrate_predicted", "perplexity", "windows"):
        assert getattr(found, key) == pytest.approx(getattr(wanted, key), rel=1e-4), key


def test_kept_inventories(model: WorldModel, rssm: WorldModel, inventory: Inventory, tmp_path: Path) -> None:
    path = tmp_path / "new/u.safetensors"
    inventory.save(path)
    again = Inventory.load(path, model)
    assert np.array_equal(again.units.centres, inventory.units.centres)
    assert (again.part, again.windows, again.seed) == (inventory.part, inventory.windows, 0)
    with pytest.raises(UsageError, match="another model"):
        Inventory.load(path, rssm)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PydreamingError, match="cannot read the inventory"):
        Inventory.load(path, model)
    with pytest.raises(PydreamingError, match="nowhere"):
        Inventory.load(tmp_path / "nowhere", model)


def test_exemplars_are_the_nearest_windows_of_different_recordings(
    model: WorldModel, written: Transcriber, sounds: list[Recording]
) -> None:
    for unit, exemplars in enumerate(written.exemplars):
        assert len({e.recording for e in exemplars}) == len(exemplars)
        assert [e.distance for e in exemplars] == sorted(e.distance for e in exemplars)
        for e in exemplars:
            runs = written.transcripts[e.recording].runs
            assert np.repeat(runs.units, runs.windows)[e.window] == unit
    nearest = min((e for e in written.exemplars[0]), key=lambda e: e.distance)
    deter = model.embed(sounds[nearest.recording], "deter").values
    ids, distance = written.inventory.units.nearest(deter)
    assert nearest.window == np.flatnonzero(ids == 0)[distance[ids == 0].argmin()]


def test_figures_have_their_baselines(written: Transcriber, tmp_path: Path) -> None:
    result = unit_figures(written)
    names = {figure.name: figure for figure in result.figures}
    assert names["label: NMI"].units == result.agreements["label"][0].nmi
    assert "speaker: NMI" not in names
    assert all(figure.baseline is not None for figure in result.figures if not figure.name.startswith("code"))
    # sweeps of one seed are one sound at several lengths, so that units and sequences come again
    assert any(repeat.runs == 2 and repeat.recordings > 1 for repeat in result.repeats)
    write_figures(tmp_path / "f.csv", result, written)
    assert pandas.read_csv(tmp_path / "f.csv", comment="#").figure.tolist() == list(names)


def test_book_holds_pictures_and_sounds(written: Transcriber, tmp_path: Path) -> None:
    write_book(tmp_path / "b.html", written, unit_figures(written), most=3)
    text = (tmp_path / "b.html").read_text()
    sounds = re.findall(r'<audio[^>]*src="data:audio/wav;base64,([^"]*)"', text)
    assert len(sounds) == 3
    (tmp_path / "s.wav").write_bytes(base64.b64decode(sounds[0]))
    samples, rate = decode(tmp_path / "s.wav")
    assert rate == RATE
    assert np.abs(samples).max() > 0.3
    assert text.count("data:image/png") == 1
    assert "http" not in text.replace("http-equiv", "")


def test_one_unreadable_recording(model: WorldModel, sounds: list[Recording], inventory: Inventory) -> None:
    mixed = [sounds[0], named_file("missing.wav")]
    failed: list[str] = []
    assert len(transcribe(model, mixed, inventory, failed=lambda error: failed.append(error.path)).transcripts) == 1
    assert failed == ["missing.wav"]
    with pytest.raises(DecodeError):
        fit_units(model, mixed, 4)


def test_wishes_that_cannot_be_met(model: WorldModel, gaussian: WorldModel, inventory: Inventory, sounds: list[Recording]) -> None:
    with pytest.raises(UsageError, match="gaussian"):
        Transcriber(gaussian, inventory, codes=True)
    with pytest.raises(UsageError, match="1 units"):
        Fitter(model, 1)
    with pytest.raises(UsageError, match="'code'"):
        Fitter(model, part="code")
    with pytest.raises(UsageError, match="once only"):
        Fitter(model).add(named_file("-"))
    with pytest.raises(UsageError, match="at least as many windows"):
        fit_units(model, sounds[:1], 400)


def test_silence_has_one_unit(model: WorldModel, inventory: Inventory, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE * 2), RATE)
    found = transcribe(model, [named_file(tmp_path / "silence.wav")], inventory)
    assert len(found.transcripts[0].runs.units) < 8
    assert unit_figures(found).figures


def test_excerpts_begin_where_they_say(model: WorldModel, written: Transcriber) -> None:
    from pydreaming.analysis.units.book import excerpt

    exemplar = next(e for found in written.exemplars for e in found if e.window > 6)
    found = excerpt(written, exemplar)
    whole = decode(written.transcripts[exemplar.recording].recording.path)[0]
    begin = round((found.at_s - found.window_s) * RATE)
    assert begin > 0
    assert np.allclose(found.samples, whole[begin : begin + len(found.samples)])
    assert sweep(0.1).dtype == found.samples.dtype
