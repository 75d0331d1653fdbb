"""Models to hand on: what `WorldModel.save` writes, and who can read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from tiny_model import RATE, make_checkpoint, sweep, tiny_config

from pydreaming.analysis.reports.card import model_card
from pydreaming.analysis.sharing.hub import hub_class
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import CheckpointError, UsageError
from pydreaming.evaluation.evaluate import Evaluation, ProbeRow
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import make_objective

SOUND = (sweep(0.5), RATE)


def test_an_exported_model_is_the_same_model(each: WorldModel, tmp_path: Path) -> None:
    folder = each.save(tmp_path / "new/model")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    again = WorldModel.load(folder, "cpu")
    for part in ("feat", "embed"):
        assert np.array_equal(again.embed(SOUND, part).values, each.embed(SOUND, part).values)
    assert np.array_equal(again.surprise(SOUND).kl, each.surprise(SOUND).kl)
    assert again.state.counters == each.state.counters


def test_nothing_of_this_host_goes_with_it(tmp_path: Path) -> None:
    secrets = {
        "source.path": "/home/ann/sounds",
        "source.root": "/home/ann/corpora",
        "source.held_out_speakers": '["ann", "bob-of-ann"]',
        "run.dir": "/home/ann/runs",
        "replay.dir": "/home/ann/store",
        "replay.cache": "/home/ann/copies",
        "coordinator.keys": "/home/ann/keys",
        "coordinator.address": "tcp://home.ann:5555",
        "tracking.uri": "http://ann:word@home.ann:5000",
        "tracking.prometheus": "home.ann:9464",
    }
    make_checkpoint(tmp_path / "run", steps=1, **{key.replace(".", "__"): value for key, value in secrets.items()})
    folder = WorldModel.load(tmp_path / "run", "cpu").save(tmp_path / "out")
    text = (folder / "config.json").read_text() + (folder / "README.md").read_text()
    assert "ann" not in text.replace("channels", "")
    assert json.loads((folder / "config.json").read_text())["config"]["source"]["path"] == "sounds"


def test_saved_again_it_keeps_its_card(model: WorldModel, tmp_path: Path) -> None:
    model.save(tmp_path / "a", "# my words\n")
    WorldModel.load(tmp_path / "a", "cpu").save(tmp_path / "b")
    assert (tmp_path / "b/README.md").read_text() == "# my words\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_is_noticed(model: WorldModel, tmp_path: Path, name: str) -> None:
    path = model.save(tmp_path / "a") / name
    path.write_bytes(path.read_bytes()[:-2] + b"}}")
    with pytest.raises(CheckpointError, match=name):
        WorldModel.load(tmp_path / "a", "cpu")


def test_a_place_that_cannot_be_written(model: WorldModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write a model"):
        model.save(tmp_path / "file")


class TestCard:
    def test_of_a_model_alone(self, model: WorldModel) -> None:
        card = model_card(model)
        assert card.startswith("---\nlibrary_name: pydreaming\n")
        for expected in ("## Data", "## Settings", "8000 Hz", "was not evaluated", "nothing above 4 kHz"):
            assert expected in card

    def test_of_a_run_with_figures(self, tmp_path: Path) -> None:
        checkpoint = make_checkpoint(tmp_path, steps=1)
        (tmp_path / "config.yaml").write_text(tiny_config().to_yaml())
        figures = tmp_path / "evals" / checkpoint.name / "metrics.json"
        figures.parent.mkdir(parents=True)
        rows = [ProbeRow("word", "folds", name, linear, 0.8, 0.02, 0.1, 90) for name, linear in (("world model", 0.9), ("log-mel", 0.5))]
        content = Evaluation(probes=rows, notes=["No | ABX <b>."]).to_dict()
        figures.write_text(json.dumps(content))
        card = model_card(WorldModel.load(tmp_path, "cpu"))
        assert "It beats the log-mel baseline at telling the word of a clip (folds): 90.0% against 50.0%" in card
        assert "| word, folds | world model | 0.900 ± 0.020 |" in card
        assert "- No \\| ABX &lt;b>." in card
        figures.write_text("{")
        with pytest.raises(CheckpointError, match=r"metrics\.json"):
            model_card(WorldModel.load(tmp_path, "cpu"))


class TestHub:
    def test_without_huggingface_hub_it_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
        with pytest.raises(UsageError, match="pip install huggingface_hub"):
            hub_class()

    def test_our_class_takes_the_folder_and_writes_it(self, model: WorldModel, tmp_path: Path) -> None:
        model.save(tmp_path / "a", "# card\n")
        found = hub_class().from_pretrained(tmp_path / "a", device="cpu")
        assert np.array_equal(found.embed(SOUND).values, model.embed(SOUND).values)
        found.save_pretrained(tmp_path / "b")
        for name in ("README.md", "SHA256SUMS", "config.json", "model.safetensors"):
            assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()

    def test_the_pytorch_mixin_takes_it_as_any_module(self, model: WorldModel, tmp_path: Path) -> None:
        """What somebody else's class needs to know is in config.json, and the weights' names are those of its modules."""

        class Networks(torch.nn.Module, PyTorchModelHubMixin):
            def __init__(self, token_dim: int, action_dim: int, stats: dict) -> None:
                super().__init__()
                self.mean = stats["mean"]
                self.model = WorldModelNet(model.config.model, token_dim, action_dim, model.features.n_mels)
                self.objective = make_objective(model.config.objective, self.model)

        found = Networks.from_pretrained(model.save(tmp_path / "a"), strict=True)
        assert found.mean == pytest.approx(model.state.stats.mean)
        for name, value in model.net.state_dict().items():
            assert found.model.state_dict()[name].equal(value)
