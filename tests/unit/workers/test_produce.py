from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pydreaming.audio.controls import ControlScale
from pydreaming.audio.decode import open_audio
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.sources import AudioItem
from pydreaming.audio.stats import merge_stats
from pydreaming.config import ActionConfig, Config
from pydreaming.errors import DecodeError, ReplayError
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.schema import Episode
from workers.layout import RunDir
from workers.produce import Producer, Walk

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]


def item(index: int, path: str, group: str = "speaker:a", controls: tuple[float, ...] = ()) -> AudioItem:
    return AudioItem(index=index, path=path, group=group, labels={"label": path[:4], "speaker": "a"}, controls=controls)


def config_of(make_run: MakeRun, audio: Path, *overrides: str) -> Config:
    return make_run(audio, *overrides).read_config()


def episodes(folder: Path) -> list[Episode]:
    index = ReplayIndex(folder)
    index.refresh()
    return [index.episode(i) for i in range(index.episodes)]


@pytest.fixture
def audio(recordings: Recordings) -> Path:
    return recordings(4, broken=1, seconds=1.0)


def make(config: Config, audio: Path, replay: Path, items: list[AudioItem], controls: ControlScale | None = None) -> list[str]:
    """Produce one lease; the paths that could not be read."""
    producer = Producer(config, audio, replay, controls or ControlScale())
    sums, _ = producer.measure([item(0, "good-000.wav")])
    assert sums.count > 0
    files, unreadable = producer.produce(0, 3, items, merge_stats([sums], config.features.n_mels))
    assert all(file.name.startswith("e00000-000003-") for file in files)
    return [entry.path for entry in unreadable]


def test_stored_tokens_are_the_front_ends(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    config = config_of(make_run, audio)
    items = [item(i, f"good-{i:03d}.wav") for i in range(4)]
    assert make(config, audio, tmp_path / "r", items) == []
    got = episodes(tmp_path / "r")
    assert {e.group for e in got} == {"speaker:a"}
    tokens = np.concatenate([e.tokens for e in got])
    producer = Producer(config, audio, tmp_path)
    front = FrontEnd(config.features, merge_stats([producer.measure(items[:1])[0]], config.features.n_mels))
    expected = np.concatenate([front.tokens_of(*read(audio / i.path)) for i in items]).astype(np.float16)
    np.testing.assert_array_equal(tokens, expected)
    starts = np.concatenate([e.start_sample for e in got])
    assert set(np.diff(starts)[np.diff(starts) > 0]) == {config.features.token_stride_samples}


def test_later_passes_cut_other_windows_from_a_recording(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    config = config_of(make_run, audio, "--augment.shift", "1")
    items = [item(i, f"good-{i:03d}.wav") for i in range(4)]
    stats = merge_stats([Producer(config, audio, tmp_path).measure(items)[0]], config.features.n_mels)
    front, stride, shifts = FrontEnd(config.features, stats), config.features.token_stride_samples, set()
    for epoch in range(3):
        Producer(config, audio, tmp_path / str(epoch)).produce(epoch, 0, items, stats)
        for source in items:
            samples, rate = read(audio / source.path)
            tokens, starts = stored(tmp_path / str(epoch), source.index)
            assert rate == config.features.sample_rate
            assert 0 <= starts[0] < stride
            np.testing.assert_array_equal(tokens, front.tokens_of(samples[starts[0] :], rate).astype(np.float16))
            shifts.add((epoch, int(starts[0])))
    assert {start for epoch, start in shifts if epoch == 0} == {0}
    assert len({start for epoch, start in shifts if epoch}) > 4


def test_a_shift_leaves_a_short_recording_its_one_window(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    config = config_of(make_run, audio, "--augment.shift", "1")
    span = config.features.token_span_samples
    for count in (span - 5, span, span + 3):
        soundfile.write(audio / "short.wav", np.random.default_rng(0).standard_normal(count) * 0.1, config.features.sample_rate)
        stats = merge_stats([Producer(config, audio, tmp_path).measure([item(0, "good-000.wav")])[0]], config.features.n_mels)
        for epoch in range(1, 6):
            folder = tmp_path / f"{count}-{epoch}"
            assert Producer(config, audio, folder).produce(epoch, 0, [item(0, "short.wav")], stats)[1] == []
            tokens, starts = stored(folder, 0)
            assert len(tokens) == 1
            assert starts[0] <= max(0, count - span)


def stored(replay: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and first samples of an item in a store of one pass."""
    tokens, starts = [], []
    for episode in episodes(replay):
        ends = [clip.start for clip in episode.clips[1:]] + [len(episode)]
        for clip, end in zip(episode.clips, ends, strict=True):
            if clip.item == number:
                tokens.append(episode.tokens[clip.start : end])
                starts.append(episode.start_sample[clip.start : end])
    return np.concatenate(tokens), np.concatenate(starts)


def read(path: Path) -> tuple[np.ndarray, int]:
    return soundfile.read(path, dtype="float32")  # type: ignore[no-any-return]


def test_a_file_that_breaks_in_the_middle_leaves_nothing(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    """The bad sample comes after episodes of the same file have been complete."""
    long = np.zeros(8000 * 60, np.float32)
    long[-100] = np.nan
    soundfile.write(audio / "late.wav", long, 8000, subtype="FLOAT")
    config = config_of(make_run, audio, "--replay.shard_episodes", "2")
    names = ["good-000.wav", "late.wav", "good-001.wav", "broken-000.wav", "good-002.wav"]
    assert make(config, audio, tmp_path / "with", [item(i, n) for i, n in enumerate(names)]) == ["late.wav", "broken-000.wav"]
    clean = [item(i, n) for i, n in enumerate(names) if n.startswith("good")]
    assert make(config, audio, tmp_path / "without", clean) == []
    for a, b in zip(episodes(tmp_path / "with"), episodes(tmp_path / "without"), strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        assert a.clips == b.clips


@pytest.mark.parametrize("path", ["../outside.wav", "/etc/passwd", "missing.wav", "link.wav"])
def test_paths_that_lead_out_of_the_root_are_reported_like_broken_files(make_run: MakeRun, audio: Path, tmp_path: Path, path: str) -> None:
    soundfile.write(tmp_path / "outside.wav", np.zeros(8000), 8000)
    (audio / "link.wav").symlink_to(tmp_path / "outside.wav")
    config = config_of(make_run, audio)
    assert make(config, audio, tmp_path / "r", [item(0, path), item(1, "good-000.wav")]) == [path]


def test_absurdly_loud_samples_are_reported(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    soundfile.write(audio / "loud.wav", np.full(8000, 1e18), 8000, subtype="FLOAT")
    config = config_of(make_run, audio)
    assert make(config, audio, tmp_path / "r", [item(0, "loud.wav")]) in (["loud.wav"], [])
    assert all(np.isfinite(e.tokens).all() for e in episodes(tmp_path / "r"))


def test_groups_are_never_mixed_and_channels_are_groups(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(audio / "stereo.wav", 0.1 * rng.standard_normal((8000, 2)), 8000)
    config = config_of(make_run, audio, "--source.channels", "each")
    items = [item(0, "stereo.wav", "recording:s"), item(1, "good-000.wav", "speaker:a"), item(2, "good-001.wav", "speaker:a")]
    assert make(config, audio, tmp_path / "r", items) == []
    assert {(e.group, c.path) for e in episodes(tmp_path / "r") for c in e.clips} == {
        ("recording:s#ch1", "stereo.wav"),
        ("recording:s#ch2", "stereo.wav"),
        ("speaker:a", "good-000.wav"),
        ("speaker:a", "good-001.wav"),
    }


def test_a_full_disk_is_a_replay_error_and_leaves_nothing(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    (tmp_path / "r").write_text("a file where the folder should be")
    with pytest.raises(ReplayError):
        make(config_of(make_run, audio), audio, tmp_path / "r", [item(0, "good-000.wav")])


def test_each_recording_that_is_read_ahead_is_preceded_by_a_sign_of_life(
    make_run: MakeRun, recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, done = recordings(6, seconds=0.3), list[str]()
    config = config_of(make_run, audio)
    items = [item(i, f"good-{i:03d}.wav") for i in range(6)]
    stats = merge_stats([Producer(config, audio, tmp_path).measure(items)[0]], config.features.n_mels)
    assert config.augment.probability == 0

    def open_and_note(*arguments: object) -> object:
        done.append("open")
        return open_audio(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("workers.produce.open_audio", open_and_note)
    Producer(config, audio, tmp_path / "r", on_block=lambda: done.append("sign")).produce(0, 0, items, stats)
    assert done[:12] == ["sign", "open"] * 6


def test_on_block_can_end_a_lease_and_nothing_stays(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    config = config_of(make_run, audio, "--replay.shard_episodes", "1", "--replay.episode_tokens", "12")

    class EnoughError(Exception):
        pass

    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise EnoughError

    producer = Producer(config, audio, tmp_path / "r", on_block=stop)
    sums, _ = producer.measure([item(0, "good-000.wav")])
    with pytest.raises(EnoughError):
        producer.produce(0, 0, [item(i, f"good-{i:03d}.wav") for i in range(4)], merge_stats([sums], config.features.n_mels))
    assert list((tmp_path / "r").iterdir()) == []


def test_recordings_that_cannot_be_read_are_no_silence(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    """Opening a damaged file on a slow disk takes its time; a lease of many must not pass for that of a dead worker."""
    signs = list[int]()
    producer = Producer(config_of(make_run, audio), audio, tmp_path / "r", on_block=lambda: signs.append(1))
    broken = [item(i, "broken-000.wav") for i in range(9)]
    assert len(producer.measure(broken)[1]) == len(signs) == 9
    stats = merge_stats([producer.measure([item(0, "good-000.wav")])[0]], producer.config.features.n_mels)
    signs.clear()
    assert len(producer.produce(0, 0, broken, stats)[1]) == 9
    assert len(signs) == 18  # each is opened twice: it might have been a short one


def test_recordings_shorter_than_a_window_are_measured_as_they_are_used(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    soundfile.write(audio / "click.wav", np.full(50, 0.5), 8000)
    config = config_of(make_run, audio)
    producer = Producer(config, audio, tmp_path / "r")
    sums, unreadable = producer.measure([item(0, "click.wav")])
    assert (sums.count, unreadable) == (config.features.token_frames, [])
    files, _ = producer.produce(0, 0, [item(0, "click.wav")], merge_stats([sums], config.features.n_mels))
    assert [file.tokens for file in files] == [1]


def test_measuring_reports_what_it_cannot_read_and_counts_the_rest(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    producer = Producer(config_of(make_run, audio), audio, tmp_path / "r")
    good, _ = producer.measure([item(0, "good-000.wav")])
    both, unreadable = producer.measure([item(1, "broken-000.wav"), item(0, "good-000.wav")])
    assert both == good
    assert [(entry.item, entry.path) for entry in unreadable] == [(1, "broken-000.wav")]


def test_totals_count_what_was_kept(make_run: MakeRun, audio: Path, tmp_path: Path) -> None:
    config = config_of(make_run, audio)
    producer = Producer(config, audio, tmp_path / "r")
    sums, _ = producer.measure([item(0, "good-000.wav")])
    files, _ = producer.produce(0, 0, [item(1, "good-001.wav"), item(2, "broken-000.wav")], merge_stats([sums], config.features.n_mels))
    assert producer.totals.clips == 1
    assert producer.totals.tokens == sum(f.tokens for f in files)
    assert producer.totals.audio_s == pytest.approx(1.0 + 7 / 6, abs=1e-3)
    assert producer.totals.cpu_s > 0


# -- actions ----------------------------------------------------------------------------------------------------------------------------

STRIDE = ActionConfig("stride", [1, 2, 4], [])


def walked(walk: Walk, chunks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    parts = [walk.through(n) for n in chunks]
    return np.concatenate([i for i, _ in parts]), np.concatenate([a for _, a in parts])


def test_the_stride_action_says_how_far_the_token_lies_from_the_one_before() -> None:
    index, action = walked(Walk(STRIDE, 0, 0, item(1, "x"), ControlScale()), [200])
    assert index[0] == 0
    assert not action[0].any()
    np.testing.assert_array_equal(action[1:].sum(axis=1), 1)
    np.testing.assert_array_equal(np.array([1, 2, 4])[action[1:].argmax(axis=1)], np.diff(index))
    assert set(np.diff(index)) == {1, 2, 4}


@pytest.mark.parametrize("chunks", [[200], [1] * 200, [3, 0, 150, 47], [199, 1]])
def test_the_walk_does_not_depend_on_chunks(chunks: list[int]) -> None:
    index, action = walked(Walk(STRIDE, 0, 0, item(1, "x"), ControlScale()), chunks)
    expected = walked(Walk(STRIDE, 0, 0, item(1, "x"), ControlScale()), [200])
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(action, expected[1])


def test_the_walk_is_another_one_for_another_seed_item_and_pass() -> None:
    walks = [
        Walk(STRIDE, *key, ControlScale())
        for key in ((0, 0, item(1, "x")), (1, 0, item(1, "x")), (0, 1, item(1, "x")), (0, 0, item(2, "x")))
    ]
    assert len({tuple(walk.through(100)[0].tolist()) for walk in walks}) == 4


def test_controls_are_normalised_and_nothing_leads_to_the_first_token() -> None:
    config = ActionConfig("controls", [1], ["a", "b"])
    walk = Walk(config, 0, 0, item(1, "x", controls=(3.0, 10.0)), ControlScale([1.0, 10.0], [2.0, 5.0]))
    index, action = walked(walk, [2, 1])
    np.testing.assert_array_equal(index, [0, 1, 2])
    np.testing.assert_array_equal(action, [[0, 0], [1, 0], [1, 0]])


def test_controls_that_are_missing_are_the_items_fault() -> None:
    with pytest.raises(DecodeError, match="control values"):
        Walk(ActionConfig("controls", [1], ["a"]), 0, 0, item(1, "x"), ControlScale([0.0], [1.0]))


def test_without_actions_there_is_one_zero() -> None:
    index, action = walked(Walk(ActionConfig("none", [1], []), 0, 0, item(1, "x"), ControlScale()), [2, 3])
    np.testing.assert_array_equal(index, range(5))
    np.testing.assert_array_equal(action, np.zeros((5, 1)))


@pytest.mark.parametrize("overrides", [(), ("--action.kind", "stride"), ("--source.channels", "each"), ("--augment.probability", "1")])
def test_short_recordings_read_ahead_give_the_same_files(
    make_run: MakeRun, recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    audio = recordings(7, broken=2, seconds=0.4)
    rng = np.random.default_rng(0)
    for name, seconds, rate in (("long", 3.0, 8000), ("other", 0.5, 11025), ("short", 0.01, 8000)):
        soundfile.write(str(audio / f"{name}.wav"), 0.1 * rng.standard_normal(int(seconds * rate)), rate, subtype="PCM_16")
    soundfile.write(str(audio / "some.flac"), 0.1 * rng.standard_normal(3000), 8000)
    names = sorted(path.name for path in audio.iterdir() if path.suffix in (".wav", ".flac"))
    items = [item(i, name, f"speaker:{i // 4}") for i, name in enumerate(3 * [*names, "missing.wav"])]
    config = config_of(make_run, audio, "--augment.shift", "1", *overrides)
    stats = merge_stats([Producer(config, audio, tmp_path).measure(items)[0]], config.features.n_mels)
    found = []
    for seconds in (2.0, 0.0):
        monkeypatch.setattr("workers.produce.SHORT_S", seconds)
        folder, calls = tmp_path / str(seconds), []
        producer = Producer(config, audio, folder, on_block=lambda calls=calls: calls.append(1))  # type: ignore[misc]
        reports = [producer.produce(epoch, 0, items, stats) for epoch in range(2)]
        totals = (producer.totals.clips, producer.totals.tokens, round(producer.totals.audio_s, 6))
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        found.append((reports, totals, files))
        assert len(calls) >= 2 * len(items)
    assert found[0] == found[1]
    assert len(found[0][0][0][1]) == 3 * (2 + 1)  # the broken ones and that which is missing
