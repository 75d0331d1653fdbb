"""A real, short run as a whole: how soon it trains, what the training thread waits for, what logging costs it, how fast audio comes in.

    python -m benchmarks.whole [--audio ../shared/data/fsdd] [--seconds 60] [--json out.json] [--quick]

`launch.py` is started with the presets that `make demo` takes for the folder, and ended once training is over, before the final evaluation.
All figures are read from what the run leaves: its spool, its status files and its configuration.

    start     from the call of launch.py: the coordinator listens, the learner has loaded everything, the first step is done
    shares    of the training thread's wall time, `busy/*`: weighted by the intervals that they are of; and of the last quarter of the run
    logging   `Spool.metrics` with the run's own last metrics, many times; and as the training thread has measured it (`busy/append_us`)
    tokens    collected per second, until the replay ratio or the end of a pass makes workers wait: the best second of the run

The run is repeated for the start alone (`--starts`), as the first one also warms the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pydreaming.tracking.live import read_run
from pydreaming.tracking.spool import SPOOL, Metrics, Spool, Start, read_events
from workers.demo import presets_for
from workers.layout import RunDir

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "pydreaming" / "samples" / "digits"
BUSY = ("data_wait", "step", "log", "save")
POLL_S = 0.1
IMPORTS = "import time, sys; import workers.learner; print(time.process_time(), 'mlflow' in sys.modules)"


def imports(repeats: int) -> dict[str, Any]:
    """CPU seconds that a fresh interpreter takes to load the learner, and whether that loads MLflow."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = [
        subprocess.run([sys.executable, "-c", IMPORTS], env=environment, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(repeats)
    ]
    return {"cpu_s": [float(seconds) for seconds, _ in found], "mlflow": any(loaded == "True" for _, loaded in found)}


def run_once(audio: Path, folder: Path, name: str, arguments: list[str], until_first_step: bool = False) -> dict[str, Any]:
    """Launch a run and end it after training, or after its first step; what it left."""
    words = ["--configs", *presets_for(audio), "--source.path", str(audio), "--run.dir", str(folder), "--run.name", name]
    run, tokens = RunDir(folder / name), list[tuple[float, int]]()
    with (folder / f"{name}.log").open("wb") as output:
        begin = time.time()
        process = subprocess.Popen([sys.executable, "launch.py", *words, *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            listening = 0.0
            while process.poll() is None:
                time.sleep(POLL_S)
                if not run.config.is_file():
                    continue
                if not listening and run.coordinator.is_file():
                    listening = time.time() - begin
                now = read_run(run.path)
                if now.collection is not None:
                    tokens.append((now.collection.time, now.collection.written_tokens))
                if now.learner is not None and (until_first_step or now.learner.phase != "training"):
                    break
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
    events = [record.event for record in read_events(run.path / SPOOL)] if (run.path / SPOOL).is_file() else []
    metrics = [event for event in events if isinstance(event, Metrics)]
    first = next((event for event in metrics if "busy/first_step_s" in event.values), None)
    if first is None:
        raise SystemExit((folder / f"{name}.log").read_text())
    ready = next(event.time for event in events if isinstance(event, Start)) / 1e3 - begin
    return {
        "listening_s": listening, "learner_ready_s": ready, "first_step_s": first.time / 1e3 - begin,
        "learner_cpu_s": first.values["busy/first_step_cpu_s"], "metrics": metrics, "tokens": tokens,
    }  # fmt: skip


def shares(metrics: list[Metrics], last: float = 1.0) -> dict[str, float]:
    """Of the training thread's wall time, over the last part of the run: means of `busy/*` weighted by their intervals.

    The first interval is left out: it goes back to before there was anything to train on.
    """
    rows = [event for event in metrics if "busy/data_wait" in event.values]
    lengths = np.diff([event.time for event in rows])
    keep = max(1, round(last * len(lengths)))
    weights = lengths[-keep:] / lengths[-keep:].sum()
    return {name: float(np.dot(weights, [event.values[f"busy/{name}"] for event in rows[-keep:]])) for name in BUSY}


def append_times(folder: Path, values: dict[str, float], count: int) -> dict[str, list[float]]:
    """µs of `count` calls of Spool.metrics: the thread's CPU time, and wall time, in which others had the core as well."""
    spool, cpu, wall = Spool(folder / "spool.jsonl"), [], []
    for step in range(count):
        begin = time.perf_counter_ns(), time.thread_time_ns()
        spool.metrics(step, values)
        cpu.append((time.thread_time_ns() - begin[1]) / 1e3)
        wall.append((time.perf_counter_ns() - begin[0]) / 1e3)
    spool.close()
    return {"cpu": cpu, "wall": wall}


def best_rate(tokens: list[tuple[float, int]]) -> float:
    """Most tokens per second between two looks a second or more apart."""
    looks = sorted(dict(tokens).items())
    pairs = [(b, a) for i, a in enumerate(looks) for b in looks[i + 1 : i + 30] if b[0] - a[0] >= 1.0]
    return max(((b[1] - a[1]) / (b[0] - a[0]) for b, a in pairs), default=0.0)


def measure(audio: Path, seconds: float, starts: int, repeats: int, count: int, arguments: list[str]) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {"imports": imports(repeats)}
    length = ["--training.seconds", str(seconds), "--evaluation.every_s", "0", *arguments]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = run_once(audio, folder, "whole", length)
        begun = [run_once(audio, folder, f"start-{i}", length, until_first_step=True) for i in range(starts)] or [whole]
        metrics = whole["metrics"]
        found["start"] = {key: [run[key] for run in begun] for key in ("listening_s", "learner_ready_s", "first_step_s", "learner_cpu_s")}
        found["busy"], found["busy_at_the_end"] = shares(metrics), shares(metrics, 0.25)
        logged = [event.values for event in metrics if "busy/append_us" in event.values]
        found["steps_per_s"] = statistics.median(values["machine/steps_per_s"] for values in logged)
        found["metrics_in_an_event"] = len(logged[-1])
        found["append_us"] = append_times(folder, dict(logged[-1]), count)
        found["append_us_in_the_run"] = [values["busy/append_us"] for values in logged[1:]]
        found["tokens_per_s"] = best_rate(whole["tokens"])
    return found


def report(found: dict[str, Any]) -> str:
    """Markdown."""
    start, count = found["start"], len(found["append_us"]["cpu"])
    median, p99 = ({kind: np.quantile(us, q) for kind, us in found["append_us"].items()} for q in (0.5, 0.99))
    own = found["append_us_in_the_run"] or [float("nan")]
    rows = [
        (f"learner's imports, CPU s ({'with' if found['imports']['mlflow'] else 'without'} MLflow)", found["imports"]["cpu_s"]),
        ("call of launch.py -> coordinator listens, s", start["listening_s"]),
        ("-> learner has loaded everything, s", start["learner_ready_s"]),
        ("-> first step, s", start["first_step_s"]),
        ("the learner's CPU s until then", start["learner_cpu_s"]),
    ]
    lines = ["| start | median | range |", "|---|---:|---|"]
    lines += [f"| {name} | {statistics.median(v):.2f} | {min(v):.2f} – {max(v):.2f} |" for name, v in rows]
    lines += ["", "| share of the training thread's time | whole run | last quarter |", "|---|---:|---:|"]
    lines += [f"| `busy/{name}` | {found['busy'][name]:.2%} | {found['busy_at_the_end'][name]:.2%} |" for name in BUSY]
    lines += [
        "",
        f"{found['steps_per_s']:.1f} steps/s. Workers' best second: {found['tokens_per_s']:,.0f} tokens/s. An event of "
        f"{found['metrics_in_an_event']} metrics, {count:,} times: {median['cpu']:.0f} µs of CPU, p99 {p99['cpu']:.0f} µs;",
        f"wall {median['wall']:.0f} µs, p99 {p99['wall']:.0f} µs. In the run, wall: median {statistics.median(own):.0f} µs, "
        f"most {max(own):.0f} µs.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=BUNDLED, help="folder to train on, for example FSDD (default: the bundled digits)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training (default 60)")
    parser.add_argument("--starts", type=int, default=3, help="further launches, to the first step only (default 3)")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a tiny run, for the tests")
    options, rest = parser.parse_known_args()
    if options.quick:
        found = measure(options.audio, min(options.seconds, 3.0), 0, 1, 200, ["--training.log_s", "0.5", *rest])
    else:
        found = measure(options.audio, options.seconds, options.starts, 5, 20_000, rest)
    print(report(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
