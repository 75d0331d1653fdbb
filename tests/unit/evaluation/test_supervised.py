"""The ceiling: it learns its training clips' labels and nothing from the others."""

from __future__ import annotations

import numpy as np
import torch
from tiny_model import tiny_config

from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.protocols import Protocol
from pydreaming.evaluation.supervised import LONGEST, predict, supervised_row, train_classifier

CONFIG = tiny_config()
D, CPU = CONFIG.features.token_dim, torch.device("cpu")


def clips_of(lengths: list[int]) -> Clips:
    """Clips of two classes, told apart by one value of their tokens."""
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((n, D)).astype(np.float32) for n in lengths]
    for i, x in enumerate(tokens):
        x[:, :16] += 4 * (i % 2)
    names = [np.array([f"{kind}{i % 2}" for i in range(len(lengths))], dtype=np.str_) for kind in ("path", "label", "s", "recording:")]
    return Clips(tokens, [np.zeros((n, 1), np.float32) for n in lengths], *names, np.zeros(len(lengths), np.bool_))


def test_it_learns_the_labels_and_is_a_row_of_the_table() -> None:
    clips = clips_of([3 + i % 5 for i in range(60)])
    rows = np.arange(60)
    protocol = Protocol("label", "held-out clips", [(rows[:40], rows[40:])], clips.labels, 0.5)
    row = supervised_row(CONFIG, clips, protocol, 2.0, CPU)
    assert row.features == "supervised network"
    assert row.linear > 0.8
    assert row.knn is None
    assert (row.clips, row.chance) == (20, 0.5)


def test_a_single_step_where_there_is_no_time_and_clips_of_any_length() -> None:
    clips = clips_of([1, LONGEST + 7, 2, 5])
    classifier = train_classifier(CONFIG, clips, np.arange(4), clips.labels, 0.0, CPU)
    found = predict(classifier, clips, np.arange(4), CPU)
    assert set(found.tolist()) <= {0, 1}
    # One clip's answer does not hang on those beside it.
    assert found.tolist() == [int(predict(classifier, clips, np.array([i]), CPU)[0]) for i in range(4)]


def test_clips_outside_the_training_rows_change_nothing() -> None:
    clips, other = clips_of([4] * 8), clips_of([4] * 8)
    other.tokens[6] *= 100
    weights = [train_classifier(CONFIG, c, np.arange(6), c.labels, 0.0, CPU).state_dict() for c in (clips, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
