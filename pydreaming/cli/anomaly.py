"""`pydreaming anomaly fit` and `pydreaming anomaly score`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.anomaly.scoring import Scoring
    from pydreaming.analysis.inputs import Recording

PICTURE_S = 120.0  # seconds of a recording whose log-mel is shown in its picture
LABEL = "label"

FIT = (
    "Hear normal recordings and write what is normal into one file. At least 10 clips; a rate of false alarms of 0.05 needs 20, one of\n"
    "0.01 a hundred. A few long recordings can be cut into clips with --clip. Fit on recordings that the model was not trained on where\n"
    "you can: those it was trained on surprise it less than new ones will, and then there are more false alarms than asked for.\n\n"
    "--by names a column of the metadata (machine, operating state): a clip is then compared with normal clips of its own kind, where\n"
    "there are at least 8, else with all. A model that was trained with action.kind 'controls' is told its control columns besides.\n\n"
    "example:\n  pydreaming anomaly fit runs/my-run machines/ --normal normal --by machine --out detector.safetensors"
)
SCORE = (
    "Write one row per clip with how unusual it is.\n\n"
    "columns:\n"
    "  source                path of the recording\n"
    "  condition             that it was compared with, 'pooled' for all normal clips (with a detector fitted with --by)\n"
    "  start_s, end_s        s from the start of the recording\n"
    "  score                 how unusual: in standard deviations of normal clips, 0 is what normal clips are on average\n"
    "  p_value               share of normal clips that would score so high: small is unusual\n"
    "  alarm                 True where p_value is at most --false-alarms\n"
    "  score_surprise        part of the score: how untypical its surprise is, too predictable or too unpredictable\n"
    "  score_embedding       part of the score: how far its vectors lie from the nearest normal ones\n"
    "  fitted                True for a clip the detector was fitted on; it is judged without itself and the others of its fold\n\n"
    "--times writes the same for pieces of about a second, half of one apart: source, start_s, end_s, score, p_value, alarm. There,\n"
    "--false-alarms is the share of pieces of normal clips.\n\n"
    "With --normal, clips with that value in the column --label are normal and all others that have a value anomalous, and figures are\n"
    "printed by condition: AUC, and pAUC, the mean true-positive rate at false-positive rates up to 0.1 (DCASE's form: chance is 0.05,\n"
    "perfect 1); and the harmonic mean of the AUCs with its 95 % interval (bootstrap over clips). The table's metadata hold the same.\n\n"
    "example:\n  pydreaming anomaly score runs/my-run detector.safetensors machines/ --normal normal --out scores.csv --times times.csv"
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    layout = argparse.RawDescriptionHelpFormatter
    summary = "learn what is normal from recordings of it"
    fit = steps.add_parser("fit", help=summary, description=summary, epilog=FIT, formatter_class=layout)
    command.add_model(fit)
    fit.add_argument("inputs", metavar="NORMAL", nargs="+", help=command.INPUT_HELP)
    fit.add_argument("--out", required=True, help="detector to write (.safetensors)")
    fit.add_argument("--by", default="", metavar="COLUMN", help="column of the metadata that names the machine or state of a clip")
    _add_labels(fit, "take only clips with this value in --label (default: all inputs are normal)")
    fit.add_argument("--piece", type=command.positive, default=1.0, metavar="S", help="s that are judged as one (default: 1)")
    fit.add_argument("--clip", type=command.positive, default=None, metavar="S", help="cut recordings into clips of so many s")
    command.add_seed(fit, "seed of folds and samples (default: 0)", 0)
    command.add_running(fit)
    fit.set_defaults(step=_fit)

    summary = "score recordings with a detector"
    score = steps.add_parser("score", help=summary, description=summary, epilog=SCORE, formatter_class=layout)
    command.add_model(score)
    score.add_argument("detector", metavar="DETECTOR", help="file that `pydreaming anomaly fit` wrote with the same model")
    score.add_argument("inputs", metavar="INPUT", nargs="+", help=command.INPUT_HELP)
    score.add_argument("--out", default=command.STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    score.add_argument("--times", metavar="PATH", help="also write when: a table of pieces (.parquet, .npz or .csv)")
    score.add_argument(
        "--false-alarms",
        type=command.positive,
        default=0.05,
        metavar="RATE",
        help="share of normal clips that may be alarms (default: 0.05)",
    )
    _add_labels(score, "print figures; clips with this value in --label are normal, all others with a value anomalous")
    score.add_argument(
        "--picture",
        metavar="PATH",
        help=f"also draw log-mel and score: a .png for one recording, a folder for several; log-mel of the first {PICTURE_S:.0f} s",
    )
    command.add_running(score)
    score.set_defaults(step=_score)


def _add_labels(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--label", metavar="COLUMN", help=f"column of the metadata that --normal is a value of (default: {LABEL})")
    parser.add_argument("--normal", metavar="VALUE", help=meaning)


def _run(options: argparse.Namespace) -> int:
    if options.label is not None and options.normal is None:
        raise UsageError("--label names the column of --normal, which is missing")
    options.label = command.given(options.label, LABEL)
    code: int = options.step(options)
    return code


def _fit(options: argparse.Namespace) -> int:
    out = command.check_output(options.out, (".safetensors",))
    model = command.load(options)
    from pydreaming.analysis.anomaly.scoring import Fitting

    found = command.recordings(options.inputs, command.control_columns(model))
    normal = _only(found, options.label, options.normal)
    command.check_column(options.by, normal)
    fitting = Fitting(model, normal, options.by, options.piece, options.clip or 0.0, options.seed)
    failures = command.each(normal, fitting.add)
    if failures < len(normal):
        from pydreaming.evaluation.detector import Detector

        fitted = fitting.finish()
        detector = Detector(fitted.normal)
        fitted.save(out)
        left_out = f"; {len(found) - len(normal)} files without {options.label} '{options.normal}' left out" if options.normal else ""
        named = f"; conditions of their own: {', '.join(detector.conditions) or 'none'}" if options.by else ""
        command.say(f"fitted on {fitting.clips} normal clips, by {' and '.join(detector.parts)}{named}{left_out}")
        least = detector.clip_ranks.least
        command.say(f"rarest rate of false alarms that it can be asked for: {least:.2g}")
    return command.finish(failures, len(normal), "a detector", out)


def _score(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    times = None if options.times is None else command.check_output(options.times, command.TABLES)
    from pydreaming.analysis.anomaly.detector_file import load_detector

    fitted = load_detector(options.detector)
    model = command.load(options)
    from pydreaming.analysis.anomaly.pictures import draw_scores
    from pydreaming.analysis.anomaly.scoring import Scoring, write_scores, write_times
    from pydreaming.analysis.inputs import STDIN

    scoring = Scoring(model, fitted.check(model, options.detector))
    scoring.alarm_threshold(options.false_alarms)  # refuses a rate before anything is heard
    found = command.recordings(options.inputs, command.control_columns(model))
    pictures = command.picture_paths(options.picture, found)
    if pictures and any(recording.name == STDIN for recording in found):
        raise UsageError("standard input can be heard once only: there is no --picture of it")

    def one(recording: Recording) -> None:
        clips = scoring.add(recording)
        if pictures:
            draw_scores(pictures[recording.name], scoring, recording, clips, options.false_alarms, PICTURE_S)

    failures = command.each(found, one)
    if scoring.clips:
        label = options.label if options.normal is not None else ""
        about = _say_figures(scoring, options.label, options.normal) if label else {}
        command.deliver(out, lambda path: write_scores(path, scoring, options.false_alarms, label, about))
        if times is not None:
            write_times(times, scoring, options.false_alarms)
        alarms = sum(clip.score.p_value <= options.false_alarms for clip in scoring.clips)
        command.say(f"{alarms} of {len(scoring.clips)} clips are alarms at a false-alarm rate of {options.false_alarms:g}")
    return command.finish(failures, len(found), f"{len(scoring.clips)} rows", out)


def _say_figures(scoring: Scoring, label: str, normal: str) -> dict[str, object]:
    """Print figures; the same for the table's metadata."""
    row = scoring.figures(label, normal)
    if row is None:
        command.complain(f"no figures: no condition has both clips with {label} '{normal}' and others")
        return {}
    width = max(len(name) for name in row.auc)
    for name, value in row.auc.items() if len(row.auc) > 1 else ():
        command.say(f"  {name:<{width}}  AUC {value:.3f}  pAUC {row.partial_auc[name]:.3f}")
    low, high = row.auc_interval
    interval = f"{'harmonic mean; ' if len(row.auc) > 1 else ''}95 % interval {low:.3f} to {high:.3f}"
    command.say(f"AUC {row.auc_mean:.3f} ({interval}), pAUC {row.partial_auc_mean:.3f} (p = 0.1, chance 0.05)")
    return {
        "auc": row.auc,
        "pauc_0.1_dcase": row.partial_auc,
        "auc_harmonic_mean": row.auc_mean,
        "auc_interval": row.auc_interval,
        "pauc_mean": row.partial_auc_mean,
    }


def _only(found: list[Recording], label: str, normal: str | None) -> list[Recording]:
    if normal is None:
        return found
    chosen = [recording for recording in found if recording.labels.get(label) == normal]
    if not chosen:
        raise UsageError(f"no recording has '{normal}' in column '{label}'; columns: {command.columns(found)}")
    return chosen


COMMAND = Command(
    "anomaly",
    "find unusual sounds after hearing normal ones only",
    "Two steps: fit a detector on normal recordings, then score any recordings with it. Each has a --help of its own.\n\n"
    "  pydreaming anomaly fit MODEL NORMAL ... --out detector.safetensors\n"
    "  pydreaming anomaly score MODEL DETECTOR INPUT ... --out scores.csv\n\n"
    "example:\n"
    "  pydreaming anomaly fit runs/my-run normal/ --out detector.safetensors\n"
    "  pydreaming anomaly score runs/my-run detector.safetensors today/ --out scores.csv --times times.csv --picture pictures/",
    _arguments,
    _run,
)
