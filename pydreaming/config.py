"""Configuration: named YAML sections, typed overrides, frozen dataclasses.

`configs/<name>.yaml` files are merged in the order given, then `--section.key value` overrides are applied, and the result is converted
once into `Config`. Units and meanings of the keys stand beside their values in `configs/defaults.yaml`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shlex
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from pydreaming.config_checks import MOST_REPEATS, check_relations
from pydreaming.config_files import parse_overrides, parse_yaml, read_preset
from pydreaming.config_hints import LARGEST, expected, nearest, nearest_key, quote
from pydreaming.errors import ConfigError

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
_OBJECTIVES = Path(__file__).resolve().parent / "objectives"
_SHARED = {"__init__", "base", "contrast", "latents", "scene"}  # files there that are no objective

Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Repeats = Annotated[int, msgspec.Meta(ge=1, le=MOST_REPEATS)]  # of a part of the networks: each is built, also for a stranger's checkpoint
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=LARGEST)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Address = Annotated[str, msgspec.Meta(pattern=r"\A(\S+:[0-9]{1,5})?\Z", description="HOST:PORT such as 127.0.0.1:9464, or nothing")]


def objective_names() -> list[str]:
    """The choices of `objective.name`: one per file in `pydreaming/objectives`, found without importing it (and torch)."""
    return sorted({path.stem for path in _OBJECTIVES.glob("*.py")} - _SHARED)


if typing.TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(objective_names())]


@dataclass(frozen=True)
class RunConfig:
    """Name, place and seed of a run."""

    name: str
    dir: str
    seed: Natural


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the recordings are and how they are read. A key with a value here is younger than the first checkpoints, see ModelConfig."""

    kind: Literal[
        "auto", "folder", "fsdd", "esc50", "librispeech", "common_voice", "speech_commands", "ljspeech",
        "nemo", "kaldi", "audiofolder", "fairseq",
    ]  # fmt: skip
    path: str
    root: str
    labels: Literal["auto", "metadata", "folders", "none"]
    channels: Literal["mix", "first", "each"]
    held_out: Annotated[float, msgspec.Meta(ge=0, le=0.5)]
    held_out_speakers: list[str] = dataclasses.field(default_factory=list)
    max_files: Natural
    watch_s: NonNegative = 0.0  # see ModelConfig


@dataclass(frozen=True)
class FeatureConfig:
    """Front-end settings; they travel with every replay file and checkpoint, and must agree.

    Source: log-mel as in `torchaudio.transforms.MelSpectrogram` (HTK scale, no area norm), see `pydreaming.audio.features`.
    """

    sample_rate: Annotated[int, msgspec.Meta(ge=1000, le=192_000)]
    n_fft: Annotated[int, msgspec.Meta(ge=16, le=65_536)]
    win_length: Annotated[int, msgspec.Meta(ge=16, le=65_536)]
    hop_length: Positive
    n_mels: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    f_min: NonNegative
    f_max: NonNegative
    token_frames: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    token_hop: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    stats_files: Positive

    @property
    def token_dim(self) -> int:
        """Values in one token: token_frames * n_mels."""
        return self.token_frames * self.n_mels

    @property
    def token_stride_samples(self) -> int:
        """Samples (at `sample_rate`) between the starts of adjacent tokens."""
        return self.token_hop * self.hop_length

    @property
    def token_span_samples(self) -> int:
        """Samples (at `sample_rate`) that one token sees, first to last."""
        return (self.token_frames - 1) * self.hop_length + self.win_length


@dataclass(frozen=True)
class ActionConfig:
    """What the action vector holds."""

    kind: Literal["none", "stride", "controls"]
    strides: list[Positive]
    columns: list[str]

    @property
    def dim(self) -> int:
        """Width of the action vector; the placeholder of kind `none` is one zero."""
        return {"none": 1, "stride": len(self.strides), "controls": len(self.columns)}[self.kind]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes made to recordings by the workers, and to batches by the learner (`centre`); 0 turns one off."""

    centre: Fraction = 0.0  # see ModelConfig
    shift: Fraction = 0.0
    probability: Fraction
    gain_db: NonNegative
    noise_db: NonNegative
    freq_mask: Natural
    time_mask: Natural


@dataclass(frozen=True)
class WorkersConfig:
    """How many worker processes there are and how work is handed to them."""

    count: Natural
    passes: Natural
    lease_items: Positive
    lease_ttl_s: PositiveFloat
    beat_s: PositiveFloat


@dataclass(frozen=True)
class CoordinatorConfig:
    """Where the coordinator listens and its keys."""

    address: str
    keys: str


@dataclass(frozen=True)
class ReplayConfig:
    """The Parquet store and how sequences are drawn from it."""

    dir: str
    capacity_tokens: Positive
    episode_tokens: Annotated[int, msgspec.Meta(ge=2)]
    shard_episodes: Positive
    prefill_tokens: Natural
    replay_ratio: NonNegative
    slack_tokens: Positive
    group_share: Fraction
    cut_share: Fraction
    priority: Literal["uniform", "curious"] = "uniform"  # this and all that follow: see ModelConfig
    priority_share: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.5
    priority_visits: NonNegative = 1e4
    priority_decay: Fraction = 0.7
    priority_power: Fraction = 0.7
    priority_cap: PositiveFloat = 1e5
    cache: str = ""
    cache_gb: PositiveFloat = 20.0
    patience_s: NonNegative = 300.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Widths and form of the networks.

    A key with a value here is younger than the first checkpoints: runs from before it were trained with that value.
    """

    encoder_layers: list[Positive]
    embed: Positive
    dynamics: Literal["belief", "rssm"]
    posterior: Literal["token", "filter"]
    detach_latents: bool
    core: Literal["gru", "transformer"] = "gru"
    window: Annotated[int, msgspec.Meta(ge=2, le=LARGEST)] = 32
    layers: Repeats = 2
    heads: Positive = 4
    deter: Positive
    hidden: Positive
    latents: Literal["categorical", "gaussian"] = "categorical"
    groups: Positive
    classes: Annotated[int, msgspec.Meta(ge=2)]
    unimix: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    gaussians: Positive = 32
    min_std: PositiveFloat = 0.1
    decoder_hidden: Positive
    scene: Natural = 0


@dataclass(frozen=True)
class ObjectiveConfig:
    """The training objective and the weights of its terms."""

    name: ObjectiveName
    horizon: Repeats
    horizon_decay: Annotated[float, msgspec.Meta(gt=0, le=1)]
    temperature: PositiveFloat
    negatives: Literal["batch", "sequence"]
    latent_scale: NonNegative
    same_step: NonNegative
    next_step: NonNegative
    consistency: NonNegative
    unrolls: Annotated[int, msgspec.Meta(ge=1, le=8)]
    latent_streams: Annotated[float, msgspec.Meta(gt=0, le=1)]
    kl_dyn: NonNegative
    kl_rep: NonNegative
    free_nats: NonNegative
    scene: NonNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of training, optimiser, device, and what is written when. Keys with a value here: see ModelConfig."""

    steps: Natural
    seconds: NonNegative
    batch_size: Positive
    batch_length: Annotated[int, msgspec.Meta(ge=2)]
    learning_rate: PositiveFloat
    weight_decay: NonNegative
    warmup_steps: Natural
    decay_from: Fraction
    final_rate: Fraction
    clip: PositiveFloat
    device: str
    processes: Positive = 1
    precision: Literal["auto", "float32", "bfloat16"]
    capture: Literal["auto", "always", "never"] = "never"
    threads: Natural
    log_s: PositiveFloat
    checkpoint_s: PositiveFloat
    keep_checkpoints: Positive
    hung_s: NonNegative = 1800.0


@dataclass(frozen=True)
class EvaluationConfig:
    """When and on how much the model is evaluated."""

    every_s: NonNegative
    max_clips: Positive
    streams: Positive
    rollouts: Positive
    context_tokens: Positive


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow is, what logs look like, and where figures are offered to Prometheus. Keys with a value here: see ModelConfig."""

    uri: str
    experiment: str
    flush_s: PositiveFloat
    logs: Literal["text", "json"] = "text"
    prometheus: Address = ""


@dataclass(frozen=True)
class Config:
    """The whole resolved configuration of a run."""

    run: RunConfig
    source: SourceConfig
    features: FeatureConfig
    action: ActionConfig
    augment: AugmentConfig
    workers: WorkersConfig
    coordinator: CoordinatorConfig
    replay: ReplayConfig
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain sections, as `config_from_dict` takes them."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """The same as a YAML preset."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load_config(names: Sequence[str], overrides: Sequence[str] = (), config_dir: Path = CONFIG_DIR) -> Config:
    """Merge the named presets, apply `--section.key value` overrides and validate.

    Args:
      names: presets, in order; each is `configs/<name>.yaml` or the path of a YAML file. The first is normally `defaults`.
      overrides: alternating `--section.key` and value, or `--section.key=value`, as on the command line.
    Raises:
      ConfigError: a wrong preset, key, type or range; the message names the key and the nearest right one.
    """
    if "defaults" in itertools.dropwhile("defaults".__eq__, names):  # it would undo the presets before it, and nobody means that
        right = ["defaults", *(name for name in names if name != "defaults")]
        raise ConfigError(f"'defaults' sets every key, so it must come first: --configs {shlex.join(right)}")
    merged: dict[str, dict[str, Any]] = {}
    for name in names:
        for section, values in read_preset(name, config_dir).items():
            merged.setdefault(section, {}).update(values)
    for dotted, text in parse_overrides(overrides):
        section, key = _split_key(dotted)
        merged.setdefault(section, {})[key] = _coerce(text, dotted, field_types(section)[key])
    return config_from_dict(merged)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Validate plain sections (from YAML, JSON or a message) into a `Config`. Raises ConfigError."""
    for section, content in values.items():
        if section not in section_types():
            raise ConfigError(f"unknown section {quote(section)}{nearest(str(section), list(section_types()))}")
        if not isinstance(content, Mapping):
            raise ConfigError(f"section '{section}' must hold keys, got {quote(content)}")
        for key in content:
            _split_key(f"{section}.{key}")
    sections = {}
    for section, kind in section_types().items():
        content, types = _values_before(kind) | dict(values.get(section, {})), field_types(section)
        missing = types.keys() - content.keys()
        if missing:
            raise ConfigError(f"key '{section}.{min(missing)}' is not set; begin with --configs defaults")
        sections[section] = kind(**{key: _convert(content[key], f"{section}.{key}", types[key]) for key in types})
    config = Config(**sections)
    check_relations(config)
    return config


def _values_before(kind: type) -> dict[str, Any]:
    """What keys were worth before they existed, so that older runs and checkpoints still load; empty for keys that always did."""
    values = {field.name: field.default for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    made = {field.name: field.default_factory() for field in dataclasses.fields(kind) if field.default_factory is not dataclasses.MISSING}
    return values | made


@functools.cache
def field_types(section: str) -> dict[str, Any]:
    """Types of the keys of one section, by name."""
    return typing.get_type_hints(section_types()[section], include_extras=True)


@functools.cache
def section_types() -> dict[str, type]:
    """The dataclass behind each section, by name."""
    return typing.get_type_hints(Config)


def _split_key(dotted: str) -> tuple[str, str]:
    section, _, key = dotted.partition(".")
    sections = section_types()
    if section in sections and key in field_types(section):
        return section, key
    raise ConfigError(f"unknown key {quote(dotted)}{nearest_key(dotted, {s: list(field_types(s)) for s in sections})}")


def _coerce(text: str, dotted: str, kind: Any) -> Any:
    """A command-line word as the type of its key; lists are YAML flow sequences such as [1,2,4]."""
    if typing.get_origin(kind) is not list:
        return _convert(text, dotted, kind)
    try:
        value = parse_yaml(text)
    except ValueError as e:
        raise ConfigError(f"key '{dotted}': expected {expected(kind)}, got {quote(text)}") from e
    return _convert(value if isinstance(value, list) else [value], dotted, kind)


def _convert(value: Any, dotted: str, kind: Any) -> Any:
    try:
        converted = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as e:
        raise ConfigError(f"key '{dotted}': expected {expected(kind)}, got {quote(value)}") from e
    for text in converted if isinstance(converted, list) else [converted]:
        # Neither messages nor file names can carry these.
        if isinstance(text, str) and any(c == "\0" or 0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise ConfigError(f"key '{dotted}': {quote(value)} is not UTF-8 text")
    return converted
