"""Whatever stands on the command line or in a preset, the answer is a configuration or one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydreaming.config import Config, config_from_dict, field_types, load_config, section_types
from pydreaming.errors import ConfigError

KEYS = [f"--{section}.{key}" for section in section_types() for key in field_types(section)]
DEFAULTS = load_config(["defaults"]).to_dict()
words = st.one_of(
    st.text(max_size=30),
    st.text("[]{},:!&*'\"0123456789.-eE# \n|>", max_size=20),
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["!!int ''", "!!float x", "!!timestamp x", "!!bool 1", "&a [*a]", "<<: 1", "---", "2001-99-99", "1:99"]),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


def answered_in_one_line(load: Callable[[], Config]) -> None:
    message = ""
    try:
        load()
    except ConfigError as e:
        message = str(e)
    assert len(message.splitlines()) <= 1


def attempt(overrides: list[str]) -> None:
    answered_in_one_line(lambda: load_config(["defaults"], overrides))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(words | st.sampled_from(KEYS) | words.map("--{}".format), max_size=4))
def test_arbitrary_words_raise_nothing_but_one_line(overrides: list[str]) -> None:
    attempt(overrides)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(KEYS), words)
def test_arbitrary_values_raise_nothing_but_one_line(key: str, value: str) -> None:
    attempt([key, value])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(KEYS), plain)
def test_arbitrary_plain_values_raise_nothing_but_one_line(key: str, value: Any) -> None:
    section, name = key.removeprefix("--").split(".")
    answered_in_one_line(lambda: config_from_dict(DEFAULTS | {section: DEFAULTS[section] | {name: value}}))


@pytest.mark.parametrize("key", ["model.encoder_layers", "run.name", "model.deter", "action.columns"])
def test_a_few_aliases_do_not_fill_the_memory(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    laughs = "".join(f"  x{i}: &x{i} [{', '.join([f'*x{i - 1}' if i else 'ha'] * 10)}]\n" for i in range(30))  # 10^30 words
    (tmp_path / "laughs.yaml").write_text(f"junk:\n{laughs}{section}:\n  {name}: *x29\n")
    answered_in_one_line(lambda: load_config(["defaults", str(tmp_path / "laughs.yaml")]))
    (tmp_path / "laughs.yaml").write_text(f"{section}:\n  {name}: &x0 [ha, ha]\n" + laughs.replace("&x0 ", "&y "))
    answered_in_one_line(lambda: load_config(["defaults", str(tmp_path / "laughs.yaml")]))
    nested = "&a [ha, ha]"
    for letter in "bcdefghijklmnopqrstuvwxyz":
        nested = f"&{letter} [{nested}, *{chr(ord(letter) - 1)}, *{chr(ord(letter) - 1)}]"  # 3^25 words
    attempt([f"--{key}", nested])
