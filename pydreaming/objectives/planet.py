"""PlaNet's world model: reconstruct the token from the state, with Gaussian latents.

    L = E_q[-log p(x_t | s_t)] + KL(q(z_t | h_t, x_t) || p(z_t | h_t))

Source: arXiv 1811.04551, eq. 3 (the bound) and eq. 4 (the recurrent state-space model: `model.dynamics: rssm`, `posterior: filter`).
Approximations, beside those of `dreamer_v2`, whose terms these are:

- The KL is balanced (`kl_dyn`, `kl_rep`) where the paper's trains both sides alike; equal weights give the paper's gradient.
- Latent overshooting (eq. 7) is left out, as in the paper's own final agent. With the belief dynamics `unrolls` is a short form of it.
"""

from __future__ import annotations

from pydreaming.objectives.dreamer_v2 import DreamerV2


class PlaNet(DreamerV2):
    """The terms of DreamerV2 on Gaussian latents."""

    latents = "gaussian"
