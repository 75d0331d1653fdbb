"""Hostile input, at random and in bulk: messages into a real coordinator, damaged files into everything that reads files.

    python -m benchmarks.hostile [--messages 1000000] [--files 2000] [--seed 0] [--json out.json]

Messages go over real sockets to a coordinator in a process that may map 256 MB more than at its begin, may start no process, unpickle
nothing and write nowhere but into its run; every 1,000 messages it has to answer. Half of them are well-formed lies: leases, names,
counts and files by somebody who knows the protocol. Files are damaged seeds of each kind (audio in 20 containers, Parquet, a model's
weights and configuration, manifests of nine layouts, settings), read in such a process, too, with 1 GB. The same seed sends the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.hostile.confine import FellError
from benchmarks.hostile.inputs import KINDS, bombard
from benchmarks.hostile.messages import flood

MB = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Run all, print what was withstood; 1 where something was not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="pydreaming-hostile-"))
    results: dict[str, object] = {}
    try:
        if options.messages:
            m = flood(options.messages, options.seed, folder)
            results["messages"] = asdict(m)
            print(
                f"messages    {m.messages:>9,} in {m.seconds:6.0f} s   {m.dropped:,} dropped   peak RSS {m.peak_rss / MB:.0f} MB"
                f" ({m.begin_rss / MB:.0f} at the begin)   log {m.log_bytes / MB:.1f} MB"
            )
        for kind in KINDS if options.files else ():
            (o,) = bombard([kind], options.files, options.seed, folder / kind)
            results[kind] = asdict(o)
            print(
                f"{kind:<12}{o.files:>9,} in {o.seconds:6.0f} s   {o.refused:,} refused   peak RSS {o.peak_rss / MB:.0f} MB"
                f" ({o.begin_rss / MB:.0f} at the begin)   slowest {o.slowest_s:.1f} s",
                flush=True,
            )
    except FellError as e:
        print(f"not withstood: {e}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
