"""Presets and words of the command line as plain values, before anything is known about keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pydreaming.config_hints import nearest, quote
from pydreaming.errors import ConfigError


def read_preset(name: str, config_dir: Path) -> dict[str, dict[str, Any]]:
    """The sections of a preset: a YAML file, or the name of one in `config_dir`. Raises ConfigError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else config_dir / f"{name}.yaml"
    if not path.is_file() and ("/" in name or path == Path(name)):
        raise ConfigError(f"no file {quote(name)}")
    if not path.is_file():
        known = sorted(p.stem for p in config_dir.glob("*.yaml"))
        raise ConfigError(f"no preset {quote(name)}{nearest(name, known)}; there are: {', '.join(known)}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise ConfigError(f"{path} must hold sections of keys, as configs/defaults.yaml does")
    return content


def parse_overrides(arguments: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Pairs of `section.key` and word, from `--section.key word` or `--section.key=word`. Raises ConfigError."""
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"expected --section.key before {quote(flag)}")
        dotted, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"{quote(flag)} needs a value")
            text = rest.pop(0)
        yield dotted, text


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError for whatever is wrong."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as e:
        # PyYAML lets these escape for words such as "!!bool x", "!!timestamp x" or a thousand brackets.
        raise ValueError(str(e)) from e
