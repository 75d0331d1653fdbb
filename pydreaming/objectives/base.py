"""The interface of training objectives.

An objective owns its heads and projections. It turns a batch into losses by name, each (B, T) until one weighted sum, and names the space
in which predictions are compared with what came: `predict(state)` against `target(embed)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import ObjectiveConfig
from pydreaming.errors import ConfigError
from pydreaming.models.by_hand import by_hand, contrast_rows, unit
from pydreaming.models.ranks import ALONE, Ranks
from pydreaming.models.state import Heard, Observed, State
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.contrast import Contrast, Rivals, find_rivals, info_nce, reaches


@dataclass(frozen=True)
class TensorBatch:
    """A replay batch on the training device.

    Attributes:
      tokens: (B, T, token_dim) float32. is_first: (B, T) bool. action: (B, T, A) float32.
      token_id: (B, T) int64, at most `contrast.SAME` apart where the audio is the same. mask: (B, T) bool, False on padding.
      mixed: True where the sequences are of all sources, False where they are of one.
      ranks: the processes that share a batch of which this is one part; all batches of a step must then be shared.
      recorded: like tokens, before a view changed some of them (`training.views`); None where none has.
    """

    tokens: Tensor
    is_first: Tensor
    action: Tensor
    token_id: Tensor
    mask: Tensor
    mixed: bool = True
    ranks: Ranks = field(default=ALONE, kw_only=True)
    recorded: Tensor | None = field(default=None, kw_only=True)

    @property
    def as_recorded(self) -> Tensor:
        """(B, T, token_dim) the tokens of recordings as they are."""
        return self.tokens if self.recorded is None else self.recorded

    @cached_property
    def rivals(self) -> Rivals:
        """What contrasts over all tokens of the batch take as negatives."""
        return find_rivals(self.token_id, self.mask, within_sequence=False, ranks=self.ranks)

    @cached_property
    def rivals_in_sequence(self) -> Rivals:
        """What contrasts within each sequence take as negatives."""
        return find_rivals(self.token_id, self.mask, within_sequence=True)

    def rows(self, count: int) -> TensorBatch:
        """The first `count` sequences."""
        s, recorded = slice(count), None if self.recorded is None else self.recorded[:count]
        parts = self.tokens[s], self.is_first[s], self.action[s], self.token_id[s], self.mask[s]
        return TensorBatch(*parts, self.mixed, ranks=self.ranks, recorded=recorded)


@dataclass(frozen=True)
class Term:
    """One loss: values (B, T), or (N,) of whatever else it is about, where it holds, and its weight in the sum."""

    value: Tensor
    valid: Tensor
    weight: float

    def mean(self) -> Tensor:
        """Mean over the valid steps; zero where there is none."""
        return self.part(self.valid.sum())

    def part(self, count: Tensor) -> Tensor:
        """What this process's steps give to a mean over `count` steps of several processes."""
        return (self.value * self.valid).sum() / count.clamp_min(1)


@dataclass(frozen=True)
class Losses:
    """What an objective returns.

    Attributes:
      terms: losses by name. metrics: scalars for the log, without gradient.
      observed: the posterior rollout of the sequences that train the latents, the first of the batch.
    """

    terms: dict[str, Term]
    observed: Observed
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def total(self, ranks: Ranks = ALONE) -> Tensor:
        """The weighted sum of the means: the scalar that is differentiated; of a shared batch, what this rank gives to it."""
        counts = ranks.total(torch.stack([term.valid.sum() for term in self.terms.values()]))
        return torch.stack([term.weight * term.part(count) for term, count in zip(self.terms.values(), counts, strict=True)]).sum()


@dataclass(frozen=True)
class Ahead:
    """What k-step heads expect, in the space they were trained in.

    Attributes:
      expected: {k: (B, T, P)} unit vectors, made at t for the token at t + k. target: (B, T, P) unit vectors of the tokens that came.
    """

    expected: dict[int, Tensor]
    target: Tensor

    def mismatch(self, k: int) -> Tensor:
        """1 - cosine of the token at t + k and what was expected of it at t: (B, T - k), or (B, 0) where T <= k."""
        T = self.target.shape[1]
        return 1 - (self.expected[k][:, : max(0, T - k)] * self.target[:, k:]).sum(-1)


@dataclass(frozen=True)
class Parts:
    """A part of an objective: its terms, and its metrics without gradient, by name."""

    terms: dict[str, Term] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def __or__(self, other: Parts) -> Parts:
        return Parts(self.terms | other.terms, self.metrics | other.metrics)


class Objective(nn.Module, ABC):
    """Base of all objectives: the interface, and the contrast that several of them share.

    Args:
      model: the networks; read for their widths, not kept (the trainer passes the model to `forward`).
    Attributes:
      trains_latents: False for an objective without latents, whose code and imagination are then not judged.
      trains_scene: True for an objective with a term of the scene, where the model has a scene encoder.
      latents: the `model.latents` that the objective is defined for; None where it goes with all.
    Raises:
      ConfigError: it does not go with the model.
    """

    trains_latents = True
    trains_scene = False
    latents: str | None = None

    def __init__(self, config: ObjectiveConfig, model: WorldModelNet) -> None:
        super().__init__()
        if self.latents not in (None, model.config.latents):
            raise ConfigError(f"objective.name '{config.name}' needs model.latents '{self.latents}', not '{model.config.latents}'")
        self.config = config
        self.context_dim = model.dynamics.context_dim

    @abstractmethod
    def forward(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> Losses:
        """Losses of one batch; `noise` (B, T, S, K) drives the posterior's samples."""

    @abstractmethod
    def predict(self, state: State) -> Tensor:
        """Where the state expects its own token in the comparison space: (..., P), unit length."""

    @abstractmethod
    def target(self, embed: Tensor) -> Tensor:
        """Tokens in the comparison space: (..., E) -> (..., P), unit length."""

    def ahead_of(self, observed: Heard) -> Ahead | None:
        """What the k-step heads expect along a rollout; None for an objective without such heads."""
        del observed
        return None

    def observe(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> tuple[Heard, Observed]:
        """What is known of all sequences, and the rollout of those that train the latents: rows of a batch are in random order, and a share
        of them, the first, are enough (`latent_streams`)."""
        rows = max(1, round(self.config.latent_streams * len(batch.mask)))
        return model.observe_some(rows, batch.tokens, batch.action, batch.is_first, noise)

    def context(self, state: State) -> Tensor:
        """(..., C) what heads read of a state: the part that `Observed.context` holds."""
        return state.deter if self.context_dim == state.deter.shape[-1] else state.feat

    def nce(self, query: Tensor, key: Tensor, batch: TensorBatch, valid: Tensor, steps: int) -> Contrast:
        """`info_nce` with the configured temperature and negatives."""
        if by_hand(query):
            rows = valid.flatten().nonzero().squeeze(1)
            return self._nce_of_rows(query.flatten(0, 1).index_select(0, rows), rows, key, batch, valid, steps)
        return info_nce(
            query,
            key,
            batch.token_id,
            valid,
            batch.mask,
            steps=steps,
            temperature=self.config.temperature,
            within_sequence=self.config.negatives == "sequence",
            ranks=batch.ranks,
        )

    def ahead_nce(self, head: nn.Module, k: int, context: Tensor, key: Tensor, action: Tensor, batch: TensorBatch) -> Contrast:
        """Contrast of the token k steps ahead with what `head` makes of the context and the k actions that lead there.

        Args:
          head: (..., C + k * A) -> (..., P). context: (B, T, C). key: (B, T, P). action: (B, T, A).
        """
        valid = reaches(batch.is_first, batch.mask, k)
        if by_hand(context):
            rows = valid.flatten().nonzero().squeeze(1)
            inputs = ahead_inputs(k, context, action).flatten(0, 1).index_select(0, rows)
            return self._nce_of_rows(head(inputs), rows, key, batch, valid, k)
        return self.nce(ahead_query(head, k, context, action), key, batch, valid, k)

    def _nce_of_rows(self, query: Tensor, rows: Tensor, key: Tensor, batch: TensorBatch, valid: Tensor, steps: int) -> Contrast:
        """`nce` of the valid steps alone, the others being zero: `query` (R, P) and `rows` (R,), the flat steps that it belongs to."""
        near = self.config.negatives == "sequence"
        rivals, keys = batch.rivals_in_sequence if near else batch.rivals, unit(key.flatten(0, 1))
        positive = rows + steps
        loss, correct = contrast_rows(query, keys if near else batch.ranks.gather(keys), positive, rivals.barred, self.config.temperature)

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(valid.numel()).index_copy(0, rows, values).reshape(valid.shape)

        return Contrast(spread(loss), spread(correct), spread(rivals.chance[positive]), valid)

    def ahead_terms(
        self, heads: nn.ModuleList, weights: Sequence[float], first: int, context: Tensor, key: Tensor, action: Tensor, batch: TensorBatch
    ) -> Parts:
        """One `ahead_nce` per head, for k = first, first + 1, ...: terms `ahead_k`, metrics `nce_accuracy_k<k>` and `chance` (k = 1)."""
        terms: dict[str, Term] = {}
        metrics: dict[str, Tensor] = {}
        for k, (head, weight) in enumerate(zip(heads, weights, strict=True), start=first):
            contrast = self.ahead_nce(head, k, context, key, action, batch)
            terms[f"ahead_{k}"] = Term(contrast.loss, contrast.valid, weight)
            metrics[f"nce_accuracy_k{k}"] = masked_mean(contrast.correct, contrast.valid)
            if k == 1:
                metrics["chance"] = masked_mean(contrast.chance, contrast.valid)
        return Parts(terms, metrics)


def linear_heads(config: ObjectiveConfig, model: WorldModelNet) -> tuple[nn.ModuleList, list[float]]:
    """Linear heads for k = 1..horizon, each of the context and k actions, and their weights (horizon_decay^(k-1), of sum 1)."""
    context, embed, action = model.dynamics.context_dim, model.config.embed, model.action_dim
    decay = [config.horizon_decay**k for k in range(config.horizon)]
    heads = nn.ModuleList(nn.Linear(context + k * action, embed) for k in range(1, config.horizon + 1))
    return heads, [d / sum(decay) for d in decay]


def ahead_query(head: nn.Module, k: int, context: Tensor, action: Tensor) -> Tensor:
    """What `head` makes of the context at t and the k actions after it: (B, T, C), (B, T, A) -> (B, T, P)."""
    query: Tensor = head(ahead_inputs(k, context, action))
    return query


def ahead_inputs(k: int, context: Tensor, action: Tensor) -> Tensor:
    """What a head k steps ahead reads: (B, T, C), (B, T, A) -> (B, T, C + k * A)."""
    return torch.cat([context, *future_actions(action, k)], -1)


def read_ahead(heads: Iterable[nn.Module], first: int, observed: Heard, key: Tensor) -> Ahead:
    """`Ahead` of heads for k = first, first + 1, ... over the contexts of a rollout; `key` (B, T, P) are the tokens; k = 0 is left out."""
    queries = {k: ahead_query(head, k, observed.context, observed.action) for k, head in enumerate(heads, start=first) if k}
    return Ahead({k: _unit(query) for k, query in queries.items()}, _unit(key))


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=-1)


def future_actions(action: Tensor, k: int) -> list[Tensor]:
    """The k actions after each step, (B, T, A) each; zeros past the end, where no prediction counts."""
    padded = functional.pad(action, (0, 0, 0, k))
    T = action.shape[1]
    return [padded[:, j : j + T] for j in range(1, k + 1)]


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid steps without gradient, for metrics; zero where there is none."""
    return (values * valid).sum().detach() / valid.sum().clamp_min(1)
