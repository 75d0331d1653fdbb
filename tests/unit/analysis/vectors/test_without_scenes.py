"""Embeddings without what recordings of a like scene have in common, on real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import RATE, sweep

from pydreaming import cli
from pydreaming.analysis.inputs import STDIN
from pydreaming.analysis.vectors.embed import embed
from pydreaming.analysis.vectors.without_scenes import embed_without_scenes
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import DecodeError, UsageError
from pydreaming.evaluation.scenes import CLIPS_A_GROUP, clip_statistics, scene_groups


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sweeps in two rooms, a silent one and one that hums; and one file that is no sound."""
    folder = tmp_path_factory.mktemp("rooms")
    hum = 0.2 * np.sin(2 * np.pi * 1500 * np.arange(RATE // 5) / RATE)
    for i in range(2 * CLIPS_A_GROUP):
        soundfile.write(folder / f"{i:02d}.wav", 0.5 * sweep(0.2, seed=i) + hum * (i % 2), RATE)
    (folder / "none.wav").write_text("no sound")
    return sorted(folder.iterdir())


def test_rows_are_those_of_embed_without_their_groups(model: WorldModel, rooms: list[Path]) -> None:
    failed: list[DecodeError] = []
    table = embed_without_scenes(model, rooms, pooling="evaluation", failed=failed.append)
    assert [error for error in failed if "none.wav" in str(error)] == failed
    assert len(failed) == 1, "told once, though recordings are read twice"
    content = embed(model, rooms[:-1], pooling="evaluation").columns
    clips = [np.concatenate(list(model.stream_tokens(path))) for path in rooms[:-1]]
    groups = scene_groups(clip_statistics(clips, model.features.n_mels), np.arange(len(clips)))
    assert groups is not None
    np.testing.assert_array_equal(table.columns["source"], content["source"])
    np.testing.assert_allclose(table.columns["embedding"], groups.taken_out(content["embedding"]), atol=1e-5)
    assert table.about["without_scene"] is True


def test_what_cannot_be_done_is_said(model: WorldModel, rooms: list[Path]) -> None:
    with pytest.raises(UsageError, match="among 5 recordings: 60 are the least"):
        embed_without_scenes(model, rooms[:5])
    with pytest.raises(UsageError, match="read twice"):
        embed_without_scenes(model, [*rooms[:-1], STDIN])
    with pytest.raises(UsageError, match="name another part"):
        embed_without_scenes(model, rooms[:-1], part="scene")


def test_the_command_writes_them(run_folder: Path, rooms: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["embed", str(run_folder), str(rooms[0].parent), "--without-scene", "--pooling", "evaluation"]
    assert cli.main([*words, "--out", str(tmp_path / "what.csv")]) == 1, "one of the files is no sound"
    assert "60 rows from 60 of 61 files" in capfd.readouterr().err
    assert "# without_scene: true" in (tmp_path / "what.csv").read_text()
    assert cli.main([*words, "--per", "window", "--out", str(tmp_path / "none.csv")]) == 2
    assert "leave --per at clip" in capfd.readouterr().err
