"""What the latent state is drawn from: two families of distributions behind one interface.

Shapes: `...` any leading axes, S variables, P parameters of each, K values in a sample of each.

                 S               P                              K
    categorical  model.groups    classes: log-probabilities     classes: one-hot
    gaussian     model.gaussians 2: mean, standard deviation    1: the value

`State.logits` and `prior_logits` hold the parameters of either. All arithmetic is float32; quantities are in nats, for Gaussians
differential ones: entropy and surprisal of a density may be below zero, a KL divergence may not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pydreaming.config import ModelConfig
from pydreaming.models.distributions import entropy, gumbel, kl_divergence, kl_sides, log_probabilities, marginal, mixture, straight_through


class Latents(ABC):
    """A family of distributions. It has no state of its own: sizes come from the configuration, parameters from the networks.

    Attributes:
      discrete: whether a sample is a code, so that one can speak of code usage and perplexity.
    """

    discrete: bool

    @abstractmethod
    def sizes(self, config: ModelConfig) -> tuple[int, int, int]:
        """S, P and K."""

    @abstractmethod
    def parameters(self, scores: Tensor, config: ModelConfig) -> Tensor:
        """What a network gives, (..., S * P), as parameters (..., S, P) float32."""

    @abstractmethod
    def sample(self, logits: Tensor, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
        """A sample with a gradient: (..., S, P) and noise (..., S, K) from `noise` -> (..., S, K).

        Args:
          noise: None takes the mode. temperature: samples p^(1 / temperature), normalised.
        """

    @abstractmethod
    def noise(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """What `sample` needs: (..., S, K) float32, finite."""

    @abstractmethod
    def numpy_noise(self, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
        """The same from a generator that gives equal numbers on every device."""

    @abstractmethod
    def mean(self, logits: Tensor) -> Tensor:
        """Expectation of a sample: (..., S, P) -> (..., S, K)."""

    @abstractmethod
    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """KL(q || p) summed over the variables: (..., S, P) twice -> (...) nats."""

    def kl_sides(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """`kl` twice, with a gradient to p alone and to q alone."""
        return self.kl(q.detach(), p), self.kl(q, p.detach())

    @abstractmethod
    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy summed over the variables: (..., S, P) -> (...) nats."""

    @abstractmethod
    def nll(self, stoch: Tensor, logits: Tensor) -> Tensor:
        """-log p(stoch), summed over the variables: (..., S, K), (..., S, P) -> (...) nats."""

    @abstractmethod
    def mixture(self, logits: Tensor) -> Tensor:
        """The mean distribution over the samples, variable by variable: (B, R, N, S, P) -> (B, N, S, P)."""

    @abstractmethod
    def marginal(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The mean distribution over all valid steps, variable by variable: (B, T, S, P), (B, T) bool -> (S, P).

        Of all guesses that take the variables as independent it is the best of one who knows no context. KL(q || marginal) is I(z;x) and
        the variables' total correlation, so an upper bound of the mutual information.
        """


class Categorical(Latents):
    """Groups of classes, mixed with the uniform, with straight-through samples; see `distributions`."""

    discrete = True

    def sizes(self, config: ModelConfig) -> tuple[int, int, int]:
        """Groups, classes and classes."""
        return config.groups, config.classes, config.classes

    def parameters(self, scores: Tensor, config: ModelConfig) -> Tensor:
        """Log-probabilities."""
        return log_probabilities(scores.unflatten(-1, (config.groups, config.classes)), config.unimix)

    def sample(self, logits: Tensor, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
        """One-hot."""
        return straight_through(logits if temperature == 1 else logits / temperature, noise)

    def noise(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Gumbel."""
        return gumbel(shape, device, generator)

    def numpy_noise(self, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
        """Gumbel."""
        exponential = random.standard_exponential(shape).astype(np.float32)
        return torch.from_numpy(-np.log(np.maximum(exponential, np.float32(1e-30))))

    def mean(self, logits: Tensor) -> Tensor:
        """Probabilities."""
        return logits.exp()

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """Exact."""
        return kl_divergence(q, p)

    def kl_sides(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass where the backward one is by hand."""
        return kl_sides(q, p)

    def entropy(self, logits: Tensor) -> Tensor:
        """Exact."""
        return entropy(logits)

    def nll(self, stoch: Tensor, logits: Tensor) -> Tensor:
        """Of one-hot codes."""
        return -(stoch * logits).sum((-2, -1))

    def mixture(self, logits: Tensor) -> Tensor:
        """Exact for each group: a mean of categoricals is one."""
        return mixture(logits)

    def marginal(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Exact for each group; what groups have in common is not in it."""
        return marginal(logits, mask)


class Gaussian(Latents):
    """Independent normal variables with reparametrised samples.

    A mean of Gaussians is none. `mixture` and `marginal` give the Gaussian of the same mean and variance (an approximation: of all
    Gaussians it is the nearest to the mixture in KL(mixture || .), and it is no narrower than the mixture). So KL(q || marginal) is above
    the mutual information for this reason, too.

    Source: arXiv 1811.04551 (PlaNet), eq. 4, with the deviation softplus(x) + 0.1 of its public code; samples as in arXiv 1312.6114,
    section 2.4.
    """

    discrete = False

    def sizes(self, config: ModelConfig) -> tuple[int, int, int]:
        """Variables, two parameters, one value."""
        return config.gaussians, 2, 1

    def parameters(self, scores: Tensor, config: ModelConfig) -> Tensor:
        """Mean, and standard deviation softplus(score) + min_std."""
        mean, spread = scores.float().unflatten(-1, (config.gaussians, 2)).unbind(-1)
        return torch.stack([mean, functional.softplus(spread) + config.min_std], -1)

    def sample(self, logits: Tensor, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
        """Mean and noise times deviation; p^(1 / temperature) has that times the variance."""
        mean, std = logits[..., :1], logits[..., 1:]
        return mean if noise is None else mean + math.sqrt(temperature) * std * noise

    def noise(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, device=device, generator=generator)

    def numpy_noise(self, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
        """Standard normal."""
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    def mean(self, logits: Tensor) -> Tensor:
        """The mean."""
        return logits[..., :1]

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """Exact, in closed form."""
        (mean_q, std_q), (mean_p, std_p) = q.unbind(-1), p.unbind(-1)
        ratio, distance = std_q / std_p, (mean_q - mean_p) / std_p
        return ((distance.square() + ratio.square() - 1) / 2 - ratio.log()).sum(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Differential, exact."""
        return (logits[..., 1].log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def nll(self, stoch: Tensor, logits: Tensor) -> Tensor:
        """Of the density."""
        mean, std = logits.unbind(-1)
        distance = (stoch.squeeze(-1) - mean) / std
        return (distance.square() / 2 + std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def mixture(self, logits: Tensor) -> Tensor:
        """The Gaussian of the same moments."""
        R = logits.shape[1]
        return _same_moments(logits, logits.new_full((1, R, 1, 1), 1 / R), (1,))

    def marginal(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The Gaussian of the same moments."""
        weight = mask.float() / mask.sum().clamp_min(1)
        return _same_moments(logits, weight.unsqueeze(-1), (0, 1))


def _same_moments(logits: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The Gaussian with mean and variance of a mixture over `dims`: (..., S, 2) and weights of sum 1 -> without `dims`, (..., S, 2)."""
    mean, std = logits.unbind(-1)
    centre = (weight * mean).sum(dims, keepdim=True)
    variance = (weight * (std.square() + (mean - centre).square())).sum(dims, keepdim=True)
    # Without a single valid step the variance would be zero, and divergences from it infinite.
    return torch.stack([centre, variance.clamp_min(1e-8).sqrt()], -1).squeeze(dims)


CATEGORICAL: Latents = Categorical()
LATENTS: dict[str, Latents] = {"categorical": CATEGORICAL, "gaussian": Gaussian()}
