"""Whatever stands on the command line or in a preset, the answer is a configuration or one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
