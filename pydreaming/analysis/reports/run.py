"""The report of a run, made of what lies in its folder: at the end of a run, and again whenever it is asked for."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import msgspec

from pydreaming.analysis.reports.exhibits import Exhibits, make_exhibits
from pydreaming.analysis.reports.page import Report, Table, Value, write_report
from pydreaming.analysis.reports.verdicts import verdicts
from pydreaming.analysis.reports.world_tables import world_tables
from pydreaming.analysis.run_folder import RunFolder
from pydreaming.analysis.world_model import WorldModel
from pydreaming.config_public import without_password
from pydreaming.errors import CheckpointError, UsageError
from pydreaming.evaluation.evaluate import Evaluation
from pydreaming.evaluation.open_loop import OpenLoop
from pydreaming.training.checkpoint import CheckpointState


def run_report(model: WorldModel, out: Path) -> Path:
    """Make the report of the run that a model was loaded from again, with pictures drawn anew.

    Raises:
      UsageError: the model does not lie in a run's folder. CheckpointError: its figures are damaged.
      PydreamingError: `out` cannot be written.
    """
    run = None if model.origin is None else RunFolder.of_checkpoint(model.origin)
    if run is None or model.origin is None:
        raise UsageError("a report without recordings is about a run, and this model lies in no run's folder; name a recording as well")
    result = read_evaluation(run, model.origin)
    if result is None:
        result = Evaluation(notes=[f"{model.origin.name} was not evaluated: python -m workers.evaluator --help says how to do it."])
    with tempfile.TemporaryDirectory(prefix="pydreaming-report-") as scratch:
        exhibits = make_exhibits(run, model.config, model, result, Path(scratch), sounds=True)
        return write_run_report(out, run, model.state, result, exhibits)


def read_evaluation(run: RunFolder, checkpoint: Path) -> Evaluation | None:
    """The figures of a checkpoint; None where it was not evaluated. Raises CheckpointError: damaged, or of another version."""
    path = run.path / "evals" / checkpoint.name / "metrics.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evaluation)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as e:
        raise CheckpointError(f"{path} cannot be read: {e}; evaluate the checkpoint again") from e


def write_run_report(out: Path, run: RunFolder, state: CheckpointState, result: Evaluation, exhibits: Exhibits) -> Path:
    """Write the page. Raises PydreamingError when it cannot be written."""
    config, counters = state.config, state.counters
    return write_report(
        out,
        Report(
            title=run.path.resolve().name,
            subtitle=f"{time.strftime('%d %B %Y, %H:%M')} · {counters['step']} steps, {counters['seconds']:.0f} s of training",
            trained_on=run.trained_on(config),
            verdicts=verdicts(result),
            metrics={f"loss on {_where(result)} (nats)": result.held_out_loss["loss"]} if result.held_out_loss else {},
            tables=evaluation_tables(result),
            figures=exhibits.figures,
            audio=exhibits.audio,
            notes=result.notes,
            quarantined=run.unreadable(),
            settings=without_password(config),
            next_commands=run.next_commands(config),
        ),
    )


def evaluation_tables(result: Evaluation) -> list[Table]:
    """All figures with their baselines, as tables."""
    tables = [] if result.open_loop is None else [_open_loop_table(result.open_loop, _where(result))]
    tables += [_probe_table(result)] if result.probes else []
    return tables + ([] if result.world is None else world_tables(result.world))


def _where(result: Evaluation) -> str:
    return "held-out recordings" if result.held_out else "recordings that were trained on"


def _probe_table(result: Evaluation) -> Table:
    rows: list[list[Value]] = [
        [
            f"{r.label}, {r.protocol}",
            r.features,
            f"{r.linear:.3f} ± {r.interval:.3f}",
            _share(r.knn),
            _share(r.nearest_mean),
            _share(r.chance),
            r.clips,
        ]
        for r in sorted(result.probes, key=lambda r: (r.label, r.protocol))
    ]
    caption = (
        "Accuracy of a logistic regression, of five nearest neighbours and of the nearest mean of a class, on frozen features;"
        " ± is a 95 % interval of the first over clips (k-shot: over draws of the labelled clips)."
    )
    columns = ["task", "features", "linear", "nearest neighbours", "nearest mean", "chance", "clips"]
    return Table("What its features know", caption, columns, rows)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _open_loop_table(o: OpenLoop, where: str) -> Table:
    found = {"by a copy of the last": o.retrieval_copy, "by a trigram": o.retrieval_trigram}
    gains = {"gain (nats)": o.gain, "of a copy": o.gain_copy, "of a bigram": o.gain_bigram, "of a trigram": o.gain_trigram}
    found, gains = ({name: values for name, values in group.items() if values} for group in (found, gains))  # n-grams need training clips
    columns = ["windows ahead", f"found among {o.candidates}", *found, *gains, "predictions"]
    rows: list[list[Value]] = [
        [k, f"{o.retrieval[k]:.3f}", *(f"{v[k]:.3f}" for v in found.values()), *(f"{v[k]:.2f}" for v in gains.values()), o.count[k]]
        for k in o.retrieval
    ]
    caption = f"Imagined without listening, on {where}; chance is {1 / o.candidates:.3f}."
    if o.gain_trigram:
        caption += " Bigram and trigram are counted over the model's own codes, of training clips; the corpus average gains 0."
    return Table("How far ahead it sees", caption, columns, rows)
