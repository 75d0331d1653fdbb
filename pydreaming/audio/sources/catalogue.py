"""The catalogue of a run: every recording of the source on disk, one JSON line each, with arrays beside them.

A folder holds items.jsonl, offsets.npy (int64, where each line begins), group_ids.npy (int32), held_out.npy (bool) and catalogue.json.
Building streams: per recording only some 30 bytes stay in memory, so that a million of them are no burden; reading maps the arrays.
Recordings of a growing source (source.watch_s) that came later are rows behind these, in arrivals.jsonl, and stay in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, overload

import msgspec
import numpy as np
import numpy.typing as npt

from pydreaming.audio.sources.item import AudioItem
from pydreaming.audio.sources.layouts import iter_source
from pydreaming.config import ActionConfig, SourceConfig
from pydreaming.errors import SourceError

VERSION = 1
SPEAKERS_TO_SPLIT_BY = 10  # below it, holding out whole speakers would leave too few of them on either side
ARRIVALS = "arrivals.jsonl"
NAMES_SHOWN = 20  # speakers named to who asks for an unknown one

Ids = npt.NDArray[np.int64]
_decode_item = msgspec.json.Decoder(AudioItem).decode


class CatalogueInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of catalogue.json.

    Attributes:
      fingerprint: of the settings that the catalogue was built with.
      split: how `held_out` was decided, but for the speakers named by the settings: "official", "speaker", "recording" or "none".
      control_mean, control_std: over the training items; a constant column has deviation 1.
    """

    version: int
    fingerprint: str
    items: int
    held_out: int
    groups: int
    speakers: int
    split: str
    label_columns: list[str]
    control_columns: list[str]
    control_mean: list[float]
    control_std: list[float]


class Arrival(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of arrivals.jsonl."""

    held_out: bool
    item: AudioItem


class Leases(Sequence[Ids]):
    """The training items of one epoch in leases; lease i is an array of item indices, items of one group side by side."""

    def __init__(self, items: Ids, starts: Ids, stops: Ids) -> None:
        self._items, self._starts, self._stops = items, starts, stops

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, i: int) -> Ids: ...
    @overload
    def __getitem__(self, i: slice) -> Leases: ...
    def __getitem__(self, i: int | slice) -> Ids | Leases:
        if isinstance(i, slice):
            return Leases(self._items, self._starts[i], self._stops[i])
        return self._items[self._starts[i] : self._stops[i]]


class Catalogue:
    """The recordings of a run, indexed; see the module for the files. Safe to read from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open a catalogue. Raises SourceError when it is missing, damaged or of another version."""
        self.folder = folder
        try:
            self.info = msgspec.json.decode((folder / "catalogue.json").read_bytes(), type=CatalogueInfo)
            self._offsets: Ids = np.load(folder / "offsets.npy", mmap_mode="r")
            self.group_ids: npt.NDArray[np.int32] = np.load(folder / "group_ids.npy", mmap_mode="r")
            self.held_out: npt.NDArray[np.bool_] = np.load(folder / "held_out.npy", mmap_mode="r")
            size = (folder / "items.jsonl").stat().st_size
        except (OSError, ValueError, msgspec.MsgspecError) as e:
            raise SourceError(f"{folder}: not a readable catalogue ({e})") from e
        lengths = (len(self._offsets) - 1, len(self.group_ids), len(self.held_out))
        if self.info.version != VERSION or lengths != (self.info.items,) * 3 or self._offsets[-1] != size:
            raise SourceError(f"{folder}: the catalogue is damaged or of another version; remove the folder to build it anew")
        self._arrived: list[AudioItem] = []
        self._append(_read_arrivals(folder / ARRIVALS))

    @staticmethod
    def open(folder: Path) -> Catalogue:
        """Open a catalogue. Raises SourceError when it is missing, damaged or of another version."""
        return Catalogue(folder)

    @staticmethod
    def build(
        config: SourceConfig, action: ActionConfig, seed: int, folder: Path, keep: Callable[[str], bool] = lambda path: True
    ) -> Catalogue:
        """Catalogue a source into `folder`, or open what is there when it was built with the same settings.

        Held out are the items of the data set's official split; else a seeded share `held_out` of the speakers, where at least ten are
        known, else of the recordings; one at least where there are two. Added to them is everything of `held_out_speakers`.

        Of a growing source (watch_s) each speaker or recording is held out or not by a hash of itself, so that growth moves none.

        Args:
          keep: which paths to take; the others are left for `add`.
        Raises:
          SourceError: nothing found, a broken manifest, an unknown speaker, or `folder` holds other things than a catalogue.
        """
        columns = list(action.columns) if action.kind == "controls" else []
        fingerprint = _fingerprint(config, columns, seed)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            if not (folder / "catalogue.json").is_file():
                raise SourceError(f"{folder} holds other things than a catalogue; choose another folder")
            there = Catalogue(folder)
            if there.info.fingerprint == fingerprint:
                return there
        _build(config, columns, seed, fingerprint, folder, keep)
        return Catalogue(folder)

    def add(self, items: Sequence[AudioItem], config: SourceConfig, seed: int) -> None:
        """Recordings that have come since, as the next rows; on disk when this returns. Raises OSError: the disk is full, say."""
        salt = _salt(seed)
        arrivals = []
        for row, item in enumerate(items, start=len(self)):
            held_out = item.speaker in config.held_out_speakers or self._is_held_out(item, config.held_out, salt)
            arrivals.append(Arrival(held_out, msgspec.structs.replace(item, index=row)))
        path, encoder = self.folder / ARRIVALS, msgspec.json.Encoder()
        with path.open("ab") as file:
            file.truncate(_whole_lines(path))  # of a line that was torn when its writer was killed nobody knows
            file.write(b"".join(encoder.encode(arrival) + b"\n" for arrival in arrivals))
            file.flush()
            os.fsync(file.fileno())
        self._append(arrivals)

    def _is_held_out(self, item: AudioItem, share: float, salt: bytes) -> bool:
        if self.info.split == "official":
            return item.held_out is True
        unit = item.group if self.info.split == "speaker" else item.recording
        return _hash(unit.encode(), salt) < _threshold(share)

    def _append(self, arrivals: Sequence[Arrival]) -> None:
        """Rows behind those that there are. A group that the first ones had, too, has another number here: leases need no more."""
        first = self.info.groups + len(self._arrived)
        numbers = {arrival.item.group: first + place for place, arrival in enumerate(arrivals)}
        self._arrived += [arrival.item for arrival in arrivals]
        if arrivals:
            self.group_ids = np.append(self.group_ids, np.array([numbers[a.item.group] for a in arrivals], np.int32))
            self.held_out = np.append(self.held_out, np.array([a.held_out for a in arrivals], np.bool_))
        self.train_indices: Ids = np.flatnonzero(~self.held_out)
        self.held_out_indices: Ids = np.flatnonzero(self.held_out)

    def __len__(self) -> int:
        return self.info.items + len(self._arrived)

    def __getitem__(self, i: int) -> AudioItem:
        """Item i, read from disk. Raises IndexError, SourceError."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        return self.read([int(i) % len(self)])[0]

    def read(self, indices: Sequence[int]) -> list[AudioItem]:
        """Several items, each from 0 to len - 1, for which the file is opened once. Raises SourceError."""
        items: list[AudioItem] = []
        try:
            with (self.folder / "items.jsonl").open("rb") as file:
                for i in indices:
                    if i >= self.info.items:
                        items.append(self._arrived[i - self.info.items])
                        continue
                    file.seek(int(self._offsets[i]))
                    items.append(_decode_item(file.read(int(self._offsets[i + 1]) - file.tell())))
        except (OSError, msgspec.MsgspecError) as e:
            raise SourceError(f"{self.folder}: item {indices[len(items)]} cannot be read ({e})") from e
        return items

    def __iter__(self) -> Iterator[AudioItem]:
        """Every item in order, streamed."""
        with (self.folder / "items.jsonl").open("rb") as file:
            for line in file:
                yield msgspec.json.decode(line, type=AudioItem)
        yield from self._arrived

    def leases(self, seed: int, epoch: int, lease_items: int, rows: tuple[int, int] | None = None) -> Leases:
        """The training items (of the rows first to last - 1), each exactly once, shuffled into leases of at most `lease_items`.

        Where groups have at least lease_items / 4 items on average, a lease holds items of one group; else whole groups are packed
        together. In both, the items of one group stand side by side, so that an episode never needs to mix groups.
        """
        train = self.train_indices
        if rows is not None:
            train = train[slice(*np.searchsorted(train, rows))]
        rng = np.random.default_rng([seed, epoch])
        groups, group = np.unique(self.group_ids[train], return_inverse=True)
        if not len(groups):
            return Leases(train, train, train)
        order = rng.permutation(len(groups))[group]  # each group's place in this epoch
        items = train[np.lexsort((rng.random(len(train)), order))]
        sizes = np.bincount(order, minlength=len(groups))
        begins = np.cumsum(sizes) - sizes
        # A group is cut into chunks of lease_items first; a chunk is the unit from here on.
        place = np.arange(len(items)) - np.repeat(begins, sizes)
        bounds = np.append(np.flatnonzero(place % lease_items == 0), len(items))
        if 4 * len(items) < lease_items * len(groups):
            bounds = _packed(bounds, lease_items)
        shuffled = rng.permutation(len(bounds) - 1)
        return Leases(items, bounds[:-1][shuffled], bounds[1:][shuffled])

    def sample(self, count: int, seed: int) -> Ids:
        """Indices of a seeded sample of `count` training items (all of them, where there are fewer), in random order."""
        return np.random.default_rng([seed, len(self)]).permutation(self.train_indices)[:count]


def _packed(bounds: Ids, lease_items: int) -> Ids:
    """Join neighbouring chunks while they fit into one lease. `bounds`: (chunks + 1,) positions, chunks of at most lease_items."""
    kept = [0]
    while kept[-1] < len(bounds) - 1:
        kept.append(int(np.searchsorted(bounds, bounds[kept[-1]] + lease_items, side="right")) - 1)
    return bounds[kept]


@dataclass
class _Columns:
    """What is kept in memory of every item while the source is read: 64-bit hashes and flags, in plain arrays."""

    keys: array[int] = field(default_factory=lambda: array("Q"))  # of the whole item: draws the sample of max_files
    groups: array[int] = field(default_factory=lambda: array("Q"))
    recordings: array[int] = field(default_factory=lambda: array("Q"))
    speakers: array[int] = field(default_factory=lambda: array("B"))
    named: array[int] = field(default_factory=lambda: array("B"))  # whether it is of one of held_out_speakers
    hints: array[int] = field(default_factory=lambda: array("b"))  # official split: 1 held out, 0 not, -1 unknown


def _build(
    config: SourceConfig, columns: list[str], seed: int, fingerprint: str, folder: Path, keep: Callable[[str], bool] = lambda path: True
) -> None:
    partial = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        for torn in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a coordinator that was killed; a run has one
            shutil.rmtree(torn)
        partial.mkdir(parents=True)
        items = (item for item in iter_source(config, columns) if keep(item.path))
        rows = _spool(items, config, seed, partial / "spool.jsonl")
        kept = _sampled(rows, config.max_files)
        if not len(kept):
            raise SourceError(f"no audio found in {config.path} (kind {config.kind}); linked folders are not followed")
        _write(rows, kept, config, columns, fingerprint, partial)
        (partial / "spool.jsonl").unlink()
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except (OSError, sqlite3.Error) as e:  # a full disk, most likely; the layouts' lookups live on disk as well
        raise SourceError(f"{folder}: the catalogue cannot be written ({e})") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _spool(items: Iterable[AudioItem], config: SourceConfig, seed: int, path: Path) -> _Columns:
    """Write every item of the source to a file, and keep its columns. Raises SourceError: a name in held_out_speakers is no speaker's."""
    rows, encoder = _Columns(), msgspec.json.Encoder()
    wanted, known = set(config.held_out_speakers), set[str]()
    salt = _salt(seed)
    with path.open("wb") as spool:
        for item in items:
            line = encoder.encode(item)
            spool.write(line + b"\n")
            rows.keys.append(_hash(line, salt))
            rows.groups.append(_hash(item.group.encode(), salt))
            rows.recordings.append(_hash(item.recording.encode(), salt))
            rows.speakers.append(item.speaker is not None)
            rows.named.append(item.speaker in wanted)
            rows.hints.append(-1 if item.held_out is None else item.held_out)
            if wanted and item.speaker is not None:
                known.add(item.speaker)
    if unknown := sorted(wanted - known):
        names = sorted(known)[:NAMES_SHOWN] + ["..."] * (len(known) > NAMES_SHOWN)
        there = f"its speakers are: {', '.join(names)}" if names else "none of its speakers is known"
        raise SourceError(f"source.held_out_speakers: {config.path} has no speaker '{unknown[0]}'; {there}")
    return rows


def _sampled(rows: _Columns, max_files: int) -> Ids:
    """Rows of the seeded sample, in their order: those of the smallest salted hashes."""
    keys = np.frombuffer(rows.keys, dtype=np.uint64)
    if max_files == 0 or len(keys) <= max_files:
        return np.arange(len(keys))
    return np.sort(np.argsort(keys, kind="stable")[:max_files])


def _write(rows: _Columns, kept: Ids, config: SourceConfig, columns: list[str], fingerprint: str, folder: Path) -> None:
    """The catalogue's files from the spooled items."""
    groups, recordings = (np.frombuffer(column, dtype=np.uint64)[kept] for column in (rows.groups, rows.recordings))
    speakers = np.unique(groups[np.frombuffer(rows.speakers, dtype=np.bool_)[kept]])
    hints = np.frombuffer(rows.hints, dtype=np.int8)[kept]
    split, held_out = _split(hints, groups, recordings, len(speakers), config)
    held_out = held_out | np.frombuffer(rows.named, dtype=np.bool_)[kept]
    unique, group_ids = np.unique(groups, return_inverse=True)
    offsets, label_columns, controls = _write_items(folder, kept, columns)
    training = controls[~held_out]
    std = training.std(axis=0)
    info = CatalogueInfo(
        version=VERSION,
        fingerprint=fingerprint,
        items=len(kept),
        held_out=int(held_out.sum()),
        groups=len(unique),
        speakers=len(speakers),
        split=split,
        label_columns=label_columns,
        control_columns=columns,
        control_mean=training.mean(axis=0).tolist(),
        control_std=np.where(std > 0, std, 1.0).tolist(),
    )
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "group_ids.npy", group_ids.astype(np.int32))
    np.save(folder / "held_out.npy", held_out)
    (folder / "catalogue.json").write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=2))


def _split(
    hints: npt.NDArray[np.int8], groups: npt.NDArray[np.uint64], recordings: npt.NDArray[np.uint64], speakers: int, config: SourceConfig
) -> tuple[str, npt.NDArray[np.bool_]]:
    """(how it was decided, held out per item). The salted hashes of the units are their seeded random order."""
    official = hints == 1
    if official.any() and not official.all():
        return "official", official
    kind, units = ("speaker", groups) if speakers >= SPEAKERS_TO_SPLIT_BY else ("recording", recordings)
    unique, share = np.unique(units), config.held_out  # sorted
    if config.watch_s:
        return kind, units < np.uint64(_threshold(share))
    if share == 0 or len(unique) < 2:
        return "none", np.zeros(len(units), dtype=np.bool_)
    count = max(1, round(share * len(unique)))
    return kind, units < unique[count]


def _write_items(folder: Path, kept: Ids, columns: list[str]) -> tuple[Ids, list[str], npt.NDArray[np.float64]]:
    """items.jsonl; returns offsets (items + 1,), the names of the labels, and controls (items, columns)."""
    offsets, names, controls = array("q", [0]), set[str](), array("d")
    encoder = msgspec.json.Encoder()
    with (folder / "spool.jsonl").open("rb") as spool, (folder / "items.jsonl").open("wb") as out:
        for index, line in enumerate(_lines_at(spool, kept)):
            item = msgspec.structs.replace(msgspec.json.decode(line, type=AudioItem), index=index)
            offsets.append(offsets[-1] + out.write(encoder.encode(item) + b"\n"))
            names.update(item.labels)
            controls.extend(item.controls)
    values = np.frombuffer(controls, dtype=np.float64) if controls else np.zeros(0)
    return np.frombuffer(offsets, dtype=np.int64), sorted(names), values.reshape(len(kept), len(columns))


def _lines_at(file: BinaryIO, rows: Ids) -> Iterator[bytes]:
    """The lines of ascending row numbers."""
    wanted = iter(rows)
    following = next(wanted, None)
    for number, line in enumerate(file):
        if number == following:
            yield line
            following = next(wanted, None)


def _read_arrivals(path: Path) -> list[Arrival]:
    """The lines that were written whole. Raises SourceError: one is damaged."""
    if not path.exists():
        return []
    try:
        return [msgspec.json.decode(line, type=Arrival) for line in path.read_bytes()[: _whole_lines(path)].splitlines()]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise SourceError(f"{path} is damaged ({e}); begin a new run") from e


def _whole_lines(path: Path) -> int:
    """Bytes of a file up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _threshold(share: float) -> int:
    """Below it lies a share of all hashes."""
    return min(int(share * 2**64), 2**64 - 1)


def _salt(seed: int) -> bytes:
    return hashlib.blake2b(str(seed).encode(), digest_size=hashlib.blake2b.SALT_SIZE).digest()


def _hash(value: bytes, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8, salt=salt).digest(), "little")


def _fingerprint(config: SourceConfig, columns: list[str], seed: int) -> str:
    settings: dict[str, Any] = dataclasses.asdict(config)
    settings["path"] = str(Path(config.path).resolve())
    if settings.pop("watch_s"):  # how often does not matter; and catalogues from before there was this setting are still good
        settings["watched"] = True
    settings["root"] = str(Path(config.root).resolve()) if config.root else ""
    content = msgspec.json.encode([VERSION, settings, columns, seed], order="sorted")
    return hashlib.sha256(content).hexdigest()
