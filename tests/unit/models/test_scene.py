"""The scene encoder reads the mean and deviation of frames, whoever's they are and in whatever order."""

from __future__ import annotations

import numpy as np
import torch

from pydreaming.models.scene import STRETCH, SceneEncoder, frame_statistics

FRAMES, BANDS, WIDTH = 2, 5, 7


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, FRAMES * BANDS, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def encoder() -> SceneEncoder:
    torch.manual_seed(0)
    return SceneEncoder(BANDS, WIDTH)


def test_statistics_are_those_of_the_frames_of_each_set() -> None:
    x, owner = tokens(9), torch.tensor([0, 2, 0, 2, 2, 0, 0, 2, 0])
    found = frame_statistics(x.unflatten(-1, (FRAMES, BANDS)), owner, 3).numpy()
    for number in (0, 2):
        frames = x[owner == number].reshape(-1, BANDS).numpy()
        np.testing.assert_allclose(found[number], np.concatenate([frames.mean(0), frames.std(0)]), atol=1e-5)
    assert not found[1].any()


def test_a_clip_has_one_vector_whatever_the_order_of_its_tokens() -> None:
    scene, x = encoder(), tokens(STRETCH)
    torch.testing.assert_close(scene.of_clip(x), scene.of_clip(x.flip(0)))
    assert scene.of_clip(x).shape == (WIDTH,)
    assert scene.of_clip(x[:1]).isfinite().all()


def test_a_long_clip_has_the_mean_of_its_stretches() -> None:
    scene, x = encoder(), tokens(3 * STRETCH)
    parts = torch.stack([scene.of_clip(part) for part in x.split(STRETCH)])
    torch.testing.assert_close(scene.of_clip(x), parts.mean(0))
