"""Paths whose backward pass is written by hand, because the automatic one wastes most of a CPU's time on them.

What is computed is the same as on the plain path beside each, up to the rounding of sums; the tests compare them. The plain paths are taken
on a GPU, under autocast, and wherever the environment variable PYDREAMING_PLAIN is set; and where shapes may not depend on values
(`static_shapes`), since most paths here compute valid steps alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

TINY = 1e-12  # least length that a vector is divided by, as in torch.nn.functional.normalize


_static = ContextVar("static", default=False)


@contextmanager
def static_shapes() -> Iterator[None]:
    """Inside, no shape depends on a value and the host asks for none: what a CUDA graph can record."""
    token = _static.set(True)
    try:
        yield
    finally:
        _static.reset(token)


def shapes_are_static() -> bool:
    """Whether this is inside of `static_shapes`."""
    return _static.get()


def by_hand(x: Tensor) -> bool:
    """Whether work on `x` takes these paths."""
    plain = _static.get() or torch.is_autocast_enabled("cpu") or os.environ.get("PYDREAMING_PLAIN")
    return x.device.type == "cpu" and not plain


def packed_gru(x: Tensor, sizes: list[int], h0: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """A GRU over packed runs: the weights' gradients are one product over all steps, where nn.GRU on a CPU makes one for each step.

    Args:
      x: (N, I) inputs step by step, the runs that are still going in the same order at every step, the longest first.
      sizes: runs that are going at each step, of sum N, never rising.
      h0: (R, D) state before each run, R = sizes[0].
      weights: of torch.nn.GRU: (3 D, I), (3 D, D), (3 D,), (3 D,), in the order reset, update, new.
    Returns:
      (N, D) states, packed like x.
    Source: the equations of torch.nn.GRU; arXiv 1406.1078 with the reset after the product.
    """
    states: Tensor = _PackedGRU.apply(x, sizes, h0, *weights)  # type: ignore[no-untyped-call]
    return states


class _PackedGRU(Function):
    """r, z = sigmoid(W x + U h); n = tanh(W x + r * (U h + b)); h' = n + z (h - n)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sizes: list[int], h0: Tensor, w_input: Tensor, w_state: Tensor, b_input: Tensor, b_state: Tensor
    ) -> Tensor:
        D = h0.shape[1]
        bias = b_input.clone()
        bias[: 2 * D] += b_state[: 2 * D]
        gates = torch.addmm(bias, x, w_input.t())  # (N, 3 D), which become r, z and n step by step
        recurrent, before, states = (x.new_empty(len(x), D) for _ in range(3))  # U h + b of n, the state before, the state after
        h, to_gates, to_new, bias_new = h0, w_state[: 2 * D].t(), w_state[2 * D :].t(), b_state[2 * D :]
        steps = (part.split(sizes) for part in (gates[:, : 2 * D], *gates.chunk(3, 1), recurrent, before, states))
        for both, r, z, new, inner, old, after in zip(*steps, strict=True):
            h = old.copy_(h[: len(old)])
            both.addmm_(h, to_gates).sigmoid_()
            torch.addmm(bias_new, h, to_new, out=inner)
            new.addcmul_(r, inner).tanh_()
            h = torch.lerp(new, h, z, out=after)
        ctx.sizes = sizes
        ctx.save_for_backward(x, w_input, w_state, gates, recurrent, before)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_input, w_state, gates, recurrent, before = ctx.saved_tensors
        r, z, new = gates.chunk(3, 1)
        to_new = (1 - z) * (1 - new * new)  # what the gradient at h' is multiplied by on its way to each sum inside the functions
        slopes = torch.stack([to_new * recurrent * r * (1 - r), (before - new) * z * (1 - z), to_new * r], 1)  # (N, 3, D)
        sums, after = torch.empty_like(slopes), grad.clone()
        flat, carry = sums.flatten(1), grad[:0]
        steps = (part.split(ctx.sizes)[::-1] for part in (after, after.unsqueeze(1), z, slopes, sums, flat))
        for here, broadcast, keep, slope, total, row in zip(*steps, strict=True):
            here[: len(carry)].add_(carry)
            torch.mul(broadcast, slope, out=total)
            carry = torch.addmm(here * keep, row, w_state)
        grad_w_state, grad_b_state = flat.t() @ before, flat.sum(0)
        torch.mul(after, to_new, out=sums[:, 2])  # the input's part of n is not behind r
        grad_x = flat @ w_input if ctx.needs_input_grad[0] else None
        return grad_x, None, carry, flat.t() @ x, grad_w_state, flat.sum(0), grad_b_state


def unit(x: Tensor) -> Tensor:
    """(..., P) -> (..., P) of unit length, as torch.nn.functional.normalize."""
    vectors: Tensor = _Unit.apply(x)  # type: ignore[no-untyped-call]
    return vectors


class _Unit(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(TINY)
        vectors: Tensor = x / length
        ctx.save_for_backward(vectors, length)
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        vectors, length = ctx.saved_tensors
        return _unit_backward(grad, vectors, length)


def contrast_rows(query: Tensor, key: Tensor, positive: Tensor, barred: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of cosine similarities: each query tells its positive from all keys that are not barred.

    Args:
      query: (R, P), of any length. key: (M, P) unit vectors. positive: (R,) int64, index of a key, below N <= M.
      barred: (N, M), row i is what is added to the logits of a query whose positive is i: 0, or -inf for no candidate; 0 at i itself.
    Returns:
      (R,) loss in nats, and (R,) accuracy@1 without gradient, which ties share.
    """
    result: tuple[Tensor, Tensor] = _Contrast.apply(query, key, positive, barred, temperature)  # type: ignore[no-untyped-call]
    return result


class _Contrast(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, positive: Tensor, barred: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(query, dim=-1, keepdim=True).clamp_min_(TINY)
        vectors = query / length
        logits = barred.index_select(0, positive).addmm_(vectors, key.t(), alpha=1 / temperature)  # (R, N)
        own, best = logits.gather(1, positive.unsqueeze(1)), logits.amax(-1, keepdim=True)
        share = logits.softmax(-1)
        # The likeliest key has a share of at least 1 / N: its logarithm is exact where that of the positive's might be lost.
        loss = best - share.amax(-1, keepdim=True).log() - own
        as_likely = torch.ge(logits, own, out=logits).sum(-1)  # as numbers: sums of booleans are ten times slower
        correct = (own >= best).squeeze(1) / as_likely
        ctx.temperature = temperature
        ctx.save_for_backward(vectors, length, key, positive, share)
        ctx.mark_non_differentiable(correct)
        return loss.squeeze(1), correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        vectors, length, key, positive, share = ctx.saved_tensors
        scale = (grad / ctx.temperature).unsqueeze(1)
        grad_query = grad_key = None
        if ctx.needs_input_grad[0]:
            grad_query = _unit_backward(scale * (share @ key - key.index_select(0, positive)), vectors, length)
        if ctx.needs_input_grad[1]:
            scaled = scale * vectors
            grad_key = (share.t() @ scaled).index_add_(0, positive, scaled, alpha=-1)
        return grad_query, grad_key, None, None, None


def kl_both_sides(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(sg q || p) and KL(q || sg p) of groups of classes, computed once: log-probabilities (..., S, K) twice -> (...) twice, nats."""
    sides: tuple[Tensor, Tensor] = _Sides.apply(log_q, log_p)  # type: ignore[no-untyped-call]
    return sides


class _Sides(Function):
    @staticmethod
    def forward(ctx: Any, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # a side that is not asked for has none
        q, ratio = log_q.exp(), log_q - log_p
        ctx.save_for_backward(q, ratio)
        kl = (q * ratio).sum((-2, -1))
        return kl, kl.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_p: Tensor | None, at_q: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        q, ratio = ctx.saved_tensors
        grad_q = None if at_q is None else torch.addcmul(q, q, ratio).mul_(at_q[..., None, None])
        return grad_q, None if at_p is None else q * -at_p[..., None, None]


def _unit_backward(grad: Tensor, vectors: Tensor, length: Tensor) -> Tensor:
    """From the gradient at unit vectors to that at the vectors they were made of: the part along them is lost."""
    return (grad - vectors * (grad * vectors).sum(-1, keepdim=True)) / length
