"""Detectors over recordings: pieces cover them, files hold whole detectors, and sounds unlike normal ones are found."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import soundfile
from tiny_model import RATE, make_checkpoint, write_sweep

from pydreaming.analysis.anomaly.detector_file import FittedDetector, load_detector
from pydreaming.analysis.anomaly.pictures import draw_scores
from pydreaming.analysis.anomaly.pieces import Cutting, keyed, thinned
from pydreaming.analysis.anomaly.scoring import Fitting, Scoring, fit_detector, write_scores, write_times
from pydreaming.analysis.inputs import Recording, find_recordings, named_file
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.controls import ControlScale
from pydreaming.errors import DecodeError, PydreamingError, UsageError

PIECE_S = 0.2  # five windows


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    folder = tmp_path_factory.mktemp("normal")
    for i in range(12):
        write_sweep(folder / f"{i:02d}.wav", 0.5 + 0.02 * i, seed=i)
    rows = [f"{i:02d}.wav,{'even' if i % 2 else 'odd'},{'ok' if i < 11 else 'bad'},{i}" for i in range(12)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,machine,label,rpm", *rows]) + "\n")
    return list(find_recordings([folder], ["rpm"]))


@pytest.fixture(scope="module")
def fitted(model: WorldModel, normal: list[Recording]) -> FittedDetector:
    return fit_detector(model, normal, piece_s=PIECE_S)


@pytest.fixture
def noise(tmp_path: Path) -> Recording:
    samples = np.random.default_rng(0).standard_normal(RATE // 2).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", 0.3 * samples, RATE)
    return named_file(tmp_path / "noise.wav")


class TestPieces:
    @pytest.mark.parametrize("count", [1, 4, 5, 6, 7, 8, 9, 23, 24, 25])
    @pytest.mark.parametrize("size", [1, 4, 5])
    def test_they_cover_a_recording_half_a_piece_apart_and_end_with_it(self, count: int, size: int) -> None:
        windows = np.arange(count, dtype=np.float32)[:, None]
        pieces = list(Cutting(size).pieces(iter(np.array_split(windows, min(count, 4)))))
        assert sorted({int(x) for _, piece in pieces for x in piece[:, 0]}) == list(range(count))
        assert all(np.array_equal(piece[:, 0], np.arange(start, start + len(piece))) for start, piece in pieces)
        assert {len(piece) for _, piece in pieces} == {min(size, count)}
        starts = [start for start, _ in pieces]
        assert all(0 < gap <= max(1, size // 2) for gap in np.diff(starts))

    def test_clips_and_what_is_left(self) -> None:
        windows = np.zeros((25, 1), np.float32)

        def lengths(clip: int, count: int = 25) -> list[int]:
            return [sum(map(len, part)) for part in Cutting(2, clip).clips(iter([windows[:count]]))]

        assert lengths(0) == [25]
        assert lengths(10) == [10, 10, 5]
        assert lengths(11) == [11, 11]  # three windows are less than half a clip
        assert lengths(10, 3) == [3]  # all there is

    def test_thinning_keeps_pieces_of_the_whole(self) -> None:
        starts = [start for start, _ in thinned(((i, np.zeros((1, 1), np.float32)) for i in range(1000)), 10)]
        assert 5 <= len(starts) <= 10
        assert starts[0] == 0
        assert starts[-1] >= 850
        assert len(set(np.diff(starts).tolist())) == 1

    def test_clips_that_begin_with_silence_are_told_apart(self) -> None:
        silence, sound = np.full((40, 3), -9, np.float32), np.random.default_rng(0).standard_normal((2, 20, 3)).astype(np.float32)
        clips = [np.concatenate([silence, sound[i]]) for i in (0, 1)]
        (first, pieces), (second, _), (again, _) = (keyed(Cutting(5).pieces(iter([clip]))) for clip in (*clips, clips[0]))
        assert first == again != second
        assert [start for start, _ in pieces] == [start for start, _ in Cutting(5).pieces(iter([clips[0]]))]
        assert keyed(iter([]))[0] == keyed(iter([]))[0]
        endless = keyed((i, silence[:5]) for i in itertools.count())[1]  # looked at in part only
        assert next(endless)[0] == 0

    def test_lengths_that_make_no_piece(self, model: WorldModel) -> None:
        with pytest.raises(UsageError, match=r"a piece of 0\.001 s is shorter than a window, 0\.04 s"):
            Cutting.of(model, 0.001)
        with pytest.raises(UsageError, match=r"clips of 0\.5 s are shorter than a piece, 1 s; ask for longer clips"):
            Cutting.of(model, 1.0, 0.5)


class TestDetector:
    def test_every_form_of_model_scores(self, each: WorldModel, normal: list[Recording], noise: Recording) -> None:
        scoring = Scoring(each, fit_detector(each, normal, piece_s=PIECE_S))
        (clip,) = scoring.add(noise)
        assert np.isfinite(clip.score.score)
        assert set(clip.score.parts) == {"surprise", "embedding"}
        assert clip.piece_end_s[-1] == pytest.approx(0.5, abs=0.04)
        assert clip.piece_start_s[1] - clip.piece_start_s[0] == pytest.approx(2 * 0.04)

    def test_without_latents_vectors_alone_judge(self, tmp_path: Path, normal: list[Recording], noise: Recording) -> None:
        make_checkpoint(tmp_path, steps=3, objective__name="cpc")
        model = WorldModel.load(tmp_path, "cpu")
        scoring = Scoring(model, fit_detector(model, normal, piece_s=PIECE_S))
        assert list(scoring.add(noise)[0].score.parts) == ["embedding"]

    def test_noise_is_unlike_sweeps(self, model: WorldModel, fitted: FittedDetector, noise: Recording, tmp_path: Path) -> None:
        scoring = Scoring(model, fitted)
        for recording in [named_file(write_sweep(tmp_path / f"{i}.wav", 0.6, seed=100 + i)) for i in range(6)]:
            scoring.add(recording)
        usual = [clip.score.score for clip in scoring.clips]
        assert scoring.add(noise)[0].score.score > max(usual)
        assert np.mean(usual) < 2

    def test_a_known_clip_is_known_under_another_name(
        self, model: WorldModel, fitted: FittedDetector, normal: list[Recording], tmp_path: Path
    ) -> None:
        copy = tmp_path / "renamed.wav"
        copy.write_bytes(normal[3].path.read_bytes())
        scoring = Scoring(model, fitted)
        (one,), (other,) = scoring.add(normal[3]), scoring.add(named_file(copy))
        assert one.score.fitted
        assert other.score.fitted
        assert one.score.score == other.score.score

    def test_a_long_recording_is_cut_into_clips(self, model: WorldModel, tmp_path: Path) -> None:
        long = named_file(write_sweep(tmp_path / "long.wav", 8.0, seed=1))
        with pytest.raises(UsageError, match=r"1 normal clips are too few .* can be cut"):
            fit_detector(model, [long], piece_s=PIECE_S)
        fitted = fit_detector(model, [long], piece_s=PIECE_S, clip_s=0.4)
        assert np.all(np.diff(fitted.normal.fold) >= 0)  # neighbours, which are alike, share a fold
        clips = Scoring(model, fitted).add(long)
        assert len(clips) == 20
        assert clips[3].start_s == pytest.approx(1.2)
        assert all(clip.score.fitted for clip in clips)

    def test_conditions_come_from_the_metadata(self, model: WorldModel, normal: list[Recording]) -> None:
        scoring = Scoring(model, fit_detector(model, normal, by="machine", piece_s=PIECE_S))
        assert scoring.detector.conditions == []  # six clips are too few for scorers of one's own
        assert sorted(set(scoring.fitted.normal.condition)) == ["even", "odd"]

    def test_figures_by_condition(self, model: WorldModel, fitted: FittedDetector, normal: list[Recording], noise: Recording) -> None:
        scoring = Scoring(model, fitted)
        for recording in normal[:6]:
            scoring.add(recording)
        assert scoring.figures("label", "ok") is None
        scoring.add(replace(noise, item=noise.item.__class__(-1, str(noise.path), "", labels={"label": "broken"})))
        row = scoring.figures("label", "ok")
        assert row is not None
        assert row.auc == {"all": 1.0}

    def test_an_unreadable_file_is_left_out(self, model: WorldModel, normal: list[Recording], tmp_path: Path) -> None:
        (tmp_path / "text.wav").write_text("no sound")
        broken, causes = named_file(tmp_path / "text.wav"), []
        detector = fit_detector(model, [broken, *normal], piece_s=PIECE_S, failed=lambda error: causes.append(error.path))
        assert causes == [str(tmp_path / "text.wav")]
        assert len(detector.normal.fold) == 12
        with pytest.raises(DecodeError):
            Fitting(model, [broken], piece_s=PIECE_S)

    def test_rates_that_so_few_clips_say_nothing_of(self, model: WorldModel, fitted: FittedDetector) -> None:
        scoring = Scoring(model, fitted)
        with pytest.raises(UsageError, match=r"12 normal clips say nothing of false alarms as rare as 0.01: ask for 0.077 or more"):
            scoring.alarm_threshold(0.01)
        assert np.isfinite(scoring.alarm_threshold(0.1))


class TestFile:
    def test_it_comes_back_whole(self, model: WorldModel, fitted: FittedDetector, noise: Recording, tmp_path: Path) -> None:
        fitted.save(tmp_path / "d.safetensors")
        again = load_detector(tmp_path / "d.safetensors")
        assert (again.cutting, again.by, again.model) == (fitted.cutting, "", model.fingerprint)
        (a,), (b,) = Scoring(model, fitted).add(noise), Scoring(model, again).add(noise)
        assert a.score.score == b.score.score
        with pytest.raises(UsageError, match=r"must end in \.safetensors"):
            fitted.save(tmp_path / "d.json")

    def test_another_model_is_refused(self, rssm: WorldModel, fitted: FittedDetector) -> None:
        with pytest.raises(UsageError, match="made by another model"):
            Scoring(rssm, fitted)

    def test_what_is_no_detector(self, fitted: FittedDetector, tmp_path: Path) -> None:
        path = tmp_path / "d.safetensors"
        with pytest.raises(PydreamingError, match=r"cannot read the detector .* No such file"):
            load_detector(path)
        with pytest.raises(PydreamingError, match="it is a folder"):
            load_detector(tmp_path)
        path.write_bytes(b"\x80\x04 a pickle, say")
        with pytest.raises(PydreamingError, match="cannot read the detector"):
            load_detector(path)
        safetensors.numpy.save_file({"x": np.zeros(3)}, path)
        with pytest.raises(PydreamingError, match="is no detector, or damaged"):
            load_detector(path)
        head = {"pydreaming": json.dumps({"what": "bank", "format": 2, "about": {}})}
        safetensors.numpy.save_file({"x": np.zeros(3)}, path, head)
        with pytest.raises(PydreamingError, match=r"d\.safetensors holds: bank, format 2; wanted is: detector, format \d"):
            load_detector(path)
        for change in ({"fold": np.zeros(12, np.int64)}, {"yardstick": np.zeros((3, 2, 2))}, {"fitted.vectors": np.zeros(3, np.float16)}):
            fitted.save(path)
            arrays = safetensors.numpy.load_file(path)
            length = int.from_bytes(path.read_bytes()[:8], "little")
            header = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
            safetensors.numpy.save_file(arrays | change, path, header)
            with pytest.raises(PydreamingError, match="is no detector, or damaged: "):
                load_detector(path)


def test_tables_and_picture(model: WorldModel, fitted: FittedDetector, normal: list[Recording], noise: Recording, tmp_path: Path) -> None:
    scoring = Scoring(model, fitted)
    scoring.add(normal[0])
    clips = scoring.add(noise)
    write_scores(tmp_path / "s.npz", scoring, 0.1, "label")
    write_times(tmp_path / "t.npz", scoring, 0.1)
    with np.load(tmp_path / "s.npz") as scores, np.load(tmp_path / "t.npz") as times:
        assert scores["label"].tolist() == ["ok", ""]
        assert scores["fitted"].tolist() == [True, False]
        assert np.array_equal(scores["alarm"], scores["p_value"] <= 0.1)
        assert np.array_equal(scores["alarm"], scores["score"] > json.loads(str(scores["metadata"]))["threshold"])
        assert (times["source"] == noise.name).sum() == len(clips[0].piece_start_s)
        assert np.all(times["end_s"] > times["start_s"])
    assert draw_scores(tmp_path / "p.png", scoring, noise, clips, 0.1, 10.0).stat().st_size > 10_000


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    run = tmp_path_factory.mktemp("steered")
    make_checkpoint(run, steps=3, action__kind="controls", action__columns="[rpm]")
    return WorldModel.load(run, "cpu")


class TestControls:
    def test_a_model_is_told_the_state_of_the_machine(self, steered: WorldModel, normal: list[Recording], noise: Recording) -> None:
        model = WorldModel(steered.net, steered.objective, replace(steered.state, controls=ControlScale([5.0], [2.0])))
        assert model.action_of(normal[9]).tolist() == [2.0]
        scoring = Scoring(model, fit_detector(model, normal, piece_s=PIECE_S))
        told = [replace(normal[3], item=msgspec.structs.replace(normal[3].item, controls=(rpm,))) for rpm in (3.0, 300.0)]
        slow, fast = (scoring.add(recording)[0].score.score for recording in told)
        assert slow != fast
        with pytest.raises(DecodeError, match=r"no values for the model's control columns \(rpm\)"):
            scoring.add(noise)

    def test_a_checkpoint_from_before_the_scale_was_kept(self, steered: WorldModel, normal: list[Recording]) -> None:
        with pytest.raises(UsageError, match=r"does not say how its controls \(rpm\) were scaled"):
            steered.action_of(normal[0])
