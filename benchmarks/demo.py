"""`make demo` on a folder, over several seeds: the demo rows of docs/experiments.md (README's table is by `benchmarks.quality`).

    python -m benchmarks.demo --audio ../shared/data/fsdd --out runs/benchmark --seeds 0 1 2

Each seed is a run of its own (about six minutes on two cores); one that is finished is not repeated. Prints a Markdown table with the mean
over seeds and its 95 % interval (Student's t), and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures.row import Row
from pydreaming.training.checkpoint import list_checkpoints

ROOT = Path(__file__).resolve().parent.parent


def run_demo(audio: Path, out: Path, seed: int, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Train and evaluate one seed, or read what an earlier call has left; the final evaluation's metrics.json."""
    run = out / f"seed-{seed}"
    if not (run / "report.html").is_file():
        command = [sys.executable, "-m", "workers.demo", str(audio), "--run.dir", str(out), "--run.name", run.name]
        subprocess.run([*command, "--run.seed", str(seed), *arguments], check=True, cwd=ROOT)
    last = list_checkpoints(run / "checkpoints")[-1]
    metrics: dict[str, Any] = json.loads((run / "evals" / last.name / "metrics.json").read_text(encoding="utf-8"))
    counters = json.loads((last / "state.json").read_text(encoding="utf-8"))["counters"]
    return metrics | {"counters": counters}


def table(results: list[dict[str, Any]]) -> list[Row]:
    """Rows of figures from the results of all seeds."""
    rows: list[Row] = []
    probes = {(p["label"], p["protocol"], p["features"]) for p in results[0]["probes"]}
    for label, protocol, features in sorted(probes):
        values = [
            p["linear"] for r in results for p in r["probes"] if (p["label"], p["protocol"], p["features"]) == (label, protocol, features)
        ]
        rows.append(Row(f"{label}, {protocol}: {features}", values))
    for figure in ("retrieval", "retrieval_copy", "gain", "gain_copy"):
        for k in results[0]["open_loop"][figure]:
            rows.append(Row(f"{figure} k = {k}", [r["open_loop"][figure][k] for r in results]))
    for figure in ("error", "error_copy", "error_mean"):
        rows.append(Row(f"next window: {figure}", [r["open_loop"][figure] for r in results]))
    rows += [Row(name, [float(r["counters"][name]) for r in results]) for name in ("step", "seconds")]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="make demo over several seeds, as a table")
    parser.add_argument("--audio", type=Path, required=True, help="folder to train on, for example FSDD")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the runs (default: runs/benchmark)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options, rest = parser.parse_known_args(arguments)
    rows = table([run_demo(options.audio, options.out, seed, rest) for seed in options.seeds])
    print(f"| figure | mean of {len(options.seeds)} seeds | ± 95 % | by seed |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.mean:.3f} | {row.interval:.3f} | {' '.join(f'{v:.3f}' for v in row.values)} |")
    summary = {row.name: {"mean": row.mean, "interval": row.interval, "values": row.values} for row in rows}
    (options.out / "table.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
