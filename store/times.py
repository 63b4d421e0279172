"""Which revision was the last one at a moment: what `get --at` asks for.

etcd knows no times: a revision has none, and no log entry could carry one without being another
entry. So a member notes down, for itself, the last revision that it has written in each second of
its own clock. This is no replicated state: the members' rows differ, HashKV does not see them, and
nothing that is applied depends on them. A snapshot brings the rows of the member that made it.

Worked example. Writes in the seconds 100 (revisions 2 and 3) and 107 (revision 4), and then none:

    times   second  revision        at 99   nothing is known
            100     3               at 100  3, as it was when the second was over
            107     4               at 106  3
                                    at 107  4, and ever after

Rules.
1. Rows rise in both columns. A clock that goes back notes under the newest second until it is past
   it again.
2. A row is written in the transaction of what it tells of, with each commit. What a restart brings
   back from the log is noted when it comes back: after a power cut that may be later than it was.
   So the answer may be too old a revision, by the time a member was away, but none that was not
   yet written.

Limits. ROWS_MAX rows, the oldest go first: 27 hours if something is written in every second. Rows
below the compact revision go too: what they lead to cannot be read.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from pyetcd.store.backend import Backend
from pyetcd.store.mvcc import Keyspace

ROWS_MAX: Final = 100_000

_LAST: Final = "SELECT second, revision FROM times ORDER BY second DESC LIMIT 1"
_FIRST: Final = "SELECT second, revision FROM times ORDER BY second LIMIT 1"
_COUNT: Final = "SELECT count(*) FROM times"
_PUT: Final = "INSERT OR REPLACE INTO times VALUES (?, ?)"
_AT: Final = "SELECT second, revision FROM times WHERE second <= ? ORDER BY second DESC LIMIT 1"
_COMPACT: Final = "DELETE FROM times WHERE revision < ?"
_DROP_FIRST: Final = "DELETE FROM times WHERE second = (SELECT min(second) FROM times)"


class Moment(NamedTuple):
    """The last revision of a second."""

    second: int
    revision: int


_NONE: Final = Moment(0, 0)


class Times:
    """The table `times` of kv.db."""

    __slots__ = ("_backend", "_compact_revision", "_count", "_generation", "_keyspace", "_last",
                 "_wall_s")  # fmt: skip

    def __init__(self, backend: Backend, keyspace: Keyspace, wall_s: Callable[[], float]) -> None:
        self._backend = backend
        self._keyspace = keyspace
        self._wall_s = wall_s
        self._load()

    def _load(self) -> None:
        self._generation = self._backend.generation
        self._compact_revision = -1
        self._last = self._moment(_LAST)
        self._count = self._number(_COUNT)

    def note(self) -> None:
        """Before each commit: the revision that it makes visible to a reader of the file."""
        if self._generation != self._backend.generation:
            self._load()  # a snapshot has brought another file
        revision = self._keyspace.revision
        if revision == self._last.revision:
            return
        second = max(int(self._wall_s()), self._last.second)
        if second != self._last.second:
            self._count += 1
        self._last = Moment(second, revision)
        self._backend.execute(_PUT, self._last)
        self._prune()

    def _prune(self) -> None:
        if self._compact_revision != self._keyspace.compact_revision:
            self._compact_revision = self._keyspace.compact_revision
            self._backend.execute(_COMPACT, (self._compact_revision,))
            self._count = self._number(_COUNT)
        if self._count > ROWS_MAX:
            self._backend.execute(_DROP_FIRST)
            self._count -= 1

    def at(self, second: int) -> Moment | None:
        """The newest revision of this second or an earlier one; None when it is not known."""
        found = self._moment(_AT, second)
        return found if found.revision else None

    def first(self) -> Moment | None:
        """The oldest that is known."""
        found = self._moment(_FIRST)
        return found if found.revision else None

    def now(self) -> int:
        """The second that it is, by the clock that the rows were noted with."""
        return int(self._wall_s())

    def _moment(self, sql: str, *bindings: int) -> Moment:
        rows = self._backend.query(sql, bindings)
        if not rows:
            return _NONE
        second, revision = rows[0]
        assert isinstance(second, int) and isinstance(revision, int)
        return Moment(second, revision)

    def _number(self, sql: str) -> int:
        found = self._backend.query(sql)[0][0]
        assert isinstance(found, int)
        return found
