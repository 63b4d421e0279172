"""Compaction in slices, and the hash that members compare.

Strategy. Compacting to C is logical at once: `compact` stores C in the table meta, in the
transaction of its log entry, and from then on nothing below C can be read. A CompactionJob then
deletes rows in small steps at the member's own pace. It looks only at the revisions from the last
finished compaction P on: a row goes when a newer row of its key is not above C, which is found from
the newer row by one look into the index; so a step costs what changed since P, not what exists.

Worked example (continues history.py's): put 2, put 3, delete 4, put 5, delete 6 of one key.

    compact(2)  2  3  4t 5  6t      nothing is older than 2
    compact(3)     3  4t 5  6t      2 is superseded by 3
    compact(4)        4t 5  6t      3 by 4; a tombstone exactly at C stays, for a watch that starts
                                    at C has to be told of the delete (etcd#18089, #19179)
    compact(5)           5  6t      4t is below C
    compact(6)              6t
    compact(7)                      (some other key made revision 7)

Rules.
1. Rows are deleted in rising order, so after a crash between two steps a tombstone never goes
   before the row that it hides.
2. The mark `compact_scheduled` is stored before the first row goes, `compact_finished` with the
   last. A job that finds them different starts again at P; going over a part twice is harmless.
3. The hash does not depend on how far a job has come: rows that it will delete are left out, and so
   is a tombstone exactly at C, which etcd up to 3.5.15 deletes (etcd mvcc/hash.go).

Limits. A step handles STEP_ROWS rows or STEP_BYTES of values, a few milliseconds on a warm cache.
`hash_on` reads everything up to its revision: for a thread with a reader connection.
"""

from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import apsw
from google_crc32c import extend

from pyetcd.proto.errors import Compacted, FutureRev
from pyetcd.proto.kv_pb2 import KeyValue
from pyetcd.proto.rpc_pb2 import CompactionRequest, CompactionResponse
from pyetcd.store import db, failpoints
from pyetcd.store.backend import SUB_BITS, SUB_MAX
from pyetcd.store.history import first_of, last_of, reading
from pyetcd.store.mvcc import Keyspace

STEP_ROWS: Final = 200
# A row with a large value gives its pages back one by one: 16 MiB are 4,000 pages, about 10 ms.
STEP_BYTES: Final = 16 << 20

_HASH_ROWS: Final = 500
_BUCKET: Final = b"key"
_BUCKET_KEY: Final = Struct(">QcQ").pack  # etcd mvcc/revision.go: revToBytes

_SPAN_END: Final = (
    "SELECT max(rev) FROM"
    " (SELECT rev FROM revisions WHERE rev BETWEEN ? AND ? ORDER BY rev LIMIT ?)"
)
# The row just before each row of the span, of the same key. Older ones went with earlier spans.
_SUPERSEDED: Final = (
    "SELECT old.rev, coalesce(length(old.value), 0) FROM (SELECT (SELECT max(rev) FROM revisions"
    " INDEXED BY revisions_by_key WHERE key = new.key AND rev < new.rev) AS rev"
    " FROM revisions AS new WHERE new.rev BETWEEN ? AND ?) AS gone"
    " CROSS JOIN revisions AS old ON old.rev = gone.rev"
)
_TOMBSTONES: Final = "SELECT rev, 0 FROM revisions WHERE rev BETWEEN ? AND ? AND value IS NULL"
_DELETE: Final = "DELETE FROM revisions WHERE rev = ?"

_HASHED: Final = (
    "SELECT rev, key, value, create_revision, version, lease FROM revisions"
    " WHERE rev BETWEEN ? AND ? ORDER BY rev LIMIT ?"
)
# Rows that compaction keeps: no newer one of the same key up to ?3, and no tombstone.
_NEWEST: Final = (
    "SELECT rev, key, value, create_revision, version, lease FROM revisions AS r"
    " WHERE rev BETWEEN ?1 AND ?2 AND value IS NOT NULL AND NOT EXISTS (SELECT 1 FROM revisions"
    " AS newer INDEXED BY revisions_by_key WHERE newer.key = r.key AND newer.rev > r.rev"
    " AND newer.rev <= ?3) ORDER BY rev LIMIT ?4"
)


def compact(keyspace: Keyspace, revision: int) -> None:
    """Logical compaction; raises Compacted or FutureRev. A CompactionJob does the rest."""
    if revision <= keyspace.compact_revision:
        raise Compacted
    if revision > keyspace.revision:
        raise FutureRev
    failpoints.hit("compactBeforeCommitScheduledCompact")
    keyspace.backend.meta_put("compact_scheduled", revision)
    failpoints.hit("compactAfterCommitScheduledCompact")
    keyspace.compact_revision = revision


def apply_compaction(keyspace: Keyspace, request: CompactionRequest) -> CompactionResponse:
    """header.revision is the current revision."""
    compact(keyspace, request.revision)
    response = CompactionResponse()
    response.header.revision = keyspace.revision
    return response


class CompactionJob:
    """The physical half. Make one per Keyspace, at start and after a reload; call `step` while it
    returns True, whenever there is time, and after each `compact`."""

    __slots__ = ("_doomed", "_finished", "_keyspace", "_position", "_target", "deleted")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        finished = keyspace.backend.meta_get("compact_finished")
        self._finished: int = finished if isinstance(finished, int) else -1
        self._target = self._finished
        self._position = 0
        # Found and not yet deleted, in rising order: at most two rows per row of a span.
        self._doomed: deque[tuple[int, int]] = deque()
        self.deleted = 0  # rows, since this job was made

    @property
    def is_done(self) -> bool:
        return self._finished == self._keyspace.compact_revision

    def step(self, rows_max: int | None = None) -> bool:
        """One slice, in the backend's open transaction, that removes at most `rows_max` rows;
        whether there is more to do."""
        if self.is_done:
            return False
        if self._target == self._finished:  # a new compaction begins
            self._target = self._keyspace.compact_revision
            # From P itself, for a tombstone exactly there was kept.
            self._position = first_of(max(self._finished, 0))
        if self._doomed:
            self._delete_some(STEP_ROWS if rows_max is None else min(rows_max, STEP_ROWS))
            return True
        if self._find_doomed():
            return True
        self._finished = self._target
        failpoints.hit("compactBeforeSetFinishedCompact")
        self._keyspace.backend.meta_put("compact_finished", self._finished)
        failpoints.hit("compactAfterSetFinishedCompact")
        return not self.is_done

    def _find_doomed(self) -> bool:
        """Looks at the next span of rows; False behind the last one."""
        query = self._keyspace.backend.query
        first, last = self._position, last_of(self._target)
        end = query(_SPAN_END, (first, last, STEP_ROWS))[0][0]
        if end is None:
            return False
        assert isinstance(end, int)
        found: list[Any] = query(_SUPERSEDED, (first, end))
        found += query(_TOMBSTONES, (first, min(end, first_of(self._target) - 1)))
        self._doomed.extend(sorted(set(found)))
        self._position = end + 1
        return True

    def _delete_some(self, rows_max: int) -> None:
        backend = self._keyspace.backend
        failpoints.hit("compactBeforeCommitBatch")
        room = STEP_BYTES
        count = 0
        while self._doomed and count < rows_max and room > 0:
            rev, size = self._doomed.popleft()
            backend.execute(_DELETE, (rev,))
            room -= size
            count += 1
        self.deleted += count
        failpoints.hit("compactAfterCommitBatch")


# What members have in common beside the revisions.
_SHARED: Final = (
    "SELECT * FROM leases ORDER BY id",
    "SELECT * FROM members ORDER BY id",
    "SELECT * FROM members_removed ORDER BY id",
    "SELECT * FROM alarms ORDER BY member_id, alarm",
    "SELECT * FROM auth_users ORDER BY name",
    "SELECT * FROM auth_roles ORDER BY name",
)


@dataclass(frozen=True, slots=True)
class HashResult:
    """`revision` is the one that was hashed, `current_revision` the store's."""

    hash: int
    revision: int
    compact_revision: int
    current_revision: int


def hash_kv(keyspace: Keyspace, revision: int) -> HashResult:
    """HashKV on the writer's connection: offline tools and tests."""
    marks = (keyspace.revision, keyspace.compact_revision)
    return _hash(keyspace.backend.connection, revision, *marks)


def hash_on(connection: apsw.Connection, revision: int) -> HashResult:
    """HashKV on a reader connection, for a thread; sees what has been committed. Raises Compacted
    and FutureRev; 0 means the current revision. Runs in one read transaction."""
    with reading(connection) as marks:
        return _hash(connection, revision, *marks)


def hash_all(connection: apsw.Connection) -> tuple[int, int]:
    """A CRC over every revision and everything else that members have in common, and the revision
    it belongs to. For comparing members of pyetcd: etcd's Hash is one of bbolt's buckets."""
    with reading(connection) as (current, compacted):
        crc = _hash(connection, current, current, compacted).hash
        for statement in _SHARED:
            rows = connection.execute(statement).fetchall()
            crc = extend(crc, repr((statement, rows)).encode())
        return crc, current


def _hash(connection: apsw.Connection, revision: int, current: int, compacted: int) -> HashResult:
    """As etcd 3.5 hashes; at the compact revision itself as 3.5.10 and later."""
    if 0 < revision < compacted:
        raise Compacted
    if revision > current:
        raise FutureRev
    if revision == 0:
        revision = current
    upper = last_of(max(revision, -1))  # before the first one there is nothing; etcd hashes that
    boundary = min(upper, last_of(compacted)) if compacted >= 0 else -1
    crc = extend(0, _BUCKET)
    try:
        # etcd skips what compaction deletes by the keys that live at `revision`; if none does it
        # skips nothing, and hashes what was left at the compact revision.
        lives = list(connection.execute(_NEWEST, (0, upper, upper, 1)))
        kept_at = upper if lives else boundary
        crc = _extend(crc, connection, _NEWEST, 0, boundary, (kept_at,))
        crc = _extend(crc, connection, _HASHED, boundary + 1, upper, ())
    except apsw.Error as error:
        raise db.failure(connection.filename, "hash", error) from error
    return HashResult(crc, revision, compacted, current)


def _extend(
    crc: int,
    connection: apsw.Connection,
    statement: str,
    first: int,
    last: int,
    bindings: tuple[int, ...],
) -> int:
    """The CRC over the rows of `statement` from `first` to `last`, in batches."""
    kv = KeyValue()
    while first <= last:
        rows: list[Any] = connection.execute(
            statement, (first, last, *bindings, _HASH_ROWS)
        ).fetchall()
        parts = []
        for rev, key, value, create, version, lease in rows:
            parts.append(_BUCKET_KEY(rev >> SUB_BITS, b"_", rev & SUB_MAX))
            kv.key = key
            if value is None:
                kv.ClearField("create_revision")
                kv.ClearField("mod_revision")
                kv.ClearField("version")
                kv.ClearField("value")
                kv.ClearField("lease")
                parts.append(b"t")
            else:
                kv.create_revision = create
                kv.mod_revision = rev >> SUB_BITS
                kv.version = version
                kv.value = value
                kv.lease = lease
            parts.append(kv.SerializeToString())
        crc = extend(crc, b"".join(parts))
        if len(rows) < _HASH_ROWS:
            break
        first = rows[-1][0] + 1
    return crc
