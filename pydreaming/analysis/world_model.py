"""A trained world model, ready to listen: audio in, states out.

Every recording is processed from the initial state: alone, in chunks on a fixed grid of CHUNK_TOKENS with the state carried over, so that
its length never fills the memory; or, short ones, side by side (`observe_clips`), which changes a result by rounding at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pydreaming.analysis.inputs import Recording, Source, name_of, open_source
from pydreaming.analysis.locate import REMOTE, checkpoint_folder, name_of_run
from pydreaming.analysis.rollout import CHUNK_TOKENS, Listening, NoiseStream, Rechunk, join_observed, neutral_action, token_times
from pydreaming.audio.decode import Samples
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.stages import run
from pydreaming.audio.tokens import Frames, token_start_samples
from pydreaming.config import FeatureConfig
from pydreaming.errors import CheckpointError, DecodeError, UsageError
from pydreaming.evaluation.listening import Heard, listen
from pydreaming.models.state import Observed, State
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective
from pydreaming.training.checkpoint import CARD, CheckpointState, export_networks, load_networks
from pydreaming.training.trainer import pick_device

if TYPE_CHECKING:  # they import this module
    from pydreaming.analysis.dreams.dream import Dream
    from pydreaming.analysis.surprise.calibration import Calibration
    from pydreaming.analysis.surprise.curves import Surprise
    from pydreaming.analysis.vectors.embed import WindowEmbeddings


@dataclass(frozen=True)
class Tokens:
    """Consecutive windows of one recording.

    Attributes:
      values: (T, token_dim) float32, normalised log-mel.
      start_sample: (T,) int64, first sample of each, at `features.sample_rate`.
    """

    values: Frames
    start_sample: npt.NDArray[np.int64]
    features: FeatureConfig

    def __len__(self) -> int:
        return len(self.values)

    @property
    def start_s(self) -> npt.NDArray[np.float64]:
        """(T,) start of each window in seconds."""
        return token_times(len(self.values), self.features)[0]

    @property
    def centre_s(self) -> npt.NDArray[np.float64]:
        """(T,) centre of each window in seconds."""
        return token_times(len(self.values), self.features)[1]


class WorldModel:
    """Networks of a checkpoint, with the front end they were trained on.

    Use `WorldModel.load`. One instance serves one thread.
    """

    def __init__(self, net: WorldModelNet, objective: Objective, state: CheckpointState) -> None:
        self.net = net
        self.objective = objective
        self.state = state
        self.config = state.config
        self.front_end = FrontEnd(state.config.features, state.stats)
        # A model of separate channels has heard single channels, but a file named by a user is one clip: its channels are mixed.
        self.channels = "first" if state.config.source.channels == "first" else "mix"
        self.origin: Path | None = None  # the folder on this host that it was loaded from
        self.card = ""  # its model card, where it came with one

    @classmethod
    def load(cls, source: str | Path, device: str = "auto", tracking_uri: str = "") -> WorldModel:
        """Load a model.

        Args:
          source: checkpoint folder, exported model, run folder (its newest intact checkpoint), `runs:/<MLflow run id>`, or a registered
            model: `models:/<name>/<version>` or `models:/<name>@<alias>`.
          device: auto (a GPU where there is one), cpu, cuda, cuda:1 ...
          tracking_uri: MLflow store for `runs:/` and `models:/`; empty: MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db.
        Raises:
          CheckpointError: missing or damaged. TrackingError: it cannot be fetched. ConfigError: no such device.
        """
        with checkpoint_folder(source, tracking_uri) as folder:
            net, objective, state = load_networks(folder, pick_device(device))
            card = folder / CARD
            text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        if state.token_dim != state.config.features.token_dim:
            wanted = state.config.features.token_dim
            raise CheckpointError(f"{source}: its tokens have {state.token_dim} values, its features make {wanted}")
        model = cls(net, objective, state)
        model.origin, model.card = None if str(source).startswith(REMOTE) else folder.resolve(), text
        return model

    def save(self, folder: str | Path, card: str = "") -> Path:
        """Write the model to a folder to hand on, as the Hugging Face Hub lays out models; `load` takes it.

        The folder gets model.safetensors, config.json (settings without paths and addresses), README.md and SHA256SUMS.

        Args:
          card: Markdown for README.md; empty: the card it came with, else `pydreaming.analysis.reports.card.model_card`.
        Raises:
          CheckpointError: it cannot be written.
        """
        from pydreaming.analysis.reports.card import model_card

        export_networks(Path(folder), self.net, self.objective, self.state, card or self.card or model_card(self))
        return Path(folder)

    @property
    def features(self) -> FeatureConfig:
        """Settings of the front end; `sample_rate` in Hz is what every source is converted to."""
        return self.config.features

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.net.device

    @property
    def label(self) -> str:
        """What to call the model in a sentence, such as `my-run, step 2000`; see `fingerprint` for what tells it from others."""
        return f"{self.config.run.name or name_of_run(self.origin) or 'a model without a name'}, step {int(self.state.counters['step'])}"

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where weights, features or their statistics do: what a saved result was made by."""
        digest = hashlib.sha256(repr((self.config.features, self.config.model, self.state.stats)).encode())
        for name, weights in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + weights.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def tokens(self, source: Source) -> Tokens:
        """Tokens of a whole recording.

        Args:
          source: path, "-" (standard input) or (samples, sample_rate); an array without its rate is refused, since a wrong rate would
            pass silently. Other rates than the model's are converted; several channels are mixed (or the first taken, as in training).
        Raises:
          DecodeError, UsageError: see `pydreaming.analysis.inputs.open_source`.
        """
        values = np.concatenate(list(self.stream_tokens(source)))
        return Tokens(values, token_start_samples(len(values), self.features), self.features)

    def stream_tokens(self, source: Source) -> Iterator[Frames]:
        """The same as parts (t, token_dim), as they are decoded."""
        with open_source(source, self.channels) as (chunks, sample_rate):
            yield from self.tokenise(chunks, sample_rate)

    def tokenise(self, chunks: Iterable[Samples], sample_rate: int) -> Iterator[Frames]:
        """Tokens (t, token_dim) of mono chunks (num_samples,) float32 at `sample_rate` Hz."""
        return self.front_end.tokens(chunks, sample_rate)

    def observe(self, tokens: Tokens | Frames, seed: int | None = None, action: npt.NDArray[Any] | None = None) -> Observed:
        """Posterior rollout over a whole recording, from the initial state.

        Args:
          tokens: (T, token_dim). seed: of the latents' samples; None takes modes.
          action: (T, A), or (A,) for all windows; default: no action, a stride of one window, or the mean of the controls.
        Returns:
          Observed with B = 1, on the model's device.
        Raises:
          UsageError: no tokens, or wrong shapes.
        """
        values = tokens.values if isinstance(tokens, Tokens) else tokens
        if values.ndim != 2 or not len(values) or (action is not None and action.ndim > 1 and len(action) != len(values)):
            raise UsageError(f"tokens must be (T, {self.net.token_dim}), T >= 1, and action as long; got {values.shape}")
        return join_observed([observed for _, observed in self.observe_stream([values], seed, action)])

    def hear(self, source: Source, seed: int | None = None) -> Iterator[tuple[Frames, Observed]]:
        """`observe_stream` of a source, told its controls where it has any. Raises DecodeError, UsageError."""
        return self.observe_stream(self.stream_tokens(source), seed, self.told(source))

    def observe_stream(
        self, parts: Iterable[Frames], seed: int | None = None, action: npt.NDArray[Any] | None = None, chunk: int = CHUNK_TOKENS
    ) -> Iterator[tuple[Frames, Observed]]:
        """Posterior rollout over a stream of tokens, `chunk` at a time with carried state: pairs of tokens (t, token_dim) and Observed.

        `action` is (T, A), or (A,) for all windows alike; None as for `observe`.
        The latents' noise is drawn step by step, so that a seed gives the same samples whatever the chunks.
        """
        listening, done = self.listening(seed), 0
        for values in run(Rechunk(chunk), parts):
            yield values, listening.hear(values, action if action is None or action.ndim == 1 else action[done : done + len(values)])
            done += len(values)

    def observe_clips(
        self, clips: Sequence[Frames], seed: int | None = None, actions: Sequence[npt.NDArray[np.float32]] | None = None
    ) -> Iterator[Heard]:
        """Posterior rollouts over whole short clips (T_i, token_dim), many at a time, each from the initial state.

        Several times as fast as one by one, and the same up to the rounding of larger products (1e-6). Where that turns a code that is as
        likely as another, `code` differs, and with `dynamics: rssm` what follows it.

        Args:
          seed: of the latents' samples: every clip gets what it gets alone. None takes modes.
          actions: (A,) of each clip, for all its windows; None: as for `observe`.
        """
        noise = None if seed is None else lambda steps: self.noise(seed).draw(1, steps)
        rows = [self.listening_on] * len(clips) if actions is None else actions
        return listen(self.net, clips, [np.tile(row, (len(clip), 1)) for row, clip in zip(rows, clips, strict=True)], noise)

    @property
    def listening_on(self) -> npt.NDArray[np.float32]:
        """(A,) the action of listening on without a jump, see `neutral_action`."""
        return np.array(neutral_action(self.config.action), np.float32)

    def told(self, source: Source) -> npt.NDArray[np.float32]:
        """(A,) what the model is told of a source: its controls where it has any (see `action_of`), else to listen on, at their mean."""
        known = isinstance(source, Recording) and source.item.controls
        return self.action_of(source) if known else self.listening_on

    def action_of(self, source: Source) -> npt.NDArray[np.float32]:
        """What leads from window to window of a source: (A,) no action, a stride of one window, or its controls, scaled as in training.

        Raises:
          DecodeError: the model was trained with controls, and the source has no values for them.
          UsageError: its checkpoint is from before the scale of its controls was kept.
        """
        action, scale = self.config.action, self.state.controls
        if action.kind != "controls":
            return self.listening_on
        if not scale.mean:
            raise UsageError(f"the checkpoint does not say how its controls ({', '.join(action.columns)}) were scaled: train it anew")
        values = source.item.controls if isinstance(source, Recording) else ()
        if len(values) != action.dim:
            raise DecodeError(name_of(source), f"no values for the model's control columns ({', '.join(action.columns)}); name a manifest")
        return scale.row(values)

    @torch.inference_mode()
    def imagine(
        self,
        state: State,
        steps: int,
        samples: int,
        temperature: float = 1.0,
        seed: int | None = 0,
        action: npt.NDArray[np.float32] | None = None,
    ) -> State:
        """Futures from one state (1, ...): (samples, steps, ...).

        `seed` None takes the mode at each step, in every sample. `action`: (A,) of every step; None: as for `observe`.
        """
        noise = None if seed is None else self.noise(seed).draw(samples, steps).to(self.device)
        actions = self.actions(steps, action).expand(samples, -1, -1)
        return self.net.imagine(state.repeat(samples), actions, noise, temperature)

    @torch.inference_mode()
    def decode(self, state: State) -> Frames:
        """The probe decoder's picture of states (..., ): normalised tokens (..., token_dim)."""
        return cast(Frames, self.net.decoder(state.feat).float().cpu().numpy())

    def log_mel(self, tokens: Frames) -> Frames:
        """Log-mel frames (F, n_mels), natural logarithm of power, of consecutive normalised tokens (T, token_dim)."""
        return self.front_end.denormalise(tokens)

    def embed(self, source: Source, part: str = "feat") -> WindowEmbeddings:
        """Vectors of a recording's windows with their times; see `pydreaming.analysis.vectors.embed` for parts, pooling and many files."""
        from pydreaming.analysis.vectors.embed import embed_windows

        return embed_windows(self, source, part)

    def surprise(self, source: Source, calibration: Calibration | None = None) -> Surprise:
        """How unexpected each window is, in bits, and with a calibration as p-values; see `pydreaming.analysis.surprise.curves`."""
        from pydreaming.analysis.surprise.curves import surprise

        return surprise(self, source, calibration=calibration)

    def calibrate(self, sources: Iterable[Source]) -> Calibration:
        """What surprises how often in normal recordings, for `surprise`; see `pydreaming.analysis.surprise.normal`."""
        from pydreaming.analysis.surprise.normal import calibrate

        return calibrate(self, sources)

    def dream(self, source: Source, seconds: float = 2.0, samples: int = 4, temperature: float = 1.0, seed: int = 0) -> Dream:
        """Continuations of a recording; see `pydreaming.analysis.dreams.dream`, also for writing them as sound."""
        from pydreaming.analysis.dreams.dream import dream

        return dream(self, source, seconds, samples, temperature, seed)

    def listening(self, seed: int | None = None) -> Listening:
        """A rollout over one recording, to be given its windows chunk by chunk. `seed`: as for `observe`."""
        return Listening(self.net, self.listening_on, None if seed is None else self.noise(seed))

    def noise(self, seed: int) -> NoiseStream:
        """The latents' noise of a seed."""
        latents = self.net.dynamics.latents
        S, _, K = latents.sizes(self.config.model)
        return NoiseStream(seed, S, K, latents)

    def actions(self, steps: int, action: npt.NDArray[np.float32] | None = None) -> Tensor:
        """Actions (1, steps, A): `action` (A,) at each, None: `listening_on`."""
        row = torch.from_numpy(self.listening_on if action is None else action)
        return row.to(self.device).expand(1, steps, -1)
