from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pydreaming.analysis.reports.page import MAX_BYTES, Attachment, Report, Table, format_value, render_report, write_report
from pydreaming.analysis.reports.verdicts import Verdict, verdicts
from pydreaming.analysis.reports.world_tables import world_tables
from pydreaming.errors import PydreamingError
from pydreaming.evaluation.abx import Abx
from pydreaming.evaluation.boundaries import Boundaries, Detection, Picker
from pydreaming.evaluation.codes import CodeStatistics
from pydreaming.evaluation.evaluate import Evaluation, ProbeRow
from pydreaming.evaluation.open_loop import OpenLoop
from pydreaming.evaluation.out_of_distribution import OutOfDistribution
from pydreaming.evaluation.world_figures import WorldFigures

NASTY = '<script>alert("x")</script>&\'"'


class Page(HTMLParser):
    """Tags, addresses and text; complains about tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def full(tmp_path: Path) -> Report:
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "a.wav").write_bytes(b"sound")
    return Report(
        title=NASTY,
        subtitle=NASTY,
        trained_on={"recordings": 2700, NASTY: NASTY},
        verdicts=[Verdict(True, NASTY), Verdict(False, "no"), Verdict(None, "maybe")],
        metrics={NASTY: 1.5, "text": NASTY},
        tables=[Table(NASTY, NASTY, ("name", "linear", "loss"), [(NASTY, 0.9, 2.0), ("b", 0.8, 1.0), ("c", None, None)])],
        figures=[Attachment(NASTY, NASTY, tmp_path / "a.png")],
        audio=[Attachment(NASTY, NASTY, tmp_path / "a.wav")],
        notes=[NASTY],
        quarantined=[(NASTY, NASTY)] * 25,
        settings={NASTY: {NASTY: NASTY}},
        next_commands=[(NASTY, NASTY)],
    )


def test_everything_is_escaped_and_nothing_is_fetched(full: Report) -> None:
    page = Page(render_report(full))
    assert "script" not in page.tags
    assert page.words.count(NASTY) >= 15
    assert len(page.addresses) == 2
    assert all(address.startswith("data:") for address in page.addresses)
    assert base64.b64decode(page.addresses[0].rpartition(",")[2]) == b"sound"
    assert "http://" not in page.words
    assert "2 700" in page.words


def test_empty_report_is_a_page() -> None:
    page = Page(render_report(Report("empty")))
    assert "section" not in page.tags


def test_write(full: Report, tmp_path: Path) -> None:
    path = write_report(tmp_path / "new/report.html", full)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(PydreamingError, match="cannot write"):
        write_report(tmp_path / "a.png/report.html", full)


@pytest.mark.parametrize("size", [None, MAX_BYTES + 1])
def test_missing_and_huge_attachments(tmp_path: Path, size: int | None) -> None:
    path = tmp_path / "x.wav"
    if size is not None:
        with path.open("wb") as file:
            file.truncate(size)
    with pytest.raises(PydreamingError, match=r"x\.wav"):
        render_report(Report("r", audio=[Attachment("a", "b", path)]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2700, "2 700"), (0.33123, "0.331"), (-1.5, "−1.500"), (123456.0, "123 456"), (0.00001, "1.0e-05"), (0.0, "0.000"),
        (98.765, "98.77"), (float("nan"), "–"), (None, "–"), (float("-inf"), "−∞"), ("x", "x"), (True, "True"),
    ],
)  # fmt: skip
def test_format_value(value: object, text: str) -> None:
    assert format_value(value) == text


def evaluation(gain: float, gain_copy: float, ours: float, log_mel: float, error: float = 0.2) -> Evaluation:
    loop = OpenLoop(256, {1: 0.4}, {1: 0.2}, {1: gain, 4: -0.1}, {1: gain_copy, 4: -2.0}, {1: 100, 4: 50}, error, 0.3, 1.0)
    rows = [
        ProbeRow("label", "folds", name, value, value, 0.02, 0.1, 900)
        for name, value in (("world model", ours), ("log-mel", 0.5), ("log-mel, clip-normalised", log_mel), ("untrained network", 0.6))
    ]
    return Evaluation({}, loop, rows)


def world(kl: float, typicality: float, restart: float, deter: float) -> WorldFigures:
    scores = {"restart": restart, "surprise": 0.5, "spectral flux": 0.8, "random": 0.4}
    return WorldFigures(
        OutOfDistribution({"tone": kl, "white": 0.9}, {"tone": typicality, "white": 0.99}, 50, 100),
        Boundaries({name: Detection(value, value, Picker(2, 0.3)) for name, value in scores.items()}, 30, 400),
        Abx(
            {"deter": deter, "codes": 0.2, "log-mel": 0.27},
            {"deter": 0.01, "codes": 0.01, "log-mel": 0.01},
            {"deter": (deter - 0.28, deter - 0.26), "codes": (-0.08, -0.06), "log-mel": (0.0, 0.0)},
            2700,
        ),
        CodeStatistics(1000.0, 600.0, 700.0, [8.0, 9.5], 16, 3000),
    )


def test_tables_of_the_world_show_every_row() -> None:
    tables = world_tables(world(kl=0.2, typicality=0.6, restart=0.5, deter=0.4))
    text = render_report(Report("r", tables=tables))
    for expected in ("tone", "inverted", "restart", "spectral flux", "codes", "1000", "8.0 to 9.5 of its 16 classes"):
        assert expected in text
    assert world_tables(WorldFigures()) == []


class TestVerdicts:
    def test_a_good_model(self) -> None:
        found = verdicts(evaluation(3.0, 1.0, 0.9, 0.7))
        said = {v.text: v.good for v in found}
        assert any(good and "It predicts: one window ahead, its guess is worth 4.3 bits" in text for text, good in said.items())
        assert any(good is None and "from 4 windows ahead on" in text for text, good in said.items())
        assert any(good and "beats the log-mel baseline" in text and "90.0% against 70.0%" in text for text, good in said.items())

    def test_a_bad_model_is_called_bad(self) -> None:
        found = verdicts(evaluation(0.5, 1.0, 0.5, 0.7, error=0.4))
        bad = " ".join(v.text for v in found if v.good is False)
        assert "does not predict" in bad
        assert "does not beat the log-mel baseline" in bad
        assert "does not beat an untrained network" in bad
        assert "next window does not beat" in bad

    def test_within_the_interval_nothing_is_claimed(self) -> None:
        found = [v for v in verdicts(evaluation(3.0, 1.0, 0.71, 0.70)) if "log-mel" in v.text]
        assert [v.good for v in found] == [None]

    def test_a_baseline_without_its_scene_is_no_rival_of_the_content_as_it_is(self) -> None:
        result = evaluation(3.0, 1.0, 0.8, 0.7)
        result.probes.append(ProbeRow("label", "folds", "log-mel, without scene", 0.9, 0.9, 0.02, 0.1, 900))
        (found,) = (v for v in verdicts(result) if "log-mel" in v.text)
        assert found.good
        assert "80.0% against 70.0%" in found.text

    def test_better_than_the_marginal_but_not_than_copying_is_no_prediction(self) -> None:
        assert not any("It predicts" in v.text for v in verdicts(evaluation(0.5, 1.0, 0.9, 0.7)))

    def test_steps_that_hardly_any_clip_reaches_carry_no_sentence(self) -> None:
        result = evaluation(3.0, 1.0, 0.9, 0.7)
        assert result.open_loop is not None
        result.open_loop.count[4] = 2
        assert not any("4 windows" in v.text for v in verdicts(result))

    def test_surprise_that_is_worth_something(self) -> None:
        said = {v.text: v.good for v in verdicts(Evaluation(world=world(kl=0.7, typicality=0.97, restart=0.9, deter=0.1)))}
        assert any(good and "notices sounds that it never heard" in text and "tone is told worst" in text for text, good in said.items())
        assert any(good and "F1 0.90 (spectral flux 0.80, random 0.40)" in text for text, good in said.items())
        assert any(good and "ABX error 10.0% against 27.0%" in text for text, good in said.items())
        assert not any("inverted" in text for text in said)

    def test_surprise_that_is_worth_nothing(self) -> None:
        found = verdicts(Evaluation(world=world(kl=0.2, typicality=0.6, restart=0.5, deter=0.4)))
        assert [v.good for v in found] == [False] * 4
        text = " ".join(v.text for v in found)
        assert "does not notice every sound" in text
        assert "raw surprise is inverted" in text
        assert "tone 0.20" in text
        assert "does not hear where clips begin any better" in text
        assert "lies less near than in log-mel" in text

    def test_no_figures_no_claims(self) -> None:
        assert verdicts(Evaluation()) == []
