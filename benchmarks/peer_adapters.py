"""Other projects' world models, run from a clone of theirs: none of their code is here.

Each adapter imports the peer's own module from the given folder, builds its RSSM in the form of its default configuration at the shapes
asked for, and returns features and its KL loss. For what a peer imports for its logs only, an empty stand-in is put in its place.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from pydreaming.errors import UsageError


@dataclass(frozen=True)
class Shapes:
    """B sequences of T tokens, and the widths of the networks."""

    batch: int = 16
    length: int = 64
    deter: int = 512
    groups: int = 32
    classes: int = 32
    hidden: int = 512
    embed: int = 512
    token: int = 256
    action: int = 4


@dataclass(frozen=True)
class Rollout:
    """An RSSM with its KL.

    Attributes:
      module: what is trained.
      run: embed (B, T, E), action (B, T, A) and is_first (B, T) bool -> features (B, T, deter + groups * classes), and the KL loss ().
    """

    module: nn.Module
    run: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Peer:
    """A project that can be measured: where it comes from, the file that it is known by, and how its RSSM is built."""

    url: str
    file: str
    adapt: Callable[[Path, Shapes], Rollout]

    def build(self, folder: Path, shapes: Shapes) -> Rollout:
        """The peer's RSSM. Raises UsageError, in one line, where the folder is no clone of it or lacks something."""
        if not (folder / self.file).is_file():
            raise UsageError(f"{folder} is no clone of {self.url}: it has no {self.file}")
        try:
            return self.adapt(folder, shapes)
        except (ImportError, AttributeError, TypeError) as e:
            raise UsageError(f"{folder} cannot be run as a clone of {self.url}: {e}") from e


@contextmanager
def modules_of(folder: Path, stand_ins: Sequence[str] = ()) -> Iterator[None]:
    """Import from `folder` first, and forget afterwards what came from it: peers call different modules by the same name.

    Args:
      stand_ins: modules to put an empty package in place of: with a path where they are the peer's own, so that their `__init__`, which may
        need far more than the RSSM does, is not run; else one with a `SummaryWriter`, where the module is not installed.
    """
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        for name in stand_ins:
            module = types.ModuleType(name)
            if (own := folder / name.replace(".", "/")).is_dir():
                module.__path__ = [str(own)]
            else:
                module.SummaryWriter = None  # type: ignore[attr-defined]
            sys.modules[name] = module
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - set(before):
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if name in stand_ins or Path(origin).is_relative_to(folder):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in stand_ins if name in before})


@contextmanager
def unchecked() -> Iterator[None]:
    """Distributions that do not check their arguments meanwhile."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _pydreamer(folder: Path, shapes: Shapes) -> Rollout:
    with modules_of(folder, ("pydreamer", "pydreamer.models")):
        module = importlib.import_module("pydreamer.models.rssm")
    latents = (shapes.groups, shapes.classes)
    core = module.RSSMCore(shapes.embed, shapes.action, shapes.deter, *latents, shapes.hidden, 1, "gru", True)

    @unchecked()  # as its train.py does; the other peers' programs leave the checks on
    def run(embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        steps = (x.transpose(0, 1) for x in (embed, action, is_first))
        prior, post, _, features, _, _ = core(*steps, core.init_state(len(embed)))
        dyn = kl_divergence(core.zdistr(post.detach()), core.zdistr(prior))
        rep = kl_divergence(core.zdistr(post), core.zdistr(prior.detach()))
        return features.squeeze(2).transpose(0, 1), (0.8 * dyn + 0.2 * rep).mean()

    return Rollout(core, run)


def _dreamer_torch(folder: Path, shapes: Shapes) -> Rollout:
    with modules_of(folder, ("torch.utils.tensorboard",)):
        module = importlib.import_module("networks")
    rssm = module.RSSM(**_dreamer_sizes(shapes), cell="gru_layer_norm", std_act="sigmoid2")

    def run(embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        del is_first  # it knows no resets: its sequences all begin afresh
        post, prior = rssm.observe(embed, action)
        loss, _ = rssm.kl_loss(post, prior, False, 0.8, 1.0, 1.0)
        return rssm.get_feat(post), loss

    return Rollout(rssm, run)


def _dreamerv3_torch(folder: Path, shapes: Shapes) -> Rollout:
    with modules_of(folder, ("torch.utils.tensorboard",)):
        module = importlib.import_module("networks")
    rssm = module.RSSM(**_dreamer_sizes(shapes), std_act="sigmoid2")

    def run(embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        post, prior = rssm.observe(embed, action.clone(), is_first.float())  # it writes into the actions
        loss, *_ = rssm.kl_loss(post, prior, 1.0, 0.5, 0.1)
        return rssm.get_feat(post), loss.mean()

    return Rollout(rssm, run)


def _dreamer_sizes(shapes: Shapes) -> dict[str, Any]:
    sizes = {"stoch": shapes.groups, "discrete": shapes.classes, "deter": shapes.deter, "hidden": shapes.hidden}
    return sizes | {"num_actions": shapes.action, "embed": shapes.embed, "device": "cpu"}


def _r2dreamer(folder: Path, shapes: Shapes) -> Rollout:
    with modules_of(folder, ("torch.utils.tensorboard",)):
        module = importlib.import_module("rssm")
    sizes = {"stoch": shapes.groups, "discrete": shapes.classes, "deter": shapes.deter, "hidden": shapes.hidden, "blocks": 8}
    layers = {"img_layers": 2, "obs_layers": 1, "dyn_layers": 1}  # its configs/model/_base_.yaml
    config = types.SimpleNamespace(**sizes, **layers, act="SiLU", unimix_ratio=0.01, initial="learned", device="cpu")
    rssm = module.RSSM(config, shapes.embed, shapes.action)

    def run(embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        stoch, deter, post = rssm.observe(embed, action, rssm.initial(len(embed)), is_first)
        _, prior = rssm.prior(deter)
        dyn, rep = rssm.kl_loss(post, prior, 1.0)
        return rssm.get_feat(stoch, deter), (dyn + 0.1 * rep).mean()

    return Rollout(rssm, run)


PEERS = {
    "pydreamer": Peer("github.com/jurgisp/pydreamer", "pydreamer/models/rssm.py", _pydreamer),
    "dreamer-torch": Peer("github.com/jsikyoon/dreamer-torch", "networks.py", _dreamer_torch),
    "dreamerv3-torch": Peer("github.com/NM512/dreamerv3-torch", "networks.py", _dreamerv3_torch),
    "r2dreamer": Peer("github.com/NM512/r2dreamer", "rssm.py", _r2dreamer),
}
