"""A model that was trained with controls is told the state of the machine by whatever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_model import RATE, make_checkpoint, sweep, write_sweep

from pydreaming.analysis.dreams.bank import build_bank
from pydreaming.analysis.dreams.dream import dream
from pydreaming.analysis.gaps.inpaint import inpaint
from pydreaming.analysis.inputs import Recording, named_file
from pydreaming.analysis.reports.panels import one_step
from pydreaming.analysis.surprise.curves import surprise
from pydreaming.analysis.surprise.horizon import horizon
from pydreaming.analysis.surprise.normal import calibrate
from pydreaming.analysis.surprise.segment import segment
from pydreaming.analysis.surprise.stream import SurpriseStream
from pydreaming.analysis.units.inventory import Fitter, Transcriber
from pydreaming.analysis.vectors.embed import embed, embed_clip, embed_windows
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.controls import ControlScale


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    run = tmp_path_factory.mktemp("told-run")
    make_checkpoint(run, steps=3, action__kind="controls", action__columns="[rpm]")
    model = WorldModel.load(run, "cpu")
    return WorldModel(model.net, model.objective, replace(model.state, controls=ControlScale([5.0], [2.0])))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return named_file(write_sweep(tmp_path_factory.mktemp("told") / "a.wav", 1.0, seed=3))


def at(recording: Recording, rpm: float) -> Recording:
    return replace(recording, item=msgspec.structs.replace(recording.item, controls=(rpm,)))


def units(model: WorldModel, recording: Recording) -> Any:
    fitter = Fitter(model, 4)
    fitter.add(recording)
    inventory = fitter.fit()
    transcriber = Transcriber(model, inventory)
    transcriber.add(recording)
    return inventory.units.mean


HEARD: dict[str, Callable[[WorldModel, Recording], Any]] = {
    "embed": lambda model, r: embed(model, [r]).columns["embedding"],
    "embed moments": lambda model, r: embed(model, [r], "moment", moment_s=0.4).columns["embedding"],
    "embed a clip": lambda model, r: embed_clip(model, r, pooling="evaluation"),
    "embed windows": lambda model, r: embed_windows(model, r).values,
    "surprise": lambda model, r: surprise(model, r).kl,
    "calibrate": lambda model, r: calibrate(model, [r] * 20).curves["restart"][-1].bits,
    "segment": lambda model, r: segment(model, r, sensitivity=1.0, minimum_s=0.0).strength_bits[1:],
    "units": units,
    "dream": lambda model, r: dream(model, r, 0.2, 2).imagined,
    "bank": lambda model, r: build_bank(model, [r]).keys,
    "inpaint": lambda model, r: inpaint(model, r, [(0.4, 0.5)], particles=8).fills[0].mean,
    "horizon": lambda model, r: [step.gain_bits for step in horizon(model, [r], context=2, steps=(1, 2), samples=2).groups["all"]],
    "one step": lambda model, r: one_step(model, model.tokens(r).values, 2, action=model.told(r)),
}


@pytest.mark.parametrize("heard", HEARD.values(), ids=HEARD)
def test_the_state_of_the_machine_counts(heard: Callable[[WorldModel, Recording], Any], steered: WorldModel, recording: Recording) -> None:
    slow, again, fast = (np.asarray(heard(steered, at(recording, rpm)), np.float64) for rpm in (3.0, 3.0, 300.0))
    assert np.array_equal(slow, again)
    assert slow.shape != fast.shape or not np.allclose(slow, fast, atol=1e-4)


def test_without_controls_it_listens_on_at_their_mean(steered: WorldModel, recording: Recording) -> None:
    assert steered.told(at(recording, 9.0)).tolist() == [2.0]
    assert steered.told((sweep(0.2), RATE)).tolist() == [0.0]
    np.testing.assert_array_equal(surprise(steered, recording).kl, surprise(steered, at(recording, 5.0)).kl)


def test_a_stream_is_told_by_who_opens_it(steered: WorldModel, recording: Recording) -> None:
    told = at(recording, 300.0)
    stream = SurpriseStream(steered, RATE, chunk=512, action=steered.told(told))
    samples = np.asarray(sweep(1.0, seed=3))
    kl = np.concatenate([rows.surprise.kl for rows in (stream.push(samples), stream.finish())])
    np.testing.assert_allclose(kl, surprise(steered, told).kl, rtol=0.02, atol=0.02)  # the file has 16 bits


def test_an_embedding_does_not_depend_on_how_others_were_driven(steered: WorldModel, recording: Path) -> None:
    slow, fast = at(recording, 3.0), at(recording, 300.0)
    together = embed(steered, [slow, fast]).columns["embedding"]
    np.testing.assert_allclose(together, [embed_clip(steered, slow), embed_clip(steered, fast)], atol=1e-5)
