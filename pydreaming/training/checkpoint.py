"""Checkpoints: a folder of safetensors and JSON, written whole or not at all.

    checkpoints/step-00001000/
      model.safetensors       networks and heads ("model.*", "objective.*")
      optimizer.safetensors   moments of both optimisers, random generators
      state.json              configuration, feature settings and statistics, counters, sampler state
      SHA256SUMS              of the three, written last

A model to hand on is a folder with what inference needs only, laid out as the Hugging Face Hub lays out models:

    model.safetensors · config.json (state.json without the sampler and without what names this host) · README.md · SHA256SUMS

Nothing here is ever unpickled, so a checkpoint from a stranger cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pydreaming.audio.controls import NO_CONTROLS, ControlScale
from pydreaming.audio.features import FeatureStats
from pydreaming.config import Config, Natural, NonNegative, Positive, config_from_dict
from pydreaming.config_changes import SHAPES, first_change
from pydreaming.config_public import without_host, without_password
from pydreaming.errors import CheckpointError, ConfigError
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective, make_objective
from pydreaming.training.trainer import Trainer

FORMAT = 1
_PARTIAL, _REPLACED = ".tmp", ".old"  # ends of the names of folders that are being written, and that make way
_NAME = re.compile(r"step-(\d{8})")
_CPU = torch.device("cpu")
_SAMPLING = "random.sampling."  # and the kind of device
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
WEIGHTS, STATE, HUB_CONFIG, SUMS, CARD = "model.safetensors", "state.json", "config.json", "SHA256SUMS", "README.md"


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint says beside its tensors.

    Attributes:
      config: resolved configuration of the run. stats: statistics the tokens were normalised with.
      token_dim, action_dim: widths of the data. counters: step, trained_tokens, seconds, non_finite_steps.
      sampler: state of the replay sampler, for an identical next batch.
      controls: what control columns were normalised with; empty for other actions, and in checkpoints from before it was kept.
    """

    config: Config
    stats: FeatureStats
    token_dim: int
    action_dim: int
    counters: dict[str, float]
    sampler: dict[str, Any]
    controls: ControlScale = NO_CONTROLS


class _Counters(msgspec.Struct):
    step: Natural
    trained_tokens: Natural
    non_finite_steps: Natural
    seconds: NonNegative


class _StateFile(msgspec.Struct):
    """state.json or config.json, checked as it is read."""

    format: int
    config: dict[str, Any]
    stats: FeatureStats
    token_dim: Positive
    action_dim: Positive
    counters: _Counters
    sampler: dict[str, Any] = {}
    controls: ControlScale = NO_CONTROLS


def save_checkpoint(
    folder: Path,
    trainer: Trainer,
    stats: FeatureStats,
    sampler: dict[str, Any],
    seconds: float,
    keep: int,
    controls: ControlScale = NO_CONTROLS,
) -> Path:
    """Write `folder/step-XXXXXXXX` atomically and remove all but the `keep` newest. Returns the checkpoint's path.

    Raises CheckpointError: the disk refuses. The checkpoints that are there stay, and nothing else does.
    """
    final = folder / f"step-{trainer.step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}{_PARTIAL}"
    try:
        recover(folder)
        temporary.mkdir(parents=True)
        _write(temporary, trainer, stats, sampler, seconds, controls)
        _put_in_place(temporary, final)
        # Later steps go first: they were left by a run that has resumed from an earlier checkpoint because these were damaged.
        for old in sorted(list_checkpoints(folder), key=lambda path: (path.name <= final.name, path.name))[:-keep]:
            _remove(old)
    except (OSError, safetensors.SafetensorError) as e:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot write a checkpoint to {folder}: {getattr(e, 'strerror', None) or e}") from e
    return final


def recover(folder: Path) -> None:
    """Tidy up after a learner that was killed while it wrote a checkpoint; a run has one learner. Raises CheckpointError."""
    try:
        for replaced in folder.glob(f".step-*{_REPLACED}"):
            final = folder / replaced.name[1 : 1 + len("step-00000000")]
            if final.exists():
                shutil.rmtree(replaced)
            else:  # killed between the two renames
                replaced.rename(final)
        for torn in folder.glob(f".step-*{_PARTIAL}"):
            shutil.rmtree(torn)
    except OSError as e:
        raise CheckpointError(f"cannot tidy up {folder}: {e.strerror}") from e


def _write(temporary: Path, trainer: Trainer, stats: FeatureStats, sampler: dict[str, Any], seconds: float, controls: ControlScale) -> None:
    """The files of a checkpoint, durably."""
    safetensors.torch.save_file(_weights(trainer.model, trainer.objective), temporary / "model.safetensors")
    safetensors.torch.save_file(_optimizer_tensors(trainer), temporary / "optimizer.safetensors")
    state = {
        "format": FORMAT,
        "config": without_password(trainer.config),
        "stats": msgspec.to_builtins(stats),
        "token_dim": trainer.model.token_dim,
        "action_dim": trainer.model.action_dim,
        "counters": {
            "step": trainer.step,
            "trained_tokens": trainer.trained_tokens,
            "non_finite_steps": trainer.non_finite_steps,
            "seconds": seconds,
        },
        "sampler": sampler,
        "controls": msgspec.to_builtins(controls),
    }
    (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    sums = "".join(f"{_sha256(temporary / name)}  {name}\n" for name in _FILES)
    (temporary / "SHA256SUMS").write_text(sums, encoding="ascii")
    _sync(temporary)


def _put_in_place(temporary: Path, final: Path) -> None:
    """Give a complete checkpoint its name. The same step again, for an evaluation or after a resume, keeps the old one until then."""
    replaced = final.with_name(f".{final.name}.{os.getpid()}{_REPLACED}")
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    _sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoint folders below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and (p / "SHA256SUMS").is_file())


def latest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose checksums hold; None where there is none."""
    for path in reversed(list_checkpoints(folder)):
        try:
            verify(path)
        except CheckpointError:
            continue
        return path
    return None


def verify(path: Path) -> None:
    """Raises CheckpointError unless every file has the checksum it was written with."""
    _verify(path, _FILES, "use an earlier checkpoint beside it")


def verify_model(path: Path) -> None:
    """`verify` of what using the model needs: an exported model, or a copy without its optimiser, is a good one."""
    _verify(path, (WEIGHTS, state_name(path)), "use another checkpoint")


def _verify(path: Path, files: Sequence[str], remedy: str) -> None:
    try:
        lines = (path / SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        bad = [name for name in files if sums.get(name) != _sha256(path / name)]
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path} is no complete checkpoint: {e}") from e
    if bad:
        raise CheckpointError(f"{path / bad[0]} is damaged: its checksum differs; {remedy}")


def read_state(path: Path) -> CheckpointState:
    """Configuration, statistics and counters of a checkpoint or an exported model. Raises CheckpointError."""
    file = path / state_name(path)
    try:
        raw = msgspec.json.decode(file.read_bytes(), type=_StateFile)
        config = config_from_dict(raw.config)
    except FileNotFoundError as e:
        raise CheckpointError(f"{path} is no checkpoint: it has no {STATE}, nor {HUB_CONFIG}") from e
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError, ConfigError) as e:
        raise CheckpointError(f"{file} cannot be read: {e}") from e
    if raw.format != FORMAT:
        raise CheckpointError(f"{path} has format {raw.format}, this version reads {FORMAT}: use the version that wrote it")
    if not len(raw.stats.mean) == len(raw.stats.std) == config.features.n_mels:
        raise CheckpointError(f"{file} has statistics of {len(raw.stats.mean)} bands for features.n_mels={config.features.n_mels}")
    columns = config.action.dim if config.action.kind == "controls" else 0
    if not len(raw.controls.mean) == len(raw.controls.std) or len(raw.controls.mean) not in (0, columns):
        raise CheckpointError(f"{file} has control scales of {len(raw.controls.mean)} columns for {columns} action.columns")
    counters = msgspec.to_builtins(raw.counters)
    return CheckpointState(config, raw.stats, raw.token_dim, raw.action_dim, counters, raw.sampler, raw.controls)


def state_name(path: Path) -> str:
    """The file that says what the tensors in a folder are: state.json of a checkpoint, config.json of an exported model."""
    return HUB_CONFIG if not (path / STATE).is_file() and (path / HUB_CONFIG).is_file() else STATE


def export_networks(folder: Path, model: WorldModelNet, objective: Objective, state: CheckpointState, card: str) -> None:
    """Write the folder of a model to hand on; files of these names that are there are replaced, the checksums last.

    Args:
      card: Markdown, for README.md.
    Raises CheckpointError when the folder cannot be written.
    """
    about = {
        "library_name": "pydreaming",
        "model_type": "pydreaming",
        "format": FORMAT,
        "token_dim": state.token_dim,
        "action_dim": state.action_dim,
        "counters": state.counters,
        "config": without_host(state.config),
        "stats": msgspec.to_builtins(state.stats),
        "controls": msgspec.to_builtins(state.controls),
    }
    # Hugging Face's loaders want to know the framework.
    weights = safetensors.torch.save(_weights(model, objective), {"format": "pt"})
    files = {WEIGHTS: weights, HUB_CONFIG: json.dumps(about, indent=1).encode(), CARD: card.encode()}
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in (WEIGHTS, HUB_CONFIG))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (files | {SUMS: sums.encode("ascii")}).items():
            temporary = folder / f".{name}.tmp-{os.getpid()}"
            temporary.write_bytes(content)
            temporary.replace(folder / name)
    except OSError as e:
        raise CheckpointError(f"cannot write a model to {folder}: {e.strerror or e}") from e


def load_networks(path: Path, device: torch.device) -> tuple[WorldModelNet, Objective, CheckpointState]:
    """Networks and heads of a checkpoint, ready for inference. Raises CheckpointError."""
    state = read_state(path)
    _check_sizes(path, state)
    model, objective = _networks(state)
    _load_weights(path, model, objective)
    return model.to(device).eval(), objective.to(device).eval(), state


def _networks(state: CheckpointState) -> tuple[WorldModelNet, Objective]:
    model = WorldModelNet(state.config.model, state.token_dim, state.action_dim, state.config.features.n_mels)
    return model, make_objective(state.config.objective, model)


def _check_sizes(path: Path, state: CheckpointState) -> None:
    """Before networks take memory: they must be of the sizes that the file of weights has. A stranger's configuration may ask for any."""
    file = path / WEIGHTS
    try:
        with torch.device("meta"):  # shapes without memory
            wanted = {name: list(tensor.shape) for name, tensor in _weights(*_networks(state), torch.device("meta")).items()}
        with safetensors.safe_open(file, "pt") as tensors:
            there = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, safetensors.SafetensorError) as e:
        raise CheckpointError(f"{file} cannot be read: {e}") from e
    except (RuntimeError, OverflowError, TypeError) as e:  # more elements than can be counted
        raise CheckpointError(f"{path / state_name(path)} asks for networks that cannot be built: {str(e).splitlines()[0]}") from e
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise CheckpointError(
                f"{file} does not fit its own configuration: {name} is {there.get(name, 'missing')}, should be {wanted.get(name, 'absent')}"
            )


def restore(path: Path, trainer: Trainer) -> CheckpointState:
    """Load weights, optimisers, random generators and counters into `trainer`, bit for bit on the same kind of device.

    Raises CheckpointError.
    """
    state = read_state(path)
    _check_same_networks(path, state, trainer)
    _load_weights(path, trainer.model, trainer.objective)
    file = path / "optimizer.safetensors"
    tensors = _read_tensors(file)
    try:
        for name, optimizer in _optimizers(trainer).items():
            _load_optimizer(name, optimizer, tensors)
        torch.set_rng_state(tensors["random.torch"])
        _load_generator(trainer, tensors)
    except (RuntimeError, TypeError, ValueError, KeyError) as e:
        raise CheckpointError(f"{file} does not fit its own configuration: {str(e).splitlines()[0]}") from e
    trainer.step = int(state.counters["step"])
    trainer.trained_tokens = int(state.counters["trained_tokens"])
    trainer.non_finite_steps = int(state.counters["non_finite_steps"])
    return state


def _check_same_networks(path: Path, state: CheckpointState, trainer: Trainer) -> None:
    if change := first_change(state.config, trainer.config, SHAPES):
        raise CheckpointError(
            f"{path} was trained with {change.key}={change.before}, the run asks for {change.now}: "
            "resume with the old value or start a new run"
        )


def _weights(model: WorldModelNet, objective: Objective, device: torch.device = _CPU) -> dict[str, Tensor]:
    modules: dict[str, torch.nn.Module] = {"model": model, "objective": objective}
    return {f"{prefix}.{k}": v.detach().to(device).contiguous() for prefix, m in modules.items() for k, v in m.state_dict().items()}


def _load_weights(path: Path, model: WorldModelNet, objective: Objective) -> None:
    tensors = _read_tensors(path / "model.safetensors")
    for prefix, module in (("model.", model), ("objective.", objective)):
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as e:
            raise CheckpointError(
                f"{path / 'model.safetensors'} does not fit its own configuration: {str(e).splitlines()[-1].strip()}"
            ) from e


def _optimizers(trainer: Trainer) -> dict[str, torch.optim.AdamW]:
    return {"world": trainer.optimizer, "decoder": trainer.decoder_optimizer}


def _optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {"random.torch": torch.get_rng_state(), f"{_SAMPLING}{trainer.device.type}": trainer.generator.get_state()}
    for name, optimizer in _optimizers(trainer).items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value.detach().cpu().contiguous() for key, value in moments.items()}
    return tensors


def _load_generator(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    """Raises KeyError when there is no state. That of a GPU means nothing to a CPU: there, a resumed run draws other numbers."""
    states = {name.removeprefix(_SAMPLING): state for name, state in tensors.items() if name.startswith(_SAMPLING)}
    if states and trainer.device.type not in states:
        return
    trainer.generator.set_state(states[trainer.device.type])


def _load_optimizer(name: str, optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError for moments that are not those of the optimiser's parameters; PyTorch would take them and fail steps later."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix == name:
            index, _, moment = rest.partition(".")
            state.setdefault(int(index), {})[moment] = value
    for i, moments in state.items():
        shapes = {key: value.shape for key, value in moments.items()}
        if i not in range(len(parameters)):
            raise ValueError(f"{name} has no parameter {i}")
        shape = parameters[i].shape
        if shapes != {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError(f"{name}.{i} must hold step, exp_avg and exp_avg_sq of {tuple(shape)}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as e:
        raise CheckpointError(f"{path} cannot be read: {e}") from e


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint: under another name first, so that half of one is never taken for a checkpoint, nor left for good."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}{_PARTIAL}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as f:
            os.fsync(f.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
