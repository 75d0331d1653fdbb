"""Streaming sample-rate conversion with the windowed sinc of `torchaudio.functional.resample` (its default settings).

Output sample j lies at the time of input sample j * orig / new (the rates divided by their greatest common divisor) and is a weighted sum
of the `width` input samples on either side of it; the weights repeat after `new` outputs. Outputs are computed in blocks on a fixed grid,
so that the chunks in which the input arrives do not change a single bit (nor, on x86 with MKL, does the size of the blocks: see
LEAST_ROWS in `buffer`). Any ratio is exact:

- small ratios: a period of outputs is cut into bands of neighbours, which share most of their inputs; each band is one matrix product over
  all periods of the block (a single matrix for the whole period would mostly hold zeros);
- nearly coprime rates (35,467 to 16,000 Hz): the inputs of each output are gathered and weighted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from pydreaming.audio.buffer import LEAST_ROWS, SampleBuffer, Samples
from pydreaming.audio.stages import run

LOWPASS_WIDTH = 6  # zero crossings on either side of the centre
ROLLOFF = 0.99  # cut-off as a share of the lower Nyquist frequency
BLOCK_OUTPUTS = 16384  # outputs in a block, about
MIN_PERIOD = 64  # outputs; shorter periods are repeated to it, so that the products are not too narrow
MAX_PERIOD = 4096  # outputs; beyond, a block holds too few periods and taps are gathered


class _Band(NamedTuple):
    """Neighbouring outputs of a period: their columns, the first input they need, and the weights (inputs, outputs)."""

    outputs: slice
    first: int
    weights: torch.Tensor


def resampled_length(num_samples: int, orig_rate: int, new_rate: int) -> int:
    """Samples after conversion: ceil(num_samples * new_rate / orig_rate)."""
    return -(-num_samples * new_rate // orig_rate)


class Resampler:
    """Converts streams from `orig_rate` to `new_rate` Hz; keeps nothing between streams."""

    def __init__(self, orig_rate: int, new_rate: int) -> None:
        divisor = math.gcd(orig_rate, new_rate)
        self._orig, self._new = orig_rate // divisor, new_rate // divisor
        self._width = math.ceil(LOWPASS_WIDTH * self._orig / (min(self._orig, self._new) * ROLLOFF))
        self._banded = self._new <= MAX_PERIOD
        # outputs that are computed together: those of a few periods of the weights, or single ones
        self._period = self._new * max(1, round(MIN_PERIOD / self._new)) if self._banded else 1
        self._block = max(LEAST_ROWS, BLOCK_OUTPUTS // self._period) * self._period

    def stream(self, chunks: Iterable[Samples]) -> Iterator[Samples]:
        """Convert chunks (num_samples,) of one stream; in all, `resampled_length` samples come out."""
        return iter(chunks) if self._orig == self._new else run(_Conversion(self, self._block), chunks)

    def stages(self, outputs: int) -> list[_Conversion]:
        """One stream as a stage for `Chain`, none where nothing is to be converted.

        Args:
          outputs: that may wait for each other; fewer cost more each, and at least those of one period do (see `delay`).
        """
        return [] if self._orig == self._new else [_Conversion(self, self._small(outputs))]

    def delay(self, outputs: int) -> float:
        """How long, in output samples, an output of `stages` waits at most for others and for the inputs behind it."""
        return 0.0 if self._orig == self._new else self._small(outputs) + (self._width + 2) * self._new / self._orig

    def _small(self, outputs: int) -> int:
        return max(1, min(outputs, self._block) // self._period) * self._period

    def convert(self, buffer: SampleBuffer, begin: int, count: int) -> Samples:
        """Outputs [begin, begin + count); inputs outside the stream count as zeros. `begin` is on the grid of periods."""
        rows = max(LEAST_ROWS, -(-count // self._period))
        inputs = torch.from_numpy(buffer.view(*self.inputs(begin, rows * self._period)))
        outputs = self._by_bands(inputs, rows * self._period) if self._banded else self._by_taps(inputs, begin, rows)
        return cast(Samples, outputs.numpy()[:count])

    def inputs(self, begin: int, count: int) -> tuple[int, int]:
        """First input, and the input after the last, that outputs [begin, begin + count) need."""
        first = begin * self._orig // self._new - self._width
        return first, (begin + count - 1) * self._orig // self._new + self._width + 2

    def length(self, num_samples: int) -> int:
        """Outputs of so many inputs."""
        return resampled_length(num_samples, self._orig, self._new)

    def _by_bands(self, inputs: torch.Tensor, count: int) -> torch.Tensor:
        periods, stride = count // self._period, self._period // self._new * self._orig
        result = torch.empty(periods, self._period)
        for band in _bands(self._orig, self._new, self._width, self._period):
            windows = inputs[band.first :].unfold(0, len(band.weights), stride)[:periods]
            torch.mm(windows, band.weights, out=result[:, band.outputs])
        return result.view(-1)

    def _by_taps(self, inputs: torch.Tensor, begin: int, count: int) -> torch.Tensor:
        weights = _taps(self._orig, self._new, self._width)
        outputs = np.arange(begin, begin + count, dtype=np.int64)
        starts = outputs * self._orig // self._new - begin * self._orig // self._new
        windows = inputs.unfold(0, weights.shape[1], 1)[torch.from_numpy(starts)]
        return torch.einsum("jk,jk->j", windows, weights[torch.from_numpy(outputs % self._new)])


class _Conversion:
    """One stream on its way through a `Resampler`, in blocks of `block` outputs (whole periods)."""

    def __init__(self, resampler: Resampler, block: int) -> None:
        self._resampler, self._block = resampler, block
        self._buffer, self._done = SampleBuffer(), 0

    def push(self, part: Samples) -> Iterator[Samples]:
        """See `Stage`."""
        self._buffer.push(part)
        while self._buffer.end >= self._resampler.inputs(self._done, self._block)[1]:
            yield self._convert(self._block)
            self._buffer.drop(self._resampler.inputs(self._done, self._block)[0])

    def finish(self) -> Iterator[Samples]:
        """See `Stage`."""
        total = self._resampler.length(self._buffer.end)
        while self._done < total:
            yield self._convert(min(self._block, total - self._done))

    def _convert(self, count: int) -> Samples:
        converted = self._resampler.convert(self._buffer, self._done, count)
        self._done += count
        return converted


def _sinc_weights(distance: npt.NDArray[np.float64], orig: int, new: int) -> npt.NDArray[np.float32]:
    """Weight of an input `distance` input samples after the output: a sinc under a Hann window, cut off at the lower Nyquist frequency."""
    cutoff = min(orig, new) * ROLLOFF / orig  # share of the input's Nyquist frequency
    crossings = np.clip(distance * cutoff, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.cos(crossings * (math.pi / LOWPASS_WIDTH / 2)) ** 2
    weights: npt.NDArray[np.float32] = (np.sinc(crossings) * window * cutoff).astype(np.float32)
    return weights


@functools.lru_cache(maxsize=8)
def _bands(orig: int, new: int, width: int, period: int) -> list[_Band]:
    size = 32 if orig >= 2 * new else 64  # outputs; the more inputs an output steps over, the fewer it shares with its neighbours
    bands = []
    for begin in range(0, period, size):
        end = min(begin + size, period)
        first, last = begin * orig // new, (end - 1) * orig // new + 2 * width + 1
        distance = np.arange(first, last + 1)[:, None] - width - np.arange(begin, end) * orig / new
        bands.append(_Band(slice(begin, end), first, torch.from_numpy(_sinc_weights(distance, orig, new))))
    return bands


@functools.lru_cache(maxsize=2)
def _taps(orig: int, new: int, width: int) -> torch.Tensor:
    """(new, 2 * width + 2): the weights of each output of a period, from `width` inputs before the input at or before its time."""
    offsets = np.arange(-width, width + 2, dtype=np.float64)
    weights = np.empty((new, len(offsets)), dtype=np.float32)
    for begin in range(0, new, 1024):  # in parts: float64 temporaries of the largest kernels would take half a gigabyte
        outputs = np.arange(begin, min(begin + 1024, new), dtype=np.int64)
        fractions = (outputs * orig % new).astype(np.float64) / new
        weights[begin : begin + len(outputs)] = _sinc_weights(offsets - fractions[:, None], orig, new)
    return torch.from_numpy(weights)
