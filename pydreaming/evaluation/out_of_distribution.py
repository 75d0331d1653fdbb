"""Does the model notice what it never heard: normal held-out clips against transformed ones.

Two scores of a clip stand side by side: its mean KL(posterior || prior), raw, and its typicality (see `typicality`), which was fitted on
normal clips that the model was trained on. The statistics it reads were written down before any transformed clip was scored, and no
transformed clip was used to choose or to fit anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pydreaming.audio.features import FrontEnd
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.ranking import auc
from pydreaming.evaluation.transforms import KINDS, Sound, transform
from pydreaming.evaluation.typicality import LEAST_CLIPS, SurpriseStatistics, Typicality, code_marginal, surprise_statistics
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective

LEAST_HELD_OUT = 5
MAX_NORMAL = 1000  # clips that typicality is fitted on


@dataclass(frozen=True)
class OutOfDistribution:
    """Areas under the ROC curve, by kind of transform.

    Attributes:
      kl: of the mean KL. typicality: of the calibrated score. clips: held-out clips, each heard as it is and in every kind.
      fitted_on: normal clips that typicality was fitted on.
    """

    kl: dict[str, float]
    typicality: dict[str, float]
    clips: int
    fitted_on: int

    @property
    def inverted(self) -> list[str]:
        """Kinds that surprise the model less than normal clips do: there a high mean KL is no alarm, and a low one may be."""
        return [kind for kind, value in self.kl.items() if value < 0.5]

    @property
    def warning(self) -> str:
        """What `inverted` means for a user, in plain words; empty where no kind is."""
        if not self.inverted:
            return ""
        kinds = ", ".join(f"{kind.replace('_', '-')} {self.kl[kind]:.2f}" for kind in self.inverted)
        return (
            f"Its raw surprise is inverted: changed sounds surprise it LESS than real ones (AUC of the mean KL: {kinds}; below 0.50 is"
            " inverted). Do not take a high KL for an alarm, nor a low one for normal; the calibrated score sees both sides."
        )

    @property
    def worst(self) -> tuple[str, float]:
        """The kind that typicality tells worst, and its figure."""
        return min(self.typicality.items(), key=lambda pair: pair[1])


def out_of_distribution(
    model: WorldModelNet,
    objective: Objective,
    front_end: FrontEnd,
    normal: Sequence[Array],
    held_out: Sequence[Sound],
    action: Array,
    seed: int,
) -> OutOfDistribution | str:
    """Figures on held-out recordings, or a sentence that says why there are none.

    Args:
      normal: tokens (T_i, D) of clips that the model was trained on, of which a seeded sample of MAX_NORMAL is used.
      held_out: mono sounds that it was not trained on.
      action: (A,) of listening on, for all clips alike. seed: of the transforms.
    """
    if not objective.trains_latents:
        return "Not asked what is out of distribution: the objective trains no latents, so there is no surprise."
    random = np.random.default_rng(seed)
    known = [normal[i] for i in random.permutation(len(normal)) if len(normal[i])][:MAX_NORMAL]
    sounds = [sound for sound in held_out if len(front_end.tokens_of(*sound))]
    if len(known) < LEAST_CLIPS or len(sounds) < LEAST_HELD_OUT:
        return (
            f"Not asked what is out of distribution: {len(known)} normal and {len(sounds)} held-out clips"
            f" (at least {LEAST_CLIPS} and {LEAST_HELD_OUT})."
        )
    unigram = code_marginal(model, known, _actions(known, action))

    def statistics(tokens: Sequence[Array]) -> SurpriseStatistics:
        return surprise_statistics(model, objective, unigram, tokens, _actions(tokens, action))

    typicality = Typicality(statistics(known))
    as_is = statistics([front_end.tokens_of(*sound) for sound in sounds])
    kl: dict[str, float] = {}
    typical: dict[str, float] = {}
    for kind in KINDS:
        changed = statistics([front_end.tokens_of(*transform(kind, sound, random)) for sound in sounds])
        kl[kind] = auc(as_is.mean_kl, changed.mean_kl)
        typical[kind] = auc(typicality.score(as_is), typicality.score(changed))
    return OutOfDistribution(kl, typical, len(sounds), len(known))


def _actions(tokens: Sequence[Array], action: Array) -> list[Array]:
    return [np.tile(action, (len(clip), 1)) for clip in tokens]
