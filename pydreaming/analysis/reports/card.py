"""The model card: what a stranger should know before using a model, as Markdown with the front matter of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydreaming import __version__
from pydreaming.analysis.reports.page import Table, Value, format_value
from pydreaming.analysis.reports.run import evaluation_tables, read_evaluation
from pydreaming.analysis.reports.verdicts import verdicts
from pydreaming.analysis.run_folder import RunFolder
from pydreaming.analysis.world_model import WorldModel
from pydreaming.evaluation.evaluate import Evaluation

_FRONT = """---
library_name: pydreaming
pipeline_tag: feature-extraction
tags:
- audio
- world-model
- self-supervised-learning
- contrastive-learning
---
"""
_MARKS = {True: "good", False: "bad", None: "open"}


def model_card(model: WorldModel) -> str:
    """Data, settings, figures and limits of a model; the data's extent and the figures are known of models in a run's folder only.

    Raises CheckpointError: the run's figures are damaged.
    """
    run = None if model.origin is None else RunFolder.of_checkpoint(model.origin)
    result = None if run is None or model.origin is None else read_evaluation(run, model.origin)
    c, f = model.config, model.features
    facts = run.trained_on(c) if run is not None else {"source": c.source.path.rpartition("/")[2], "kind": c.source.kind}
    title = c.source.path.rstrip("/").rpartition("/")[2] or "unnamed recordings"
    window_ms, hop_ms = (1000 * samples / f.sample_rate for samples in (f.token_span_samples, f.token_stride_samples))
    if not model.objective.trains_latents:
        what = "It trains no latent state: its features are of use, but it gives no surprise and no dreams."
    else:
        what = "It keeps a latent state and predicts what comes next; it gives features, surprise in bits, and imagined continuations."
    return "\n".join(
        [
            _FRONT,
            f"# A world model of sound: {title}",
            f"\nTrained by contrastive prediction on unlabelled recordings with pydreaming {__version__}, objective `{c.objective.name}`,"
            f" step {model.state.counters['step']:.0f}. It hears windows of {window_ms:.0f} ms, one every {hop_ms:.0f} ms. {what}",
            "\n## Use\n",
            _use(model),
            "## Data\n",
            _pairs(facts),
            "\n## Settings\n",
            _pairs(_settings(model)),
            "\n## Figures\n",
            _figures(result),
            "\n## Limits\n",
            _bullets(_limits(model, result)),
            "",
        ]
    )


def _use(model: WorldModel) -> str:
    lines = [
        "```python",
        "from pydreaming import WorldModel",
        "",
        'model = WorldModel.load("FOLDER")',
        f'vectors = model.embed("sound.wav")    # .values (windows, {model.net.feat_dim}), .start_s, .centre_s',
    ]
    if model.objective.trains_latents:
        lines += [
            'curves = model.surprise("sound.wav")  # .kl, .prior_entropy, .nll in bits a window',
            'imagined = model.dream("sound.wav", seconds=2.0).imagined  # (4, frames, bands) log-mel',
        ]
    return "\n".join([*lines, "```\n"])


def _settings(model: WorldModel) -> dict[str, Value]:
    c, counters = model.config, model.state.counters
    parameters = sum(p.numel() for p in model.net.parameters())
    latents = f"{c.model.groups} groups of {c.model.classes} classes" if model.net.dynamics.latents.discrete else "Gaussian"
    return {
        "sample rate": f"{c.features.sample_rate} Hz",
        "log-mel bands": c.features.n_mels,
        "network": f"{c.model.dynamics}, {c.model.core}, {c.model.deter} units; {format_value(parameters)} parameters",
        "latents": latents,
        "trained steps": int(counters["step"]),
        "trained windows": int(counters["trained_tokens"]),
        "training time": f"{counters['seconds']:.0f} s",
        "seed": c.run.seed,
    }


def _figures(result: Evaluation | None) -> str:
    if result is None:
        return "It was not evaluated where this card was made: nothing is known of how good it is."
    sentences = [f"{verdict.text} ({_MARKS[verdict.good]})" for verdict in verdicts(result)]
    return "\n".join([_bullets(sentences), *(_table(table) for table in evaluation_tables(result))])


def _limits(model: WorldModel, result: Evaluation | None) -> list[str]:
    f = model.features
    found = [
        f"It hears nothing above {(f.f_max or f.sample_rate / 2) / 1000:g} kHz; other sample rates are converted to {f.sample_rate} Hz.",
        "It knows the recordings above and no others: of sounds unlike them, surprise and dreams say nothing certain.",
        "Several channels are mixed to one." if model.channels == "mix" else "Of several channels it hears the first.",
    ]
    if model.objective.trains_latents:
        found.append("Dreams are sketched by a small decoder and heard through Griffin-Lim: they sound coarser than the recordings.")
    if result is not None and not result.held_out:
        found.append("Its predictions were tested on recordings that it was trained on.")
    return found + ([] if result is None else result.notes)


def _pairs(values: Mapping[str, Value]) -> str:
    return _rows(("", ""), [(name, format_value(value)) for name, value in values.items()])


def _table(table: Table) -> str:
    rows = [[format_value(value) for value in row] for row in table.rows]
    return f"\n### {table.title}\n\n{_rows(table.columns, rows)}\n\n{table.caption}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    """A value that cannot end its cell, nor bring HTML into a page that shows the card."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_cell(sentence)}" for sentence in sentences)
