"""The whole recurrence of `posterior: filter` as one function, its backward pass through time written by hand (see `by_hand`).

Shapes: T steps, B sequences, D deterministic width, H hidden width, S groups of K classes, L = S * K. A step, as `RSSM` has it:

    u = W_z (keep z_{t-1}) + drive_t                 drive: what the action gives, with the bias
    x = W_x silu(LN(u)) + b_x
    h = GRU(keep h_{t-1}, x)
    v = W_d h + token_t                              token: what the embedding gives, with the bias
    log q = log_probabilities(W_s silu(LN(v)) + b_s)
    z = one-hot sample of q, straight-through

What does not need the step before is outside: `drive` and `token` for all steps in one product, and so is the gradient of every weight. A
sample is one-hot, so the forward product with W_z is a sum of S of its columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pydreaming.models.distributions import log_probabilities

EPS = 1e-5  # of torch.nn.LayerNorm


@dataclass(frozen=True)
class FilterWeights:
    """Weights of the recurrence: `state` (H, L), the norm after it (H,) twice, `x` (H', H) and its bias, four of torch.nn.GRU (its order),
    `deter` (H, D), the norm after it (H,) twice, `scores` (L, H) and its bias."""

    state: Tensor
    norm_in: tuple[Tensor, ...]
    x: tuple[Tensor, ...]
    gru: tuple[Tensor, ...]
    deter: Tensor
    norm_post: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]


def filter_rollout(
    drive: Tensor, token: Tensor, keep: Tensor, noise: Tensor | None, deter: Tensor, stoch: Tensor, unimix: float, weights: FilterWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of the filtering posterior.

    Args:
      drive, token: (T, B, H). keep: (T, B) 0 at resets, else 1. noise: (T, B, S, K) Gumbel; None takes modes.
      deter: (B, D) and stoch: (B, S, K) before the first step.
    Returns:
      states (T, B, D), log-probabilities (T, B, S, K), samples (T, B, S, K).
    """
    w = weights
    flat = (w.state, *w.norm_in, *w.x, *w.gru, w.deter, *w.norm_post, *w.scores)
    result: tuple[Tensor, Tensor, Tensor] = _Filter.apply(drive, token, keep, noise, deter, stoch, unimix, *flat)  # type: ignore[no-untyped-call]
    return result


class _Filter(Function):
    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        token: Tensor,
        keep: Tensor,
        noise: Tensor | None,
        deter: Tensor,
        stoch: Tensor,
        unimix: float,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        w_z, g_in, c_in, w_x, b_x, w_i, w_h, b_i, b_h, w_d, g_post, c_post, w_s, b_s = weights
        (T, B, H), D, (S, K) = drive.shape, deter.shape[1], stoch.shape[1:]
        keep = keep.unsqueeze(-1)
        table = w_z.t().contiguous()  # (L, H): a row for each class of each group
        group = torch.arange(S, device=drive.device) * K
        i_both, i_new, h_both, h_new = w_i[: 2 * D].t(), w_i[2 * D :].t(), w_h[: 2 * D].t(), w_h[2 * D :].t()
        bias_both, bias_new, bias_inner = (b_i + b_h)[: 2 * D], b_i[2 * D :], b_h[2 * D :]
        gates, before, inner, states = (drive.new_empty(T, B, n) for n in (3 * D, D, D, D))  # r, z, n; keep h_{t-1}; U h + b of n; h
        u, x, v = (drive.new_empty(T, B, n) for n in (H, len(b_x), token.shape[2]))
        log_q, chosen = drive.new_empty(T, B, S, K), torch.empty(T, B, S, dtype=torch.long, device=drive.device)
        pre, post = _Norm(H, g_in, c_in), _Norm(token.shape[2], g_post, c_post)
        h = deter
        for t in range(T):
            if t:
                torch.addcmul(drive[t], keep[t], functional.embedding_bag(chosen[t - 1] + group, table, mode="sum"), out=u[t])
            else:
                torch.addmm(drive[0], stoch.flatten(1) * keep[0], w_z.t(), out=u[0])
            torch.addmm(b_x, pre.silu(u[t]), w_x.t(), out=x[t])
            old, (both, new) = torch.mul(h, keep[t], out=before[t]), gates[t].split([2 * D, D], 1)
            torch.addmm(bias_both, x[t], i_both, out=both).addmm_(old, h_both).sigmoid_()
            torch.addmm(bias_inner, old, h_new, out=inner[t])
            torch.addmm(bias_new, x[t], i_new, out=new).addcmul_(both[:, :D], inner[t]).tanh_()
            h = torch.lerp(new, old, both[:, D:], out=states[t])
            torch.addmm(token[t], h, w_d.t(), out=v[t])
            log_q[t] = log_probabilities(torch.addmm(b_s, post.silu(v[t]), w_s.t()).view(B, S, K), unimix)
            torch.argmax(log_q[t] if noise is None else log_q[t] + noise[t], -1, out=chosen[t])
        samples = torch.zeros_like(log_q).scatter_(-1, chosen.unsqueeze(-1), 1.0)
        ctx.unimix = unimix
        of_steps = (stoch, samples, log_q, states, gates, inner, before, x, u, *pre.saved(), v, *post.saved())
        ctx.save_for_backward(keep, table, g_in, c_in, w_x, w_i, w_h, w_d, g_post, c_post, w_s, *of_steps)
        return states, log_q, samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor, grad_log_q: Tensor, grad_samples: Tensor) -> tuple[Tensor | None, ...]:
        keep, table, g_in, c_in, w_x, w_i, w_h, w_d, g_post, c_post, w_s, *of_steps = ctx.saved_tensors
        stoch, samples, log_q, states, gates, inner, before, x, u, pre_mean, pre_rstd, pre_out, pre_act, v, *of_post = of_steps
        post_mean, post_rstd, post_out, post_act = of_post
        (T, B, D), unimix = states.shape, ctx.unimix
        share, grad_scores = _scores_backward(log_q, unimix, grad_log_q.contiguous(), grad_samples.contiguous())
        r, z, new = gates.chunk(3, 2)
        to_new = (1 - z) * (1 - new * new)
        # The gradient at h times these is that at the sums inside n, r, z and at U h + b of n: the first three belong to the input, the
        # last three to the state.
        slopes = torch.stack([to_new, to_new * inner * r * (1 - r), (before - new) * z * (1 - z), to_new * r], 2)
        # As columns, a matrix of many rows is multiplied a tenth faster by a few rows.
        by_scores, by_gates, by_gates_nrz = (w.t().contiguous().t() for w in (w_s, w_h, w_i.roll(D, 0)))
        pre_slope, post_slope = _silu_slope(pre_out), _silu_slope(post_out)
        sums, grad_norm_post, grad_v = torch.empty_like(slopes), torch.empty_like(v), torch.empty_like(v)
        grad_x, grad_norm_pre, grad_u = torch.empty_like(x), torch.empty_like(u), torch.empty_like(u)
        carry_h, carry_z, passes = torch.zeros_like(states[0]), None, keep * (1 - unimix)
        for t in reversed(range(T)):
            if carry_z is not None:
                grad_scores[t] += torch._softmax_backward_data((carry_z * passes[t + 1]).view_as(share[t]), share[t], -1, share.dtype)
            torch.mm(grad_scores[t].flatten(1), by_scores, out=grad_norm_post[t]).mul_(post_slope[t])
            grad_v[t] = _norm_backward(grad_norm_post[t], v[t], post_mean[t], post_rstd[t], g_post, c_post, True)[0]
            grad_h = (grad_states[t] + carry_h).addmm_(grad_v[t], w_d)
            torch.mul(grad_h.unsqueeze(1), slopes[t], out=sums[t])
            flat = sums[t].flatten(1)
            carry_h = torch.addmm(grad_h * z[t], flat[:, D:], by_gates).mul_(keep[t])
            torch.mm(flat[:, : 3 * D], by_gates_nrz, out=grad_x[t])
            torch.mm(grad_x[t], w_x, out=grad_norm_pre[t]).mul_(pre_slope[t])
            grad_u[t] = _norm_backward(grad_norm_pre[t], u[t], pre_mean[t], pre_rstd[t], g_in, c_in, True)[0]
            carry_z = grad_u[t] @ table.t()
        assert carry_z is not None
        rows = sums.view(T * B, 4 * D)
        by_input, by_state, total = rows[:, : 3 * D].t() @ x.flatten(0, 1), rows[:, D:].t() @ before.flatten(0, 1), rows.sum(0)
        previous = (torch.cat([stoch.unsqueeze(0), samples[:-1]]).flatten(2) * keep).flatten(0, 1)
        _, grad_g_in, grad_c_in = _norm_backward(grad_norm_pre, u, pre_mean, pre_rstd, g_in, c_in, False)
        _, grad_g_post, grad_c_post = _norm_backward(grad_norm_post, v, post_mean, post_rstd, g_post, c_post, False)
        flat_scores = grad_scores.view(T * B, -1)
        of_weights = (
            _over_steps(grad_u, previous),
            *(grad_g_in, grad_c_in),
            *(_over_steps(grad_x, pre_act), grad_x.sum((0, 1))),
            *(torch.cat([by_input[D:], by_input[:D]]), by_state, torch.cat([total[D : 3 * D], total[:D]]), total[D:]),
            _over_steps(grad_v, states),
            *(grad_g_post, grad_c_post),
            *(_over_steps(flat_scores, post_act), flat_scores.sum(0)),
        )
        return grad_u, grad_v, None, None, carry_h, (carry_z * keep[0]).view_as(stoch), None, *of_weights


class _Norm:
    """LayerNorm and SiLU step by step, and what their backward pass needs of all steps."""

    def __init__(self, width: int, weight: Tensor, bias: Tensor) -> None:
        self.width, self.weight, self.bias = width, weight, bias
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # mean, reciprocal deviation, norm's output, SiLU's output

    def silu(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, width), kept."""
        out, mean, rstd = torch.native_layer_norm(x, (self.width,), self.weight, self.bias, EPS)
        activation = functional.silu(out)
        self.steps.append((mean, rstd, out, activation))
        return activation

    def saved(self) -> list[Tensor]:
        """Each of the kept ones over all steps, (T, B, ...)."""
        return [torch.stack(of_steps) for of_steps in zip(*self.steps, strict=True)]


def _norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, at_x: bool) -> tuple[Tensor, ...]:
    """Gradients of LayerNorm: the first of three at its input, or the others at weight and bias."""
    wanted = [at_x, not at_x, not at_x]
    gradients: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(grad, x, x.shape[-1:], mean, rstd, weight, bias, wanted)
    return gradients


def _silu_slope(x: Tensor) -> Tensor:
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


def _scores_backward(log_q: Tensor, unimix: float, grad_log_q: Tensor, grad_samples: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax, and the gradient at its scores of what lies outside of the recurrence: (T, B, S, K) twice."""
    floor = unimix / log_q.shape[-1]
    q = log_q.exp()
    share = (q - floor) / (1 - unimix)
    by_log = grad_log_q * (1 - floor / q) if unimix else grad_log_q  # without a floor q may be zero
    by_sample = grad_samples * (1 - unimix)
    total = (by_sample * share).add_(by_log).sum(-1, keepdim=True)
    return share, torch.addcmul(by_log, share, by_sample - total)


def _over_steps(grad: Tensor, x: Tensor) -> Tensor:
    """A weight's gradient as one product: gradients at its output (..., O) and what it read (..., I) -> (O, I)."""
    return grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
