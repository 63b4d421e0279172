"""The keyspace: one revision per write transaction, over the tables that backend.py describes.

Strategy. State is in SQLite and nowhere else: there is no index in memory, so opening costs
nothing per key. A Keyspace adds two numbers, the current and the compacted revision, and one
WriteTxn that is used over and over. Nothing becomes visible under a new revision before `end`;
nothing becomes durable before the backend commits.

Rules.
1. One WriteTxn at a time. Its changes share the main revision `revision` + 1 and are numbered from
   0 in their order. Without a change there is no new revision.
2. It cannot fail half way: whoever opens it has checked everything before (item 12). What is left
   are disk errors, which end the process, and bugs, which are assertions.
3. The listener hears of a revision in `end`, after it is visible, and only if it wants to: building
   the changes costs a tenth of a put.

Limits. SUB_MAX changes in one transaction; txn.py refuses what could be more.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import apsw

from pyetcd.proto.errors import Compacted, FutureRev
from pyetcd.proto.keys import FROM_KEY
from pyetcd.store.backend import MAIN_MAX, SUB_BITS, SUB_MAX, Backend
from pyetcd.store.history import History, Row, crc_of, first_of, last_of
from pyetcd.store.tally import Tally

PUT: Final = 0
DELETE: Final = 1

_FIND: Final = "SELECT create_revision, version, lease FROM current WHERE key = ?"
_INSERT: Final = "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_TOMBSTONE: Final = "INSERT INTO revisions VALUES (?, ?, NULL, 0, 0, 0, ?)"
# REPLACE, not UPDATE: 2.8 against 3.3 us a put of three statements, and it covers new keys.
_SET_CURRENT: Final = "INSERT OR REPLACE INTO current VALUES (?, ?, ?, ?, ?)"
_LEASED: Final = "SELECT key, lease FROM current WHERE lease <> 0 ORDER BY lease, key"
_DOOMED: Final = (
    "SELECT key, lease FROM current WHERE key = ?1",
    "SELECT key, lease FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key",
    "SELECT key, lease FROM current WHERE key >= ?1 ORDER BY key",
)
_DROP_CURRENT: Final = (
    "DELETE FROM current WHERE key = ?1",
    "DELETE FROM current WHERE key >= ?1 AND key < ?2",
    "DELETE FROM current WHERE key >= ?1",
)


class Change(NamedTuple):
    """What a watcher is told: a DELETE has only key and mod_revision."""

    type: int
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class Listener(Protocol):
    """Told of every revision, in order, while `wanted`."""

    @property
    def wanted(self) -> bool: ...

    def on_write(self, revision: int, changes: list[Change]) -> None: ...


class Leases(Protocol):
    """What the keyspace asks of the lessor. `attach` is only called with an id that exists."""

    def has(self, id: int) -> bool: ...

    def attach(self, id: int, key: bytes) -> None: ...

    def detach(self, id: int, key: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`revision` is the store's at the time of the read, not the one asked for."""

    rows: list[Row]
    count: int
    revision: int


class View:
    """The keyspace as one reader sees it: up to `revision`, and down to `compact_revision`."""

    __slots__ = ("compact_revision", "history", "is_newest", "revision")

    def __init__(
        self, history: History, *, revision: int, compact_revision: int, is_newest: bool
    ) -> None:
        self.history = history
        self.revision = revision
        self.compact_revision = compact_revision
        # Whether `revision` is what the table of current keys shows.
        self.is_newest = is_newest

    def upper_of(self, revision: int) -> int | None:
        """The bound for History's reads at a requested revision; None means: as it is now."""
        if revision > self.revision:
            raise FutureRev
        if revision <= 0:
            revision = self.revision
        if revision < self.compact_revision:
            raise Compacted
        if revision == self.revision and self.is_newest:
            return None
        return last_of(revision)


class Keyspace:
    """All keys and their history; see the file's docstring."""

    __slots__ = (
        "_txn",
        "backend",
        "compact_revision",
        "history",
        "listener",
        "revision",
        "tally",
    )

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.tally = Tally()
        self.listener: Listener | None = None
        self.revision = 1
        self.compact_revision = -1
        self.history = History(backend.connection)
        self._txn = WriteTxn(self)
        self.reload()

    def reload(self) -> None:
        """Take what the backend holds: at start, and after it was reopened on another file."""
        self.history = History(self.backend.connection)
        self._txn = WriteTxn(self)
        # Scheduled, not finished: a compaction counts from the moment it was applied, else
        # members would disagree on reads behind it (etcd#18667).
        compacted = self.backend.meta_get("compact_scheduled")
        self.compact_revision = compacted if isinstance(compacted, int) else -1
        # The newest rows may be tombstones that a compaction has removed (etcd#17780).
        newest = self.history.last_rev() >> SUB_BITS
        self.revision = max(1, newest, self.compact_revision)

    def view(self) -> View:
        return View(
            self.history,
            revision=self.revision,
            compact_revision=self.compact_revision,
            is_newest=True,
        )

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0
    ) -> RangeResult:
        """The keys of a range in order; raises FutureRev or Compacted. `count` is before limit."""
        upper = self.view().upper_of(revision)
        rows = self.history.rows(key, end, upper=upper, limit=limit if limit > 0 else -1)
        count = len(rows)
        if 0 < limit <= count:
            count = self.history.count(key, end, upper=upper)
        return RangeResult(rows, count, self.revision)

    def key_history(self, key: bytes) -> list[Change]:
        """Every retained change of one key, oldest first."""
        return [change_of(row) for row in self.history.key_history(key)]

    def changes(self, first: int, last: int, *, limit: int) -> list[Change]:
        """The changes of the revisions first..last in order, whole revisions only: at least
        `limit` changes if there are as many, and then to the end of that revision."""
        rows = self.history.since(first_of(first), last_of(last), limit=limit)
        if len(rows) == limit and limit > 0:
            rest = (rows[-1][0] + 1, last_of(rows[-1][0] >> SUB_BITS))
            rows += self.history.since(*rest, limit=SUB_MAX)
        return [change_of(row) for row in rows]

    def leased_keys(self) -> list[tuple[bytes, int]]:
        """(key, lease id) of every key that has a lease, for the lessor at start."""
        rows: list[Any] = self.backend.query(_LEASED)
        return rows

    def begin(self, leases: Leases | None = None) -> "WriteTxn":
        """The write transaction of one log entry; `end` must follow."""
        txn = self._txn
        txn.start(leases)
        return txn


class WriteTxn:
    """Changes under one new revision. Made once per Keyspace and reused: a put is 6 us."""

    __slots__ = (
        "_backend",
        "_changes",
        "_drop_current",
        "_find",
        "_find_doomed",
        "_first",
        "_insert",
        "_insert_tombstones",
        "_keyspace",
        "_leases",
        "_next",
        "_set_current",
        "is_open",
        "revision",
        "tally",
    )

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._backend = keyspace.backend
        self.tally = keyspace.tally
        self._leases: Leases | None = None
        self._changes: list[Change] | None = None
        self._first = self._next = 0
        self.revision = 0  # the one the changes get
        self.is_open = False
        # One cursor per statement, and its bound method: 0.4 us less per execute than
        # Connection.execute, which makes a cursor each time.
        connection = self._backend.connection
        self._find = connection.cursor().execute
        self._insert = connection.cursor().execute
        self._set_current = connection.cursor().execute
        self._find_doomed = connection.cursor().execute
        self._insert_tombstones = connection.cursor().executemany
        self._drop_current = connection.cursor().execute

    def start(self, leases: Leases | None) -> None:
        assert not self.is_open, "two write transactions at once"
        keyspace = self._keyspace
        backend = self._backend
        if not backend.pending:
            backend.begin()
        revision = keyspace.revision + 1
        assert revision <= MAIN_MAX, revision
        self.is_open = True
        self.revision = revision
        self._leases = leases
        self._first = self._next = revision << SUB_BITS
        listener = keyspace.listener
        self._changes = [] if listener is not None and listener.wanted else None

    @property
    def has_changes(self) -> bool:
        return self._next != self._first

    def view(self) -> View:
        """The keyspace with the changes made so far."""
        return View(
            self._keyspace.history,
            revision=self.revision if self.has_changes else self.revision - 1,
            compact_revision=self._keyspace.compact_revision,
            is_newest=True,
        )

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0
    ) -> RangeResult:
        """As Keyspace.range, with the changes made so far."""
        view = self.view()
        upper = view.upper_of(revision)
        rows = view.history.rows(key, end, upper=upper, limit=limit if limit > 0 else -1)
        count = len(rows)
        if 0 < limit <= count:
            count = view.history.count(key, end, upper=upper)
        return RangeResult(rows, count, view.revision)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """Always writes, also the same value. `lease` is known to exist."""
        assert self.is_open
        rev = self._next
        assert rev - self._first <= SUB_MAX
        revision = self.revision
        try:
            found = self._find(_FIND, (key,)).get
            if found is None:
                create, version, old_lease = revision, 1, 0
            else:
                create, version, old_lease = found
                version += 1
            crc = crc_of(rev, key, value, create, version, lease)
            self._insert(_INSERT, (rev, key, value, create, version, lease, crc))
            self._set_current(_SET_CURRENT, (key, rev, create, version, lease))
        except apsw.Error as error:
            raise self._backend.failure("put", error) from error
        self._next = rev + 1
        self._backend.pending += 1
        tally = self.tally
        tally.puts += 1
        tally.put_bytes += len(key) + len(value)
        if version == 1:
            tally.keys += 1
        if lease != old_lease:
            self._move_lease(key, old_lease, lease)
        if self._changes is not None:
            self._changes.append(Change(PUT, key, value, create, revision, version, lease))

    def delete_range(self, key: bytes, end: bytes = b"") -> int:
        """How many keys it deleted, in key order."""
        assert self.is_open
        self.tally.deletes += 1
        bindings = (key, end) if end and end != FROM_KEY else (key,)
        shape = 0 if not end else 2 if end == FROM_KEY else 1
        try:
            doomed: list[Any] = self._find_doomed(_DOOMED[shape], bindings).fetchall()
            if not doomed:
                return 0
            rev = self._next
            assert rev - self._first + len(doomed) <= SUB_MAX
            self._insert_tombstones(
                _INSERT_TOMBSTONE,
                [
                    (rev + sub, gone, crc_of(rev + sub, gone, b"", 0, 0, 0))
                    for sub, (gone, _) in enumerate(doomed)
                ],
            )
            self._drop_current(_DROP_CURRENT[shape], bindings)
        except apsw.Error as error:
            raise self._backend.failure("delete", error) from error
        self._next = rev + len(doomed)
        self.tally.keys -= len(doomed)
        self._backend.pending += len(doomed)
        for gone, lease in doomed:
            if lease:
                self._move_lease(gone, lease, 0)
        if self._changes is not None:
            revision = self.revision
            self._changes += [Change(DELETE, gone, b"", 0, revision, 0, 0) for gone, _ in doomed]
        return len(doomed)

    def end(self) -> int:
        """The keyspace's revision now. Makes the changes visible and tells the listener."""
        assert self.is_open
        self.is_open = False
        keyspace = self._keyspace
        if self._next == self._first:
            return keyspace.revision
        revision = keyspace.revision = self.revision
        changes = self._changes
        if changes is not None:
            self._changes = None
            listener = keyspace.listener
            assert listener is not None
            listener.on_write(revision, changes)
        return revision

    def _move_lease(self, key: bytes, old: int, new: int) -> None:
        leases = self._leases
        if leases is None:
            return
        if old:
            leases.detach(old, key)
        if new:
            leases.attach(new, key)


def change_of(row: Row) -> Change:
    """A stored row as watchers and history see it."""
    rev, key, value, create_revision, version, lease, _ = row
    if value is None:
        return Change(DELETE, key, b"", 0, rev >> SUB_BITS, 0, 0)
    return Change(PUT, key, value, create_revision, rev >> SUB_BITS, version, lease)
