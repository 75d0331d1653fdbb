"""Dreaming for audio: contrastive prediction with Gaussian latents and no reconstruction.

Source: arXiv 2007.14535, eq. 11: over k = 0..K, InfoNCE between the latent state k steps ahead and its observation, and KL between the
posterior and a prior unrolled k steps by an independent linear dynamics. DreamingV2 is this objective with categorical latents, so the
terms, and what is an approximation in them, are those of `dreaming_v2`. One more approximation: the KL is balanced (`kl_dyn`, `kl_rep`)
with free nats per step; the paper has neither balance. Equal weights and `free_nats` 0 take them away.
"""

from __future__ import annotations

from pydreaming.objectives.dreaming_v2 import DreamingV2


class Dreaming(DreamingV2):
    """The terms of DreamingV2 on Gaussian latents."""

    latents = "gaussian"
