"""What settings ask of each other."""

from __future__ import annotations

import re
import typing

from pydreaming.errors import ConfigError

if typing.TYPE_CHECKING:
    from pydreaming.config import Config

MOST_REPEATS = 256  # of a part of the networks
DEVICES = r"auto|cpu|cuda(:[0-9]+)?"  # of others, such as mps, the fused optimiser and the random generators know nothing


def check_relations(config: Config) -> None:
    """Constraints that involve more than one key."""
    f, a, m = config.features, config.action, config.model
    attends = m.core == "transformer"
    limits = [
        ("/" not in config.run.name and config.run.name not in (".", ".."), "run.name is one folder under run.dir, without '/'"),
        (len(m.encoder_layers) <= MOST_REPEATS, f"model.encoder_layers may have at most {MOST_REPEATS} layers"),
        (f.win_length <= f.n_fft, "features.win_length must not exceed features.n_fft"),
        (f.f_min < (f.f_max or f.sample_rate / 2), "features.f_min must be below features.f_max (0 means half of features.sample_rate)"),
        (f.f_max <= f.sample_rate / 2, "features.f_max must not exceed half of features.sample_rate (0 means half)"),
        (f.hop_length <= f.win_length, "features.hop_length must not exceed features.win_length, or samples are skipped"),
        (a.kind != "stride" or bool(a.strides), "action.strides needs at least one stride for action.kind 'stride'"),
        (len(set(a.strides)) == len(a.strides), "action.strides must not repeat a stride"),
        (a.kind != "controls" or bool(a.columns), "action.columns needs at least one column for action.kind 'controls'"),
        (
            not (attends and m.dynamics == "rssm" and m.posterior == "filter"),
            "model.core 'transformer' attends to a whole sequence at once, so with model.dynamics 'rssm' the posterior cannot wait for the "
            "state: set model.posterior 'token', or model.dynamics 'belief'",
        ),
        (not attends or m.deter % (2 * m.heads) == 0, "model.deter must be a multiple of 2 * model.heads for model.core 'transformer'"),
        (not (config.source.watch_s and config.source.max_files), "source.max_files cannot sample a source that grows (source.watch_s)"),
        (re.fullmatch(DEVICES, config.training.device) is not None, "training.device must be auto, cpu, cuda or cuda:N"),
        (config.training.steps > 0 or config.training.seconds > 0, "set training.steps or training.seconds"),
        (
            2 * config.workers.beat_s <= config.workers.lease_ttl_s,
            "workers.lease_ttl_s must be at least twice workers.beat_s, or leases are taken from workers that are well",
        ),
        (
            config.training.batch_size % config.training.processes == 0,
            "training.batch_size must be a multiple of training.processes, which share it",
        ),
        (config.objective.horizon < config.training.batch_length, "objective.horizon must be below training.batch_length"),
        (
            config.replay.episode_tokens >= config.training.batch_length,
            "replay.episode_tokens must be at least training.batch_length",
        ),
        (
            config.replay.prefill_tokens <= config.replay.capacity_tokens,
            "replay.prefill_tokens must not exceed replay.capacity_tokens",
        ),
    ]
    for holds, message in limits:
        if not holds:
            raise ConfigError(message)
