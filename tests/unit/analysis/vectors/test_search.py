from __future__ import annotations

import html.parser
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.inputs import find_recordings, named_file
from pydreaming.analysis.vectors.embed import embed
from pydreaming.analysis.vectors.search import Index, open_index, search, write_hits, write_index
from pydreaming.analysis.vectors.search_page import part_of, write_search_page
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, ReplayError, UsageError
from pydreaming.replay.tables import read_about, read_blocks, write_table


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 sweeps, and the sixth of them once more, a little louder."""
    folder = tmp_path_factory.mktemp("library")
    for i in range(24):
        write_sweep(folder / f"{i:02d}.wav", 0.6, seed=i)
    soundfile.write(folder / "twin.wav", 1.1 * sweep(0.6, seed=6), RATE)
    return folder


@pytest.fixture(scope="session")
def clips(model: WorldModel, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = write_index(model, [library], tmp_path_factory.mktemp("index") / "clips.parquet")
    assert index is not None
    return index


@pytest.fixture(scope="session")
def long_sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sweeps end to end, of which one comes twice, where moments of half a second begin: at 3.84 s and 12 s."""
    seeds = np.arange(40) + 2
    seeds[[8, 25]] = 1
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.concatenate([sweep(0.48, seed=seed) for seed in seeds]), RATE)
    return path


@pytest.fixture(scope="session")
def moments(model: WorldModel, long_sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """By the encoder alone, which hears the same in the same sound however little it has learned."""
    index = write_index(model, [long_sound], tmp_path_factory.mktemp("index") / "moments.parquet", "moment", 0.5, "embed", "thirds")
    assert index is not None
    return index


def names(hits: list) -> list[str]:
    return [Path(hit.source).name for hit in hits]


def test_the_nearest_clip_is_the_same_sound_and_not_the_query(clips: Index, library: Path) -> None:
    hits = search(clips, library / "06.wav", top=25)
    assert names(hits)[0] == "twin.wav"
    assert "06.wav" not in names(hits)
    assert [hit.rank for hit in hits] == list(range(1, 25))
    assert all(a.score >= b.score for a, b in itertools.pairwise(hits))
    assert hits[0].score > 0.9
    assert hits[-1].score < 0
    copied = soundfile.read(library / "06.wav", dtype="float32")
    assert names(search(clips, copied, top=2)) == ["06.wav", "twin.wav"]  # an array is nowhere in the library


def test_scores_are_cosines_without_the_mean(clips: Index, library: Path) -> None:
    vectors = np.concatenate([block["embedding"] for block in read_blocks(clips.path, ("embedding",))])
    centred = vectors - vectors.mean(0)
    cosine = centred @ centred[6] / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[6])
    order = [i for i in np.argsort(-cosine) if i != 6]
    hits = search(clips, library / "06.wav", top=24)
    np.testing.assert_allclose([hit.score for hit in hits], cosine[order], atol=1e-4)
    assert [hit.source for hit in hits] == [str(sorted(library.iterdir())[i]) for i in order]


def test_moments_are_found_where_they_are(moments: Index, long_sound: Path) -> None:
    hits = search(moments, (sweep(0.48, seed=1), RATE), top=4)
    assert sorted(hit.start_s for hit in hits[:2]) == pytest.approx([3.84, 12.0])
    for a in hits:
        assert all(a.end_s <= b.start_s or b.end_s <= a.start_s for b in hits if b is not a)  # neighbours do not fill the list


def test_a_part_of_a_library_finds_the_rest_of_it(moments: Index, long_sound: Path) -> None:
    hits = search(moments, f"{long_sound}#t=3.84,4.32", top=100)
    assert hits[0].start_s == pytest.approx(12.0)
    assert all(hit.end_s <= 3.84 or hit.start_s >= 4.32 for hit in hits)
    assert search(moments, long_sound.parent / ".." / long_sound.parent.name / long_sound.name, top=3) == []
    part = part_of(hits[0])
    assert part.path == long_sound
    assert part.item.offset_s == hits[0].start_s


def test_a_longer_query_has_moments_of_its_own(moments: Index) -> None:
    query = np.concatenate([sweep(0.48, seed=seed) for seed in (100, 101, 1, 102)])
    (hit, *_) = search(moments, (query, RATE), top=1)
    assert hit.query_start_s == pytest.approx(0.96)
    with pytest.raises(UsageError, match="at most 60 s"):
        search(moments, (np.zeros(61 * RATE, np.float32), RATE))


def test_few_clips_keep_their_mean(model: WorldModel, library: Path, tmp_path: Path) -> None:
    index = write_index(model, [library / "01.wav"], tmp_path / "one.parquet")
    assert index is not None
    (hit,) = search(index, (sweep(0.6, seed=1), RATE))
    assert hit.score > 0.99


def test_every_form_of_the_model(each: WorldModel, library: Path, tmp_path: Path) -> None:
    index = write_index(each, list(find_recordings([library]))[5:8], tmp_path / "index.parquet", "moment", 0.4)
    assert index is not None
    assert names(search(index, (sweep(0.6, seed=6), RATE), top=1)) == ["06.wav"]


def test_a_saved_index_is_used_by_the_model_that_made_it_only(
    model: WorldModel, clips: Index, library: Path, tmp_path: Path, rssm: WorldModel
) -> None:
    assert search(open_index(model, clips.path), library / "03.wav") == search(clips, library / "03.wav")
    with pytest.raises(UsageError, match=f"{rssm.fingerprint}") as refused:
        open_index(rssm, clips.path)
    assert model.fingerprint in str(refused.value)
    make_checkpoint(tmp_path / "run", steps=20)
    assert WorldModel.load(tmp_path / "run", "cpu").fingerprint == model.fingerprint  # by what is in it, not by its place
    embed(model, [library / "03.wav"], "clip", "embed", "mean").write(tmp_path / "other.parquet")
    assert len(search(open_index(model, tmp_path / "other.parquet"), library / "04.wav")) == 1  # a table of `pydreaming embed`
    embed(model, [library / "03.wav"], "window").write(tmp_path / "windows.parquet")
    with pytest.raises(UsageError, match="per window"):
        open_index(model, tmp_path / "windows.parquet")
    write_table(tmp_path / "table.parquet", {"a": [1]})
    with pytest.raises(UsageError, match="no index"):
        open_index(model, tmp_path / "table.parquet")
    about = read_about(clips.path) | {"without_scene": True}
    write_table(tmp_path / "what.parquet", next(read_blocks(clips.path)), about)
    with pytest.raises(UsageError, match="--without-scene"):
        open_index(model, tmp_path / "what.parquet")
    with pytest.raises(ReplayError, match="not there"):
        open_index(model, tmp_path / "none.parquet")
    with pytest.raises(UsageError, match=r"\.parquet"):
        write_index(model, [library], tmp_path / "index.csv")


def test_unreadable_files_of_a_library(model: WorldModel, library: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    failed: list[DecodeError] = []
    assert write_index(model, [tmp_path / "bad.wav"], tmp_path / "index.parquet", failed=failed.append) is None
    assert len(failed) == 1
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
def test_tables_of_hits(clips: Index, library: Path, tmp_path: Path, ending: str) -> None:
    write_hits(tmp_path / f"hits.{ending}", search(clips, library / "06.wav", top=3), {"query": "06.wav"})
    write_hits(tmp_path / f"none.{ending}", [])
    assert (tmp_path / f"none.{ending}").exists()


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "audio":
            self.sources.append(values["src"] or "")
        self.links += [values[key] or "" for key in ("href", "src") if key in values]


def test_the_page_holds_the_sounds(clips: Index, library: Path, tmp_path: Path) -> None:
    hits = search(clips, library / "06.wav", top=3)
    text = write_search_page(tmp_path / "hits.html", clips, library / "06.wav", hits, failed=pytest.fail).read_text()
    page = _Page(text)
    assert len(page.sources) == 4
    assert all(link.startswith("data:") for link in page.links)
    assert "Sounds like 06.wav" in text
    assert "twin.wav" in text
    assert f"{part_of(hits[0]).name} --index" in text


def test_sounds_that_are_gone_are_left_out_and_long_ones_are_cut(
    model: WorldModel, moments: Index, long_sound: Path, tmp_path: Path
) -> None:
    write_sweep(tmp_path / "a.wav", 12.0, rate=96_000, seed=1, channels=2)
    write_sweep(tmp_path / "b.wav", 0.5, seed=2)
    index = write_index(model, [tmp_path / "a.wav", tmp_path / "b.wav"], tmp_path / "index.parquet")
    assert index is not None
    hits = search(index, long_sound)
    (tmp_path / "b.wav").unlink()
    failed: list[DecodeError] = []
    text = write_search_page(tmp_path / "hits.html", index, (sweep(0.4), RATE), hits, failed.append, "a <sweep>").read_text()
    assert [Path(error.path).name for error in failed] == ["b.wav"]
    sounds = _Page(text).sources
    assert len(sounds) == 2
    assert len(sounds[1]) == pytest.approx(5 * 48_000 * 2 * 4 / 3, rel=0.01)  # 5 s of 16 bits at 48 kHz, in base64
    assert "first 5 s of 12.0 s" in text
    assert "Sounds like a &lt;sweep&gt;" in text


def test_parts_of_files_are_named_as_tables_name_them(tmp_path: Path) -> None:
    path = write_sweep(tmp_path / "x.wav", 1.0)
    item = named_file(f"{path}#t=0.25,0.75").item
    assert (item.path, item.offset_s, item.duration_s) == (str(path), 0.25, 0.5)
    assert named_file(f"{path}#t=3").item.duration_s is None
    strange = tmp_path / "y#t=1,2"
    strange.write_bytes(path.read_bytes())
    assert named_file(strange).item.path == str(strange)  # a file of that very name
