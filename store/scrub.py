"""Looking at every row and page of kv.db again and again, a slice at a time.

Strategy. Damage that nobody reads is found by nobody, until the other copies are gone, too. A pass
walks the revisions by number (their CRCs are checked), the current keys by name (each against its
revision), and the index of revisions: with that, every page of what the members share was read, and
its checksum verified. `Damaged` is raised for whatever is not what was written, and the member
stops: its neighbours have the data, and it must not hand it on.

Limits. SLICE_ROWS rows a call, about 10 ms on a reader connection of its own. What is still in the
-wal file is read from there. Small tables (leases, members, alarms) are read whole at each start.
"""

from typing import Any, Final

from pyetcd.store import db
from pyetcd.store.backend import SUB_BITS, Backend
from pyetcd.store.db import Damaged
from pyetcd.store.history import History

SLICE_ROWS: Final = 2000

_CURRENT: Final = """
    SELECT c.key, r.rev IS NULL OR r.value IS NULL OR r.key <> c.key
        OR r.create_revision <> c.create_revision OR r.version <> c.version OR r.lease <> c.lease
    FROM current AS c LEFT JOIN revisions AS r ON r.rev = c.rev
    WHERE c.key > ? ORDER BY c.key LIMIT ?
"""
_INDEX: Final = """
    SELECT key, rev FROM revisions INDEXED BY revisions_by_key
    WHERE (key, rev) > (?, ?) ORDER BY key, rev LIMIT ?
"""


class Scrubber:
    """Where the walk is. `step` is for a thread, one at a time."""

    def __init__(self, backend: Backend) -> None:
        self.passes_total = 0
        self.rows_total = 0
        self._backend = backend
        self._rewind()

    def _rewind(self) -> None:
        self._generation = self._backend.generation
        self._walks = [self._revisions, self._current, self._index]
        self._rev = 0
        self._key = self._index_key = b""
        self._index_rev = 0

    def step(self) -> None:
        """The next slice; raises Damaged."""
        if self._generation != self._backend.generation:  # another file was put in its place
            self._rewind()
        reader = self._backend.reader()
        try:
            done = self._walks[0](History(reader), _Query(reader))
        finally:
            reader.close()
        if done:
            del self._walks[0]
            if not self._walks:
                self.passes_total += 1
                self._rewind()

    def _revisions(self, history: History, _: "_Query") -> bool:
        rows = history.since(self._rev, history.last_rev(), limit=SLICE_ROWS)
        self.rows_total += len(rows)  # of all passes
        if rows:
            self._rev = rows[-1][0] + 1
        return len(rows) < SLICE_ROWS

    def _current(self, _: History, query: "_Query") -> bool:
        rows = query(_CURRENT, (self._key, SLICE_ROWS))
        for key, differs in rows:
            if differs:
                raise Damaged(f"kv.db: the current key {key!r} differs from its revision")
        if rows:
            self._key = rows[-1][0]
        return len(rows) < SLICE_ROWS

    def _index(self, history: History, query: "_Query") -> bool:
        rows = query(_INDEX, (self._index_key, self._index_rev, SLICE_ROWS))
        if rows:
            self._index_key, self._index_rev = rows[-1]
            assert self._index_rev >> SUB_BITS > 0, self._index_rev
        return len(rows) < SLICE_ROWS


class _Query:
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __call__(self, text: str, bindings: tuple[object, ...]) -> list[Any]:
        reader = self._reader
        found: list[Any] = db.guarded(
            reader.filename, "scrub", lambda: reader.execute(text, bindings).fetchall()
        )
        return found
