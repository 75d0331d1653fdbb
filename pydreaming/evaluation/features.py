"""Features of whole clips from a world model, without any effect of one clip on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pydreaming.config import Config
from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array, pool_clips
from pydreaming.evaluation.scenes import SceneGroups
from pydreaming.evaluation.views import Views
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import OBJECTIVES

PARTS = ("deter", "stoch", "embed")
SCENE = "scene"  # who and where, one vector a clip: see `models.scene`
CENTRED = ", centred"  # behind a part's name: of the clip without its mean per band
# The clip vector: what the row `world model` is probed on.
CLIP_PARTS, CLIP_POOLING = ("deter", "stoch", "deter" + CENTRED, "stoch" + CENTRED), "thirds_std"


def clip_features(
    model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], pooling: str = CLIP_POOLING, centred_bands: int = 0
) -> dict[str, Array]:
    """Pooled features of each clip by part.

    `stoch` is the posterior's mean (probabilities where it is categorical), which carries more than its one sample; `feat` is deter and
    stoch side by side. `join_parts` puts together others.

    Args:
      pooling: see `pooling.POOLINGS`.
      centred_bands: n_mels, to hear each clip a second time without its mean per band, as a model that was trained so (`augment.centre`)
        can; parts of that view have CENTRED behind their names. It needs the whole clip, so it is for clips, not for streams. 0: not.
    Returns:
      part -> (N, 4 D_part) with the default pooling; SCENE -> (N, model.scene) where the model has one.
    """
    features = _pooled_parts(model, tokens, actions, pooling)
    if centred_bands:
        centred = [centred_clip(clip, centred_bands) for clip in tokens]
        features |= {part + CENTRED: values for part, values in _pooled_parts(model, centred, actions, pooling).items()}
    if model.scene is not None:
        features[SCENE] = scene_vectors(model, tokens)
    return features


@torch.no_grad()
def scene_vectors(model: WorldModelNet, tokens: Sequence[Array]) -> Array:
    """The scene of each clip (T_i, D): (N, width). Raises ValueError: the model has no scene encoder."""
    if model.scene is None:
        raise ValueError("the model was built with model.scene 0")
    scene, device = model.scene, model.device
    return np.stack([scene.of_clip(torch.from_numpy(clip).to(device)).float().cpu().numpy() for clip in tokens])


def probed(features: Mapping[str, Array], scene: bool, parts: Sequence[str] = CLIP_PARTS, groups: SceneGroups | None = None) -> Views:
    """What probes are given: the parts side by side, the same without the scene where groups are known, and the scene where it is trained
    (see `hears_scenes`)."""
    content = join_parts(features, parts)
    return Views(content, features[SCENE] if scene else None, groups.taken_out(content) if groups else None)


def hears_scenes(config: Config) -> bool:
    """Whether a model of this configuration has a scene encoder that is trained."""
    return config.model.scene > 0 and OBJECTIVES[config.objective.name].trains_scene


def join_parts(features: Mapping[str, Array], parts: Sequence[str] = CLIP_PARTS) -> Array:
    """Those of the parts that there are, side by side: (N, sum of their widths). The default gives the clip vector."""
    return np.concatenate([features[part] for part in parts if part in features], 1)


def centred_bands(config: Config) -> int:
    """What `clip_features` shall be given for a model of this configuration."""
    return config.features.n_mels if config.augment.centre else 0


def _pooled_parts(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], pooling: str) -> dict[str, Array]:
    parts: dict[str, list[Array | None]] = {part: [None] * len(tokens) for part in PARTS}
    for heard in listen(model, tokens, actions):
        values = {"deter": heard.observed.post.deter, "stoch": heard.observed.post.mean, "embed": heard.observed.embed}
        for part, value in values.items():
            for i, own in heard.split(value):
                parts[part][i] = own
    pooled = {part: pool_clips([clip for clip in clips if clip is not None], pooling) for part, clips in parts.items()}
    return pooled | {"feat": join_parts(pooled, ("deter", "stoch"))}


def centred_clip(clip: Array, n_mels: int) -> Array:
    """(T, D) without its mean per band; see `training.views`."""
    frames = clip.reshape(len(clip), -1, n_mels)
    centred: Array = (frames - frames.mean((0, 1))).reshape(clip.shape)
    return centred


def untrained_like(config: Config, token_dim: int, action_dim: int, device: torch.device) -> WorldModelNet:
    """The same networks with their first weights: what the architecture alone gives."""
    torch.manual_seed(config.run.seed + 1000)
    return WorldModelNet(config.model, token_dim, action_dim, config.features.n_mels).to(device).eval()
