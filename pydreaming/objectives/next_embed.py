"""NE-Dreamer: a causal transformer over the states predicts the next embedding.

    e^_{t+1} = Transformer(s_{<=t})_t;  L = redundancy(e^_{t+1}, sg(e_{t+1})) + KL

Source: arXiv 2603.02765, whose prediction is aligned by Barlow Twins' loss. Approximations:

- The alignment has R2-Dreamer's constants (see `barlow`); KL weights are `kl_dyn`, `kl_rep` and `free_nats`.
- The transformer is small (two layers of the embedding's width), reads a_{t+1} beside s_t, attends within a clip only, and has no code of
  position, since the states come from a recurrence that knows where it is.
- With the belief dynamics s_t is the trunk's state for the encoder's sake and each unrolled belief for the latents' (see `latents`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pydreaming.models.state import Heard
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.barlow import OFF_DIAGONAL, SCALE
from pydreaming.objectives.base import Parts, TensorBatch, Term, future_actions
from pydreaming.objectives.contrast import reaches, redundancy
from pydreaming.objectives.latents import ReadoutObjective

LAYERS = 2
HEADS = 4  # where the width can be divided so


class NextEmbed(ReadoutObjective):
    """Redundancy reduction between the predicted and the real next embedding, and KL."""

    def build(self, model: WorldModelNet) -> None:
        """The transformer, and linear maps into and out of it."""
        width = model.config.embed
        self.heads = max(h for h in range(1, HEADS + 1) if width % h == 0)
        self.inputs = nn.Linear(self.context_dim + model.action_dim, width)
        layer = nn.TransformerEncoderLayer(width, self.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.output = nn.Linear(width, width)

    def state_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """`next_embed`: a figure of the whole batch, the same at each of its steps."""
        x = self.inputs(torch.cat([states, *future_actions(heard.action, 1)], -1))
        # A transformer layer keeps its input's type; autocast may have made it bfloat16.
        hidden = self.transformer(x, mask=_hidden_from(batch, valid).repeat_interleave(self.heads, 0))
        valid = valid & reaches(batch.is_first, batch.mask, 1)
        loss = redundancy(self.output(hidden), key.roll(-1, 1), valid, OFF_DIAGONAL, batch.ranks)
        return Parts({"next_embed": Term(loss.expand(valid.shape), valid, SCALE)})


def _hidden_from(batch: TensorBatch, valid: Tensor) -> Tensor:
    """Which step may not look at which: (B, T, T) bool, True at [b, t, s] for s after t, of another clip, or without a state.

    Each step sees itself, so that no row of the attention is empty.
    """
    T = valid.shape[1]
    clip = batch.is_first.long().cumsum(1)
    seen = (clip.unsqueeze(2) == clip.unsqueeze(1)) & valid.unsqueeze(1)
    causal = torch.ones(T, T, dtype=torch.bool, device=valid.device).tril()
    itself = torch.eye(T, dtype=torch.bool, device=valid.device)
    return ~(seen & causal | itself)
