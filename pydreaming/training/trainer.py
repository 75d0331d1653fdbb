"""One optimisation step: losses, gradients, guards, updates.

The host gives orders and reads one small tensor when the step is over; in between (`Trainer.update`) nothing waits for the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pydreaming.config import Config
from pydreaming.errors import ConfigError
from pydreaming.models.ranks import ALONE, Ranks
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Losses, Objective, TensorBatch, make_objective
from pydreaming.replay.sampler import Batch
from pydreaming.training.capture import Outcome, StaticStep
from pydreaming.training.views import centre_sequences


@dataclass(frozen=True)
class StepResult:
    """Outcome of one step.

    Attributes:
      losses: what the objective returned (still on the device).
      total, decoder: () scalars on the device. grad_norm: () before clipping.
      finite: False when the update was refused.
    """

    losses: Losses
    total: Tensor
    decoder: Tensor
    grad_norm: Tensor
    finite: bool


class Trainer:
    """Networks, optimisers and the step that joins them.

    Args:
      token_dim: values in one token; action_dim: width of the action vector (both as the replay store has them).
      ranks: the processes that train together, all with a trainer of the same arguments; each takes its rows of every batch.
    """

    def __init__(self, config: Config, token_dim: int, action_dim: int, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks = config, ranks
        self.device = pick_device(config.training.device, ranks)
        self.autocast_dtype = pick_precision(config.training.precision, self.device)
        torch.manual_seed(config.run.seed)
        self.model = WorldModelNet(config.model, token_dim, action_dim, config.features.n_mels).to(self.device)
        self.objective = make_objective(config.objective, self.model).to(self.device)
        self.world = [p for name, p in self.model.named_parameters() if not name.startswith("decoder.")]
        self.world += list(self.objective.parameters())
        self.probe = list(self.model.decoder.parameters())
        self.static = pick_capture(config.training.capture, self.device, ranks)
        self.optimizer = adamw(self.world, config, self.static)
        self.decoder_optimizer = adamw(self.probe, config, self.static)
        self.totals = Totals(self.model, self.objective)
        self.forward: nn.Module = self.totals
        if ranks.size > 1:  # sums gradients while they are made; an objective may leave parts of the model alone
            self.forward = DistributedDataParallel(self.totals, broadcast_buffers=False, find_unused_parameters=True)
        self.step = 0
        self.trained_tokens = 0
        self.non_finite_steps = 0
        self.generator = torch.Generator(self.device).manual_seed(config.run.seed + 1)
        self._run = StaticStep(self.update, [*self.world, *self.probe]) if self.static else self.update

    def train_step(self, batch: TensorBatch, progress: float) -> StepResult:
        """Update all networks on one batch.

        Args:
          batch: this process's rows of it.
          progress: share of the run that is over, for the learning-rate schedule.
        Returns:
          StepResult. A step whose loss or gradient is not finite changes no weight and is counted in `non_finite_steps`.
        """
        self._set_rate(progress)
        B, T = batch.mask.shape
        noise = self.ranks.own(self.model.noise(B * self.ranks.size, T, self.generator))
        outcome = self._run(dataclasses.replace(batch, ranks=self.ranks), noise)
        total, decoder, _, grad_norm, _ = outcome.figures.unbind()
        _, _, trained, _, refused = outcome.figures.tolist()  # the one place where the host waits for the device
        self.step += 1
        self.non_finite_steps += int(refused)
        self.trained_tokens += int(trained)  # not padding: the replay ratio is about what was collected
        return StepResult(outcome.losses, total, decoder, grad_norm, not refused)

    def update(self, batch: TensorBatch, noise: Tensor) -> Outcome:
        """Forward, backward, clipping and both optimisers, in orders to the device alone: none of them needs to know a value.

        Args:
          batch: with its ranks. noise: (B, T, S, K).
        """
        if self.config.augment.centre:
            batch = centre_sequences(batch, self.config.features.n_mels, self.config.augment.centre)
        with self._autocast():
            total, decoder = self.forward(batch, noise)
        self.optimizer.zero_grad(set_to_none=True)
        self.decoder_optimizer.zero_grad(set_to_none=True)
        (self.ranks.size * (total + decoder)).backward()  # DistributedDataParallel takes the mean over ranks, and this is a sum
        sums = self.ranks.total(torch.stack([total, decoder, batch.mask.sum()]).detach())
        grad_norm, of_probe = (nn.utils.clip_grad_norm_(p, self.config.training.clip) for p in (self.world, self.probe))
        refused = (~torch.isfinite(torch.stack([grad_norm, of_probe, *sums[:2]])).all()).float()
        for optimizer in (self.optimizer, self.decoder_optimizer):
            optimizer.found_inf = refused  # type: ignore[attr-defined]  # a fused optimiser then changes nothing, of which the host need not know
            optimizer.step()
        return Outcome(self.totals.losses, torch.cat([sums, torch.stack([grad_norm, refused])]))

    @property
    def size(self) -> str:
        """How many numbers are learnt, for people."""
        return f"{sum(p.numel() for p in (*self.world, *self.probe)) / 1e6:.2f} M parameters"

    def prepared(self, batch: Batch) -> Batch:
        """The batch as `to_device` takes it soonest, made beside a step: for a CPU tokens in float32, for a GPU memory from which it
        copies by itself. It must outlive the copy."""
        if self.device.type != "cuda":
            return dataclasses.replace(batch, tokens=batch.tokens.astype(np.float32))
        return Batch(*(torch.from_numpy(getattr(batch, field.name)).pin_memory().numpy() for field in dataclasses.fields(batch)))

    def to_device(self, batch: Batch) -> TensorBatch:
        """A replay batch as tensors on the training device."""

        def move(array: np.ndarray) -> Tensor:
            host = torch.from_numpy(np.ascontiguousarray(array))
            if self.device.type == "cuda":
                host = host.pin_memory()  # only from pinned memory does a copy run beside what follows
            return host.to(self.device, non_blocking=True)

        tokens = move(batch.tokens).float()
        return TensorBatch(
            tokens, move(batch.is_first), move(batch.action), move(batch.token_id), move(batch.mask), bool(batch.mixed.all())
        )

    def _set_rate(self, progress: float) -> None:
        rate = self.config.training.learning_rate * rate_factor(self.config, self.step, progress)
        for optimizer in (self.optimizer, self.decoder_optimizer):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # a captured step reads it there
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)


class Totals(nn.Module):
    """Model and objective as one module: (batch, noise) -> this process's parts of the weighted sum, and of the decoder's loss.

    Attributes:
      losses: of the last batch. They are not returned: DistributedDataParallel would wait for gradients of all that lies in them.
    """

    def __init__(self, model: WorldModelNet, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.losses: Losses

    def forward(self, batch: TensorBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Objective.forward`."""
        self.losses = self.objective(self.model, batch, noise)
        return self.losses.total(batch.ranks), decoder_loss(self.model, self.losses, batch)


def sequence_losses(losses: Losses, sequences: int) -> Tensor:
    """The objective by sequence of a batch: (B,), the weighted means of those terms that are about most of them; nan for others."""
    terms = [term for term in losses.terms.values() if term.value.dim() == 2]
    rows = max((len(term.value) for term in terms), default=0)
    result = losses.observed.embed.new_full((sequences,), torch.nan, dtype=torch.float32)
    if rows:
        result[:rows] = 0
    for term in terms:
        if len(term.value) == rows:
            result[:rows] += term.weight * (term.value.detach() * term.valid).sum(1) / term.valid.sum(1).clamp_min(1)
    return result


def decoder_loss(model: WorldModelNet, losses: Losses, batch: TensorBatch) -> Tensor:
    """Squared error of the probe decoder on detached features: () per value of normalised log-mel of the sequences that were observed."""
    batch = batch.rows(len(losses.observed.embed))
    predicted = model.decoder(losses.observed.post.feat)
    error = functional.mse_loss(predicted.float(), batch.tokens, reduction="none").mean(-1)
    return (error * batch.mask).sum() / batch.ranks.total(batch.mask.sum()).clamp_min(1)


def rate_factor(config: Config, step: int, progress: float) -> float:
    """Linear warm-up in steps, flat, then linear from `decay_from` of the run to `final_rate` at its end."""
    t = config.training
    warm = min(1.0, (step + 1) / (t.warmup_steps + 1))
    if progress <= t.decay_from or t.decay_from >= 1:
        return warm
    past = min(1.0, (progress - t.decay_from) / (1 - t.decay_from))
    return warm * (1 - (1 - t.final_rate) * past)


def pick_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """`auto` is a GPU where there is one: the first, or each rank's own. Raises ConfigError for a device that does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.size > 1:
        name = f"cuda:{ranks.local}"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):  # the fused optimiser and the random generators know these two
        raise ConfigError(f"device {name!r} (training.device, --device) must be auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"device {name!r} (training.device, --device) cannot be used here: {str(e).splitlines()[0]}") from e
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast type; None is plain float32. `auto` takes bfloat16 on a GPU that has it."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if name == "bfloat16" else None


def pick_capture(name: str, device: torch.device, ranks: Ranks = ALONE) -> bool:
    """Whether steps run over static buffers (`capture`); `auto`: on a GPU. Raises ConfigError for `always` with several processes."""
    if name == "always" and ranks.size > 1:
        raise ConfigError("training.capture always goes with training.processes 1: what processes exchange is not captured")
    return name == "always" or (name == "auto" and device.type == "cuda" and ranks.size == 1)


def adamw(parameters: list[nn.Parameter], config: Config, static: bool = False) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only, since shrinking biases and norms has no regularising effect.

    Args:
      static: keep the learning rate in a tensor, where a captured step finds each new value.
    """
    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() <= 1]
    rate = config.training.learning_rate

    def group(of: list[nn.Parameter], decay: float) -> dict[str, Any]:
        return {"params": of, "weight_decay": decay, "lr": torch.full((), rate, device=of[0].device) if static and of else rate}

    groups = [group(matrices, config.training.weight_decay), group(vectors, 0.0)]
    return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=static and parameters[0].device.type == "cuda")
