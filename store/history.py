"""Reading the keyspace: the keys as they are, as they were at a revision, and all of one key.

Strategy. Two tables answer everything (backend.py has a worked example). `current` holds the keys
that exist now, with the packed revision of each; `revisions` holds every retained revision, with
the index (key, rev). Now: one walk over `current`, joined to `revisions` only where a value is
wanted. At an older revision: per key the highest rev that is not above it, from the index; the key
existed then unless that row is a tombstone. History of a key: one scan of the index.

Worked example (the one of etcd's key_index.go): put, put, delete, put, delete of `foo` give

    revision   2   3   4   5   6          current: nothing, the key is deleted
               put put del put del        as of 3: the row of 3; as of 4: nothing; as of 5: row 5

What compaction leaves of it stands in compact.py. tests/store/test_history_example.py asserts both.

Rules.
1. Nothing here writes. A History works over any connection: the writer's (sees uncommitted
   changes), or a reader's in a thread.
2. A row whose value is handed out has its CRC checked. A wrong one is Damaged: the member
   stops rather than answers (SQLite itself returned 47 of 60 flipped bits without a word).
3. No statement is left half read: each is fetched whole, so that it never blocks a commit.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias
from zlib import crc32

import apsw

from pyetcd.proto.keys import FROM_KEY
from pyetcd.store import db
from pyetcd.store.backend import SUB_BITS, SUB_MAX, Bindings
from pyetcd.store.db import Damaged

# (packed rev, key, value or None for a tombstone, create_revision, version, lease, crc)
Row: TypeAlias = tuple[int, bytes, bytes | None, int, int, int, int]

# The four numbers of a row seed the CRC of its key and value. Modulo a prime, no single flipped
# bit of any of them can vanish; the multipliers keep swapped columns apart.
_PRIME: Final = 4294967291
_CREATE: Final = 2654435761
_VERSION: Final = 2246822519
_LEASE: Final = 3266489917

_COLUMNS: Final = "r.rev, r.key, r.value, r.create_revision, r.version, r.lease, r.crc"
_HEAD: Final = "c.rev, c.key, NULL, c.create_revision, c.version, c.lease, 0"
_PAST_HEAD: Final = "r.rev, r.key, NULL, r.create_revision, r.version, r.lease, 0"

# One key, a range, or all from a key on. Every statement binds key, end, limit and, for the past,
# the highest packed rev; ?2 may go unused.
_ONE: Final = "{0}key = ?1"
_RANGE: Final = "{0}key >= ?1 AND {0}key < ?2"
_FROM: Final = "{0}key >= ?1"
_SHAPES: Final = (_ONE, _RANGE, _FROM)


def _statements(text: str, prefix: str) -> tuple[str, str, str]:
    one, ranged, from_key = (text.format(where=shape.format(prefix)) for shape in _SHAPES)
    return one, ranged, from_key


_NOW: Final = _statements(
    f"SELECT {_COLUMNS} FROM current AS c CROSS JOIN revisions AS r ON r.rev = c.rev "
    "WHERE {where} ORDER BY c.key LIMIT ?3",
    "c.",
)
_NOW_HEADS: Final = _statements(
    f"SELECT {_HEAD} FROM current AS c WHERE {{where}} ORDER BY c.key LIMIT ?3", "c."
)
_NOW_COUNT: Final = _statements("SELECT count(*) FROM current WHERE {where} LIMIT ?3", "")

_NOW_UP_TO: Final = _statements(
    "SELECT count(*) FROM (SELECT 1 FROM current WHERE {where} LIMIT ?3)", ""
)

# The walk over the index stands outermost (CROSS JOIN), so rows come in key order and a LIMIT stops
# it early; an ORDER BY would make SQLite sort them all again. The newest row per key that is not
# above ?4.
_PAST_FROM: Final = (
    " FROM (SELECT max(rev) AS rev FROM revisions INDEXED BY revisions_by_key"
    " WHERE {where} AND rev <= ?4 GROUP BY key) AS newest"
    " CROSS JOIN revisions AS r ON r.rev = newest.rev WHERE r.value IS NOT NULL"
)
_PAST: Final = _statements(f"SELECT {_COLUMNS}{_PAST_FROM} LIMIT ?3", "")
_PAST_HEADS: Final = _statements(f"SELECT {_PAST_HEAD}{_PAST_FROM} LIMIT ?3", "")
_PAST_COUNT: Final = _statements(f"SELECT count(*){_PAST_FROM} LIMIT ?3", "")

_ROW: Final = f"SELECT {_COLUMNS} FROM revisions AS r WHERE rev = ?"
_KEY: Final = f"SELECT {_COLUMNS} FROM revisions AS r WHERE key = ? ORDER BY rev"
_KEY_AT: Final = (
    f"SELECT {_COLUMNS} FROM revisions AS r WHERE key = ? AND rev <= ? ORDER BY rev DESC LIMIT 1"
)
_SINCE: Final = (
    f"SELECT {_COLUMNS} FROM revisions AS r WHERE rev >= ? AND rev <= ? ORDER BY rev LIMIT ?"
)
_LAST: Final = "SELECT max(rev) FROM revisions"

NO_LIMIT: Final = -1


def first_of(revision: int) -> int:
    """The packed rev of the first change of a revision."""
    return revision << SUB_BITS


def last_of(revision: int) -> int:
    """The highest packed rev that a change of this revision can have."""
    return revision << SUB_BITS | SUB_MAX


def crc_of(
    rev: int, key: bytes, value: bytes, create_revision: int, version: int, lease: int
) -> int:
    """What stands in a row's crc column; a tombstone counts as an empty value."""
    seed = (rev + create_revision * _CREATE + version * _VERSION + lease * _LEASE) % _PRIME
    return crc32(value, crc32(key, seed))


def check(rows: Iterable[Row]) -> None:
    """Raises Damaged at the first row that is not what was written. 0.4 us a row of
    256 B (measured); inlined, for a call per row would double it."""
    for rev, key, value, create, version, lease, crc in rows:
        seed = (rev + create * _CREATE + version * _VERSION + lease * _LEASE) % _PRIME
        if crc32(value or b"", crc32(key, seed)) != crc:
            raise Damaged(f"kv.db: the row of revision {rev >> SUB_BITS} is damaged")


class History:
    """The read side, over one connection."""

    __slots__ = ("_connection", "_execute")

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute

    def get(self, key: bytes) -> Row | None:
        """The key now."""
        rows = self.rows(key, b"")
        return rows[0] if rows else None

    def rows(
        self, key: bytes, end: bytes, *, upper: int | None = None, limit: int = NO_LIMIT
    ) -> list[Row]:
        """The keys of a range in order, now or with no change above the packed rev `upper`."""
        if upper is None:
            rows = self._fetch(_NOW, key, end, limit)
        elif not end:
            newest = self.at(key, upper)
            rows = [newest] if newest is not None else []
        else:
            rows = self._fetch(_PAST, key, end, limit, upper)
        check(rows)
        return rows

    def heads(
        self, key: bytes, end: bytes, *, upper: int | None = None, limit: int = NO_LIMIT
    ) -> list[Row]:
        """The same rows without values, and without touching the pages that hold values."""
        if upper is None:
            return self._fetch(_NOW_HEADS, key, end, limit)
        return self._fetch(_PAST_HEADS, key, end, limit, upper)

    def count(self, key: bytes, end: bytes, *, upper: int | None = None) -> int:
        statements = _NOW_COUNT if upper is None else _PAST_COUNT
        return int(self._fetch(statements, key, end, NO_LIMIT, upper)[0][0])

    def exceeds(self, key: bytes, end: bytes, keys_max: int, *, upper: int | None = None) -> bool:
        """Whether the range holds more keys than that; reads at most that many and one."""
        if not end:
            return keys_max < 1
        if upper is None:
            return int(self._fetch(_NOW_UP_TO, key, end, keys_max + 1)[0][0]) > keys_max
        return len(self.heads(key, end, upper=upper, limit=keys_max + 1)) > keys_max

    def row(self, rev: int) -> Row:
        """The row of a packed rev that is known to exist."""
        rows = self._query(_ROW, (rev,))
        if not rows:
            raise Damaged(f"kv.db: the row of revision {rev >> SUB_BITS} is missing")
        check(rows)
        return rows[0]

    def with_values(self, heads: Sequence[Row]) -> list[Row]:
        """The full rows of some `heads`."""
        return [self.row(head[0]) for head in heads]

    def at(self, key: bytes, upper: int) -> Row | None:
        """The key with no change above the packed rev `upper`; None if it did not exist."""
        rows = self._query(_KEY_AT, (key, upper))
        check(rows)
        return rows[0] if rows and rows[0][2] is not None else None

    def key_history(self, key: bytes) -> list[Row]:
        """Every retained revision of a key, oldest first; a tombstone has the value None."""
        rows = self._query(_KEY, (key,))
        check(rows)
        return rows

    def since(self, first: int, last: int, *, limit: int) -> list[Row]:
        """At most `limit` rows with `first` <= packed rev <= `last`, in order of change: what a
        watcher that fell behind is fed with."""
        rows = self._query(_SINCE, (first, last, limit))
        check(rows)
        return rows

    def last_rev(self) -> int:
        """The highest packed rev that is retained, 0 if there is none."""
        return int(self._query(_LAST, ())[0][0] or 0)

    def _fetch(
        self,
        statements: tuple[str, str, str],
        key: bytes,
        end: bytes,
        limit: int,
        upper: int | None = None,
    ) -> list[Row]:
        statement = statements[0 if not end else 2 if end == FROM_KEY else 1]
        if upper is None:
            return self._query(statement, (key, end, limit))
        return self._query(statement, (key, end, limit, upper))

    def _query(self, statement: str, bindings: Bindings) -> list[Row]:
        try:
            rows: list[Any] = self._execute(statement, bindings).fetchall()
        except apsw.Error as error:
            path = self._connection.filename
            raise db.failure(path, "read", error, self._connection) from error
        return rows


@contextmanager
def reading(connection: apsw.Connection) -> Iterator[tuple[int, int]]:
    """A read transaction on a reader connection, and the (revision, compact_revision) it sees."""
    try:
        connection.execute("BEGIN")
        try:
            yield _marks(connection)
        finally:
            # Nothing was written; it cannot fail as COMMIT can. After an error of the disk SQLite
            # has rolled back by itself.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except apsw.Error as error:
        raise db.failure(connection.filename, "read", error, connection) from error


def _marks(connection: apsw.Connection) -> tuple[int, int]:
    rows = list(connection.execute("SELECT value FROM meta WHERE key = 'compact_scheduled'"))
    compacted = int(rows[0][0]) if rows else -1
    newest = History(connection).last_rev() >> SUB_BITS
    return max(1, newest, compacted), compacted
