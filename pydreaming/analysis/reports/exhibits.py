"""Pictures and sounds of an evaluated checkpoint: what a newcomer looks at and listens to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from pydreaming.analysis.dreams.dream import draw_dream, dream, dream_audio
from pydreaming.analysis.reports.page import Attachment
from pydreaming.analysis.reports.panels import code_marginal, prediction_panels
from pydreaming.analysis.reports.pictures import Curve, code_usage, mel_panels, open_loop_curves, probe_bars, save
from pydreaming.analysis.run_folder import RunFolder
from pydreaming.analysis.surprise.curves import draw_surprise, surprise
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import Samples, decode, resolve_inside
from pydreaming.audio.encode import write_wav
from pydreaming.audio.sources import AudioItem, Catalogue, source_root
from pydreaming.config import Config
from pydreaming.errors import DecodeError, SourceError
from pydreaming.evaluation.evaluate import HEADLINE, Evaluation
from pydreaming.evaluation.open_loop import OpenLoop

CLIPS = 3  # shown and played
USAGE_CLIPS = 60  # behind the picture of code usage
SHOWN_S = 6.0  # of a clip
DREAM_S = 1.5


@dataclass
class Exhibits:
    """Files made for one checkpoint, in the order in which they are shown."""

    figures: list[Attachment] = field(default_factory=list)
    audio: list[Attachment] = field(default_factory=list)

    def show(self, title: str, path: Path, caption: str) -> None:
        """Add a picture."""
        self.figures.append(Attachment(title, caption, path))


@dataclass(frozen=True)
class Clip:
    """The beginning of a recording: its name, (num_samples,) samples and their rate."""

    name: str
    samples: Samples
    sample_rate: int

    @property
    def source(self) -> tuple[Samples, int]:
        """What a model takes: the samples and their rate."""
        return self.samples, self.sample_rate


def make_exhibits(run: RunFolder, config: Config, model: WorldModel, result: Evaluation, folder: Path, sounds: bool) -> Exhibits:
    """Draw what a checkpoint predicts and imagines, into `folder`; with `sounds` also let it be heard."""
    exhibits = Exhibits()
    token_s = model.features.token_stride_samples / model.features.sample_rate
    if result.open_loop is not None:
        _show_open_loop(result.open_loop, token_s, folder, exhibits)
    if result.probes:
        picture = save(probe_bars(_scores(result)), folder / "probes.png")
        exhibits.show("What its features know", picture, "Accuracy of a linear classifier on frozen features.")
    if not model.objective.trains_latents:
        return exhibits  # what it would imagine, or be surprised by, means nothing
    clips = list(beginnings(run, config, USAGE_CLIPS))
    # The longest clips show most, but not the same speaker and word each time: one in five of the longer half.
    shown = sorted(clips, key=lambda clip: -len(clip.samples) / clip.sample_rate)[: max(1, len(clips) // 2)][::5][:CLIPS]
    for number, clip in enumerate(shown, start=1):
        _exhibit_clip(model, clip, number, folder, exhibits, sounds)
    if clips and model.net.dynamics.latents.discrete:
        usage = save(code_usage(code_marginal(model, (clip.source for clip in clips))), folder / "code_usage.png")
        exhibits.show("Which codes are used", usage, "A code that is never used says nothing; all bars short is collapse.")
    return exhibits


def _exhibit_clip(model: WorldModel, clip: Clip, number: int, folder: Path, exhibits: Exhibits, sounds: bool) -> None:
    tokens = model.tokens(clip.source)
    context = max(1, len(tokens) // 3)
    if context < len(tokens):
        panels = prediction_panels(model, tokens, context)
        picture = save(mel_panels(panels, model.features, title=clip.name), folder / f"prediction_{number}.png")
        exhibits.show(f"Real, predicted, imagined: {clip.name}", picture, "Log-mel power; imagining begins at the line.")
    curves = surprise(model, clip.source, picture_s=SHOWN_S)
    picture = draw_surprise(folder / f"surprise_{number}.png", curves, model.features, clip.name)
    exhibits.show(f"Surprise over time: {clip.name}", picture, "In bits per window; pydreaming surprise --help says what each curve is.")
    if not sounds or not model.objective.trains_latents:
        return
    heard_s = len(clip.samples) / clip.sample_rate / 3
    dreamed = dream(model, clip.source, seconds=DREAM_S, samples=4, at_s=heard_s)
    picture = draw_dream(folder / f"dream_{number}.png", dreamed, model.features)
    exhibits.show(f"Dream: {clip.name}", picture, "What was heard, and continuations that it imagines.")
    for kind, samples, rate, caption in (
        ("real", clip.samples, clip.sample_rate, "as recorded"),
        ("dream", dream_audio(model, dreamed, 0), dreamed.sample_rate, "the first third as recorded, a tick, then imagined (Griffin-Lim)"),
    ):
        path = folder / f"{kind}_{number}.wav"
        write_wav(path, samples, rate)
        exhibits.audio.append(Attachment(f"{clip.name}: {kind}", caption, path))


def beginnings(run: RunFolder, config: Config, count: int) -> Iterator[Clip]:
    """Beginnings of a seeded sample of recordings, held-out ones where there are; none where the recordings are not on this host."""
    try:
        catalogue = Catalogue.open(run.catalogue)
        root = source_root(config.source)
    except SourceError:
        return
    rows = catalogue.held_out_indices if len(catalogue.held_out_indices) else catalogue.train_indices
    for i in np.random.default_rng(config.run.seed).permutation(rows)[:count]:
        item = catalogue[int(i)]
        try:
            yield Clip(item.path, *_beginning(root, item, config))
        except DecodeError:
            continue  # it stands in the quarantine list; a picture of another recording will do


def _beginning(root: Path, item: AudioItem, config: Config) -> tuple[Samples, int]:
    path = resolve_inside(root, item.path)
    channels = "first" if config.source.channels == "each" else config.source.channels
    length = SHOWN_S if item.duration_s is None else min(SHOWN_S, item.duration_s)
    try:
        return decode(path, msgspec.structs.replace(item, duration_s=length), channels)
    except DecodeError:  # shorter than SHOWN_S, or truly broken: then this raises again
        return decode(path, item, channels)


def _show_open_loop(o: OpenLoop, token_s: float, folder: Path, exhibits: Exhibits) -> None:
    steps = list(o.retrieval)
    found = {"world model": o.retrieval, "copy of the last": o.retrieval_copy}
    gains = {"world model": o.gain, "copy of the last": o.gain_copy}
    shares = [Curve(name, [100 * values[k] for k in steps]) for name, values in found.items()]
    picture = save(open_loop_curves(steps, shares, token_s, "found (%)"), folder / "retrieval.png")
    exhibits.show("How far ahead it sees", picture, f"Share of windows found among {o.candidates} by imagining k windows ahead.")
    nats = [Curve(name, [values[k] for k in steps]) for name, values in gains.items()]
    picture = save(open_loop_curves(steps, nats, token_s, "gain (nats)", zero="corpus average"), folder / "gain.png")
    exhibits.show("What imagining is worth", picture, "Nats won over guessing the corpus average; below zero, imagining does harm.")


def _scores(result: Evaluation) -> dict[str, dict[str, tuple[float, float, float]]]:
    scores: dict[str, dict[str, tuple[float, float, float]]] = {}
    complete = {(row.label, row.protocol) for row in result.probes if row.features == "world model"}
    for row in result.probes:
        if (row.label, row.protocol) in complete and row.features in HEADLINE:
            percent = (100 * row.linear, 100 * (row.linear - row.interval), min(100.0, 100 * (row.linear + row.interval)))
            scores.setdefault(f"{row.label}, {row.protocol}", {})[row.features] = percent
    return scores
