"""Is kv.db what was written: every row's CRC, and the table of current keys against the history.

For a thread with a reader connection, and for offline tools. SQLite's own integrity_check looks at
the shape of the pages; of 60 flipped bits it noticed 2. This looks at the
contents. It reads everything, about 3 us a row; PROBLEMS_MAX lines are enough to know.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import apsw

from pyetcd.store import db
from pyetcd.store.backend import SUB_BITS
from pyetcd.store.db import Damaged
from pyetcd.store.history import History, check

PROBLEMS_MAX: Final = 20
_BATCH_ROWS: Final = 500

_DISAGREE: Final = """
    SELECT newest.key, newest.rev
    FROM (SELECT key, max(rev) AS rev FROM revisions GROUP BY key) AS newest
    JOIN revisions AS r ON r.rev = newest.rev
    LEFT JOIN current AS c ON c.key = newest.key
    WHERE (r.value IS NULL) <> (c.key IS NULL) OR c.rev <> r.rev
       OR c.create_revision <> r.create_revision OR c.version <> r.version OR c.lease <> r.lease
"""
_ORPHANS: Final = """
    SELECT c.key, c.rev FROM current AS c
    WHERE NOT EXISTS (SELECT 1 FROM revisions AS r WHERE r.rev = c.rev AND r.key = c.key)
"""


def verify(connection: apsw.Connection) -> list[str]:
    """One line per problem; empty is good."""
    try:
        return list(islice(_problems(connection), PROBLEMS_MAX))
    except apsw.Error as error:
        raise db.failure(connection.filename, "verify", error, connection) from error


def _problems(connection: apsw.Connection) -> Iterator[str]:
    history = History(connection)
    first, last = 0, history.last_rev()
    while True:
        try:
            rows = history.since(first, last, limit=_BATCH_ROWS)
        except Damaged:
            # Once more by single rows, to name each and to go on behind it.
            revs: list[Any] = connection.execute(
                "SELECT rev FROM revisions WHERE rev >= ? ORDER BY rev LIMIT ?",
                (first, _BATCH_ROWS),
            ).fetchall()
            yield from _damaged(history, [rev for (rev,) in revs])
            first = revs[-1][0] + 1
            continue
        if not rows:
            break
        first = rows[-1][0] + 1
    for statement, text in (
        (_DISAGREE, "the current key differs from its newest revision"),
        (_ORPHANS, "a current key has no revision"),
    ):
        for key, rev in connection.execute(statement).fetchall():
            assert isinstance(rev, int)
            yield f"{text}: {key!r}, revision {rev >> SUB_BITS}"


def _damaged(history: History, revs: list[int]) -> Iterator[str]:
    for rev in revs:
        try:
            check([history.row(rev)])
        except Damaged as error:
            yield error.reason
