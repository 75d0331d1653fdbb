"""The benchmark beside other projects runs them from a folder: here a stand-in with pydreamer's interface, written by the test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch.distributions import Distribution

from benchmarks.peers import main

STAND_IN = """
import torch
from torch import nn
from torch.distributions import Independent, OneHotCategoricalStraightThrough
from .helper import joined

class RSSMCore(nn.Module):
    def __init__(self, embed, action, deter, stoch, classes, hidden, layers, kind, norm):
        super().__init__()
        self.sizes, self.deter = (stoch, classes), deter
        self.cell = nn.GRUCell(embed + action + stoch * classes, deter)
        self.post, self.prior = nn.Linear(deter + embed, stoch * classes), nn.Linear(deter, stoch * classes)

    def init_state(self, batch):
        return torch.zeros(batch, self.deter), torch.zeros(batch, self.sizes[0] * self.sizes[1])

    def zdistr(self, scores):
        assert not torch.distributions.Distribution._validate_args, "pydreamer's train.py switches the checks off"
        return Independent(OneHotCategoricalStraightThrough(logits=scores.unflatten(-1, self.sizes)), 1)

    def forward(self, embed, action, reset, state):
        (h, z), steps = state, []
        for e, a, r in zip(embed, action, reset):
            keep = (~r).float().unsqueeze(-1)
            h = self.cell(joined(e, a, z * keep), h * keep)
            post = self.post(joined(h, e))
            z = self.zdistr(post).rsample().flatten(-2)
            steps.append((self.prior(h), post, joined(h, z)))
        prior, post, features = (torch.stack(x).unsqueeze(2) for x in zip(*steps))
        return prior, post, None, features, None, None
"""


def stand_in(folder: Path) -> Path:
    """A clone in form: a package whose `__init__` must not run, the RSSM, and a module of its own that this imports."""
    models = folder / "pydreamer" / "models"
    models.mkdir(parents=True)
    for package in (models.parent, models):
        (package / "__init__.py").write_text("import a_module_that_is_not_installed\n", encoding="utf-8")
    (models / "rssm.py").write_text(STAND_IN, encoding="utf-8")
    (models / "helper.py").write_text("import torch\n\ndef joined(*parts):\n    return torch.cat(parts, -1)\n", encoding="utf-8")
    return folder


def test_a_peer_is_measured_from_its_folder_and_those_not_given_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, path, modules = tmp_path / "out.json", list(sys.path), set(sys.modules)
    assert main(["--peer", f"pydreamer={stand_in(tmp_path / 'clone')}", "--quick", "--json", str(out)]) == 0
    printed, figures = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert {"pydreamer", "ours, filter", "ours, token", "ours, filter, plain", "ours, token, plain"} <= figures["ms"].keys()
    assert all(len(values) == 2 and min(values) > 0 for values in figures["ms"].values())
    assert min(figures["gflop"].values()) > 0
    assert [line for line in printed.splitlines() if line.startswith("| pydreamer |") and "| 1.00 |" in line]
    assert printed.count("left out") == 3
    assert sys.path == path
    assert Distribution._validate_args
    assert not [name for name in set(sys.modules) - modules if name.startswith("pydreamer.")]


def test_without_a_peer_no_ratio_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"]) == 0
    assert capsys.readouterr().out.count("left out") == 4


@pytest.mark.parametrize("words", ["pydreamer=EMPTY", "dreamer-torch=EMPTY", "pydreamer", "nobody=EMPTY", "r2dreamer=BROKEN"])
def test_what_is_no_peer_is_refused_in_one_line(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rssm.py").write_text("import a_module_that_is_not_installed\n", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["--quick", "--peer", words.replace("EMPTY", str(empty)).replace("BROKEN", str(tmp_path))]) == 2
    assert capsys.readouterr().out.count("\n") == 1
