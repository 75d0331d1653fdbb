"""Choose packages from a lock with hashes: what some roots need, without packages that the image does without.

    python docker/subset_lock.py requirements.lock --roots numpy pyzmq > subset.lock
    python docker/subset_lock.py requirements.lock --project pyproject.toml --without 'nvidia-*' triton > subset.lock

Versions, markers and hashes stay as they are. What a package needs is read from the lock's own `# via` comments, so that nothing is
resolved again; install the result with `pip install --no-deps --require-hashes`.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LockError(ValueError):
    """The lock or a name given is not usable; the message says which."""


@dataclass(frozen=True)
class Entry:
    """One pinned package: its normalised name, its lines as they stand, and the packages that asked for it."""

    name: str
    text: str
    via: frozenset[str]


def normalise(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(lock: str) -> list[Entry]:
    """Entries of a lock, in order. A package may stand there twice, for different markers. Raises LockError."""
    blocks: list[list[str]] = []
    for line in lock.splitlines():
        if line.strip() and not line.startswith((" ", "#")):
            blocks.append([])
        if blocks and line.strip():
            blocks[-1].append(line)
    return [_entry(lines) for lines in blocks]


def _entry(lines: Sequence[str]) -> Entry:
    name, pinned, _ = lines[0].partition("==")
    if not pinned or not any("--hash=" in line for line in lines):
        raise LockError(f"'{lines[0]}' is not pinned with a hash")
    via = [line.strip().removeprefix("#").strip().removeprefix("via").strip() for line in lines if line.strip().startswith("#")]
    return Entry(normalise(name), "\n".join(lines), frozenset(_names(word for word in via if word)))


def _names(requirements: Iterable[str]) -> list[str]:
    """Normalised names of requirements such as `torch==2.11.0 ; marker`."""
    return [normalise(found[0]) for found in map(_NAME.match, requirements) if found]


def select(entries: Sequence[Entry], roots: Iterable[str], without: Sequence[str]) -> list[Entry]:
    """The entries that `roots` need, directly or not, in the lock's order.

    Args:
      roots: names of packages. without: patterns of names to leave out, and with them what only they need.
    Raises:
      LockError: a root that the lock does not hold, or a pattern that leaves nothing out (a misspelling, or an outdated list).
    """
    needs: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for parent in entry.via:
            needs[parent].add(entry.name)
    left_out = {e.name for e in entries if any(fnmatch.fnmatchcase(e.name, pattern) for pattern in without)}
    for pattern in without:
        if not fnmatch.filter(left_out, pattern):
            raise LockError(f"nothing in the lock is called '{pattern}'")
    wanted = [normalise(root) for root in roots]
    if missing := set(wanted) - {e.name for e in entries}:
        raise LockError(f"the lock does not hold {', '.join(sorted(missing))}")
    kept: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in kept and name not in left_out:
            kept.add(name)
            wanted.extend(needs[name])
    return [e for e in entries if e.name in kept]


def project_roots(pyproject: Path) -> list[str]:
    """What a project needs to run, without its extras."""
    with pyproject.open("rb") as file:
        return _names(tomllib.load(file)["project"]["dependencies"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the subset; 2 when it cannot be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lock", type=Path)
    roots = parser.add_mutually_exclusive_group(required=True)
    roots.add_argument("--roots", nargs="+", metavar="NAME", help="packages to keep, with all they need")
    roots.add_argument("--project", type=Path, metavar="PYPROJECT", help="keep what this project needs to run")
    parser.add_argument("--without", nargs="*", default=[], metavar="PATTERN", help="packages to leave out, such as 'nvidia-*'")
    given = parser.parse_args(arguments)
    try:
        entries = parse(given.lock.read_text(encoding="utf-8"))
        kept = select(entries, given.roots or project_roots(given.project), given.without)
    except (LockError, OSError, KeyError, tomllib.TOMLDecodeError) as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    sys.stdout.write("\n".join(entry.text for entry in kept) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
