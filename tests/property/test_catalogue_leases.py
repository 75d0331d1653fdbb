"""What holds for the leases of any catalogue."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pydreaming.audio.sources import Catalogue
from pydreaming.config import load_config

GROUP_SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=25)


def catalogue_of(sizes: list[int], held_out: float, folder: Path) -> Catalogue:
    rows = [{"audio_filepath": f"{g}-{n}.wav", "speaker": f"s{g}"} for g, size in enumerate(sizes) for n in range(size)]
    np.random.default_rng(len(rows)).shuffle(rows)  # type: ignore[arg-type]
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(["defaults"], ["--source.path", str(path)])
    return Catalogue.build(dataclasses.replace(config.source, held_out=held_out), config.action, 0, folder / "catalogue")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=GROUP_SIZES, lease_items=st.integers(1, 50), seed=st.integers(0, 2**70), held_out=st.sampled_from([0.0, 0.2]))
def test_leases_cover_every_training_item_once_and_keep_groups_together(sizes, lease_items, seed, held_out):
    with tempfile.TemporaryDirectory() as folder:
        catalogue = catalogue_of(sizes, held_out, Path(folder))
        leases = catalogue.leases(seed, 0, lease_items)
        again = catalogue.leases(seed, 0, lease_items)
        assert len(leases) == len(again)
        assert all(np.array_equal(a, b) for a, b in zip(leases, again, strict=True))
        assert sorted(i for lease in leases for i in lease.tolist()) == catalogue.train_indices.tolist()

        groups = [catalogue.group_ids[lease].tolist() for lease in leases]
        group_sizes = Counter(catalogue.group_ids[catalogue.train_indices].tolist())
        assert all(1 <= len(lease) <= lease_items for lease in groups)
        for lease in groups:  # one run of each group: an episode never has to mix them
            assert sum(a != b for a, b in pairwise(lease)) == len(set(lease)) - 1
        if sum(group_sizes.values()) >= lease_items / 4 * len(group_sizes):
            assert all(len(set(lease)) == 1 for lease in groups)
        else:
            spread = Counter(group for lease in groups for group in set(lease))
            assert all(spread[group] == 1 for group, size in group_sizes.items() if size <= lease_items)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(3, 40), min_size=4, max_size=12), lease_items=st.integers(2, 50), seed=st.integers(0, 2**31))
def test_epochs_and_seeds_differ(sizes, lease_items, seed):
    with tempfile.TemporaryDirectory() as folder:
        catalogue = catalogue_of(sizes, 0.0, Path(folder))
        orders = [
            [i for lease in catalogue.leases(s, epoch, lease_items) for i in lease.tolist()]
            for s, epoch in [(seed, 0), (seed, 1), (seed + 1, 0)]
        ]
        assert orders[0] != orders[1]
        assert orders[0] != orders[2]
