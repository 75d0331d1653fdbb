"""What to say about a wrong configuration key or value: the nearest right key, and what a key expects."""

from __future__ import annotations

import difflib
import reprlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

LARGEST = 10**12  # bound of numbers that have no other: refuses infinity, and whole numbers that fit no machine word
NEAR = 0.6  # likeness from which a name may have been meant; a worse one would lead astray
_SYNONYMS = {
    "number": "count",
    "num": "count",
    "n": "count",
    "epochs": "passes",
    "folder": "dir",
    "preset": "configs",
    "presets": "configs",
}
_LONGEST = 60  # characters of a user's word that are shown
_bounded = reprlib.Repr()  # a few YAML aliases, each a list of the one before, stand for more text than fits into memory
_bounded.maxlevel, _bounded.maxlist, _bounded.maxdict, _bounded.maxlong, _bounded.maxother = 3, 20, 20, 2 * _LONGEST, 2 * _LONGEST


def quote(value: Any) -> str:
    """A user's word or value for a message: on one line, and cut where it is long."""
    shown = repr(value) if isinstance(value, str) else _bounded.repr(value)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."


def nearest(wrong: str, right: Sequence[str]) -> str:
    """`; did you mean '...'?` with the most similar of some names; empty where none is near."""
    likeness, name = max(((_likeness(wrong, name), name) for name in right), default=(0.0, ""))
    return f"; did you mean '{name}'?" if likeness >= NEAR else ""


def nearest_option(wrong: str, options: Sequence[str], keys: Mapping[str, Sequence[str]]) -> str:
    """A hint on a wrong option of a command line that also takes `--section.key`. All names are without their dashes."""
    found = {name: _likeness(wrong, name) for name in options}
    found |= {f"{section}.{key}": _likeness(wrong, key) for section, names in keys.items() for key in names}
    best = max(found, key=lambda name: found[name])  # an option where a key is as near
    return f"; did you mean --{best}?" if found[best] >= NEAR else "; --help lists them"


def nearest_key(wrong: str, keys: Mapping[str, Sequence[str]]) -> str:
    """A hint on a wrong `section.key`; empty where no key is near.

    Args:
      wrong: what the user wrote, with or without a section.
      keys: the right keys by section.
    """
    if wrong in keys:
        return f"; '{wrong}' is a section, its keys are: {', '.join(keys[wrong])}"
    section, _, key = wrong.rpartition(".")
    # The key counts most: a right key in a wrong section is a likelier mistake than another key of the same section.
    near = [(s, k, likeness) for s, names in keys.items() for k in names if (likeness := _likeness(key, k)) >= NEAR]
    scores = {f"{s}.{k}": likeness + 0.4 * _likeness(section, s) ** 2 for s, k, likeness in near}
    return f"; did you mean '{max(scores, key=lambda name: scores[name])}'?" if scores else ""


def expected(kind: Any) -> str:
    """What a key of this type takes, e.g. `a whole number >= 1` or `one of belief, rssm`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        if description := next((meta.description for meta in arguments[1:] if meta.description), None):
            return str(description)
        limits = [f"{sign} {value:g}" for meta in arguments[1:] for sign, value in _limits(meta) if value is not None]
        return " ".join([expected(arguments[0]), " and ".join(limits)])
    if origin is typing.Literal:
        return f"one of {', '.join(arguments)}"
    if origin is list:
        return f"a list such as [x, y], each {expected(arguments[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _limits(meta: msgspec.Meta) -> list[tuple[str, float | None]]:
    top = None if meta.le == LARGEST else meta.le  # no one needs to be told
    return [(">=", meta.ge), (">", meta.gt), ("<=", top), ("<", meta.lt)]


def _likeness(wrong: str, right: str) -> float:
    """0 (nothing in common) to 1 (the same but for case and separators); knows initials and abbreviations (lr, num_mels, batch)."""
    a, b = (word.lower().replace("-", "_") for word in (wrong, right))
    if not a:
        return 0.0
    if a.replace("_", "") == b.replace("_", ""):
        return 1.0
    if _SYNONYMS.get(a) == b or a == "".join(part[:1] for part in b.split("_")):
        return 0.95
    likeness = difflib.SequenceMatcher(None, a, b).ratio()
    if a[0] == b[0] and _is_subsequence(a, b):
        likeness = max(likeness, 0.6 + 0.3 * len(a) / len(b))
    if set(a.split("_")) & set(b.split("_")):
        likeness = max(likeness, 0.7)
    return likeness


def _is_subsequence(short: str, long: str) -> bool:
    letters = iter(long)
    return all(letter in letters for letter in short)
