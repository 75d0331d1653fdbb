"""The ceiling: the world model's own encoder and dynamics, trained end to end on the labels of the training clips.

It has the networks, the input and the seconds of the world model, but is told what to learn; no augmentation. A lower bound of what labels
can give: it is small, and nobody has tuned it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import Config
from pydreaming.evaluation.classifiers import Labels, Rows
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.listening import ClipBatch, pad_clips, similar_lengths
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.probes import ProbeRow, accuracy_row
from pydreaming.evaluation.protocols import Protocol
from pydreaming.models.world_model import WorldModelNet
from pydreaming.training.trainer import adamw, rate_factor

SUPERVISED = "supervised network"  # name of the row
BATCH_TOKENS = 1024  # in a batch, about
LONGEST = 256  # tokens of a clip in training; of a longer one a random part
SMOOTHING = 0.1  # of the labels


class Classifier(nn.Module):
    """Encoder and dynamics of the configuration, and a linear layer on the mean and the maximum of their context over a clip."""

    def __init__(self, config: Config, token_dim: int, action_dim: int, classes: int) -> None:
        super().__init__()
        self.world = WorldModelNet(config.model, token_dim, action_dim)
        self.head = nn.Linear(2 * self.world.dynamics.context_dim, classes)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Scores of the classes (B, classes)."""
        context = self.world.observe(batch.tokens, batch.action, batch.is_first).context
        mask = batch.mask.unsqueeze(-1)
        mean = (context * mask).sum(1) / mask.sum(1)
        largest = context.masked_fill(~mask, -torch.inf).amax(1)
        scores: Tensor = self.head(torch.cat([mean, largest], -1))
        return scores


def supervised_row(config: Config, clips: Clips, protocol: Protocol, seconds: float, device: torch.device) -> ProbeRow:
    """Train on each split's training clips and test on the others; `seconds` of this process's CPU time for each split."""
    accuracies = []
    for train, test in protocol.splits:
        classes = np.unique(protocol.targets[train])
        classifier = train_classifier(config, clips, train, protocol.targets, seconds, device)
        guess = classes[predict(classifier, clips, test, device)]
        accuracies.append(float(np.mean(guess == protocol.targets[test])))
    return accuracy_row(SUPERVISED, protocol, accuracies)


def train_classifier(config: Config, clips: Clips, rows: Rows, targets: Labels, seconds: float, device: torch.device) -> Classifier:
    """A classifier of the sorted labels of `rows`, trained on these clips alone.

    Args:
      targets: (N,) labels of all clips. seconds: CPU time of this process to train for, at least one step; the rate follows
        `training.*` over this time.
    """
    torch.manual_seed(config.run.seed)
    rng = np.random.default_rng(config.run.seed)
    classes, codes = np.unique(targets[rows], return_inverse=True)
    classifier = Classifier(config, clips.tokens[0].shape[1], clips.actions[0].shape[1], len(classes)).to(device).train()
    optimizer = adamw(list(classifier.parameters()), config)
    lengths = np.array([min(LONGEST, len(clips.tokens[i])) for i in rows])
    size = max(2, BATCH_TOKENS // max(1, int(lengths.mean())))
    begin, step, progress = time.process_time(), 0, 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = config.training.learning_rate * rate_factor(config, step, progress)
        chosen = rng.integers(len(rows), size=size)
        tokens, actions = _cut(clips, rows[chosen], rng)
        scores = classifier(pad_clips(tokens, actions, range(size), device, actions[0].shape[1]))
        target = torch.from_numpy(codes[chosen]).to(device)
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(scores, target, label_smoothing=SMOOTHING).backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), config.training.clip)
        optimizer.step()
        step += 1
        progress = (time.process_time() - begin) / seconds if seconds > 0 else 1.0
    return classifier.eval()


@torch.no_grad()
def predict(classifier: Classifier, clips: Clips, rows: Rows, device: torch.device) -> Rows:
    """The index of the likeliest class of each of the clips `rows`."""
    found = np.zeros(len(rows), np.intp)
    for part in similar_lengths([len(clips.tokens[i]) for i in rows]):
        batch = pad_clips(clips.tokens, clips.actions, rows[part].tolist(), device, clips.actions[0].shape[1])
        found[part] = classifier(batch).argmax(-1).cpu().numpy()
    return found


def _cut(clips: Clips, rows: Rows, rng: np.random.Generator) -> tuple[Sequence[Array], Sequence[Array]]:
    """Tokens and actions of these clips, of a long one a random part of LONGEST tokens."""
    tokens, actions = [], []
    for i in rows.tolist():
        start = int(rng.integers(max(0, len(clips.tokens[i]) - LONGEST) + 1))
        tokens.append(clips.tokens[i][start : start + LONGEST])
        actions.append(clips.actions[i][start : start + LONGEST])
    return tokens, actions
