"""Samples to log-mel frames and tokens, as a stream.

Log-mel as `torchaudio.transforms.MelSpectrogram` (power 2, HTK scale, no area norm) without its reflected edges: frame t covers samples
[t * hop_length, t * hop_length + win_length), num_frames = 1 + (n - win_length) // hop_length, natural logarithm, power floored at
LOG_FLOOR. Frames are computed in blocks on a fixed grid from the start of the stream: neither the chunks in which samples arrive nor their
number changes a single bit of the result (for one machine and number of threads; see LEAST_ROWS for blocks of other sizes).

Shapes: n samples of a block, f frames, F = n_fft // 2 + 1 bins, M = n_mels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.functional import create_dct, melscale_fbanks

from pydreaming.audio.augment import ItemAugment
from pydreaming.audio.buffer import LEAST_ROWS, SampleBuffer, Samples
from pydreaming.audio.resample import Resampler
from pydreaming.audio.stages import Chain, run
from pydreaming.audio.stats import MIN_STD, FeatureStats, StatsAccumulator, StatsSums, merge_stats
from pydreaming.audio.tokens import Frames, TokenCutter, cut_tokens, join_tokens
from pydreaming.config import FeatureConfig

__all__ = [
    "LOG_FLOOR", "MIN_STD", "FeatureStats", "FrontEnd", "LogMel", "StatsAccumulator", "StatsSums", "cepstrum", "mel_filters", "merge_stats",
]  # fmt: skip

LOG_FLOOR = 1e-6  # power; about that of 10-bit white noise at n_fft 512. Digital silence is log(1e-6) = -13.8 in every band
BLOCK_VALUES = 1 << 18  # window samples in one block: its spectra stay in the second-level cache
MEL_GROUPS = 4  # neighbouring bands share few bins; four products of a quarter of the bands cost a third of one of all


class _Bands(NamedTuple):
    """A group of neighbouring mel bands, and the bins that any of them weighs."""

    bins: slice
    bands: slice
    weights: torch.Tensor  # (bins, bands)


class LogMel:
    """Log-mel of blocks of samples. Owns its scratch memory: use one per thread."""

    def __init__(self, features: FeatureConfig) -> None:
        self.features = features
        self.block_frames = max(LEAST_ROWS, BLOCK_VALUES // features.n_fft)
        bins = features.n_fft // 2 + 1
        self._window = torch.hann_window(features.win_length)
        self._filters = _group_bands(mel_filters(features))
        # Products with a single column are sums of their own kind, whose last bit depends on the row.
        self.joins = all(group.weights.shape[1] > 1 for group in self._filters)
        self._padded = torch.zeros(self.block_frames, features.n_fft)  # the part beyond win_length stays zero
        self._spectrum = torch.empty(self.block_frames, bins, dtype=torch.complex64)
        self._power = torch.zeros(self.block_frames, bins)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Samples (n,) float32 of at least one window and at most `block_frames` frames -> (f, M), natural logarithm of power."""
        return self.together([samples])

    def together(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """The frames of several such blocks, one after the other: for less, the same bits where `joins`. At most `block_frames` in all."""
        f = 0
        for samples in blocks:
            windows = samples.unfold(0, self.features.win_length, self.features.hop_length)
            # Zeros behind the window instead of on both sides turn phases, which power does not see.
            torch.mul(windows, self._window, out=self._padded[f : f + len(windows), : self.features.win_length])
            f += len(windows)
        torch.fft.rfft(self._padded[:f], out=self._spectrum[:f])
        # (f, 2F): real and imaginary parts alternate
        parts = torch.view_as_real(self._spectrum[:f]).view(f, -1)
        parts.mul_(parts)
        torch.add(parts[:, 0::2], parts[:, 1::2], out=self._power[:f])
        power = self._power[: max(f, LEAST_ROWS)]  # beyond f stands what an earlier block has left
        mel = torch.empty(len(power), self.features.n_mels)
        for group in self._filters:
            torch.mm(power[:, group.bins], group.weights, out=mel[:, group.bands])
        return mel[:f].clamp_(min=LOG_FLOOR).log_()


class FrontEnd:
    """Mono samples at any rate -> normalised log-mel frames -> tokens. Use one per thread.

    Args:
      features: the settings.
      stats: normalise each band by them; None: plain log-mel.
    Raises:
      ValueError: the statistics are for another number of bands.
    """

    def __init__(self, features: FeatureConfig, stats: FeatureStats | None = None) -> None:
        if stats is not None and not len(stats.mean) == len(stats.std) == features.n_mels:
            raise ValueError(f"statistics of {len(stats.mean)} bands do not fit features.n_mels {features.n_mels}")
        self.features = features
        self.stats = stats
        self.log_mel = LogMel(features)
        self._mean = torch.tensor(stats.mean if stats else [0.0] * features.n_mels, dtype=torch.float32)
        self._std = torch.tensor(stats.std if stats else [1.0] * features.n_mels, dtype=torch.float32).clamp_(min=MIN_STD)

    def frames(self, chunks: Iterable[Samples], sample_rate: int, augment: ItemAugment | None = None) -> Iterator[Frames]:
        """Frames (f, n_mels) float32 of one stream, as they become complete.

        Args:
          chunks: (num_samples,) float32 in [-1, 1], one after the other.
          sample_rate: of the chunks, Hz; another one than `features.sample_rate` is converted.
          augment: this item's augmentation in this pass.
        Raises:
          ValueError: chunks that are not one-dimensional floats.
        """
        return self._frames(chunks, sample_rate, augment, least=0)

    def tokens(self, chunks: Iterable[Samples], sample_rate: int, augment: ItemAugment | None = None) -> Iterator[Frames]:
        """Tokens (t, token_dim) float32 of one stream, as they become complete; arguments as for `frames`.

        A recording shorter than one token is padded with zero samples to one; trailing frames that fill no token are dropped.
        """
        return cut_tokens(self._frames(chunks, sample_rate, augment, self.features.token_span_samples), self.features)

    def tokens_of(self, samples: Samples, sample_rate: int) -> Frames:
        """Tokens (T, token_dim) float32 of a whole short recording (num_samples,)."""
        parts = list(self.tokens([samples], sample_rate))
        return np.concatenate(parts) if parts else np.empty((0, self.features.token_dim), dtype=np.float32)

    def tokens_together(self, clips: Sequence[Samples]) -> list[Frames]:
        """Tokens (T, token_dim) float32 of each of several whole recordings (num_samples,) at `features.sample_rate`.

        The bits of `tokens`, for less where recordings are short, as spectra of several are taken at once. None may be empty (so each has a
        token), or have more frames than `LogMel.block_frames`.
        """
        if not self.log_mel.joins:
            return [self.tokens_of(clip, self.features.sample_rate) for clip in clips]
        least, win, hop = self.features.token_span_samples, self.features.win_length, self.features.hop_length
        padded = [clip if len(clip) >= least else np.pad(clip, (0, least - len(clip))) for clip in clips]
        lengths = [1 + (len(clip) - win) // hop for clip in padded]
        tokens: list[Frames] = []
        for part in _fill(lengths, self.log_mel.block_frames):
            frames = self._normalised(self.log_mel.together(torch.from_numpy(clip) for clip in padded[part]))
            ends = np.cumsum(lengths[part]).tolist()
            for begin, end in zip([0, *ends], ends, strict=False):
                tokens += list(TokenCutter(self.features).push(frames[begin:end]))
        return tokens

    def denormalise(self, tokens: npt.NDArray[Any]) -> Frames:
        """Log-mel frames (F, n_mels) float32, natural logarithm of power, of consecutive tokens (T, token_dim). Raises ValueError."""
        frames = torch.from_numpy(join_tokens(tokens.astype(np.float32), self.features))
        return cast(Frames, (frames * self._std + self._mean).numpy())

    def _frames(self, chunks: Iterable[Samples], sample_rate: int, augment: ItemAugment | None, least: int) -> Iterator[Frames]:
        samples = Resampler(sample_rate, self.features.sample_rate).stream(chunks)
        if augment is None:
            return self._blocks(samples, least)
        frame_rate = self.features.sample_rate / self.features.hop_length
        return augment.frames(self._blocks(augment.samples(samples), least), frame_rate)

    def stages(self, sample_rate: int, together: int = 1) -> Chain[Samples, Frames]:
        """`tokens` for a stream that is still being made: push samples (num_samples,), get tokens (t, token_dim) as they are complete.

        Args:
          sample_rate: of what is pushed, Hz. together: tokens that may wait for each other; more of them cost less each.
        """
        blocks = _Blocks(self, self.features.token_span_samples, together * self.features.token_hop)
        conversion = Resampler(sample_rate, self.features.sample_rate).stages(together * self.features.token_stride_samples)
        return Chain(*conversion, blocks, TokenCutter(self.features))

    def delay_s(self, sample_rate: int, together: int = 1) -> float:
        """Seconds from the arrival of a token's last sample until `stages` gives it, at most (if computing took no time)."""
        stride = self.features.token_stride_samples
        waiting = Resampler(sample_rate, self.features.sample_rate).delay(together * stride) + (together - 1) * stride
        # Blocks are as long as the tokens' stride, so where tokens are no multiple of it, one ends inside a block.
        ragged = 0 if self.features.token_frames % self.features.token_hop == 0 else self.features.token_stride_samples
        return (waiting + ragged) / self.features.sample_rate

    def block(self, samples: Samples) -> Frames:
        """Normalised frames (f, n_mels) of the samples of a block, see `LogMel`."""
        return self._normalised(self.log_mel(torch.from_numpy(samples)))

    def _normalised(self, frames: torch.Tensor) -> Frames:
        if self.stats is not None:
            frames.sub_(self._mean).div_(self._std)
        return cast(Frames, frames.numpy())

    def _blocks(self, samples: Iterable[Samples], least: int) -> Iterator[Frames]:
        return run(_Blocks(self, least, self.log_mel.block_frames), samples)


def _fill(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours of at most `most` in sum, as many as fit."""
    begin, total = 0, 0
    for number, length in enumerate(lengths):
        if total + length > most:
            yield slice(begin, number)
            begin, total = number, 0
        total += length
    if total:
        yield slice(begin, len(lengths))


class _Blocks:
    """Samples to frames, block by block; a stream of fewer than `least` samples (but any) is padded with zeros to so many."""

    def __init__(self, front_end: FrontEnd, least: int, block_frames: int) -> None:
        self._front_end, self._least = front_end, least
        self._win, hop = front_end.features.win_length, front_end.features.hop_length
        self._step = min(block_frames, front_end.log_mel.block_frames) * hop
        self._whole = self._step - hop + self._win  # samples of a full block
        self._buffer = SampleBuffer()

    def push(self, part: Samples) -> Iterator[Frames]:
        """See `Stage`."""
        buffer = self._buffer
        buffer.push(part)
        while buffer.end - buffer.start >= self._whole:
            yield self._front_end.block(buffer.view(buffer.start, buffer.start + self._whole))
            buffer.drop(buffer.start + self._step)

    def finish(self) -> Iterator[Frames]:
        """See `Stage`."""
        buffer = self._buffer
        begin, end = buffer.start, max(buffer.end, self._least) if buffer.end else 0
        while end - begin >= self._win:
            yield self._front_end.block(buffer.view(begin, min(begin + self._whole, end)))
            begin += self._step


def cepstrum(n_mels: int, coefficients: int) -> torch.Tensor:
    """The orthonormal cosine transform that makes MFCC of log-mel frames: (n_mels, coefficients), `frames @ cepstrum(...)`."""
    transform: torch.Tensor = create_dct(coefficients, n_mels, "ortho")
    return transform


def mel_filters(features: FeatureConfig) -> torch.Tensor:
    """Mel filter bank (n_fft // 2 + 1, n_mels) float32, HTK scale, triangles of height 1."""
    top = features.f_max or features.sample_rate / 2
    bank = melscale_fbanks(features.n_fft // 2 + 1, features.f_min, top, features.n_mels, features.sample_rate, None, "htk")
    return cast(torch.Tensor, bank)


def _group_bands(bank: torch.Tensor) -> list[_Bands]:
    groups = []
    for bands in torch.arange(bank.shape[1]).chunk(MEL_GROUPS):
        columns = slice(int(bands[0]), int(bands[-1]) + 1)
        used = bank[:, columns].any(dim=1).nonzero().flatten()
        bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)  # bands narrower than a bin may weigh none
        groups.append(_Bands(bins, columns, bank[bins, columns].contiguous()))
    return groups
