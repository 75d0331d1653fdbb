"""Every key of the configuration is read by the program: a key that does nothing misleads whoever sets it.

A read is `<section expression>.<key>`, where the expression is `<anything>.<section>`, or a name or attribute that holds that section in
its module: assigned from such an expression, or annotated with the section's class (arguments, fields, attributes).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pydreaming.config import field_types, section_types

ROOT = Path(__file__).resolve().parents[2]
OWN = {ROOT / "pydreaming" / "config.py", ROOT / "pydreaming" / "config_hints.py"}
CLASSES = {kind.__name__: section for section, kind in section_types().items()}


def sections_of(node: ast.expr, names: dict[str, set[str]]) -> set[str]:
    """Sections that an expression may hold; `names` are those known by the last part of their name."""
    if isinstance(node, ast.Attribute):
        return {node.attr} & section_types().keys() | names.get(node.attr, set())
    return names.get(node.id, set()) if isinstance(node, ast.Name) else set()


def annotated(node: ast.expr | None) -> set[str]:
    """Sections whose class an annotation names."""
    return {CLASSES[n.id] for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in CLASSES} if node is not None else set()


def pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=False))
    return [(target, value)]


def reads(source: str) -> set[tuple[str, str]]:
    """(section, key) pairs that a module reads."""
    tree = ast.parse(source)
    names: dict[str, set[str]] = {}

    def learn(target: ast.AST, sections: set[str]) -> None:
        name = getattr(target, "attr", None) or getattr(target, "id", None) or getattr(target, "arg", None)
        if name and sections:
            names.setdefault(name, set()).update(sections)

    for _ in range(2):  # an alias may be made of another
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                learn(node, annotated(node.annotation))
            elif isinstance(node, ast.AnnAssign):
                learn(node.target, annotated(node.annotation) | (sections_of(node.value, names) if node.value else set()))
            elif isinstance(node, ast.NamedExpr):
                learn(node.target, sections_of(node.value, names))
            elif isinstance(node, ast.Assign):
                for whole in node.targets:
                    for target, value in pairs(whole, node.value):
                        learn(target, sections_of(value, names))
    attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)]
    return {(section, n.attr) for n in attributes for section in sections_of(n.value, names)}


def test_the_scan_knows_the_ways_in_which_a_key_is_read() -> None:
    assert ("training", "clip") in reads("norm(self.config.training.clip)")
    assert ("training", "clip") in reads("t = config.training\nprint(t.clip)")
    assert ("features", "n_fft") in reads("f, a = config.features, config.action\nf.n_fft")
    assert ("model", "deter") in reads(
        "class A:\n def __init__(self, config: ModelConfig):\n  self.config = config\n def f(self):\n  self.config.deter"
    )
    assert ("model", "deter") in reads("class A:\n config: ModelConfig | None\n def f(self):\n  return self.config.deter")
    assert ("training", "clip") not in reads("config.training.clip = 3")
    assert ("training", "clip") not in reads("other.clip; config.training; 'config.training.clip'")


@pytest.fixture(scope="module")
def read_somewhere() -> set[tuple[str, str]]:
    files = [*(ROOT / "pydreaming").rglob("*.py"), *(ROOT / "workers").rglob("*.py"), ROOT / "launch.py"]
    return set().union(*(reads(path.read_text(encoding="utf-8")) for path in files if path not in OWN))


@pytest.mark.parametrize(("section", "key"), [(s, k) for s in section_types() for k in field_types(s)])
def test_every_key_does_something(section: str, key: str, read_somewhere: set[tuple[str, str]]) -> None:
    # features.token_dim and the like, and action.dim, read these inside config.py.
    through_properties = {("action", "strides"): "dim", ("action", "columns"): "dim"}
    wanted = {(section, key), (section, through_properties.get((section, key), key))}
    assert wanted & read_somewhere, f"nothing reads {section}.{key}: use it or remove it from config.py and defaults.yaml"
