"""What a surprise is worth: the share of normal windows that surprise at least as much.

A curve's bits have no scale of their own: which value is unusual depends on the model and on the sounds. So the curves of *normal* clips
are kept, and a value becomes a p-value: the share of normal windows that lie at or above it. For each curve, and apart for the windows near
the beginning of a clip (BANDS), since these have little past:

    inside    the empirical survival function, (r + 1) / (n + 1) for r of n normal windows at or above; at most GRID + 1 of its steps
              are kept, dense towards the tail, with the logarithm of p linear between them
    beyond    above the highest TAIL of the windows, where these are at least LEAST_TAIL: share * (1 + shape (x - u) / scale)^(-1 / shape),
              a generalised Pareto distribution fitted by probability-weighted moments, with 0 <= shape <= MAX_SHAPE: a tail that ends
              would call what lies beyond it impossible. It is an extrapolation: a p of 1e-6 says "far beyond what was heard", not
              one in a million. With fewer windows p ends at 1 / (n + 1)

A p-value is of one window. Windows of one clip are not independent, and a recording of an hour has 90,000 of them.

Source: Hosking and Wallis, "Parameter and quantile estimation for the generalized Pareto distribution" (1987), section 3 (moments);
(r + 1) / (n + 1): Davison and Hinkley, "Bootstrap Methods and their Application" (1997), eq. 4.11.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pydreaming.analysis.files import replacing
from pydreaming.errors import PydreamingError, UsageError

FORMAT = 1
BANDS = (0, 1, 2, 4, 8)  # first windows of the stretches of a clip that have survival functions of their own; the last is all the rest
GRID = 256
TIE = 1e-3  # bits; closer values count as equal, since rounding may differ between machines
TAIL = 0.02
LEAST_TAIL = 50  # windows
LEAST_WINDOWS = 100
MAX_BYTES = 1 << 24  # of a file that is read
MAX_SHAPE = 0.5  # of the fitted tail; a heavier one would need more windows to be believed

Values = npt.NDArray[np.float64]
Finite = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Tail(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Survival share * (1 + shape (x - threshold) / scale)^(-1 / shape) above `threshold` bits; shape 0 is the exponential."""

    threshold: Finite
    share: Share
    scale: Annotated[float, msgspec.Meta(gt=0, le=1e30)]
    shape: Annotated[float, msgspec.Meta(ge=0, le=MAX_SHAPE)]

    def __call__(self, values: Values) -> Values:
        """p of values at or above the threshold."""
        x = (values - self.threshold) / self.scale
        if abs(self.shape) < 1e-6:
            return np.asarray(self.share * np.exp(-x))
        return np.asarray(self.share * (1 + self.shape * x) ** (-1 / self.shape))


class Survival(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Survival function of `windows` values: p at the rising `bits`, and the tail above them where there were enough."""

    windows: Count
    bits: list[Finite]
    p: list[Share]
    tail: Tail | None

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.bits, self.bits[1:], strict=False))
        falling = all(a >= b for a, b in zip(self.p, self.p[1:], strict=False))
        if not self.bits or len(self.bits) != len(self.p) or not rising or not falling:
            raise ValueError("`bits` must rise and `p` fall, one for one")

    def __call__(self, values: Values) -> Values:
        """p-values (N,) of values (N,), above 0 and at most 1."""
        values = values - TIE
        p = np.exp(np.interp(values, self.bits, np.log(self.p)))
        p[values < self.bits[0]] = 1.0
        p[values > self.bits[-1]] = 1 / (self.windows + 1)
        if self.tail is not None:
            beyond = values > self.tail.threshold
            p[beyond] = self.tail(values[beyond])
        return np.asarray(np.clip(p, np.finfo(np.float64).tiny, 1.0))


class Calibration(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Survival functions of a model's curves on normal clips.

    Attributes:
      fingerprint, step: of the model; see `WorldModel.fingerprint`. seed: of its latents' samples, None for modes.
      clips: heard; windows: in them. bands: first window of each stretch. curves: name to one survival function for each band.
    """

    format: int = FORMAT
    fingerprint: str
    step: int
    seed: int | None
    clips: Count
    windows: Count
    bands: list[Annotated[int, msgspec.Meta(ge=0)]]
    curves: dict[str, list[Survival]]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.bands, self.bands[1:], strict=False))
        if self.bands[:1] != [0] or not rising or any(len(bands) != len(self.bands) for bands in self.curves.values()):
            raise ValueError("`bands` must rise from 0, and each curve must have a survival function for each")

    def least_p(self, curve: str) -> float:
        """The lowest p that a window in the middle of a recording can have: 1 / (n + 1) without a fitted tail, and none with one."""
        inner = self.curves[curve][-1]
        return 1 / (inner.windows + 1) if inner.tail is None else 0.0

    def p_values(self, curve: str, values: npt.NDArray[Any], first: int = 0) -> Values:
        """p-values (T,) of successive windows (T,), in bits, of which `first` is the index of the first in its recording."""
        wide = np.asarray(values, dtype=np.float64)
        band = np.searchsorted(self.bands, first + np.arange(len(wide)), "right") - 1
        p = np.empty(len(wide))
        for number in np.unique(band):
            p[band == number] = self.curves[curve][number](wide[band == number])
        return p

    def check_seed(self, seed: int | None, where: str) -> None:
        """Refuse a calibration of samples for modes. Raises UsageError, which names `where` it came from."""
        if self.seed != seed:
            raise UsageError(f"{where} was made with {_seed(self.seed)}, and this is to be heard with {_seed(seed)}")

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all. Raises PydreamingError."""
        with replacing(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(self) + b"\n")

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read and check a file that `write` made. Raises PydreamingError: missing, no calibration, damaged, or of another format."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise PydreamingError(f"{path}: too large for a calibration")
            if (found := msgspec.json.decode(data, type=_Format).format) != FORMAT:
                raise PydreamingError(f"{path}: a calibration of format {found}; this version reads {FORMAT}")
            return msgspec.json.decode(data, type=cls)
        except OSError as e:
            raise PydreamingError(f"cannot read {path}: {e.strerror or e}") from e
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise PydreamingError(f"{path}: no calibration: {e}") from e


class _Format(msgspec.Struct):
    format: int


@dataclass(frozen=True)
class ModelMark:
    """Which model, and how it listened: what a calibration is bound to."""

    fingerprint: str
    step: int
    seed: int | None


def fit_calibration(mark: ModelMark, clips: Iterable[Mapping[str, npt.NDArray[Any]]]) -> Calibration:
    """Survival functions of normal clips.

    Args:
      clips: the curves of each, by name: (T_i,) bits. Memory grows by four bytes a window and curve.
    Raises:
      UsageError: fewer than LEAST_WINDOWS windows in all.
    """
    gathered: dict[str, list[list[npt.NDArray[Any]]]] = {}
    count = windows = 0
    for curves in clips:
        count, windows = count + 1, windows + len(next(iter(curves.values())))
        for name, values in curves.items():
            bands = gathered.setdefault(name, [[] for _ in BANDS])
            for band, part in zip(bands, np.split(np.asarray(values, dtype=np.float32), BANDS[1:]), strict=True):
                band.append(part)
    if windows < LEAST_WINDOWS:
        raise UsageError(f"{windows} windows of normal sound are too few to calibrate with (at least {LEAST_WINDOWS})")
    curves_ = {name: _survivals([np.concatenate(band) for band in bands]) for name, bands in gathered.items()}
    return Calibration(
        fingerprint=mark.fingerprint, step=mark.step, seed=mark.seed, clips=count, windows=windows, bands=list(BANDS), curves=curves_
    )


def fit_survival(values: npt.NDArray[Any]) -> Survival:
    """The survival function of normal values (N,), N >= 1; see the head of this file."""
    ordered = np.sort(values.astype(np.float64))
    n = len(ordered)
    # Ranks from the top, 1 to n, in steps that grow with the rank: the tail is where p-values are asked for.
    ranks = np.unique(np.rint(np.geomspace(1, n, GRID)).astype(np.int64))[::-1]
    bits = ordered[n - ranks].round(4)
    p = ranks / (n + 1)  # halfway between the p of a value at this one and of a value right above it, within 1 / (n + 1)
    kept = np.concatenate([[True], np.diff(bits) > 0])  # of equal values the p of the lowest: they are all at or above it
    return Survival(windows=n, bits=bits[kept].tolist(), p=[float(f"{share:.6g}") for share in p[kept]], tail=_fit_tail(ordered))


def _survivals(bands: list[npt.NDArray[Any]]) -> list[Survival]:
    """One for each band; one that no clip reaches takes that of the band before, the nearest that there is."""
    fitted: list[Survival] = []
    for values in bands:
        fitted.append(fit_survival(values) if len(values) else fitted[-1])
    return fitted


def _fit_tail(ordered: Values) -> Tail | None:
    count = math.floor(len(ordered) * TAIL)
    if count < LEAST_TAIL:
        return None
    threshold = float(ordered[-count - 1])
    excess = ordered[-count:] - threshold
    # a0 = E[X], a1 = E[X (1 - F(X))]; shape = 2 - a0 / (a0 - 2 a1), scale = 2 a0 a1 / (a0 - 2 a1)
    a0 = float(excess.mean())
    a1 = float((excess * (1 - (np.arange(1, count + 1) - 0.35) / count)).mean())
    if not a0 - 2 * a1 > 1e-9 * max(1.0, abs(threshold)):  # values that do not spread
        return None
    shape = float(np.clip(2 - a0 / (a0 - 2 * a1), 0, MAX_SHAPE))
    return Tail(threshold=threshold, share=(count + 1) / (len(ordered) + 1), scale=a0 * (1 - shape), shape=shape)


def _seed(seed: int | None) -> str:
    return "the likeliest codes (no --seed)" if seed is None else f"--seed {seed}"
