"""One page about one recording: what it sounds like to the model, in sentences, pictures and sounds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.dreams.dream import draw_dream, dream, dream_audio
from pydreaming.analysis.inputs import STDIN, Recording, Source, name_of, open_source
from pydreaming.analysis.reports.clip_pictures import code_sequence
from pydreaming.analysis.reports.condition import Condition, condition, condition_verdicts
from pydreaming.analysis.reports.page import Attachment, Report, Table, Value, write_report
from pydreaming.analysis.reports.panels import one_step, prediction_panels
from pydreaming.analysis.reports.pictures import Panel, mel_panels, save
from pydreaming.analysis.reports.verdicts import Verdict
from pydreaming.analysis.surprise.curves import Surprise, draw_surprise, surprise
from pydreaming.analysis.vectors.reference import Reference, evaluation_recordings, first_tokens, nearest, standing
from pydreaming.analysis.world_model import Tokens, WorldModel
from pydreaming.audio.decode import Samples, read_stdin
from pydreaming.audio.encode import write_wav
from pydreaming.audio.resample import Resampler
from pydreaming.audio.tokens import Frames

SHOWN_S = 30.0  # of a recording that are drawn, played and compared
PLAYER_RATE = 48_000  # Hz at most; a page of 192 kHz sounds would be too large for a browser
DREAMS, DREAM_S = 2, 1.5
HEARD = 2 / 3  # of what is shown, before the dream begins
MOMENTS = 5  # most surprising ones listed
APART_S = 0.3  # s between them
LEAST_WINDOWS = 6  # to judge predictions by
UNUSUAL, TYPICAL = 0.95, 0.8  # share of normal recordings that are more typical, from which on and up to which a sentence says so


@dataclass
class _Page:
    """What has been made for the page so far."""

    folder: Path
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[Attachment] = field(default_factory=list)
    audio: list[Attachment] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def show(self, title: str, name: str, caption: str) -> Path:
        """Add a picture; returns where it is to be drawn."""
        self.figures.append(Attachment(title, caption, self.folder / name))
        return self.figures[-1].path

    def play(self, title: str, name: str, caption: str, samples: Samples, rate: int) -> None:
        """Add a sound."""
        path = self.folder / name
        write_wav(path, samples, rate)
        self.audio.append(Attachment(title, caption, path))


def clip_report(model: WorldModel, source: Source, out: Path, reference: Reference | None = None, seed: int = 0) -> Path:
    """Write the page about one recording; of a long one, its beginning is drawn and played, and surprise is measured over all of it.

    Args:
      source: recording, path, "-" or (samples, sample_rate). out: the .html file.
      reference: normal recordings to compare with; None: those that the model's run was evaluated on, where there are any.
      seed: of the dreams.
    Raises:
      DecodeError, UsageError: see `inputs.open_source`. PydreamingError: `out` cannot be written.
    """
    name = name_of(source)
    if source == STDIN or (isinstance(source, Recording) and source.name == STDIN):
        source = read_stdin(channels=model.channels)  # it can be read only once
    found, beginning = _listen(model, source)
    tokens = first_tokens(model, source, SHOWN_S)
    reference = reference or evaluation_recordings(model)
    with tempfile.TemporaryDirectory(prefix="pydreaming-clip-") as scratch:
        page = _Page(Path(scratch))
        log_mel = model.log_mel(tokens.values)
        page.verdicts += condition_verdicts(found, log_mel, model.state.stats, model.features)
        _play(page, model, beginning, found.sample_rate)
        if model.objective.trains_latents:
            _surprise(page, model, source, name, tokens, reference)
            _prediction(page, model, tokens, model.told(source))
            _dream(page, model, source, tokens, seed)
            _codes(page, model, tokens, model.told(source))
        else:
            picture = mel_panels([Panel("log-mel", log_mel)], model.features)
            save(picture, page.show("What the model hears", "mel.png", "Log-mel power over time."))
            page.notes.append(f"No surprise and no dreams: objective {model.config.objective.name} trains no latents.")
        if reference is not None:
            _near(page, model, tokens, reference)
        if found.seconds > SHOWN_S:
            page.notes.append(
                f"Drawn and played are the first {SHOWN_S:.0f} s of {found.seconds:.0f} s; moments are listed from all of it."
            )
        return write_report(out, _report(page, model, name, found))


def _report(page: _Page, model: WorldModel, name: str, found: Condition) -> Report:
    title = Path(name).name or name
    trained = Path(model.config.source.path).name or "unnamed recordings"
    return Report(
        title=title,
        subtitle=f"{name} · heard by a world model of {trained}, step {model.state.counters['step']:.0f}",
        facts_title="The recording",
        trained_on={
            "seconds": found.seconds,
            "sample rate (Hz)": found.sample_rate,
            "peak (dB of full scale)": f"{found.loudness.peak_dbfs:.1f}",
            "level, RMS (dB)": f"{found.loudness.rms_dbfs:.1f}",
            "samples clipped": f"{found.clipped:.2%}",
        },
        verdicts=page.verdicts,
        tables=page.tables,
        figures=page.figures,
        audio=page.audio,
        notes=page.notes,
    )


def _listen(model: WorldModel, source: Source) -> tuple[Condition, Samples]:
    """The recording's condition, and the samples of its beginning."""
    kept: list[Samples] = []
    with open_source(source, model.channels) as (chunks, rate):
        return condition(_keep(chunks, round(SHOWN_S * rate), kept), rate), np.concatenate(kept)


def _keep(chunks: Iterable[Samples], count: int, kept: list[Samples]) -> Iterator[Samples]:
    for chunk in chunks:
        if count > 0:
            kept.append(chunk[:count].copy())
            count -= len(kept[-1])
        yield chunk


def _play(page: _Page, model: WorldModel, samples: Samples, rate: int) -> None:
    if rate > PLAYER_RATE:
        samples, rate = np.concatenate(list(Resampler(rate, PLAYER_RATE).stream([samples]))), PLAYER_RATE
    page.play(
        "The recording",
        "real.wav",
        "as the model hears it, one channel" if model.channels == "first" else "as it is, its channels mixed to one",
        samples,
        rate,
    )


def _surprise(page: _Page, model: WorldModel, source: Source, name: str, tokens: Tokens, reference: Reference | None) -> None:
    curves = surprise(model, source, picture_s=SHOWN_S)
    caption = "Bits a window: what hearing changed, how uncertain the model was before, how improbable it found what came."
    draw_surprise(page.show("Surprise over time", "surprise.png", caption), curves, model.features, name)
    page.tables.append(_moments(curves))
    if reference is None:
        text = (
            f"It surprises the model by {curves.kl.mean():.1f} bits a window on average; there are no recordings here to compare that with."
        )
        page.verdicts.append(Verdict(None, text))
        return
    place, count = standing(model, tokens, reference), len(reference.names)
    page.verdicts.append(
        Verdict(
            None,
            f"It surprises the model by {place.mean_kl:.1f} bits a window on average, more than {place.less_surprising:.0%} of {count}"
            f" recordings do ({reference.what}).",
        )
    )
    if place.unusual is not None:
        page.verdicts.append(_typicality(place.unusual))


def _typicality(unusual: float) -> Verdict:
    share = f"{unusual:.0%} of recordings of the same kind are more typical"
    if unusual >= UNUSUAL:
        return Verdict(False, f"It is unlike them: {share}. What the model says of it is worth little, or it is an anomaly.")
    if unusual <= TYPICAL:
        return Verdict(True, f"It is a typical recording: {share}.")
    return Verdict(None, f"It is at the edge of what is typical: {share}.")


def _moments(curves: Surprise) -> Table:
    """The most surprising windows, apart from each other; the first has no past and is left out where there are others."""
    median = float(np.median(curves.kl))
    chosen: list[int] = []
    for i in np.argsort(-curves.kl):
        distances = [abs(curves.start_s[i] - curves.start_s[j]) for j in chosen]
        if (i > 0 or len(curves) == 1) and all(distance >= APART_S for distance in distances):
            chosen.append(int(i))
        if len(chosen) == MOMENTS:
            break
    rows = [[f"{curves.start_s[i]:.2f} s", float(curves.kl[i]), f"{curves.kl[i] / median:.1f} ×" if median > 0 else None] for i in chosen]
    caption = f"Windows at least {APART_S:g} s apart; the first one of a recording has no past, and is left out."
    return Table("Its most surprising moments", caption, ["from", "bits", "of the median"], rows)


def _prediction(page: _Page, model: WorldModel, tokens: Tokens, action: Frames) -> None:
    T = len(tokens)
    if T < LEAST_WINDOWS:
        page.notes.append(f"Too few windows to judge predictions by: {T} (at least {LEAST_WINDOWS}).")
        return
    values = tokens.values
    ours = _error(one_step(model, values, action=action)[1:], values[1:])
    copy, mean = _error(values[:-1], values[1:]), _error(np.zeros_like(values[1:]), values[1:])
    said = "is closer than the baselines" if ours < min(copy, mean) else "does not beat the baselines"
    baselines = f"repeating the last window {copy:.3f}, the corpus mean {mean:.3f}"
    text = f"The model's picture of each next window {said}: squared error {ours:.3f} ({baselines})."
    page.verdicts.append(Verdict(ours < min(copy, mean), text))
    picture = mel_panels(prediction_panels(model, tokens, _heard(tokens), action=action), model.features)
    save(picture, page.show("Real, predicted, imagined", "prediction.png", "Log-mel power; imagining begins at the line."))


def _dream(page: _Page, model: WorldModel, source: Source, tokens: Tokens, seed: int) -> None:
    span_s = model.features.token_span_samples / model.features.sample_rate
    at_s = float(tokens.start_s[_heard(tokens) - 1]) + span_s if len(tokens) >= LEAST_WINDOWS else None
    dreamed = dream(model, source, seconds=DREAM_S, samples=4, at_s=at_s, seed=seed)
    caption = "What was heard, and continuations that it imagines; where they disagree, the model does not know how it goes on."
    draw_dream(page.show("Dreams", "dream.png", caption), dreamed, model.features)
    heard = "what was heard last" if at_s is None else f"what was heard before {at_s:.2f} s"
    for k in range(DREAMS):
        caption = f"{heard}, a tick, then imagined (Griffin-Lim, so rougher than a recording)"
        page.play(f"Dream {k + 1}", f"dream-{k}.wav", caption, dream_audio(model, dreamed, k), dreamed.sample_rate)


def _codes(page: _Page, model: WorldModel, tokens: Tokens, action: Frames) -> None:
    if not model.net.dynamics.latents.discrete:
        return
    observed = model.observe(tokens, action=action)
    codes = observed.post.stoch[0].argmax(-1).cpu().numpy()  # (T, S)
    changes = float((codes[1:] != codes[:-1]).mean()) if len(codes) > 1 else 0.0
    caption = f"A row a group of the code, a colour a class; from one window to the next {changes:.0%} of the groups change."
    picture = code_sequence(codes, model.features.token_stride_samples / model.features.sample_rate, model.config.model.classes)
    save(picture, page.show("Its code", "codes.png", caption))


def _near(page: _Page, model: WorldModel, tokens: Tokens, reference: Reference) -> None:
    columns = ["recording", "label", "similarity"]
    rows: list[list[Value]] = []
    for i, similarity in nearest(model, tokens, reference):
        rows.append([reference.names[i], reference.labels[i] or None, f"{similarity:.3f}"])
        if reference.trained_on is not None:
            rows[-1].append("yes" if reference.trained_on[i] else "no")
    columns += [] if reference.trained_on is None else ["trained on"]
    caption = f"By the mean of the features over the clip (cosine; 1 is the same), among {len(reference.names)}: {reference.what}."
    page.tables.append(Table("The recordings nearest to it", caption, columns, rows))


def _heard(tokens: Tokens) -> int:
    """Windows before imagining begins."""
    return max(1, round(HEARD * len(tokens)))


def _error(guess: npt.NDArray[np.float32], real: npt.NDArray[np.float32]) -> float:
    return float(np.square(guess - real).mean())
