"""Recordings to replay files: the work of one lease, without sockets.

    items -> decode -> log-mel -> tokens + actions -> episodes -> Parquet files

Each item is a transaction: when it cannot be decoded to its end, nothing of it stays, and it is reported. Results depend on the lease
alone (the run's seed, the pass, the items), not on the worker or on how often it was tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pydreaming.audio.augment import Augment
from pydreaming.audio.controls import ControlScale
from pydreaming.audio.decode import AudioStream, Samples, expand_channels, open_audio, probe, resolve_inside
from pydreaming.audio.features import FrontEnd
from pydreaming.audio.sources import AudioItem
from pydreaming.audio.stats import FeatureStats, StatsAccumulator, StatsSums
from pydreaming.audio.tokens import Frames, num_frames
from pydreaming.config import ActionConfig, Config
from pydreaming.errors import DecodeError
from pydreaming.replay.address import Location
from pydreaming.replay.builder import BuilderMark, ClipInfo, EpisodeBuilder
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.schema import StoreMeta
from pydreaming.replay.store import Store, open_store
from pydreaming.replay.writer import FileReport, ShardWriter
from workers.protocol import Totals, Unreadable

SHORT_S = 2.0  # s; recordings up to here are read ahead, TOGETHER at a time: their spectra take less time than the calls for them
TOGETHER = 32
BLOCK_S = 10.0  # s of audio between two calls of `on_block`
_STRIDES, _SHIFT = 7, 8  # mark the random streams of strides and shifts among those of an item (augmentation has its own)


@dataclass
class Producer:
    """Does leases. Use one per thread.

    config: of the run. root: folder of the source. replay: the store. controls: see ControlScale.
    on_block: called before each item and after each block of audio; what it raises ends the lease, and nothing of it stays.
    totals: what has been done so far.
    """

    config: Config
    root: Path
    replay: Location | Store
    controls: ControlScale = field(default_factory=ControlScale)
    on_block: Callable[[], None] = lambda: None
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self._store = open_store(self.replay)
        self._augment = Augment(self.config.augment, self.config.run.seed) if self.config.augment.probability else None
        self._plain = FrontEnd(self.config.features)
        self._normalising: FrontEnd | None = None
        self._short = True  # the recording before was; recordings of a source are much alike

    def warm_up(self) -> None:
        """Have libraries load what they load at their first call. On a busy host it takes seconds, in which the first lease would show no
        sign of life."""
        self._plain.tokens_together([np.zeros(self.config.features.sample_rate, np.float32)])

    def measure(self, items: Sequence[AudioItem]) -> tuple[StatsSums, list[Unreadable]]:
        """Sums of log-mel over the frames of the items' tokens, and the items that could not be read."""
        bands = self.config.features.n_mels
        total, unreadable = StatsAccumulator(bands), list[Unreadable]()
        for item in items:
            self.on_block()
            own = StatsAccumulator(bands)
            try:
                for stream, _ in self._streams(item):
                    for tokens in self._plain.tokens(self._counted(stream), stream.sample_rate):
                        own.add(tokens.reshape(-1, bands))
            except DecodeError as e:
                unreadable.append(_report(item, e))
                continue
            total.merge(own.sums())
        self._count_cpu()
        return total.sums(), unreadable

    def produce(
        self, epoch: int, number: int, items: Sequence[AudioItem], stats: FeatureStats
    ) -> tuple[list[FileReport], list[Unreadable]]:
        """Write the tokens of the items of one lease, and name those that could not be read.

        Args:
          epoch: pass over the recordings, from 0. number: of the lease in it; both name the files.
          items: of the lease, those of one group side by side. stats: to normalise by.
        Raises:
          ReplayError: the store cannot be written.
        """
        front = self._front_end(stats)
        meta = StoreMeta.of(self.config.features, stats, self.config.action, self.config.run.seed, self.controls)
        unreadable: list[Unreadable] = []
        with ShardWriter(self._store, shard_prefix(epoch, number), meta, self.config.replay.shard_episodes) as writer:
            episodes = _Groups(writer, self.config.replay.episode_tokens)
            for item, heard in self._ahead(items, front, epoch):
                self.on_block()
                episodes.begin(item.group)
                try:
                    if heard is not None:
                        self._add_tokens(episodes.of(item.group), writer, item, epoch, heard.origin, [heard.tokens])
                        self.totals.audio_s += heard.seconds
                        continue
                    for stream, part in self._streams(item):
                        self._add_clip(episodes.of(part.group), writer, front, stream, part, epoch)
                except DecodeError as e:
                    episodes.take_back()
                    unreadable.append(_report(item, e))
            episodes.finish()
            files = writer.commit()
        self._count_cpu()
        return files, unreadable

    def _add_clip(
        self, builder: EpisodeBuilder, writer: ShardWriter, front: FrontEnd, stream: AudioStream, item: AudioItem, epoch: int
    ) -> None:
        """Append one stream's tokens, block by block."""
        augment = self._augment.of(item.index, epoch) if self._augment else None
        skipped, self._short = self._shift(stream, item, epoch), self._is_short(stream)
        origin = skipped * self.config.features.sample_rate // stream.sample_rate
        parts = front.tokens(after(skipped, self._counted(stream)), stream.sample_rate, augment)
        self._add_tokens(builder, writer, item, epoch, origin, parts)

    def _ahead(self, items: Sequence[AudioItem], front: FrontEnd, epoch: int) -> Iterator[tuple[AudioItem, _Heard | None]]:
        """The items, and what short recordings among them hold, whose spectra are taken together.

        None: to be read by itself: it is long, follows a long one, is to be augmented, or cannot be read, whose cause is then found.
        """
        together = self._augment is None and self.config.source.channels != "each"
        for begin in range(0, len(items), TOGETHER):
            part = items[begin : begin + TOGETHER]
            read = [self._read_short(item, epoch) if together and self._short else None for item in part]
            short = [clip for clip in read if clip is not None]
            tokens = iter(front.tokens_together([samples for samples, _, _ in short]))
            for item, clip in zip(part, read, strict=True):
                yield item, None if clip is None else _Heard(next(tokens), *clip[1:])

    def _read_short(self, item: AudioItem, epoch: int) -> tuple[Samples, int, float] | None:
        """Samples at the features' rate, how many of them lie before the first in the recording, seconds read; None: not such a one."""
        self.on_block()  # TOGETHER of them on a slow disk take longer than a lease may be without a beat
        try:
            path = resolve_inside(self.root, item.path)
            with open_audio(path, item, self.config.source.channels) as stream:
                self._short = self._is_short(stream)
                if not self._short:
                    return None
                skipped = self._shift(stream, item, epoch)
                blocks = list(stream.blocks(BLOCK_S))
        except DecodeError:
            return None
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return samples[skipped:], skipped, len(samples) / self.config.features.sample_rate

    def _is_short(self, stream: AudioStream) -> bool:
        """Whether it is worth reading ahead."""
        features, length = self.config.features, stream.num_samples
        if stream.sample_rate != features.sample_rate or length is None or length > SHORT_S * features.sample_rate:
            return False
        return max(num_frames(length, features), features.token_frames) <= self._plain.log_mel.block_frames

    def _add_tokens(
        self, builder: EpisodeBuilder, writer: ShardWriter, item: AudioItem, epoch: int, origin: int, parts: Iterable[Frames]
    ) -> None:
        """Append one stream's tokens (t, token_dim), of which the first begins at sample `origin` of the recording."""
        clip = ClipInfo(item=item.index, path=item.path, label=item.labels.get("label", ""), speaker=item.labels.get("speaker", ""))
        walk = Walk(self.config.action, self.config.run.seed, epoch, item, self.controls)
        features, count = self.config.features, 0
        for tokens in parts:
            if not np.isfinite(tokens).all():
                raise DecodeError(item.path, "samples are absurdly large")
            index, action = walk.through(len(tokens))
            if not len(index):
                continue
            # As they are stored: numpy takes five times as long to make halves, and rounds in the same way.
            halves = torch.from_numpy(np.ascontiguousarray(tokens)).half().numpy()
            kept = halves[index - (walk.seen - len(tokens))]
            for episode in builder.add_tokens(kept, action, origin + index * features.token_stride_samples, count == 0, clip):
                writer.add(episode)
            count += len(index)
        if not count:
            raise DecodeError(item.path, "too short for a single token")
        self.totals.tokens += count
        self.totals.clips += 1

    def _shift(self, stream: AudioStream, item: AudioItem, epoch: int) -> int:
        """Samples, at the stream's rate, before the first window: none in the first pass, later less than one step of the windows.

        So each pass cuts other windows from a recording. As many as it takes leave at least one whole window.
        """
        share, features = self.config.augment.shift, self.config.features
        if not share or not epoch or stream.num_samples is None:
            return 0
        drawn, place = np.random.default_rng((self.config.run.seed, item.index, epoch, _SHIFT)).random(2)
        room = stream.num_samples - -(-features.token_span_samples * stream.sample_rate // features.sample_rate)
        stride = features.token_stride_samples * stream.sample_rate // features.sample_rate
        return int(place * min(stride, max(0, room + 1))) if drawn < share else 0

    def _streams(self, item: AudioItem) -> Iterator[tuple[AudioStream, AudioItem]]:
        """Each stream of a recording (several where source.channels is each), with the item that describes it."""
        path = resolve_inside(self.root, item.path)
        channels = self.config.source.channels
        for part in expand_channels(item, probe(path), channels) if channels == "each" else [item]:
            with open_audio(path, part, channels) as stream:
                yield stream, part

    def _counted(self, stream: AudioStream) -> Iterator[Samples]:
        for block in stream.blocks(BLOCK_S):
            yield block
            self.totals.audio_s += len(block) / stream.sample_rate
            self._count_cpu()
            self.on_block()

    def _count_cpu(self) -> None:
        self.totals.cpu_s = time.process_time()

    def _front_end(self, stats: FeatureStats) -> FrontEnd:
        if self._normalising is None or self._normalising.stats != stats:
            self._normalising = FrontEnd(self.config.features, stats)
        return self._normalising


@dataclass(frozen=True)
class _Heard:
    """A short recording: its tokens (t, token_dim), samples before the first of them, and its length in seconds."""

    tokens: Frames
    origin: int
    seconds: float


def after(skipped: int, blocks: Iterable[Samples]) -> Iterator[Samples]:
    """A stream of samples without its first ones."""
    for block in blocks:
        yield block[skipped:]
        skipped = max(0, skipped - len(block))


class Walk:
    """Which tokens of a clip are kept, and the action that leads to each.

    Action t leads from the kept token t - 1 to t; at a clip's first token nothing does, so that row is zero.

        stride     tokens     0 . 2 . . . 6 7        kept, two, then four, then one window apart (seeded by run, item and pass)
                   action     0   e1      e2 e0      one-hot over action.strides [1, 2, 4]
        none       every token, action (0)
        controls   every token, the item's columns normalised over the training items
    """

    def __init__(self, config: ActionConfig, seed: int, epoch: int, item: AudioItem, controls: ControlScale) -> None:
        self._config = config
        if config.kind == "stride":  # a generator costs as much as a short clip's spectra
            self._rng = np.random.default_rng((seed, item.index, epoch, _STRIDES))
        self._next, self._choice = 0, -1  # the next token to keep, and the stride that leads to it
        self.seen = 0
        self._row = np.zeros(config.dim, np.float32)
        if config.kind == "controls":
            try:
                self._row[:] = controls.row(item.controls)
            except ValueError as e:
                raise DecodeError(item.path, str(e)) from e

    def through(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Of the clip's next `count` tokens, the (t,) indices in the clip of the kept ones, and the actions (t, A)."""
        begin, self.seen = self.seen, self.seen + count
        if self._config.kind == "stride":
            return self._stride()
        index = np.arange(begin, self.seen, dtype=np.int64)
        action = np.broadcast_to(self._row, (count, len(self._row))).copy()
        action[: max(0, 1 - begin)] = 0.0
        return index, action

    def _stride(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        kept: list[int] = []
        chosen: list[int] = []
        while self._next < self.seen:
            kept.append(self._next)
            chosen.append(self._choice)
            self._choice = int(self._rng.integers(len(self._config.strides)))
            self._next += self._config.strides[self._choice]
        action = np.zeros((len(kept), self._config.dim), np.float32)
        arrived = [row for row, choice in enumerate(chosen) if choice >= 0]
        action[arrived, [chosen[row] for row in arrived]] = 1.0
        return np.array(kept, np.int64), action


class _Groups:
    """The episode builders of one lease, one for each group as an episode never mixes groups; they can take back the last item."""

    def __init__(self, writer: ShardWriter, episode_tokens: int) -> None:
        self._writer, self._size = writer, episode_tokens
        self._builders: dict[str, EpisodeBuilder] = {}
        self._group = ""
        self._mark = 0
        self._marks: dict[str, BuilderMark] = {}

    def begin(self, group: str) -> None:
        """An item of this group begins; those of the group before are complete."""
        if group != self._group:
            self.finish()
        self._group = group
        self._mark = self._writer.mark()
        self._marks = {name: builder.mark() for name, builder in self._builders.items()}

    def of(self, group: str) -> EpisodeBuilder:
        """The builder of a group: the item's, or that of one of its channels."""
        return self._builders.setdefault(group, EpisodeBuilder(group, self._size))

    def take_back(self) -> None:
        """Nothing of the item since `begin` stays."""
        self._writer.rollback_to(self._mark)
        self._builders = {name: builder for name, builder in self._builders.items() if name in self._marks}
        for name, builder in self._builders.items():
            builder.rollback_to(self._marks[name])

    def finish(self) -> None:
        """Write what the builders hold."""
        for builder in self._builders.values():
            for episode in builder.finish():
                self._writer.add(episode)
        self._builders.clear()


def _report(item: AudioItem, error: DecodeError) -> Unreadable:
    return Unreadable(item.path[:4096], item.index, error.cause[:4096])
