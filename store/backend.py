"""kv.db: the tables of every store part, one write transaction, and the applied index beside it.

Strategy. The keyspace, leases, members, alarms and users live in ONE SQLite file, because what one
log entry changes must become durable together, and together with the index of that entry: that is
what makes replay after a crash exact. One connection writes; its
transaction is opened by the first write and stays open over many entries until `commit`, whose
moment is chosen outside (by time and by `pending`). Reads on this connection see what is not yet
committed; a `reader` sees committed data only.

Rules.
1. Nothing is durable before `checkpoint`: synchronous=NORMAL commits survive a killed process, not
   a power cut. So the raft log may be cut only below the applied index that `checkpoint` returns.
2. Every error of SQLite is final (db.py rule 3): it leaves here as StorageFailure and the member
   stops. There is no savepoint and no rollback of a half-done entry: all checks of a request
   happen before its first write.
3. A packed revision is main << SUB_BITS | sub: one integer that is the rowid, and sorts as etcd's
   16-byte bucket key does.

Worked example. put a=1 (revision 2), put a=2 (3), delete a (4), then put b=3 with lease 7 (5):

    revisions  rev    key value create version lease     current  key rev    create version lease
               2<<23  a   1     2      1       0                  b   5<<23  5      1       7
               3<<23  a   2     2      2       0
               4<<23  a   NULL  0      0       0
               5<<23  b   3     5      1       7

Limits. 2**40 revisions, 2**23 changes in one of them.
"""

import os
from typing import Final

import apsw

from pyetcd.store import db, failpoints
from pyetcd.store.db import SqlValue, StorageFailure

SUB_BITS: Final = 23
SUB_MAX: Final = (1 << SUB_BITS) - 1
MAIN_MAX: Final = (1 << (63 - SUB_BITS)) - 1

# Measured with 250,000 keys and values of 256 B, a put over a random key: 20.3 us with 16 MiB, 12.5
# with 64 MiB, 12.7 with 256 MiB (tests/bench/keyspace.py).
CACHE_KIB: Final = 64 << 10

META_MEMBER_ID: Final = "member_id"  # a row of meta: whose file this is, signed

Bindings = tuple[SqlValue, ...]
SqlRow = tuple[SqlValue, ...]

# Of version 2. A directory has no value; 0 is no expiration. The index of the newest event is that
# of the v2 store.
_V2_TABLES: Final = """
    CREATE TABLE v2_nodes (
        path TEXT PRIMARY KEY,
        value BLOB,
        expiration INTEGER NOT NULL,
        modified_index INTEGER NOT NULL,
        created_index INTEGER NOT NULL
    );
    CREATE TABLE v2_events (event_index INTEGER PRIMARY KEY, data TEXT NOT NULL);
"""

# Of version 3: times.py.
_TIMES_TABLE: Final = """
    CREATE TABLE times (second INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
"""

# Values never stand in a WITHOUT ROWID table: its rows must be small. `current`
# has no value, so that a put, a count and keys_only never touch the pages that hold values.
# current_by_lease is partial: it costs a key without lease nothing, and lets the lessor find its
# keys at start without reading the others.
SCHEMA: Final = db.Schema(
    application_id=0x7079_6B76,  # "pykv"
    version=3,
    incremental_vacuum=True,
    sql="""
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE revisions (
        rev INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        value BLOB,
        create_revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER NOT NULL,
        crc INTEGER NOT NULL
    );
    CREATE INDEX revisions_by_key ON revisions (key, rev);
    CREATE TABLE current (
        key BLOB PRIMARY KEY,
        rev INTEGER NOT NULL,
        create_revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX current_by_lease ON current (lease) WHERE lease <> 0;
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY,
        ttl INTEGER NOT NULL,
        remaining_ttl INTEGER NOT NULL
    );
    CREATE TABLE members (id INTEGER PRIMARY KEY, data NOT NULL);
    CREATE TABLE members_removed (id INTEGER PRIMARY KEY);
    CREATE TABLE alarms (
        member_id INTEGER NOT NULL,
        alarm INTEGER NOT NULL,
        PRIMARY KEY (member_id, alarm)
    ) WITHOUT ROWID;
    CREATE TABLE auth_users (name BLOB PRIMARY KEY, user BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE auth_roles (name BLOB PRIMARY KEY, role BLOB NOT NULL) WITHOUT ROWID;
    """
    + _V2_TABLES
    + _TIMES_TABLE,
    upgrades=(_V2_TABLES, _TIMES_TABLE),
)

_FRAME_HEADER_BYTES: Final = 24  # sqlite.org/fileformat2.html section 4.1

_META_GET: Final = "SELECT value FROM meta WHERE key = ?"
_META_PUT: Final = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"


class Backend:
    """kv.db, open for writing. One thread; `checkpoint` and `reader` are for other threads."""

    __slots__ = (
        "_checkpointer",
        "_forgoes_fsync",
        "_has_failed",
        "_log_crc",
        "_moved_frames",
        "_persisted",
        "_vfs",
        "_wal_frames",
        "applied_index",
        "applied_term",
        "connection",
        "generation",
        "in_use_bytes",
        "is_open",
        "path",
        "pending",
        "size_bytes",
    )

    def __init__(self, path: str, *, create: bool, vfs: str | None = None) -> None:
        self.path: str = os.fspath(path)
        self.generation = 0
        self._vfs = vfs
        self._forgoes_fsync = False
        self._open(create=create)

    @classmethod
    def open(cls, path: str, *, create: bool, vfs: str | None = None) -> "Backend":
        """ForeignFile: a file that is missing or not ours. StorageFailure: the disk."""
        return cls(path, create=create, vfs=vfs)

    def reopen(self) -> None:
        """After `close` and the exchange of the file by a snapshot. Whoever keeps a cursor or a
        cached value has to be reloaded then; `generation` tells the difference."""
        assert not self.is_open, "reopen of an open backend"
        self.generation += 1
        self._open(create=False)

    def _open(self, *, create: bool) -> None:
        self.connection: apsw.Connection = db.open_writer(
            self.path,
            schema=SCHEMA,
            full_sync=False,
            create=create,
            cache_kib=CACHE_KIB,
            vfs=self._vfs,
        )
        self.is_open = True
        self._has_failed = False
        self._wal_frames = 0
        self._moved_frames = 0  # of these, by a checkpoint
        self.connection.set_wal_hook(self._count_frames)
        if self._forgoes_fsync:
            db.forgo_fsync(self.connection)
        self._checkpointer: apsw.Connection | None = None
        # Changes in the open transaction; more than 0 from its BEGIN on.
        self.pending: int = 0
        self.applied_index: int = self._meta_int("applied_index")
        self.applied_term: int = self._meta_int("applied_term")
        self._log_crc: int = self._meta_int("log_crc")
        self._persisted = (self.applied_index, self.applied_term, self._log_crc)
        self._measure()

    def forgo_fsync(self) -> None:
        """--unsafe-no-fsync: from now on a power cut may leave a damaged file."""
        self._forgoes_fsync = True
        db.forgo_fsync(self.connection)

    def close(self) -> None:
        """Uncommitted changes are dropped: the log has them, and replay brings them back."""
        if self._checkpointer is not None:
            self._checkpointer.close()
        self.connection.close(True)
        self.is_open = False

    # -- the write transaction -------------------------------------------------------------------

    def begin(self) -> None:
        """Opens the transaction; the caller has seen that `pending` is 0."""
        assert self.pending == 0, self.pending
        assert not self._has_failed, "a write after a failure"
        failpoints.hit("beforeStartDBTxn")
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise self.failure("begin", error) from error
        self.pending = 1
        failpoints.hit("afterStartDBTxn")

    def execute(self, sql: str, bindings: Bindings = ()) -> list[SqlRow]:
        """One statement; a writing one goes into the transaction."""
        if not sql.startswith("SELECT"):
            if not self.pending:
                self.begin()
            self.pending += 1
        return self.query(sql, bindings)

    def query(self, sql: str, bindings: Bindings = ()) -> list[SqlRow]:
        """One reading statement; opens no transaction and sees uncommitted changes."""
        try:
            return self.connection.execute(sql, bindings).fetchall()
        except apsw.Error as error:
            raise self.failure("statement", error) from error

    def meta_get(self, key: str) -> SqlValue:
        """None if there is no such row."""
        rows = self.query(_META_GET, (key,))
        return rows[0][0] if rows else None

    def meta_put(self, key: str, value: SqlValue) -> None:
        self.execute(_META_PUT, (key, value))

    def set_applied(self, index: int, term: int, *, log_crc: int = 0) -> None:
        """The entry that has just been applied, and the chained CRC of the log up to it. Written
        by `commit`, in the transaction of what the entry changed."""
        assert index >= self.applied_index, (index, self.applied_index)
        self.applied_index = index
        self.applied_term = term
        self._log_crc = log_crc

    @property
    def log_mark(self) -> tuple[int, int, int]:
        """(index, term, crc) of the last commit: what the log must still contain. A log that ends
        earlier, or has another crc there, has lost acknowledged entries."""
        return self._persisted

    def commit(self) -> None:
        """Ends the transaction, if there is anything to write. No fsync: a few page writes."""
        # An error inside a transaction may have rolled back all of it, and every later statement
        # would commit on its own: the first failure was the end.
        assert not self._has_failed, "a commit after a failure"
        mark = (self.applied_index, self.applied_term, self._log_crc)
        if mark != self._persisted:
            failpoints.hit("commitBeforePreCommitHook")
            self.meta_put("applied_index", mark[0])
            self.meta_put("applied_term", mark[1])
            self.meta_put("log_crc", mark[2])
            failpoints.hit("commitAfterPreCommitHook")
        if not self.pending:
            return
        assert self.connection.in_transaction, "the transaction was lost"
        failpoints.hit("beforeCommit")
        try:
            self.connection.execute("COMMIT")
        except apsw.Error as error:
            raise self.failure("commit", error) from error
        failpoints.hit("afterCommit")
        self._persisted = mark
        self.pending = 0
        self._measure()

    # -- beside the writer -----------------------------------------------------------------------

    def reader(self) -> apsw.Connection:
        """A read-only connection of its own, for a thread. It sees the last commit."""
        return db.open_reader(self.path, vfs=self._vfs)

    def checkpoint(self) -> int | None:
        """Makes the last commit durable; the applied index that the log may be cut below, or None
        when a reader still needed the older pages. Runs in a thread, beside the writer: SQLite
        lets a second connection move pages while the first appends."""
        # Twice: the second pass has only what was committed during the first, and leaves little
        # for `rewind`.
        self._checkpoint_pass()
        return self._checkpoint_pass()

    def rewind(self) -> int | None:
        """After a `checkpoint` that found `wal_bytes` large: commits and moves the rest, so that
        the next write starts again at the front of the -wal file. Runs in the writer's thread and
        holds it for two fsyncs, 2 to 7 ms, because SQLite starts again only when a transaction
        begins with every page moved: under steady writes a checkpoint in a thread never sees
        that. Measured without it: 1,645 MB of -wal after 6 s of puts; with it, 43 MB."""
        self.commit()
        return self._checkpoint_pass()

    def empty_wal(self) -> None:
        """Before a close: the next start scans the -wal file frame by frame (walscan.py)."""
        assert not self.pending, "commit first"
        try:
            db.checkpoint(self.connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except db.DiskFull:
            pass

    def _checkpoint_pass(self) -> int | None:
        connection = self._checkpointer
        if connection is None:
            connection = self._checkpointer = db.open_checkpointer(self.path, vfs=self._vfs)
            if self._forgoes_fsync:
                db.forgo_fsync(connection)
        # Read first: what is committed later may miss this checkpoint.
        rows = db.guarded(
            self.path, "read", lambda: list(connection.execute(_META_GET, ("applied_index",)))
        )
        failpoints.hit("beforeCheckpoint")
        try:
            done = db.checkpoint(connection)
        except db.DiskFull:
            return None  # the pages stay in the -wal file: next time
        failpoints.hit("afterCheckpoint")
        self._moved_frames = done.moved_frames
        if not done.complete:
            return None
        return int(rows[0][0]) if rows else 0

    @property
    def wal_bytes(self) -> int:
        """What of the -wal file is in use; the file itself does not shrink when it is rewound."""
        return self._wal_frames * (db.PAGE_BYTES + _FRAME_HEADER_BYTES)

    @property
    def waiting_bytes(self) -> int:
        """What of the -wal file the next checkpoint has to move; the main file may grow by it."""
        frames = max(self._wal_frames - self._moved_frames, 0)
        return frames * (db.PAGE_BYTES + _FRAME_HEADER_BYTES)

    def _count_frames(self, _: apsw.Connection, __: str, frames: int) -> int:
        """SQLite's hook, called after each commit."""
        if frames < self._wal_frames:  # from the front again
            self._moved_frames = 0
        self._wal_frames = frames
        return apsw.SQLITE_OK

    def vacuum_step(self, pages: int) -> bool:
        """Gives up to `pages` free pages back to the file system; whether there are more. One
        slice of a defragmentation, in a transaction of its own."""
        # A commit here would be one without the applied index: only our owner knows it.
        assert not self.pending, "commit first"
        failpoints.hit("defragBeforeSlice")
        self.query(f"PRAGMA incremental_vacuum({pages:d})")
        failpoints.hit("defragAfterSlice")
        self._measure()
        return self.size_bytes > self.in_use_bytes

    def _measure(self) -> None:
        """After each commit and not when asked: the quota check reads it for every put."""
        page_bytes = db.PAGE_BYTES
        pages = self._pragma("page_count")
        self.size_bytes: int = pages * page_bytes
        self.in_use_bytes: int = (pages - self._pragma("freelist_count")) * page_bytes

    def _pragma(self, name: str) -> int:
        value = self.query(f"PRAGMA {name}")[0][0]
        assert isinstance(value, int), value
        return value

    def _meta_int(self, key: str) -> int:
        value = self.meta_get(key)
        assert value is None or isinstance(value, int), (key, value)
        return value or 0

    def failure(self, doing: str, error: apsw.Error) -> StorageFailure:
        """The one translation of SQLite's errors on this file; nothing is written after one."""
        self._has_failed = True
        self.pending = 0
        return db.failure(self.path, doing, error, self.connection)
