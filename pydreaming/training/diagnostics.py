"""Is it learning, is it collapsing: figures of one batch, and a verdict in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.models.state import Observed
from pydreaming.objectives import TensorBatch
from pydreaming.training.open_loop import gain_on_batch
from pydreaming.training.trainer import StepResult, Trainer

MIN_INFORMATION = 0.5  # nats; below it the code says almost nothing about the token
MIN_RANK_SHARE = 0.05  # of the embedding's width
_OF_EMBEDDING = ("effective_rank", "least_std", "adjacent_cosine")  # the rest are of the code


@torch.no_grad()
def latent_diagnostics(observed: Observed, mask: Tensor, free_nats: float) -> dict[str, float]:
    """Figures of the latents and the embedding over the valid steps of a batch.

    Returns:
      kl (nats), free_share (of steps with a KL under the free nats), post_entropy, prior_entropy, information (KL(q || batch marginal),
      nats; an upper bound of I(z;x): as the marginal takes the variables as independent, it is I plus their total correlation, and what
      several of them repeat counts once for each), perplexity (mean over groups, of K; categorical latents only), effective_rank and
      least_std of the embedding, adjacent_cosine.
    """
    latents = observed.post.latents
    post, prior = observed.post.logits[mask], observed.prior_logits[mask]  # (N, S, P)
    unigram = latents.marginal(observed.post.logits, mask)
    kl = latents.kl(post, prior)
    usage = {"perplexity": float((-(unigram.exp() * unigram).sum(-1)).exp().mean())} if latents.discrete else {}
    embed = observed.embed[mask].float()
    cosine = functional.cosine_similarity(observed.embed[:, 1:].float(), observed.embed[:, :-1].float(), dim=-1)
    inside = mask[:, 1:] & mask[:, :-1] & ~observed.is_first[:, 1:]
    return {
        "kl": float(kl.mean()),
        "free_share": float((kl < free_nats).float().mean()),
        "post_entropy": float(latents.entropy(post).mean()),
        "prior_entropy": float(latents.entropy(prior).mean()),
        "information": float(latents.kl(post, unigram.expand_as(post)).mean()),
        **usage,
        "effective_rank": effective_rank(embed),
        "least_std": float(embed.std(0).min()) if len(embed) > 1 else 0.0,
        "adjacent_cosine": float(cosine[inside].mean()) if bool(inside.any()) else 0.0,
    }


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred rows (N, D); between 1 and min(N, D), nan for x not finite.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007), eq. 2.
    """
    if not bool(torch.isfinite(x).all()):
        return math.nan  # the decomposition would raise, and end a run that has just refused a step
    values = torch.linalg.svdvals(x - x.mean(0))
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def gradient_norms(modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """Norm of the gradient held by each module; zero where it has none."""
    norms = {}
    for name, module in modules.items():
        grads = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        norms[name] = float(torch.stack(grads).norm()) if grads else 0.0
    return norms


class Averages:
    """Means of loss and accuracies over the steps since the last look; batches of one source and of all differ too much for single ones."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}  # of steps that had a metric: what is asked of all sources, a batch of one does not have

    def add(self, result: StepResult) -> None:
        """Take in a step, without waiting for the device. Refused steps are left out."""
        if not result.finite:
            return
        values = {"loss": result.total, "decoder_loss": result.decoder, **result.losses.metrics}
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means by metric name, empty when there was no step; then begin anew."""
        means = {f"learning/{name}": float(value) / self._counts[name] for name, value in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def step_metrics(trainer: Trainer, result: StepResult, mask: Tensor) -> dict[str, float]:
    """Everything worth a line in the log after a training step; names as in `pydreaming.tracking` sections. Norms are before clipping."""
    losses = result.losses
    metrics = {"learning/loss": float(result.total), "learning/decoder_loss": float(result.decoder)}
    metrics |= {f"losses/{name}": float(term.mean().detach()) for name, term in losses.terms.items()}
    metrics |= {f"learning/{name}": float(value) for name, value in losses.metrics.items()}
    metrics["learning/learning_rate"] = float(trainer.optimizer.param_groups[0]["lr"])
    latents = latent_diagnostics(losses.observed, mask[: len(losses.observed.embed)], trainer.config.objective.free_nats)
    judged = latents if trainer.objective.trains_latents else _OF_EMBEDDING
    metrics |= {f"health/{name}": latents[name] for name in judged}
    modules = {"encoder": trainer.model.encoder, "dynamics": trainer.model.dynamics, "heads": trainer.objective}
    metrics["health/grad_norm"] = float(result.grad_norm)
    clipped = max(1.0, metrics["health/grad_norm"] / trainer.config.training.clip)  # times that the gradients now held are too small
    metrics |= {f"health/grad_norm_{name}": clipped * value for name, value in gradient_norms(modules).items()}
    metrics["health/non_finite_steps"] = float(trainer.non_finite_steps)
    return metrics


def world_model_metrics(trainer: Trainer, result: StepResult, batch: TensorBatch) -> dict[str, float]:
    """Open-loop gain on the batch just trained on, by step ahead; nothing for an objective that trains no prior."""
    if not trainer.objective.trains_latents:
        return {}
    observed = result.losses.observed
    gains = gain_on_batch(trainer.model, observed, batch.rows(len(observed.embed)), steps=8)
    return {f"world_model/open_loop_gain_k{k}": value for k, value in gains.items()}


def verdict(metrics: Mapping[str, float], embed_width: int) -> str:
    """One line on health: what is wrong, or that nothing is. The code is judged where `metrics` has its figures."""
    information = metrics.get("health/information")
    if metrics["health/non_finite_steps"] > 0 and not math.isfinite(metrics["learning/loss"]):
        return "BROKEN: the loss is not finite; lower training.learning_rate"
    if not math.isfinite(
        metrics["health/effective_rank"] if information is None else information
    ):  # no comparison below would hold, and that would read as health
        return f"UNSTABLE: the last step was refused ({metrics['health/non_finite_steps']:.0f} so far); lower training.learning_rate"
    if information is not None and information < MIN_INFORMATION:
        return f"COLLAPSED: the code tells at most {information:.2f} nat about its token (alarm under {MIN_INFORMATION})"
    if metrics["health/effective_rank"] < MIN_RANK_SHARE * embed_width:
        return f"COLLAPSING: effective rank of the embedding {metrics['health/effective_rank']:.1f} of {embed_width}"
    gain = metrics.get("world_model/open_loop_gain_k1")
    if gain is not None and gain <= 0:
        return f"no world model yet: one-step open-loop gain {gain:.2f} nat (above 0 means that it predicts)"
    return "healthy"
