"""Filling gaps: what could have been there, given what comes before it and what follows.

    windows   heard heard heard | gap gap gap gap gap | look look look look | heard ...
                           s_0 ──► N prior rollouts ──► weighed by what follows

Sequential Monte Carlo. Particles are prior rollouts z ~ p(z | s), s = U(s, z) from the state after the last window before the gap; so they
know the left side, and the right side is only seen through weights. At the end the filter goes on from each particle over the first `look`
windows x after the gap, and

    log w = -sum_h KL(q(z_h | x_h, s) || p(z_h | s))

This is the evidence lower bound of p(x | s) without its term E_q log p(x | z, s): that term is taken to be equal for all particles, an
approximation without which a model that reconstructs nothing has no likelihood at all.

On the way, the objective's k-step heads (where it has any) look ahead: at k steps before the first window x after the gap,

    psi_k(s) = exp(cos(f_k(s), key(x)) / temperature),    k <= objective.horizon

stands for p(x | s) up to a factor (InfoNCE's density ratio without its normalising sum). Weights are multiplied by psi_k / psi_{k+1} and
the particles resampled when less than RESAMPLE of them are effective; the last psi is divided out again, so the twist guides the particles
and leaves the target, which is the prior times w, as it is.

Sources: N. Gordon et al., 1993 (particles); P. Guarniero et al., "The iterated auxiliary particle filter", 2017, and D. Lawson et al.,
"Twisted variational sequential Monte Carlo", 2018 (twisting); systematic resampling as in J. Carpenter et al., 1999. Here psi is not
iterated nor trained for this, but read from heads that were trained to tell what comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pydreaming.analysis.inputs import Source, name_of, open_source
from pydreaming.analysis.requirements import require_latents
from pydreaming.analysis.rollout import CHUNK_TOKENS, NoiseStream, Rechunk
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import Samples, seconds_to_samples
from pydreaming.audio.stages import run
from pydreaming.audio.tokens import Frames
from pydreaming.config import FeatureConfig
from pydreaming.errors import UsageError
from pydreaming.models.state import Observed, State, stack_states

RESAMPLE = 0.5
MAX_SECONDS = 3600.0  # of a recording: it is held in memory
MAX_STATES = 1 << 17  # particles times windows of a gap: half a gigabyte for a model of the default size
MAX_SAMPLES = 64

Action = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """A stretch of a recording that is not heard: [begin_s, end_s), in seconds, and the windows that it touches, [first, stop).

    At the end of a recording these may be one more than it has, so that the gap is covered.
    """

    begin_s: float
    end_s: float
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Particles:
    """Rollouts across a gap of n windows.

    Attributes:
      states: (N, n, ...). weights: (N,), of sum 1. evidence: (N,) log w of each, in nats; where particles were resampled on the way their
        weights say how often each stands for itself, and no longer how good it is.
    """

    states: State
    weights: Weights
    evidence: npt.NDArray[np.float64]

    @property
    def effective(self) -> float:
        """Effective sample size, 1 to N: 1 / sum of squared weights."""
        return float(1 / np.square(self.weights).sum())

    @property
    def best(self) -> int:
        """The particle that explains best what follows."""
        return int(self.evidence.argmax())


@dataclass(frozen=True)
class Fill:
    """What a gap is filled with.

    Attributes:
      gap: where. effective: effective sample size of the particles, of N.
      mean: (n, token_dim) normalised log-mel, the particles' weighted mean. samples: (K, n, token_dim), the likeliest particle first, the
        others drawn by weight; decoded from states (K, n, ...). before, after: the windows on either side, after None at the end.
      reweighted: False where nothing follows that particles could be weighed by.
    """

    gap: Gap
    effective: float
    mean: Frames
    samples: Frames
    states: State
    before: Frames
    after: Frames | None
    reweighted: bool


@dataclass(frozen=True)
class Inpainting:
    """A recording with gaps, and what fills them.

    Attributes:
      samples: (num_samples,) float32 mono, as recorded, at sample_rate Hz. tokens: (T, token_dim) of the recording as it is, gaps included.
    """

    name: str
    samples: Samples
    sample_rate: int
    tokens: Frames
    fills: list[Fill]


def inpaint(
    model: WorldModel,
    source: Source,
    gaps: Sequence[tuple[float, float]],
    particles: int = 256,
    look: int = 4,
    samples: int = 4,
    seed: int = 0,
) -> Inpainting:
    """Fill gaps of a recording.

    What is recorded in a gap, and in windows that a gap touches even partly, is not heard. Gaps are filled from left to right: the second
    goes on from the likeliest particle of the first, and what was heard between.

    Args:
      source: path, "-", recording or (samples, sample_rate). gaps: (begin, end) in seconds.
      particles: N. look: windows after a gap that particles are weighed by. samples: K fills that are kept beside the mean.
    Raises:
      UsageError: gaps that overlap, lie outside the recording, or leave no window before them; numbers that make no sense; a model that
        cannot imagine. DecodeError: see `inputs.open_source`.
    """
    require_latents(model, "it has nothing to imagine with")
    _check(particles, look, samples, gaps)
    sound, rate = _read(model, source)
    tokens = np.concatenate(list(model.tokenise([sound], rate)))
    found = find_gaps(gaps, len(sound) / rate, model.features, name_of(source))
    _check_size(found, particles)
    return Inpainting(
        name_of(source), sound, rate, tokens, fill_gaps(model, tokens, found, particles, look, samples, seed, model.told(source))
    )


def find_gaps(gaps: Sequence[tuple[float, float]], duration_s: float, features: FeatureConfig, name: str) -> list[Gap]:
    """Gaps in order, with the windows they touch, in a recording of `duration_s`.

    Window i covers samples [i * stride, i * stride + span). Those before the first that a gap touches end before it, and those after the
    last begin after it; so the windows taken out reach at least span - stride beyond the gap on either side.

    Raises UsageError, see `inpaint`.
    """
    stride, span = features.token_stride_samples, features.token_span_samples
    if edge_samples(features) < 1:
        raise UsageError("gaps can be filled by models whose windows overlap or touch; those of this one lie apart")
    result: list[Gap] = []
    for begin_s, end_s in sorted(gaps):
        where = f"gap {begin_s:g}:{end_s:g}"
        begin, end = (seconds_to_samples(s, features.sample_rate) for s in (begin_s, end_s))
        first, stop = max(0, (begin - span) // stride + 1), -(-end // stride)
        if end_s > duration_s:
            raise UsageError(f"{name}: {where} reaches beyond the end, {duration_s:.3f} s")
        if first == 0:
            raise UsageError(f"{name}: {where} leaves no whole window before it; the first one ends at {span / features.sample_rate:.3f} s")
        if result and first <= result[-1].stop:
            raise UsageError(f"{name}: {where} leaves no whole window between it and the gap before it")
        result.append(Gap(begin_s, end_s, first, stop))
    return result


def fill_gaps(
    model: WorldModel, tokens: Frames, gaps: Sequence[Gap], particles: int, look: int, samples: int, seed: int, action: Action | None = None
) -> list[Fill]:
    """Fill windows of a recording: (T, token_dim) of which those in gaps are not read. `action` (A,): see `WorldModel.told`."""
    noise, random = model.noise(seed), np.random.default_rng(seed)
    carry: State | None = None
    fills, heard = [], 0
    for number, gap in enumerate(gaps):
        following = gaps[number + 1].first if number + 1 < len(gaps) else len(tokens)
        ahead = tokens[gap.stop : min(following, gap.stop + look)]
        carry = _hear(model, tokens[heard : gap.first], carry, action)
        cloud = roll(model, carry, len(gap), ahead, particles, noise, random, action)
        chosen = [cloud.best, *random.choice(particles, samples - 1, p=cloud.weights)]
        states = cloud.states.at(torch.tensor(chosen, device=model.device))
        fills.append(
            Fill(
                gap=gap,
                effective=cloud.effective,
                mean=np.einsum("n,ntd->td", cloud.weights, model.decode(cloud.states)).astype(np.float32),
                samples=model.decode(states),
                states=states,
                before=tokens[gap.first - 1],
                after=ahead[0] if len(ahead) else None,
                reweighted=len(ahead) > 0,
            )
        )
        carry, heard = _goes_on(model, states.at(slice(0, 1), -1)), gap.stop
    return fills


@torch.inference_mode()
def roll(
    model: WorldModel,
    carry: State,
    steps: int,
    ahead: Frames,
    particles: int,
    noise: NoiseStream,
    random: np.random.Generator,
    action: Action | None = None,
) -> Particles:
    """Prior rollouts from `carry` (1, ...), guided and weighed by the windows `ahead` (look, token_dim) that follow; see the module."""
    state = carry.repeat(particles)
    actions = model.actions(1, action).expand(particles, -1, -1)
    following = model.observe(ahead, action=action) if len(ahead) else None  # for its embeddings
    path: list[State] = []
    log_weight = torch.zeros(particles, dtype=torch.float64, device=model.device)
    twist = torch.zeros_like(log_weight)
    for left in range(steps, 0, -1):
        state = model.net.imagine(state, actions, noise.draw(particles, 1).to(model.device)).at(slice(None), -1)
        path.append(replace(state, memory=None))
        guide = _look_ahead(model, state, following, left, action)
        log_weight, twist = log_weight + guide - twist, guide
        weights = log_weight.softmax(0)
        if left > 1 and float(1 / weights.square().sum()) < RESAMPLE * particles:
            kept = torch.from_numpy(systematic(weights.cpu().numpy(), random)).to(model.device)
            state, path, twist = state.at(kept), [past.at(kept) for past in path], twist[kept]
            log_weight = torch.zeros_like(log_weight)
    evidence = log_evidence(model, state, ahead, action)
    weights = (log_weight - twist + evidence).softmax(0)
    return Particles(stack_states(path), weights.cpu().numpy(), evidence.cpu().numpy())


@torch.inference_mode()
def log_evidence(model: WorldModel, states: State, ahead: Frames, action: Action | None = None) -> Tensor:
    """How well states (N, ...) explain the windows `ahead` (look, token_dim) after them: (N,) float64 nats, up to a constant.

    -sum KL(posterior || prior), the filter going on from each state.
    """
    N, H = len(states.deter), len(ahead)
    if not H:
        return torch.zeros(N, dtype=torch.float64, device=model.device)
    tokens = torch.from_numpy(ahead).to(model.device).expand(N, -1, -1)
    is_first = torch.zeros(N, H, dtype=torch.bool, device=model.device)
    actions = model.actions(H, action).expand(N, -1, -1)
    return -model.net.observe(tokens, actions, is_first, _goes_on(model, states)).kl().double().sum(1)


def systematic(weights: Weights, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Systematic resampling: (N,) indices; one of weight w is drawn floor(N w) or ceil(N w) times."""
    N = len(weights)
    points = (random.random() + np.arange(N)) / N
    return np.minimum(np.searchsorted(np.cumsum(weights) / weights.sum(), points, side="right"), N - 1)


def edge_samples(features: FeatureConfig, sample_rate: int | None = None) -> int:
    """Samples on either side of a gap in which the sound is cross-faded: 10 ms, or less where windows overlap by less."""
    shared_s = (features.token_span_samples - features.token_stride_samples) / features.sample_rate
    return seconds_to_samples(max(0.0, min(0.01, shared_s / 2)), sample_rate or features.sample_rate)


def _look_ahead(model: WorldModel, states: State, following: Observed | None, k: int, action: Action | None) -> Tensor:
    """log psi_k of states (N, ...) for the first window that follows: (N,) float64; zeros where no head looks so far ahead."""
    N = len(states.deter)
    if following is not None and k <= model.config.objective.horizon:
        # The heads read rollouts: here one of k steps whose contexts are all the particle's own, of which the first is looked at.
        context = model.objective.context(states).unsqueeze(1).expand(-1, k + 1, -1)
        actions = model.actions(k + 1, action).expand(N, -1, -1)
        ahead = model.objective.ahead_of(replace(following, context=context, action=actions))
        if ahead is not None and k in ahead.expected:
            return (ahead.expected[k][:, 0] @ ahead.target[0, 0]).double() / model.config.objective.temperature
    return torch.zeros(N, dtype=torch.float64, device=model.device)


@torch.inference_mode()
def _hear(model: WorldModel, tokens: Frames, carry: State | None, action: Action | None) -> State:
    """The state after hearing windows (t, token_dim), t >= 1, from `carry` (1, ...) or from the beginning."""
    for values in run(Rechunk(CHUNK_TOKENS), [tokens]):
        is_first = torch.zeros(1, len(values), dtype=torch.bool, device=model.device)
        is_first[0, 0] = carry is None
        batch = torch.from_numpy(values).to(model.device)[None]
        carry = model.net.observe(batch, model.actions(len(values), action), is_first, carry).carry
    assert carry is not None  # find_gaps leaves at least a window before a gap
    return carry


def _goes_on(model: WorldModel, states: State) -> State:
    """Imagined states (N, ...) for the filter to go on from.

    Beliefs have no memory; an attending trunk then goes on from an empty one. The first prior and posterior after it read the belief.
    """
    if states.memory is not None:
        return states
    return replace(states, memory=model.net.dynamics.initial(len(states.deter), model.device).memory)


def _read(model: WorldModel, source: Source) -> tuple[Samples, int]:
    """Samples of a recording at its own rate. Raises UsageError for one too long to be held."""
    with open_source(source, model.channels) as (chunks, rate):
        parts, count = [], 0
        for chunk in chunks:
            parts.append(chunk)
            count += len(chunk)
            if count > MAX_SECONDS * rate:
                raise UsageError(f"{name_of(source)} is longer than {MAX_SECONDS:g} s: cut out the part around the gap")
    return np.concatenate(parts), rate


def _check(particles: int, look: int, samples: int, gaps: Sequence[tuple[float, float]]) -> None:
    limits = [
        (particles >= 1, f"particles must be at least 1, got {particles}"),
        (look >= 0, f"look must be at least 0 windows, got {look}"),
        (1 <= samples <= MAX_SAMPLES, f"samples must be 1 to {MAX_SAMPLES}, got {samples}"),
        (len(gaps) > 0, "there is no gap to fill"),
        *((0 <= begin < end < math.inf, f"a gap from {begin:g} to {end:g} s makes no sense") for begin, end in gaps),
    ]
    for holds, message in limits:
        if not holds:
            raise UsageError(message)


def _check_size(gaps: Sequence[Gap], particles: int) -> None:
    for gap in gaps:
        if len(gap) * particles > MAX_STATES:
            raise UsageError(f"{particles} particles over {len(gap)} windows are too many to hold; at most {MAX_STATES // len(gap)} here")
