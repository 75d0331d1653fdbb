"""The honest comparison: the world model beside its peers and baselines at the same seconds, over seeds.

    python -m benchmarks.quality --data ../shared/data --out runs/quality --seeds 0 1 2 --seconds 300 --jobs 2

A *job* trains one row on one corpus with one seed (and, where speakers are left out, without one of them), evaluates the checkpoint, and
leaves OUT/<job>/figures.json. Finished jobs are not repeated while their settings stay the same, so a call that was interrupted goes on
where it was. The seconds are CPU time of sampling and steps on one core. On a busy host a second of it
does less (two cores that share what a step needs give 1.25 times the steps of one), so `--pace world_model=10.6` gives a row the steps that
a quiet core makes in that time.
Writes OUT/quality.md and OUT/quality.json after every job. Exit code 1: a job has failed (its log is OUT/<job>/log.txt).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.figures.jobs import CORPORA, ROWS, Job, Plan, make_plan
from benchmarks.figures.lock import alone
from benchmarks.figures.tables import Figures, report, summary, trained_by
from benchmarks.figures.version import ROOT, version
from pydreaming.errors import PydreamingError
from workers.layout import replace_json

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    try:
        plan = make_plan(
            options.data.resolve(),
            options.out.resolve(),
            options.seconds,
            options.set,
            options.only,
            options.rows,
            options.seeds,
            dict(options.pace),
        )
        if options.job:
            return _do(plan, options.job)
        return _run(plan, words, options.jobs, options.again, options.show)
    except PydreamingError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code


def _run(plan: Plan, words: list[str], at_once: int, again: bool, show: bool) -> int:
    """Do what is not done yet, `at_once` jobs side by side, and write the tables."""
    results = {job: found for job in plan.jobs if (found := _finished(plan, job)) is not None}
    left = [] if show else [job for job in plan.jobs if again or job not in results]
    print(f"{len(plan.jobs)} jobs, {len(plan.jobs) - len(left)} of them done", flush=True)
    problems: dict[Job, str] = {}
    pool = ThreadPoolExecutor(at_once)
    try:
        futures = {pool.submit(_start, plan, job, words, again): job for job in left}
        for number, future in enumerate(as_completed(futures), start=1):
            job, problem = futures[future], future.result()
            if problem:
                problems[job] = f"failed: {problem}"
                results.pop(job, None)
            elif (found := _finished(plan, job)) is not None:
                results[job] = found
            print(f"[{number}/{len(left)}] {job.name}: {problems.get(job, 'done')}", flush=True)
            _write(plan, results, problems)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C reaches the jobs at work by itself
    print("\n" + _write(plan, results, problems))
    return 1 if problems else 0


def _start(plan: Plan, job: Job, words: list[str], again: bool) -> str:
    """Do a job in a process of its own, once no other call is at it; empty, or the last line of one that failed."""
    folder = plan.folder(job)
    with alone(folder / "lock"):
        if not again and _finished(plan, job) is not None:  # by the other call
            return ""
        command = [sys.executable, "-m", "benchmarks.quality", *words, "--data", str(plan.data), "--out", str(plan.out), "--job", job.name]
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | ONE_THREAD, check=False)
    if done.returncode == 0:
        return ""
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")


def _do(plan: Plan, name: str) -> int:
    """One job in this process."""
    from benchmarks.figures.suites import measure  # torch, which the parent does not need

    job = next((job for job in plan.jobs if job.name == name), None)
    if job is None:
        raise PydreamingError(f"no job {name}; there are: {', '.join(job.name for job in plan.jobs)}")
    plan.folder(job).mkdir(parents=True, exist_ok=True)
    figures = plan.folder(job) / "figures.json"
    figures.unlink(missing_ok=True)
    code = version()  # before the work begins
    measured = measure(job, plan.config(job), plan.out)
    content = {"digest": plan.digest(job), "job": dataclasses.asdict(job), "code": code, **dataclasses.asdict(measured)}
    replace_json(figures, content | {"config": plan.config(job).to_dict()})
    return 0


def _finished(plan: Plan, job: Job) -> dict[str, Any] | None:
    """What a job has left; None where it is not done, or was done with other settings."""
    path = plan.folder(job) / "figures.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("digest") == plan.digest(job) else None


def _write(plan: Plan, results: dict[Job, dict[str, Any]], problems: dict[Job, str]) -> str:
    """quality.md and quality.json; the text of the former."""
    figures = Figures(plan.jobs, results, problems)
    text = report(figures, results, plan.seconds)
    shown = ("digest", "code", "training", "evaluation_s", "notes")
    jobs = {job.name: {key: found[key] for key in shown} | {"trained_by": trained_by(job, found)} for job, found in results.items()}
    content = {"seconds": plan.seconds, "pace": dict(plan.pace), "settings": plan.settings, "figures": summary(figures), "jobs": jobs}
    replace_json(plan.out / "quality.json", content | {"problems": {job.name: why for job, why in problems.items()}})
    (plan.out / "quality.md").write_text(text, encoding="utf-8")
    return text


def _pace(text: str) -> tuple[str, float]:
    row, _, value = text.partition("=")
    if row not in ROWS or not float(value) > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no row with a number of steps a second")
    return row, float(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds fsdd, esc10, long and machines")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of the results (default: runs/quality)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU seconds of each training (default: 300)")
    parser.add_argument(
        "--pace",
        nargs="+",
        action="extend",
        type=_pace,
        default=[],
        metavar="ROW=STEPS_A_SECOND",
        help="train for seconds x pace steps instead; may be repeated",
    )
    parser.add_argument("--only", nargs="+", choices=CORPORA, default=list(CORPORA), help="corpora (default: all)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="rows (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="a setting for all jobs; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="jobs at once, each on one core (default: 1)")
    parser.add_argument(
        "--again",
        action="store_true",
        help="evaluate finished jobs anew, from the checkpoints that they have (tables say which version trained them)",
    )
    parser.add_argument("--show", action="store_true", help="only write the tables of what is there")
    parser.add_argument("--job", default="", help="do this one job in this process (what --jobs starts)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
