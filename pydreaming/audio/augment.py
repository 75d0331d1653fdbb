"""Augmentation of a recording, drawn anew for every pass.

Everything is drawn from (run seed, item, pass) and, for noise and time masks, from the number of the block on a grid of its own: the same
item in the same pass sounds the same on every worker, whatever the chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pydreaming.audio.buffer import SampleBuffer, Samples
from pydreaming.audio.tokens import Frames
from pydreaming.config import AugmentConfig

NOISE_SPAN_DB = 40.0  # dB; the signal-to-noise ratio is drawn from noise_db to so much above it
NOISE_BLOCK = 1 << 17  # samples; noise follows the power of the recording up to the end of the block
_NOISE, _TIME = 1, 2  # distinguish the random streams of one item


class Augment:
    """The augmentation of a run: `of(item, pass)` gives that of one item, or None when it is not its turn."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self._config = config
        self._seed = seed

    def of(self, item_index: int, pass_number: int) -> ItemAugment | None:
        """Draw for item (its row in the catalogue, >= 0) and pass (>= 0); the share `probability` of all is augmented."""
        key = (self._seed, item_index, pass_number)
        rng = np.random.default_rng(key)
        if rng.random() >= self._config.probability:
            return None
        return ItemAugment(self._config, key, rng)


class ItemAugment:
    """Gain, noise and masks of one item in one pass. `samples` and `frames` are streams; each may be used any number of times."""

    def __init__(self, config: AugmentConfig, key: tuple[int, int, int], rng: np.random.Generator) -> None:
        self._config = config
        self._key = key
        self.gain = float(10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20))
        self.snr_db = config.noise_db + rng.uniform(0, NOISE_SPAN_DB) if config.noise_db else None
        self._band_share, self._band_place = rng.random(2)

    def samples(self, chunks: Iterable[Samples]) -> Iterator[Samples]:
        """Samples with gain and white noise at `snr_db` below the power of the recording so far (block by block)."""
        buffer, number, energy = SampleBuffer(), 0, 0.0
        for chunk in chunks:
            buffer.push(chunk)
            while buffer.end - buffer.start >= NOISE_BLOCK:
                block = buffer.view(buffer.start, buffer.start + NOISE_BLOCK)
                energy += _energy(block)
                yield self._noisy(block, number, energy / (buffer.start + NOISE_BLOCK))
                buffer.drop(buffer.start + NOISE_BLOCK)
                number += 1
        if buffer.end > buffer.start:
            block = buffer.view(buffer.start, buffer.end)
            yield self._noisy(block, number, (energy + _energy(block)) / buffer.end)

    def frames(self, frames: Iterable[Frames], frame_rate: float) -> Iterator[Frames]:
        """Normalised frames (f, n_mels) with one band mask, and one time mask in each second, set to 0 (the mean)."""
        second = max(1, round(frame_rate))  # frames
        begin = 0
        for part in frames:
            masked = part.copy()
            n_mels = part.shape[1]
            width = min(int(self._band_share * (self._config.freq_mask + 1)), n_mels)
            low = int(self._band_place * (n_mels - width + 1))
            masked[:, low : low + width] = 0.0
            for number in range(begin // second, -(-(begin + len(part)) // second)):
                first, last = self._time_mask(number, second)
                masked[max(first - begin, 0) : max(last - begin, 0)] = 0.0
            begin += len(part)
            yield masked

    def _noisy(self, block: Samples, number: int, power: float) -> Samples:
        result = block * np.float32(self.gain)
        if self.snr_db is not None:
            noise = np.random.default_rng((*self._key, _NOISE, number)).standard_normal(len(block), dtype=np.float32)
            result += noise * np.float32(self.gain * np.sqrt(power) * 10 ** (-self.snr_db / 20))
        return result

    def _time_mask(self, number: int, second: int) -> tuple[int, int]:
        """First frame, and the frame after the last, of the mask in a second of the stream."""
        share, place = np.random.default_rng((*self._key, _TIME, number)).random(2)
        width = min(int(share * (self._config.time_mask + 1)), second)
        first = number * second + int(place * (second - width + 1))
        return first, first + width


def _energy(block: Samples) -> float:
    return float(np.square(block, dtype=np.float64).sum())
