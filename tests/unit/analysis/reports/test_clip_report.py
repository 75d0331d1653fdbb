"""The page about one recording: what it says, shows and plays, for every form of model and odd recordings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_model import RATE, sweep, trained, write_sweep

from pydreaming.analysis.inputs import find_recordings
from pydreaming.analysis.reports import clip as pages
from pydreaming.analysis.reports.clip import clip_report
from pydreaming.analysis.reports.clip_pictures import code_sequence
from pydreaming.analysis.vectors.reference import MAX_CLIPS, Reference, drawn, nearest, recordings_reference, standing
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, UsageError

CLIP = (np.concatenate([sweep(0.5, seed=3), sweep(0.5, seed=4)]), RATE)


def page_of(model: WorldModel, tmp_path: Path, reference: Reference | None = None, clip: object = CLIP) -> str:
    return clip_report(model, clip, tmp_path / "page.html", reference).read_text(encoding="utf-8")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference(model: WorldModel) -> Reference:
    tokens = [model.tokens((sweep(0.5 + 0.01 * seed, seed=seed), RATE)).values for seed in range(48)]
    return Reference("tests", [f"clip {i}" for i in range(48)], ["a", ""] * 24, tokens, np.arange(48) < 24)


def test_every_form_of_model_gets_a_page(each: WorldModel, tmp_path: Path) -> None:
    text = page_of(each, tmp_path)
    assert "no recordings here to compare that with" in text
    discrete = each.net.dynamics.latents.discrete
    assert text.count("data:image/png") == (4 if discrete else 3)
    assert ("Its code" in text) == discrete
    assert text.count("data:audio/wav") == 1 + pages.DREAMS
    assert "Its picture" not in text
    assert "picture of each next window" in text
    assert all(source.startswith("data:") for source in re.findall(r'\bsrc="([^"]*)"', text))


def test_without_latents_it_says_so_and_shows_the_rest(tmp_path: Path) -> None:
    model = trained(tmp_path / "run", objective__name="cpc")
    text = page_of(model, tmp_path)
    assert "trains no latents" in text
    assert text.count("data:image/png") == 1
    assert text.count("data:audio/wav") == 1


def test_beside_normal_recordings(model: WorldModel, reference: Reference, tmp_path: Path) -> None:
    text = page_of(model, tmp_path, reference)
    assert re.search(r"more than \d+% of 48 recordings do \(tests\)", text)
    assert re.search(r"(typical recording|unlike them|edge of what is typical): \d+% of recordings of the same kind are more typical", text)
    assert "The recordings nearest to it" in text


@pytest.mark.parametrize("seconds", [0.01, 0.15])
def test_short_recordings(model: WorldModel, reference: Reference, tmp_path: Path, seconds: float) -> None:
    text = page_of(model, tmp_path, reference, (sweep(seconds), RATE))
    assert "Too few windows to judge predictions by: " in text
    assert "more typical" not in text  # it is shorter than all of them
    assert "Dream 1" in text


@pytest.mark.parametrize("windows", [1, 3])
def test_the_code_lasts_as_long_as_its_windows(windows: int) -> None:
    (ax,) = code_sequence(np.zeros((windows, 4), dtype=np.int64), 0.04, 4).axes
    assert ax.images[0].get_extent() == pytest.approx([0.0, windows * 0.04, -0.5, 3.5])


def test_of_a_long_recording_the_beginning_is_shown(model: WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SHOWN_S", 1.0)
    clip = np.concatenate([sweep(1.0, seed=1)] * 3 + [np.zeros(RATE, dtype=np.float32)])
    text = page_of(model, tmp_path, None, (clip, RATE))
    assert "Drawn and played are the first 1 s of 4 s" in text
    moments = [float(at) for at in re.findall(r"<td>(\d+\.\d\d) s</td>", text)]
    assert max(moments) > 1.0  # surprise is measured over all of it


def test_a_reference_of_named_recordings(model: WorldModel, tmp_path: Path) -> None:
    for seed in range(3):
        write_sweep(tmp_path / f"sounds/a{seed}/{seed}.wav", 0.5, seed=seed)
    found = recordings_reference(model, find_recordings([tmp_path / "sounds"]), "in sounds")
    assert list(found.labels) == ["a0", "a1", "a2"]
    near = nearest(model, model.tokens((sweep(0.5, seed=1), RATE)), found, count=2)
    alone = dataclasses.replace(found, names=found.names[1:2], labels=found.labels[1:2], tokens=found.tokens[1:2])
    assert nearest(model, model.tokens((sweep(0.5, seed=1), RATE)), alone)[0][1] > 0.99  # not what is left of it without its own mean
    assert near[0] == (1, pytest.approx(1.0, abs=1e-3))
    assert "trained on</th>" not in page_of(model, tmp_path, found)
    with pytest.raises(UsageError, match="no recordings to compare with"):
        recordings_reference(model, [], "in nothing")


def test_what_many_recordings_share_does_not_make_them_near(model: WorldModel, reference: Reference) -> None:
    near = nearest(model, dataclasses.replace(model.tokens(CLIP), values=reference.tokens[5]), reference)
    assert near[0] == (5, pytest.approx(1.0, abs=1e-3))
    assert near[-1][1] < 0.95


def test_many_recordings_are_drawn_from_evenly() -> None:
    assert drawn(5).tolist() == [0, 1, 2, 3, 4]
    chosen = drawn(10 * MAX_CLIPS)
    assert len(chosen) == MAX_CLIPS
    assert np.all(np.diff(chosen) > 0)
    assert np.histogram(chosen, 3, (0, 10 * MAX_CLIPS))[0].min() > MAX_CLIPS / 5  # not the first ones, which may be of one machine


def test_standing_counts_the_less_surprising_ones(model: WorldModel, reference: Reference) -> None:
    kl = [float(model.surprise((sweep(0.5 + 0.01 * seed, seed=seed), RATE)).kl.mean()) for seed in range(48)]
    middle = int(np.argsort(kl)[24])
    place = standing(model, dataclasses.replace(model.tokens(CLIP), values=reference.tokens[middle]), reference)
    assert place.mean_kl == pytest.approx(kl[middle], rel=1e-3)
    assert place.less_surprising == pytest.approx(0.5, abs=0.05)
    assert place.unusual is not None
    assert 0 <= place.unusual < 1


def test_what_cannot_be_read_leaves_no_page(model: WorldModel, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(DecodeError, match=r"text\.wav"):
        clip_report(model, tmp_path / "text.wav", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
