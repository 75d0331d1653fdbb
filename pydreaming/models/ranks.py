"""One batch on several processes (ranks), so that gradients are those of one process on the whole batch.

Row i of the joined batch belongs to rank i mod R. Each rank runs the networks on its own rows; what a loss asks of the whole batch goes
through a `Ranks`:

    L        = sum over ranks of L_r          L_r: sums over the rank's own steps, over counts of the steps of all ranks (`total`)
    contrast   own queries against the tokens of all ranks (`gather`): a token's gradient goes back to the rank that holds it
    redundancy correlations over all ranks (`sum`)

The gradients of the L_r, summed over the ranks, are then those of L, which data-parallel training takes care of. A batch that is not
shared has `ALONE`, whose methods give back what they are given, so that one process computes what it always did, bit for bit.

Every rank has to call the same methods in the same order, with tensors of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.nn import functional as collective


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a batch, which `torch.distributed`'s default group joins. `local`: its number on this host."""

    rank: int = 0
    size: int = 1
    local: int = 0

    def own(self, joined: Tensor) -> Tensor:
        """This rank's rows of what the joined batch has: (R * B, ...) -> (B, ...)."""
        return joined[self.rank :: self.size] if self.size > 1 else joined

    def total(self, x: Tensor) -> Tensor:
        """The sum over ranks, without gradient."""
        if self.size > 1:
            x = x.detach().clone()
            torch.distributed.all_reduce(x)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks; the gradient that it gets on any rank reaches `x` on all."""
        if self.size > 1:
            summed: Tensor = collective.all_reduce(x)
            return summed
        return x

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all ranks, the own ones first: (N, ...) -> (R * N, ...). Each row's gradients go back to its rank, and add up."""
        if self.size == 1:
            return x
        if not x.requires_grad:
            parts = [torch.empty_like(x) for _ in range(self.size)]
            torch.distributed.all_gather(parts, x.contiguous())
        else:
            parts = collective.all_gather(x.contiguous())
        return torch.cat([parts[(self.rank + i) % self.size] for i in range(self.size)])


ALONE = Ranks()
