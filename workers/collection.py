"""State of data collection: phases, leases, files, quarantine. No sockets, and no clock of its own.

Phases: *measure* (workers sum log-mel statistics over a sample of the recordings), then *episodes* (workers write tokens, pass after
pass). What has been reached is kept in RUN/coordinator_state.json, so that a coordinator that was killed goes on; leases that it had
granted are redone, and write the same files again.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from pydreaming.audio.sources import Catalogue, source_root
from pydreaming.audio.stats import FeatureStats, StatsSums, merge_stats
from pydreaming.config import Config
from pydreaming.errors import ConfigError, ReplayError, SourceError, UnreachableError
from pydreaming.replay.names import shard_prefix
from pydreaming.replay.schema import TOKEN_DTYPE
from workers.layout import RunDir, replace_json, tidy_json
from workers.leases import EpochRecord, Grant, LeaseTable, Loss
from workers.passes import Passes, PassRows
from workers.protocol import Done, Lease, Refused, Revoked, Stop, Unreadable, Wait
from workers.quarantine import Quarantine
from workers.ratio import RatioGate
from workers.shards import ShardFolder
from workers.watch import Change

log = logging.getLogger(__name__)

DEADLY = "worker died while reading it"
MEASURE_ITEMS = 8  # recordings in a measure lease: few, so that all workers share the short phase
SAVE_S = 1.0
SWEEP_S = 60.0  # s between two looks for files that nobody has reported
PROBE_S = 2.0  # s between two questions to a replay store that does not answer


class SavedState(msgspec.Struct, forbid_unknown_fields=True):
    """RUN/coordinator_state.json. `starts` counts coordinators of this run, so that grant ids are never used twice."""

    starts: int = 0
    address: str = ""
    written_tokens: int = 0
    trained_tokens: int = 0
    passes_done: int = 0
    epochs: list[EpochRecord] = []
    deadly: list[int] = []
    files: dict[str, int] = {}
    extras: int = 0
    closed: list[tuple[int, int]] = []
    rows: list[PassRows] = []


class SavedStats(msgspec.Struct):
    """RUN/stats.json: the statistics, and the feature settings they belong to."""

    features: dict[str, Any]
    stats: FeatureStats


class Collection:
    """Hands out work and takes in results.

    Args:
      run: the run's folder; config: of the run; catalogue: of the recordings.
      now: the present time in the caller's clock's seconds, which every later call must use too.
    Raises:
      SourceError: nothing to train on. ReplayError: the replay store holds another run's files. ConfigError: statistics of other features.
    """

    def __init__(self, run: RunDir, config: Config, catalogue: Catalogue, now: float) -> None:
        if not len(catalogue.train_indices):
            raise SourceError("no recording is left to train on after the held-out split")
        self._run, self._config, self._catalogue = run, config, catalogue
        tidy_json([run.coordinator, run.coordinator_state, run.stats])
        self._shards = ShardFolder(run.replay(config), config.features.token_dim * TOKEN_DTYPE.itemsize)
        self.state = self._load_state()
        self._gate = RatioGate.of(config.replay)
        self._ids = itertools.count(self.state.starts * 10**9)
        self._quarantine = Quarantine(run.quarantine)
        self.stats = self._load_stats()
        self.all_failed = False
        self._sums: dict[int, StatsSums] = {}
        self._measured_all = False
        self._grows, self._root = config.source.watch_s > 0, source_root(config.source)
        self._passes = Passes(catalogue, config, self.state.rows)
        self._episodes = LeaseTable(self._passes.plan, config.workers.passes, config.workers.lease_ttl_s, self._ids)
        self._episodes.skip.update(self.state.deadly)
        self._episodes.restore(self.state.passes_done, self.state.epochs, self.state.extras, self.state.closed)
        sample = catalogue.sample(config.features.stats_files, config.run.seed)
        self._measure = self._measure_table([] if self.stats else sample.tolist())
        self._dirty, self._saved = True, now
        self._swept = self._probed = now
        self.save(now)

    # -- what peers ask for -------------------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Literal["measure", "episodes"]:
        """What leases are for now."""
        return "episodes" if self.stats else "measure"

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will be collected."""
        return self.all_failed or (self._episodes.exhausted and not self._grows)

    def take_in(self, change: Change) -> None:
        """What has come to a growing source, and gone from it. Raises OSError: the catalogue cannot be written."""
        train = len(self._catalogue.train_indices)
        self._catalogue.add(change.new, self._config.source, self._config.run.seed)
        self._episodes.gone |= change.gone
        self._episodes.gone -= change.back
        train = len(self._catalogue.train_indices) - train
        counts = (len(change.new), len(change.new) - train, len(change.gone), len(change.back))
        log.info("%d recordings have come (%d held out), %d are gone, %d are there again", *counts)

    def pull(self, owner: str, now: float) -> Lease | Wait | Stop:
        """Work for `owner`."""
        self._give_back(owner)  # who pulls has nothing in hand any more, whatever became of its last lease
        if self.all_failed:
            return Stop("not one recording could be read")
        if self.exhausted:
            return Stop("all passes are done")
        if self.stats is None:
            grant = self._measure.grant(owner, now)
            return self._lease("measure", grant) if grant else Wait(0.2, "the statistics of the recordings are being measured")
        if not self._shards.reachable:
            return Wait(1.0, "the replay store does not answer")
        if not self._gate.may_write(self.state.written_tokens, self.state.trained_tokens):
            return Wait(1.0, f"{self.state.written_tokens} tokens are collected, and the learner has to catch up (replay.replay_ratio)")
        grant = self._episodes.grant(owner, now)
        return self._lease("episodes", grant) if grant else Wait(0.5, "the last leases are in other hands, or nothing new has come")

    def beat(self, lease: int, owner: str, now: float) -> bool:
        """Keep a lease. False: it is not `owner`'s any more."""
        return self._measure.beat(lease, owner, now) or self._episodes.beat(lease, owner, now)

    def done(self, message: Done, owner: str) -> Revoked | Refused | None:
        """Take in a finished lease. Returns what the worker has to be told, if anything."""
        for table in (self._measure, self._episodes):
            grant = table.current(message.lease, owner)
            if grant is not None:
                break
        else:
            # Who has the lease now may have renamed the same files already; what is too many goes when that one is done.
            granted = tuple(f"{shard_prefix(grant.epoch, grant.number)}-" for grant in self._episodes.granted)
            self._shards.discard_strangers(file.name for file in message.files if not file.name.startswith(granted))
            return Revoked(message.lease)
        if table is self._measure:
            return self._done_measure(grant, message, owner)
        return self._done_episodes(grant, message, owner)

    def leave(self, owner: str) -> None:
        """The worker ends in good order."""
        self._give_back(owner)

    def hasten(self, owner: str, deadline: float) -> None:
        """The worker was replaced by another: its leases are lost at `deadline` at the latest."""
        self._measure.hasten(owner, deadline)
        self._episodes.hasten(owner, deadline)

    def progress(self, trained_tokens: int) -> None:
        """The learner has trained on so many tokens."""
        self._dirty |= trained_tokens != self.state.trained_tokens
        self.state.trained_tokens = trained_tokens

    def tick(self, now: float) -> None:
        """Regular work: lost leases, the replay store, and the state on disk once in `SAVE_S`."""
        for loss in self._measure.expire(now):
            self._lost(loss)
        for loss in self._episodes.expire(now):
            self._lost(loss)
        self._end_measure()
        self._end_passes()
        self._begin_arrival(now)
        self._look_after_store(now)
        if self._dirty and now - self._saved >= SAVE_S:
            self.save(now)

    def save(self, now: float) -> None:
        """Write the state to disk."""
        self.state.passes_done, self.state.epochs = self._episodes.passes_done, self._episodes.records()
        self._passes.keep(self._episodes.open_epochs)
        self.state.rows = self._passes.rows()
        self.state.extras, self.state.closed = self._episodes.extras, self._episodes.closed
        self.state.deadly = sorted(self._episodes.skip)
        self.state.files = dict(self._shards.files)
        replace_json(self._run.coordinator_state, self.state)
        self._dirty, self._saved = False, now

    @property
    def stored_tokens(self) -> int:
        """Tokens in the replay store."""
        return self._shards.tokens

    @property
    def capacity_tokens(self) -> int:
        """Tokens that it may hold."""
        return self._config.replay.capacity_tokens

    @property
    def stored_files(self) -> int:
        """Files in the replay store."""
        return len(self._shards)

    @property
    def leases_in_hand(self) -> int:
        """Leases that workers have now."""
        return len(self._measure.granted) + len(self._episodes.granted)

    @property
    def unreadable(self) -> int:
        """Recordings in the quarantine list."""
        return len(self._quarantine)

    @property
    def passes_done(self) -> int:
        """Passes of which every lease is done."""
        return self._episodes.passes_done

    @property
    def pass_share(self) -> float:
        """Share of the oldest unfinished pass that is done."""
        return self._episodes.pass_share

    @property
    def pass_items(self) -> tuple[int, int]:
        """Recordings of the oldest unfinished pass: done, and listed."""
        return self._episodes.pass_items

    # -- inside -------------------------------------------------------------------------------------------------------------------------

    def _measure_table(self, items: list[int]) -> LeaseTable:
        leases = [items[i : i + MEASURE_ITEMS] for i in range(0, len(items), MEASURE_ITEMS)]
        return LeaseTable(lambda _: leases, 1, self._config.workers.lease_ttl_s, self._ids, overlap=1)

    def _lease(self, kind: Literal["measure", "episodes"], grant: Grant) -> Lease:
        return Lease(grant.id, kind, grant.epoch, grant.number, self._catalogue.read(grant.items), self.stats, grant.ttl_s)

    def _done_measure(self, grant: Grant, message: Done, owner: str) -> Refused | None:
        sums, bands = message.sums, self._config.features.n_mels
        if sums is None or message.files or not len(sums.total) == len(sums.square) == bands:
            self._give_back(owner)
            return Refused(f"sums of {bands} mel bands were expected")
        self._sums[grant.number] = sums
        self._measure.finish(grant.id, owner, sums.count)
        self._note(grant, message.unreadable)
        self._end_measure()
        return None

    def _done_episodes(self, grant: Grant, message: Done, owner: str) -> Refused | Revoked | None:
        prefix = shard_prefix(grant.epoch, grant.number)
        try:
            problem = self._shards.check(prefix, message.files)
        except UnreachableError as e:  # nobody's fault; done again, the lease replaces what there is of its files
            self._shards.unreachable(e)
            self._give_back(owner)
            return Revoked(message.lease)
        if problem:
            self._give_back(owner)
            return Refused(problem)
        tokens = self._shards.accept(prefix, message.files)
        self.state.written_tokens += tokens
        self._episodes.finish(grant.id, owner, tokens)
        self._note(grant, message.unreadable)
        self._end_passes()
        self._shards.evict(self._config.replay.capacity_tokens)
        self._dirty = True
        return None

    def _note(self, grant: Grant, unreadable: Iterable[Unreadable]) -> None:
        own = set(grant.items)
        for entry in unreadable:
            path = self._catalogue[entry.item].path if entry.item in own else ""  # the catalogue's, whatever the message says
            if path and not self._has_gone(path):
                self._quarantine.add(path, entry.cause, entry.item, grant.epoch)

    def _has_gone(self, path: str) -> bool:
        """Whether a recording was deleted after its lease was given: with a source that grows that is no fault."""
        return self._grows and not (self._root / path).exists()

    def _lost(self, loss: Loss) -> None:
        grant = loss.grant
        prefix = shard_prefix(grant.epoch, grant.number)
        ids = {"lease": grant.id, "peer": grant.owner, "split": loss.split}
        log.warning("lease %s of pass %d is lost with %s", grant.number, grant.epoch + 1, grant.owner, extra=ids)
        self._dirty = True
        if self.stats is None:
            if loss.deadly is not None:
                self._episodes.skip.add(loss.deadly)
        else:
            self._shards.lost(prefix)
            if loss.split:
                self._shards.remove_lease(prefix)  # its items get files of their own
        if loss.deadly is not None:
            self._quarantine.add(self._catalogue[loss.deadly].path, DEADLY, loss.deadly, grant.epoch)

    def _give_back(self, owner: str) -> None:
        for grant in [*self._measure.give_back(owner), *self._episodes.give_back(owner)]:
            self._shards.lost(shard_prefix(grant.epoch, grant.number))

    def _begin_arrival(self, now: float) -> None:
        """A pass of their own for recordings that have come since the last one began."""
        if self._grows and self.stats is not None and self._passes.plan_arrival(self._episodes.next_epoch):
            self._episodes.add_epoch()
            self.save(now)

    def _look_after_store(self, now: float) -> None:
        if now - self._probed >= PROBE_S:
            self._probed = now
            self._shards.probe()
        if now - self._swept >= SWEEP_S and self.stats is not None:
            self._swept = now
            self._shards.sweep(lambda: (shard_prefix(grant.epoch, grant.number) for grant in self._episodes.granted))

    def _end_measure(self) -> None:
        if self.stats is not None or self.all_failed or not self._measure.exhausted:
            return
        if any(sums.count for sums in self._sums.values()):
            self.stats = merge_stats(self._sums.values(), self._config.features.n_mels)
            replace_json(self._run.stats, SavedStats(self._config.to_dict()["features"], self.stats))
            log.info("statistics measured over %d frames", self.stats.frames)
        elif not self._measured_all:
            self._measured_all = True
            log.warning("no recording of the sample could be read; measuring all of them")
            self._measure = self._measure_table(self._catalogue.train_indices.tolist())
        else:
            self.all_failed = True

    def _end_passes(self) -> None:
        if self._episodes.last_pass_tokens == 0 and not self._grows:
            self.all_failed = True

    def _load_state(self) -> SavedState:
        try:
            state = msgspec.json.decode(self._run.coordinator_state.read_bytes(), type=SavedState)
        except FileNotFoundError:
            state = SavedState()
            strangers = self._shards.there_at_first
            if strangers:
                raise ReplayError(
                    f"{self._shards.location} already holds {len(strangers)} files of another run; "
                    "set workers.count 0 to train from them, or replay.dir to an empty folder"
                ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise ReplayError(f"{self._run.coordinator_state} is damaged ({e}); begin a new run") from e
        self._shards.restore(state.files)
        if state.written_tokens and not len(self._shards):
            log.warning("the replay store is empty: collecting from the first pass again")
            state = SavedState(starts=state.starts, address=state.address, deadly=state.deadly)
        state.starts += 1
        return state

    def _load_stats(self) -> FeatureStats | None:
        try:
            saved = msgspec.json.decode(self._run.stats.read_bytes(), type=SavedStats)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise ConfigError(f"{self._run.stats} is damaged ({e}); begin a new run") from e
        ours = self._config.to_dict()["features"]
        for key, value in saved.features.items():
            if ours.get(key) != value:
                raise ConfigError(f"features.{key} is {ours.get(key)}, but {self._run.stats} was measured with {value}; begin a new run")
        return saved.stats
