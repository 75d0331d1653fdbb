"""Presets merge, overrides win, and every mistake is answered in one line that helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pydreaming.config import CONFIG_DIR, Config, config_from_dict, field_types, load_config, section_types
from pydreaming.errors import ConfigError

EVERY_KEY = [(section, key) for section in section_types() for key in field_types(section)]
PRESETS = sorted(p.stem for p in CONFIG_DIR.glob("*.yaml"))


def preset(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def message(*overrides: str, names: tuple[str, ...] = ("defaults",)) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(names, overrides)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert caught.value.exit_code == 2
    return text


def test_defaults_hold_exactly_the_keys_of_the_dataclasses() -> None:
    content = yaml.safe_load((CONFIG_DIR / "defaults.yaml").read_text(encoding="utf-8"))
    assert [(section, key) for section, keys in content.items() for key in keys] == EVERY_KEY  # in the same order, too


def test_every_key_of_the_defaults_says_what_it_is() -> None:
    for line in (CONFIG_DIR / "defaults.yaml").read_text(encoding="utf-8").splitlines():
        if re.match(r"  \w+:", line):
            assert re.search(r"  # \S.{5,}", line), f"no comment: {line}"


@pytest.mark.parametrize(("section", "key"), [("source", "kind"), ("objective", "name"), ("model", "latents"), ("training", "capture")])
def test_the_comment_of_a_choice_names_all_choices(section: str, key: str) -> None:
    text = (CONFIG_DIR / "defaults.yaml").read_text(encoding="utf-8").partition(f"\n{section}:\n")[2]
    comment = re.search(rf"^  {key}: \S+ +# (.+)$", text, re.MULTILINE)
    assert comment is not None
    missing = [choice for choice in get_args(field_types(section)[key]) if not re.search(rf"\b{choice}\b", comment.group(1))]
    assert missing == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_on_top_of_the_defaults_and_begins_with_its_purpose(name: str) -> None:
    config = load_config(["defaults", name])
    assert config.features.token_dim == config.features.token_frames * config.features.n_mels
    assert (CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


def test_presets_merge_key_by_key_in_order_and_overrides_come_last(tmp_path: Path) -> None:
    first = preset(tmp_path, "training: {steps: 5, clip: 2.0}\n", "first.yaml")
    second = preset(tmp_path, "training: {steps: 6}\nrun: {seed: 3}\n", "second.yml")
    config = load_config(["defaults", first, second], ["--run.seed", "4"])
    defaults = load_config(["defaults"])
    assert (config.training.steps, config.training.clip, config.run.seed) == (6, 2.0, 4)
    assert config.training.batch_size == defaults.training.batch_size
    assert load_config(["defaults", second, first]).training.steps == 5


def test_an_empty_preset_changes_nothing(tmp_path: Path) -> None:
    assert load_config(["defaults", preset(tmp_path, "# nothing\n")]) == load_config(["defaults"])


@pytest.mark.parametrize(
    ("words", "section", "key", "value"),
    [
        (["--training.steps", "7"], "training", "steps", 7),
        (["--training.steps=7"], "training", "steps", 7),
        (["--training.learning_rate", "1e-3"], "training", "learning_rate", 0.001),
        (["--model.detach_latents", "false"], "model", "detach_latents", False),
        (["--model.dynamics", "rssm"], "model", "dynamics", "rssm"),
        (["--action.strides", "[1, 3]"], "action", "strides", [1, 3]),
        (["--action.strides", "3"], "action", "strides", [3]),
        (["--action.columns", "[speed, turn]"], "action", "columns", ["speed", "turn"]),
        (["--run.name", "2026"], "run", "name", "2026"),
        (["--run.name=a=b"], "run", "name", "a=b"),
        (["--training.device", "cuda:1"], "training", "device", "cuda:1"),
        (["--source.path", "--odd"], "source", "path", "--odd"),
        (["--training.steps", "1", "--training.steps", "2"], "training", "steps", 2),
    ],
)
def test_overrides_take_the_type_of_their_key(words: list[str], section: str, key: str, value: object) -> None:
    got = getattr(getattr(load_config(["defaults"], words), section), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("training.lr", "training.learning_rate"),
        ("training.batchsize", "training.batch_size"),
        ("training.batch-size", "training.batch_size"),
        ("training.Steps", "training.steps"),
        ("trainning.steps", "training.steps"),
        ("train.batch_size", "training.batch_size"),
        ("model.batch_size", "training.batch_size"),
        ("learning_rate", "training.learning_rate"),
        ("workers.number", "workers.count"),
        ("training.wd", "training.weight_decay"),
        ("features.mels", "features.n_mels"),
        ("features.sr", "features.sample_rate"),
        ("replay.capacity", "replay.capacity_tokens"),
        ("objective.temp", "objective.temperature"),
        ("optimizer.learning_rate", "training.learning_rate"),
    ],
)
def test_a_wrong_key_gets_the_key_that_was_meant(wrong: str, right: str) -> None:
    assert message(f"--{wrong}", "1") == f"unknown key '{wrong}'; did you mean '{right}'?"


def test_a_section_in_place_of_a_key_lists_its_keys() -> None:
    assert "'tracking' is a section, its keys are: uri, experiment, flush_s" in message("--tracking", "x")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--training.steps", "many"], "key 'training.steps': expected a whole number >= 0, got 'many'"),
        (["--training.steps", "1.5"], "key 'training.steps': expected a whole number >= 0, got '1.5'"),
        (["--training.steps", "-1"], "key 'training.steps': expected a whole number >= 0, got '-1'"),
        (["--training.steps", "9" * 30], "expected a whole number >= 0"),
        (["--training.clip", "0"], "key 'training.clip': expected a number > 0, got '0'"),
        (["--training.learning_rate", "nan"], "expected a number > 0, got 'nan'"),
        (["--training.seconds", "inf"], "expected a number >= 0, got 'inf'"),
        (["--augment.probability", "1.1"], "key 'augment.probability': expected a number >= 0 and <= 1, got '1.1'"),
        (["--model.unimix", "1"], "key 'model.unimix': expected a number >= 0 and < 1, got '1'"),
        (["--model.dynamics", "foo"], "key 'model.dynamics': expected one of belief, rssm, got 'foo'"),
        (["--model.detach_latents", "maybe"], "key 'model.detach_latents': expected true or false, got 'maybe'"),
        (["--action.strides", "[1,"], "key 'action.strides': expected a list such as [x, y], each a whole number >= 1, got '[1,'"),
        (["--action.strides", "[0]"], "each a whole number >= 1, got [0]"),
        (["--action.columns", "[[a]]"], "each text, got [['a']]"),
        (["--action.strides", "!!bool x"], "key 'action.strides': expected a list"),
        (["--action.strides", "2001-99-99"], "key 'action.strides': expected a list"),
        (["--action.strides", "[" * 5000], "key 'action.strides': expected a list"),
        (["--run.name", "a\0b"], "key 'run.name': 'a\\x00b' is not UTF-8 text"),
        (["--run.name", "\udcff"], "key 'run.name': '\\udcff' is not UTF-8 text"),
        (["training.steps", "5"], "expected --section.key before 'training.steps'"),
        (["--training.steps"], "'--training.steps' needs a value"),
        (["--two\nlines.x", "1"], "unknown key 'two\\nlines.x'"),
    ],
)
def test_a_wrong_value_says_what_was_expected(words: list[str], text: str) -> None:
    assert text in message(*words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--features.win_length", "513"], "features.win_length must not exceed features.n_fft"),
        (["--features.f_min", "4000", "--features.f_max", "3000"], "features.f_min must be below features.f_max"),
        (["--features.f_min", "9000"], "features.f_min must be below features.f_max"),
        (["--features.f_max", "8001"], "features.f_max must not exceed half of features.sample_rate"),
        (["--features.hop_length", "401"], "features.hop_length must not exceed features.win_length"),
        (["--action.kind", "stride", "--action.strides", "[]"], "action.strides needs at least one"),
        (["--action.strides", "[1, 1]"], "action.strides must not repeat"),
        (["--action.kind", "controls"], "action.columns needs at least one column"),
        (["--training.steps", "0", "--training.seconds", "0"], "set training.steps or training.seconds"),
        (["--workers.beat_s", "16", "--workers.lease_ttl_s", "30"], "workers.lease_ttl_s must be at least twice workers.beat_s"),
        *(
            (["--training.device", name], "training.device must be auto, cpu, cuda or cuda:N")
            for name in ("gpu", "tpu", "cuda:", "cuda:0\n", "")
        ),
        (["--objective.horizon", "24"], "objective.horizon must be below training.batch_length"),
        (["--replay.episode_tokens", "23"], "replay.episode_tokens must be at least training.batch_length"),
        (["--replay.capacity_tokens", "100"], "replay.prefill_tokens must not exceed replay.capacity_tokens"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(words: list[str], text: str) -> None:
    assert message(*words).startswith(text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("training: {steps: yes}\n", "key 'training.steps': expected a whole number >= 0, got True"),
        ("run: {name: 2026}\n", "key 'run.name': expected text, got 2026"),
        ("run: {name: }\n", "key 'run.name': expected text, got None"),
        ("training: {seconds: .nan}\n", "key 'training.seconds': expected a number >= 0, got nan"),
        ("training: {seconds: .inf}\n", "key 'training.seconds': expected a number >= 0, got inf"),
        ("training: {stepz: 1}\n", "unknown key 'training.stepz'; did you mean 'training.steps'?"),
        ("modell: {}\n", "unknown section 'modell'; did you mean 'model'?"),
        ("1: {2: 3}\n", "unknown section 1"),
        ("training:\n", "must hold sections of keys"),
        ("training: 5\n", "must hold sections of keys"),
        ("- a\n- b\n", "must hold sections of keys"),
        ("training: {steps: [}\n", "is not valid YAML"),
        ("training: {steps: !!timestamp x}\n", "is not valid YAML"),
        ("training: {steps: !!python/object/apply:os.getcwd []}\n", "is not valid YAML"),
    ],
)
def test_a_wrong_preset_file_is_answered_in_one_line(tmp_path: Path, content: str, text: str) -> None:
    assert text in message(names=("defaults", preset(tmp_path, content)))


def test_a_binary_preset_and_a_missing_one_are_answered_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid YAML" in message(names=("defaults", str(tmp_path / "bytes.yaml")))
    text = message(names=("defaults", "fsd"))
    assert text.startswith("no preset 'fsd'; did you mean 'fsdd'?; there are: ")
    assert all(name in text for name in PRESETS)


@pytest.mark.parametrize("name", ["./nope.yaml", "nope.yml", "some/preset", "configs/"])
def test_a_missing_file_of_ones_own_is_called_a_file(name: str) -> None:
    assert message(names=("defaults", name)) == f"no file '{name}'"


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert message("--AUDIO.x", "1") == "unknown key 'AUDIO.x'"
    assert message(names=("defaults", "zzz")).startswith("no preset 'zzz'; there are: ")
    with pytest.raises(ConfigError, match=r"unknown section 'zzz'$"):
        config_from_dict({"zzz": {}})


def test_a_preset_without_the_defaults_says_what_to_begin_with() -> None:
    assert message(names=("fsdd",)).endswith("is not set; begin with --configs defaults")


def test_defaults_behind_another_preset_would_undo_it_and_are_refused() -> None:
    text = "'defaults' sets every key, so it must come first: --configs defaults fsdd demo"
    assert message(names=("fsdd", "defaults", "demo")) == message(names=("defaults", "fsdd", "defaults", "demo")) == text


@pytest.mark.parametrize("content", [{"training": 3}, {"training": None}, {"training": {"steps": object()}}, {}])
def test_plain_sections_from_a_message_are_checked_too(content: dict[str, Any]) -> None:
    base = load_config(["defaults"]).to_dict() if content else {}
    with pytest.raises(ConfigError):
        config_from_dict(base | content)


@pytest.mark.parametrize("name", PRESETS)
def test_a_resolved_configuration_survives_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(
        ["defaults", name], ["--run.name", "näme: #1 'x'\n", "--action.strides", "[2, 5]", "--training.learning_rate", "1e-7"]
    )
    assert isinstance(config, Config)
    assert load_config([preset(tmp_path, config.to_yaml())]) == config
    assert config_from_dict(config.to_dict()) == config


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config = load_config(["defaults"])
    with pytest.raises(AttributeError):
        config.training.steps = 3  # type: ignore[misc]


def test_widths_follow_from_the_settings() -> None:
    config = load_config(["defaults"], ["--features.token_frames", "3", "--features.token_hop", "2", "--action.strides", "[1,2]"])
    f = config.features
    assert (f.token_dim, f.token_stride_samples, f.token_span_samples) == (3 * 64, 2 * 160, 2 * 160 + 400)
    assert config.action.dim == 1
    assert load_config(["defaults"], ["--action.kind", "stride", "--action.strides", "[1,2]"]).action.dim == 2
    assert load_config(["defaults"], ["--action.kind", "controls", "--action.columns", "[a]"]).action.dim == 1


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", ".", "a/../../b"])
def test_a_run_stays_in_its_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name is one folder under run\.dir"):
        load_config(["defaults"], ["--run.name", name])
