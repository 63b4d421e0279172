"""The watch hub: who watches what, and how far each has come.

Strategy. A watcher is in one of three places.
- synced: it has everything up to now, and gets each revision as it is written.
- unsynced: it is behind (it asked for the past, or was dropped); it is fed from the history, in
  slices, until it has caught up.
- blocked: its stream's queue is full. It gets nothing, and nobody waits for it; when the queue
  has been drained it is unsynced, and the history has what it missed.
etcd has victims besides, watchers with a batch that found no room. Here the batch is dropped and
read again: the history is one index scan, and memory stays bounded by the queues.

Promises (website: learning/api_guarantees): per watcher, revisions never go back, no event comes
twice, none is left out, those of one revision stay in one response, and a progress answer R means
everything up to R was delivered. `Watcher.next_revision` carries all of it: exactly what lies
below was delivered. If the history before it was compacted away, the watcher is cancelled with
the compact revision; it never sees a gap.

Rules.
- Nothing is sent from `on_write`: it runs inside the apply of an entry. It fills queues; `step` or
  `flush` empties them, called by whoever `wake` told.
- A slice is at most CHANGES_MAX changes or BYTES_MAX bytes of history (one revision at least, for
  it may not be split), REVISIONS_MAX revisions, WATCHERS_MAX watchers. A step is slices until one
  such measure is used up: 6 ms with small values, 12 ms with many watchers of prev_kv (measured).
- Unsynced watchers wait in a queue. The first decides where the slice starts, those whose next
  revision lies in it ride along; then they go to the end. So nobody starves.
- A watcher of one key that is far behind is fed from that key's own history: an index has it.

Limits. A revision that changes a million keys is one response of that size.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from pyetcd.proto.errors import Compacted
from pyetcd.store.backend import SUB_MAX
from pyetcd.store.events import NO_EVENTS, EventSet, encode_event
from pyetcd.store.history import Row, check, first_of, last_of
from pyetcd.store.intervals import Intervals
from pyetcd.store.mvcc import PUT, Change, Keyspace, change_of
from pyetcd.store.streams import Watcher, WatchStream

REVISIONS_MAX: Final = 1000  # in one response that catches up (etcd: watchBatchMaxRevs)
WATCHERS_MAX: Final = 512  # looked at in one slice (etcd: maxWatchersPerSync)
CHANGES_MAX: Final = 2000  # in one slice; 2,000 small ones take about 6 ms
BYTES_MAX: Final = 4 << 20

_KEY_ROWS: Final = (
    "SELECT rev, key, value, create_revision, version, lease, crc FROM revisions"
    " INDEXED BY revisions_by_key WHERE key = ? AND rev BETWEEN ? AND ? ORDER BY rev LIMIT ?"
)
_WATCHER_COST: Final = 10  # of moving a watcher, in changes read
_PAGE_CHANGES: Final = 16  # first read of a slice; grows while the changes are small
_NOBODY: Final[dict[Watcher, None]] = {}


class WatchHub:
    """All watchers of a member. Give it to `keyspace.listener`; drive `step`."""

    def __init__(self, keyspace: Keyspace, *, wake: Callable[[], None] = lambda: None) -> None:
        self._keyspace = keyspace
        # Called once when there is work for `step`, and again only after a step or a flush. It must
        # not step itself, only note that a step should run soon.
        self.wake = wake
        self._awake = False
        self._synced = WatcherGroup()
        self._unsynced: dict[Watcher, None] = {}
        self._dirty: dict[WatchStream, None] = {}
        self._seen_revision = keyspace.revision
        # Plain counters for metrics.
        self.streams = 0
        self.watchers = 0
        self.blocked = 0
        self.pending_events = 0  # in the queues of streams
        self.events_total = 0
        self.dropped_total = 0

    # -- the keyspace's listener

    @property
    def wanted(self) -> bool:
        return bool(self._synced)

    def on_write(self, revision: int, changes: list[Change]) -> None:
        """A revision became visible: to those who have everything before it."""
        self._seen_revision = revision
        encoder = Encoder(self._keyspace, changes)
        # Those who get the same changes stand together, mostly: one look-up for all of them.
        indexes: tuple[int, ...] = ()
        prev_kv, events, count = False, NO_EVENTS, 0
        for watcher, wanted in encoder.match(self._synced).items():
            if wanted is not indexes or watcher.prev_kv is not prev_kv:
                indexes, prev_kv = wanted, watcher.prev_kv
                events = encoder.events(indexes, prev_kv)
                count = len(indexes)
            if watcher.stream.offer(watcher, revision, events):
                watcher.next_revision = revision + 1
                self.events_total += count
            else:
                # Whatever lies below was delivered, or was not for it.
                watcher.next_revision = revision
                self._synced.remove(watcher)
                self._block(watcher)
                self.dropped_total += 1

    # -- streams register here

    @property
    def revision(self) -> int:
        return self._keyspace.revision

    def add(self, watcher: Watcher) -> None:
        """`next_revision` says from where; a watcher of the future waits among the synced."""
        self.watchers += 1
        self._place(watcher)

    def remove(self, watcher: Watcher) -> None:
        self.watchers -= 1
        if watcher.is_synced:
            self._synced.remove(watcher)
            watcher.is_synced = False
        elif watcher.is_blocked:
            self._unblock(watcher)
        else:
            del self._unsynced[watcher]

    def touch(self, stream: WatchStream) -> None:
        """The stream has something to take."""
        self._dirty[stream] = None
        self._need_step()

    def leave(self, stream: WatchStream) -> None:
        self._dirty.pop(stream, None)

    def resume(self, watchers: Iterable[Watcher]) -> None:
        """Their stream has room again: read on from the history."""
        for watcher in watchers:
            self._unblock(watcher)
            self._place(watcher)

    def has_caught_up(self, watcher: Watcher) -> bool:
        """Whether a progress answer of the present revision is true of it. A watcher that starts
        in the future has no progress to tell (etcd#20221)."""
        return watcher.is_synced and self._keyspace.revision >= watcher.start_revision

    def restore(self, keyspace: Keyspace) -> None:
        """A snapshot took the place of the keyspace: what it skipped is in the new history, or
        compacted. Nobody's position moves, so nobody travels back in time (etcd#15271)."""
        self._keyspace = keyspace
        for watcher in list(self._synced):
            # Whoever was synced has had everything up to the last revision seen.
            watcher.next_revision = max(watcher.next_revision, self._seen_revision + 1)
            if watcher.next_revision <= keyspace.revision:
                self._synced.remove(watcher)
                watcher.is_synced = False
                self._place(watcher)
        self._seen_revision = max(self._seen_revision, keyspace.revision)

    def _place(self, watcher: Watcher) -> None:
        assert not (watcher.is_synced or watcher.is_blocked)
        if watcher.next_revision > self._keyspace.revision:
            watcher.is_synced = True
            self._synced.add(watcher)
        else:
            self._unsynced[watcher] = None
            self._need_step()

    def _block(self, watcher: Watcher) -> None:
        watcher.is_synced = False
        watcher.is_blocked = True
        watcher.stream.blocked[watcher] = None
        self.blocked += 1

    def _unblock(self, watcher: Watcher) -> None:
        watcher.is_blocked = False
        watcher.stream.blocked.pop(watcher, None)
        self.blocked -= 1

    # -- work

    @property
    def slow(self) -> int:
        """Watchers that do not have everything yet."""
        return len(self._unsynced) + self.blocked

    def _need_step(self) -> None:
        if not self._awake:
            self._awake = True
            self.wake()

    def step(self) -> bool:
        """Catch up some, then flush. Whether somebody is still behind and could be fed."""
        self._awake = True
        budget = CHANGES_MAX
        while self._unsynced and budget > 0:
            budget -= self._catch_up()
        self.flush()
        return bool(self._unsynced)

    def flush(self) -> None:
        """Tell the streams that have something to take; short, and enough for new events."""
        self._awake = False  # what a sink brings about wakes again
        dirty, self._dirty = self._dirty, {}
        for stream in dirty:
            stream.sink()

    def _catch_up(self) -> int:
        """One slice; what it cost, in changes."""
        revision = self._keyspace.revision
        first, riders = self._board(self._keyspace.compact_revision)
        if not riders:
            return _WATCHER_COST
        if not riders[0].range_end and revision - first > REVISIONS_MAX:
            del riders[1:]
            changes, last = self._read_key(riders[0].key, first, revision)
        else:
            changes, last = self._read(first, revision)
        group = WatcherGroup()
        for watcher in riders:
            if first <= watcher.next_revision <= last + 1:
                group.add(watcher)
        encoder = Encoder(self._keyspace, changes)
        batches = encoder.match(group)
        for watcher in group:
            del self._unsynced[watcher]
            indexes = batches.get(watcher)
            if indexes:
                events = encoder.events(indexes, watcher.prev_kv)
                if not watcher.stream.offer(watcher, revision, events):
                    self._block(watcher)  # filled by the others of this slice
                    continue
                self.events_total += len(indexes)
            watcher.next_revision = last + 1
            self._place(watcher)  # behind all others, if it is not there yet
        size_bytes = sum(len(change.value) for change in changes)
        return len(changes) + _WATCHER_COST * len(group) + size_bytes * CHANGES_MAX // BYTES_MAX

    def _board(self, compact_revision: int) -> tuple[int, list[Watcher]]:
        """The revision where the slice starts, and who may ride along."""
        riders: list[Watcher] = []
        for watcher in list(islice(self._unsynced, WATCHERS_MAX)):
            if watcher.stream.is_full:
                del self._unsynced[watcher]
                self._block(watcher)
            elif watcher.next_revision < compact_revision:
                watcher.stream.push_compacted(watcher, compact_revision)
            else:
                riders.append(watcher)
        return (riders[0].next_revision if riders else 0), riders

    def _read(self, first: int, revision: int) -> tuple[list[Change], int]:
        """The changes of a slice, and the last revision they make complete."""
        changes: list[Change] = []
        size_bytes, page = 0, _PAGE_CHANGES
        revision = min(revision, first + REVISIONS_MAX - 1)
        while len(changes) < CHANGES_MAX and size_bytes < BYTES_MAX:
            found = self._keyspace.changes(first, revision, limit=page)
            changes += found
            if len(found) < page:
                return changes, revision
            first = found[-1].mod_revision + 1
            size_bytes += sum(len(change.key) + len(change.value) for change in found)
            page = min(page * 4, CHANGES_MAX - len(changes) + 1)
        return changes, changes[-1].mod_revision

    def _read_key(self, key: bytes, first: int, revision: int) -> tuple[list[Change], int]:
        """The same for one key, of which a slice may span any number of revisions."""
        changes: list[Change] = []
        size_bytes, page, last = 0, _PAGE_CHANGES, last_of(revision)
        low = first_of(first)
        while len(changes) < REVISIONS_MAX and size_bytes < BYTES_MAX:
            page = min(page, REVISIONS_MAX - len(changes))
            rows = self._rows_of(key, low, last, page)
            changes += map(change_of, rows)
            if len(rows) < page:
                return changes, revision
            size_bytes += sum(len(change.value) for change in changes[-page:])
            low = rows[-1][0] + 1
            page *= 4
        # A transaction may have changed the key more than once: never part of a revision.
        rest = self._rows_of(key, low, last_of(changes[-1].mod_revision), SUB_MAX)
        changes += map(change_of, rest)
        return changes, changes[-1].mod_revision

    def _rows_of(self, key: bytes, low: int, high: int, limit: int) -> list[Row]:
        rows: list[Any] = self._keyspace.backend.query(_KEY_ROWS, (key, low, high, limit))
        check(rows)
        return rows


class WatcherGroup:
    """Watchers by what they watch: single keys in a dict, ranges in an interval index."""

    __slots__ = ("_all", "_by_key", "_by_range")

    def __init__(self) -> None:
        self._all: dict[Watcher, None] = {}
        self._by_key: dict[bytes, dict[Watcher, None]] = {}
        self._by_range: Intervals[Watcher] = Intervals()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Watcher]:
        return iter(self._all)

    def add(self, watcher: Watcher) -> None:
        self._all[watcher] = None
        if watcher.range_end:
            self._by_range.add(watcher.key, watcher.range_end, watcher)
        else:
            self._by_key.setdefault(watcher.key, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        del self._all[watcher]
        if watcher.range_end:
            self._by_range.remove(watcher.key, watcher.range_end, watcher)
            return
        watchers = self._by_key[watcher.key]
        del watchers[watcher]
        if not watchers:
            del self._by_key[watcher.key]

    def match(self, key: bytes) -> Iterable[Watcher]:
        """Everyone who watches the key."""
        exact = self._by_key.get(key, _NOBODY)
        if not self._by_range:
            return exact
        found = list(exact)
        for watchers in self._by_range.stab(key):
            found += watchers
        return found


class Encoder:
    """The changes of one write or one slice: matched with watchers, encoded at most once each."""

    __slots__ = ("_changes", "_chunks", "_keyspace", "_sets")

    def __init__(self, keyspace: Keyspace, changes: list[Change]) -> None:
        self._keyspace = keyspace
        self._changes = changes
        self._chunks: dict[tuple[int, bool], bytes] = {}
        self._sets: dict[tuple[tuple[int, ...], bool], EventSet] = {}

    def match(self, group: WatcherGroup) -> dict[Watcher, tuple[int, ...]]:
        """For each watcher that gets anything, which changes. Who gets one change only, as most
        do, shares the tuple."""
        found: dict[Watcher, tuple[int, ...]] = {}
        more: dict[Watcher, list[int]] = {}
        match = group.match
        for index, change in enumerate(self._changes):
            single = (index,)
            revision = change.mod_revision
            for watcher in match(change.key):
                special = watcher.has_filters or revision < watcher.next_revision
                if special and not watcher.wants(change):
                    continue
                if found.setdefault(watcher, single) is not single:
                    indexes = more.get(watcher)
                    if indexes is None:
                        indexes = more[watcher] = [*found[watcher]]
                    indexes.append(index)
        for watcher, indexes in more.items():
            found[watcher] = tuple(indexes)
        return found

    def events(self, indexes: tuple[int, ...], prev_kv: bool) -> EventSet:
        events = self._sets.get((indexes, prev_kv))
        if events is None:
            chunks = tuple(self._chunk(index, prev_kv) for index in indexes)
            events = self._sets[indexes, prev_kv] = EventSet(chunks)
        return events

    def _chunk(self, index: int, prev_kv: bool) -> bytes:
        chunk = self._chunks.get((index, prev_kv))
        if chunk is None:
            change = self._changes[index]
            chunk = encode_event(change, self._previous(change) if prev_kv else None)
            self._chunks[index, prev_kv] = chunk
        return chunk

    def _previous(self, change: Change) -> Change | None:
        if change.type == PUT and change.create_revision == change.mod_revision:
            return None
        try:
            rows = self._keyspace.range(change.key, revision=change.mod_revision - 1).rows
        except Compacted:
            return None  # etcd leaves it out too
        return change_of(rows[0]) if rows else None
