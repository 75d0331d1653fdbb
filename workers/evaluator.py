"""The evaluator process: `python -m workers.evaluator --run RUN_DIR --checkpoint CHECKPOINT [--final]`.

Writes RUN/evals/<checkpoint>/: metrics.json (all figures), summary.json (a few lines for the console), pictures and sounds; sends them to
the run's spool; and, with --final, writes the report. Each figure stands beside its baselines, also when they win.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch

from pydreaming.analysis.reports.exhibits import beginnings, make_exhibits
from pydreaming.analysis.reports.run import write_run_report
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.sources import Catalogue
from pydreaming.audio.stats import FeatureStats
from pydreaming.config import Config
from pydreaming.errors import PydreamingError, SourceError, UsageError
from pydreaming.evaluation.clips import Clips, read_clips
from pydreaming.evaluation.evaluate import HEADLINE, OURS, Evaluation, evaluate_probes, evaluate_world
from pydreaming.evaluation.open_loop import STEPS
from pydreaming.evaluation.probes import ProbeRow
from pydreaming.evaluation.world_figures import WorldFigures, world_figures
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import TensorBatch
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.sampler import Batch, ReplaySampler
from pydreaming.tracking.spool import SPOOL, Spool
from pydreaming.training.checkpoint import load_networks
from pydreaming.training.trainer import pick_device
from workers import logs
from workers.eval_set import EvalSet, prepare_eval_set
from workers.layout import RunDir, replace_json

log = logging.getLogger("evaluator")

SEQUENCES_SEED = 30_000  # of the evaluation sequences; the same for every checkpoint
WORLD_SEED = 40_000  # of transforms, of the order in which clips are joined, and of ABX triples
SOUNDS = 200  # held-out recordings that are transformed


def evaluate(run: RunDir, checkpoint: Path, final: bool) -> None:
    """Evaluate one checkpoint of a run, write what came out, and send it to the spool. Raises PydreamingError."""
    config = run.read_config()
    # Training holds the GPU while this runs beside it; a clip set of this size takes seconds on a core.
    device = pick_device(config.training.device) if final else torch.device("cpu")
    model, objective, state = load_networks(checkpoint, device)
    folder = run.path / "evals" / checkpoint.name
    folder.mkdir(parents=True, exist_ok=True)
    eval_set, notes = _open_eval_set(run, config, state.stats)
    store = eval_set.held_out if eval_set.held_out.episodes else eval_set.heard
    clips = _clips(run, config, eval_set)
    result = evaluate_world(model, objective, sequences(store, config, device), config, clips if final else None)
    result.held_out = store is eval_set.held_out
    result.notes = notes + result.notes
    if clips is not None:
        _probe(run, config, model, clips, result, final)
        if final:
            _ask_world(run, WorldModel(model, objective, state), clips, result)
    exhibits = make_exhibits(run, config, WorldModel(model, objective, state), result, folder, sounds=final)
    replace_json(folder / "metrics.json", json.loads(json.dumps(result.to_dict())))
    spool = Spool(run.path / SPOOL)
    step = int(state.counters["step"])
    spool.metrics(step, result.metrics())
    spool.artifact(folder / "metrics.json", f"evals/{checkpoint.name}")
    for figure in exhibits.figures:  # a series each, with a step slider
        spool.image(figure.path, f"look/{figure.path.stem}", step)
    for sound in exhibits.audio:
        spool.artifact(sound.path, f"audio/step-{step:08d}")
    if final:
        spool.artifact(write_run_report(run.path / "report.html", run, state, result, exhibits))
    spool.close()
    replace_json(folder / "summary.json", {"lines": summary(result)})


def summary(result: Evaluation) -> list[str]:
    """The figures in lines that a newcomer can read, baselines beside them."""
    lines = []
    if result.open_loop is not None:
        o = result.open_loop
        for k in o.retrieval:
            lines.append(
                f"{k} token{'s' if k > 1 else ''} ahead, imagined: right one of {o.candidates} found {o.retrieval[k]:.0%}"
                f" (copy of the last {o.retrieval_copy[k]:.0%}); gain {o.gain[k]:+.1f} nat (copy {o.gain_copy[k]:+.1f})"
            )
        lines.append(
            f"next window, squared error of the imagined log-mel: {o.error:.3f}"
            f" (copy of the last {o.error_copy:.3f}, corpus mean {o.error_mean:.3f})"
        )
    if result.world is not None:
        lines += _world_lines(result.world)
    for label, protocol in dict.fromkeys((row.label, row.protocol) for row in result.probes):
        rows = [r for r in result.probes if (r.label, r.protocol) == (label, protocol) and r.features in HEADLINE]
        if rows[0].features != OURS:
            continue  # a quick evaluation leaves this protocol out
        figures = ", ".join(f"{r.features} {r.linear:.3f}" for r in rows)
        lines.append(f"{label} probe, {protocol}: {figures} (chance {rows[0].chance:.3f}, ±{rows[0].interval:.3f})")
    return lines + result.notes


def _world_lines(world: WorldFigures) -> list[str]:
    lines = []
    if (unusual := world.out_of_distribution) is not None:
        figures = ", ".join(f"{kind} {value:.2f} (raw KL {unusual.kl[kind]:.2f})" for kind, value in unusual.typicality.items())
        lines.append(f"changed sounds told from held-out clips, AUC: {figures}")
        lines += [unusual.warning] if unusual.warning else []
    if world.boundaries is not None:
        figures = ", ".join(f"{name} {found.f1:.2f}" for name, found in world.boundaries.rows.items())
        lines.append(f"where clips begin in a stream, F1: {figures}")
    if world.abx is not None:
        lines.append("ABX error across speakers: " + ", ".join(f"{name} {error:.3f}" for name, error in world.abx.error.items()))
    if (codes := world.codes) is not None:
        lines.append(f"code: {codes.bitrate:.0f} bits/s, predicted by the model itself {codes.bitrate_predicted:.0f} bits/s")
    return lines


def _clips(run: RunDir, config: Config, eval_set: EvalSet) -> Clips | None:
    """The recordings of the evaluation set; None where the training store stands in for it, which is too large to read whole."""
    if eval_set.heard.location == str(run.replay(config)):
        return None
    clips = read_clips(eval_set.heard if eval_set.heard.episodes else None, eval_set.held_out, Catalogue.open(run.catalogue))
    return clips if len(clips) else None


def _probe(run: RunDir, config: Config, model: WorldModelNet, clips: Clips, result: Evaluation, final: bool) -> None:
    """Add the probes; the baselines' rows are kept beside the evaluation set, as they never change."""
    cache = run.path / "eval_set" / "baselines.json"
    known = msgspec.json.decode(cache.read_bytes(), type=list[ProbeRow]) if cache.is_file() else []
    rows, baselines, notes = evaluate_probes(model, clips, config, known, complete=final, jobs=os.cpu_count() or 1 if final else 1)
    if baselines != known:
        replace_json(cache, [asdict(row) for row in baselines])
    result.probes = rows + baselines
    result.notes += notes


def _ask_world(run: RunDir, model: WorldModel, clips: Clips, result: Evaluation) -> None:
    """Add what surprise and codes are worth, on clips and on the beginnings of held-out recordings."""
    try:
        action = model.listening_on
    except UsageError as e:
        result.notes.append(f"Not asked what its surprise is worth: {e}.")
        return
    sounds = [clip.source for clip in beginnings(run, model.config, SOUNDS)] if result.held_out else []
    result.world = world_figures(model.net, model.objective, model.front_end, clips, sounds, action, WORLD_SEED)
    result.notes += result.world.notes


def _open_eval_set(run: RunDir, config: Config, stats: FeatureStats) -> tuple[EvalSet, list[str]]:
    """What to evaluate on, and notes on what is missing from it; the training store where the recordings cannot be had."""
    try:
        eval_set = prepare_eval_set(run, config, stats)
    except SourceError as e:
        return _training_store(run, config), [f"Figures are on training data, and no probes were run: {e}."]
    notes = []
    if not (eval_set.held_out.episodes or eval_set.heard.episodes):
        eval_set = _training_store(run, config, eval_set.unreadable)
        notes.append("Figures are on training data, and no probes were run: no recording of the evaluation set could be read.")
    elif not eval_set.held_out.episodes:
        why = (
            "None of the held-out recordings could be read"
            if len(Catalogue.open(run.catalogue).held_out_indices)
            else "Nothing was held out"
        )
        notes.append(f"{why}: the figures are on recordings that were trained on.")
    if eval_set.unreadable:
        count = "1 recording" if eval_set.unreadable == 1 else f"{eval_set.unreadable} recordings"
        notes.append(f"{count} of the evaluation set could not be read.")
    return eval_set, notes


def _training_store(run: RunDir, config: Config, unreadable: int = 0) -> EvalSet:
    index = ReplayIndex(run.open_replay(config))
    index.refresh()
    return EvalSet(index, ReplayIndex(run.path / "eval_set" / "held_out"), unreadable)


def sequences(store: ReplayIndex, config: Config, device: torch.device) -> list[TensorBatch]:
    """`evaluation.streams` sequences as batches of the training size, or longer: the same ones for every checkpoint."""
    e, t = config.evaluation, config.training
    size = min(t.batch_size, e.streams)
    length = max(t.batch_length, e.context_tokens + 1 + max(STEPS))  # room for the farthest step ahead
    sampler = ReplaySampler(store, size, length, 0.0, config.replay.cut_share, SEQUENCES_SEED)
    return [_to_tensors(sampler.sample(), device) for _ in range(-(-e.streams // size))]


def _to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    arrays = (batch.tokens.astype("float32"), batch.is_first, batch.action, batch.token_id, batch.mask)
    tokens, is_first, action, token_id, mask = (torch.from_numpy(array).to(device) for array in arrays)
    return TensorBatch(tokens, is_first, action, token_id, mask, bool(batch.mixed.all()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.evaluator", description="Evaluate one checkpoint of a run.")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, with config.yaml")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--final", action="store_true", help="evaluate every part of the state and write the report")
    options = parser.parse_args(arguments)
    logs.begin("evaluator", RunDir(options.run))
    if not options.final:
        os.nice(10)  # training goes first
        torch.set_num_threads(1)
    begin = time.monotonic()
    try:
        evaluate(RunDir(options.run), options.checkpoint, options.final)
    except PydreamingError as e:
        log.error("error: %s", e)
        return e.exit_code
    log.info("evaluated %s in %.1f s", options.checkpoint.name, time.monotonic() - begin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
