"""The durable raft log: raft's Storage on wal.db, entries and hard state in ONE commit per batch.

Strategy. One row per entry, one meta row for everything else (logrows.py), written in one
transaction whose COMMIT is one fdatasync (`synchronous=FULL`). A batch passes through three calls:

    stage(ready)   loop thread   rows go into the open transaction; nothing is promised
    commit()       WAL thread    the fsync; only after it may an answer that promises
                                 durability leave (thesis 3.8; a leader's MsgApp may leave before,
                                 thesis 10.2.1)
    publish()      loop thread   readers see the batch

Readers are answered from the newest entries in memory (tail.py); older ones come from a
read-only connection, each row checked against its crc and that of the row before.

Rules.
1. Any SQLite error is final: `StorageFailure` now and at every later call. What the failed commit
   wrote may or may not come back after a restart, so it was neither accepted nor rejected. The
   exception is a full disk, SQLITE_FULL: a frame could not be written, so none with a commit mark
   was, and SQLite has rolled everything back. If `on_full` made room, all statements since BEGIN
   are repeated once. A full disk in fsync or in the -shm file has another code, and is final.
2. Between commit() and publish() nobody calls stage(), and during commit() nobody calls stage()
   or close(). compact(), save_snapshot_meta() and all readers may be called at any time: the
   first two change memory, and the file with the next batch.
3. The log is cut only below a keyspace checkpoint; save_snapshot_meta() states that checkpoint.
   Cut rows are deleted a slice per commit: a crash in between leaves rows below the base, which
   are not looked at.
4. open() refuses a log that has forgotten something: a damaged -wal (walscan.py), a broken chain,
   a commit index beyond the last entry. verify_watermark() refuses one that is older than the
   keyspace. A member with amnesia must not vote: committed entries could vanish.

Worked example. Entries 1 to 5 (terms 1 1 1 2 2) are durable, a new leader sends 4 and 5 of term 3:
stage() deletes rows >= 4 and inserts two whose chain continues from row 3; commit(); until
publish() readers see terms 1 1 1 2 2, then 1 1 1 3 3. The keyspace is checkpointed at 4:
save_snapshot_meta(4) and compact(3) give first_index 4 at once, term(3) is still known, and rows
1 to 3 leave the file with the next commit.

Limits. tail.py bounds the memory, CHECKPOINT_BYTES the -wal file (beyond it only while a reader
is in its way), CUT_SLICE the deletes of one commit, READ_ENTRIES_MAX one read from the file.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import apsw

from pyetcd.raft.storage import ENTRY_OVERHEAD_BYTES
from pyetcd.raft.types import (
    ConfState,
    Entry,
    HardState,
    LogCompacted,
    LogUnavailable,
    Ready,
    Snapshot,
    SnapshotMeta,
    SnapshotTemporarilyUnavailable,
)
from pyetcd.store import db, failpoints, logrows, walscan
from pyetcd.store.logrows import Base, Meta, Watermark
from pyetcd.store.tail import Tail
from pyetcd.store.walscan import LogDamaged

__all__ = ["LogDamaged", "Wal", "Watermark"]

# A checkpoint copies each changed page once, however often it was written since the last one, so
# a larger bound is cheaper in total; a smaller one stops the WAL thread for a shorter time.
CHECKPOINT_BYTES: Final = 8 << 20
CHECKPOINT_FRAMES: Final = CHECKPOINT_BYTES // (db.PAGE_BYTES + walscan.FRAME_HEADER_BYTES)
CUT_SLICE: Final = 1000
READ_ENTRIES_MAX: Final = 5000


class Wal:
    """One member's log. Implements pyetcd.raft.storage.Storage."""

    @classmethod
    def create(
        cls,
        path: str,
        *,
        cluster_id: int,
        member_id: int,
        entries: Sequence[Entry] = (),
        hard_state: HardState | None = None,
        vfs: str | None = None,
    ) -> "Wal":
        """A new log; the directory must exist, the file must not. `entries`, from index 1 on, are
        those a new cluster begins with: the file has them from the moment it exists."""
        db.require_sound_sqlite()
        state = hard_state or HardState()
        assert state.commit <= len(entries)
        meta = Meta(cluster_id, member_id, state, SnapshotMeta(), Base())
        rows: list[db.Row] = [(logrows.REPLACE_META, logrows.encode_meta(meta))]
        assert not entries or entries[0].index == 1, entries[0]
        rows += [(logrows.INSERT, row) for row in logrows.encode_entries(entries, 0)]
        db.create_file(path, schema=logrows.SCHEMA, rows=rows, vfs=vfs)
        return cls.open(path, vfs=vfs)

    @classmethod
    def open(cls, path: str, *, vfs: str | None = None) -> "Wal":
        """An existing log, read and verified whole. Raises ForeignFile or StorageFailure."""
        path = os.fspath(path)
        if vfs is None and os.path.lexists(path):
            db.preflight(path, logrows.SCHEMA)
        notes = walscan.require_undamaged(path, vfs)
        try:
            wal = cls._open(path, vfs)
        except db.Damaged as error:
            raise LogDamaged(path, error.reason.removeprefix(f"{path}: ")) from error
        wal.notes += notes
        return wal

    @classmethod
    def _open(cls, path: str, vfs: str | None) -> "Wal":
        schema = logrows.SCHEMA
        connection = db.open_writer(path, schema=schema, full_sync=True, create=False, vfs=vfs)
        try:
            db.quick_check(connection)
            rows = db.guarded(path, "read", lambda: list(connection.execute(logrows.SELECT_META)))
            meta = logrows.decode_meta(rows)
            if meta is None:
                raise LogDamaged(path, "its meta row is damaged")
            wal = cls(path, connection, meta, vfs=vfs)
            wal._load()
            # All is well, and before any commit: a new -wal generation (walscan.py, Rules).
            db.checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except BaseException:
            connection.close()
            raise
        return wal

    def __init__(
        self, path: str, connection: apsw.Connection, meta: Meta, *, vfs: str | None
    ) -> None:
        self.path = path
        self.notes: list[str] = []  # one line each: what open() repaired
        self.cluster_id = meta.cluster_id
        self.member_id = meta.member_id
        self.hard_state = meta.hard_state  # as staged
        self._vfs = vfs
        self._connection = connection
        self._reader: apsw.Connection | None = None
        self._failed: db.StorageFailure | None = None

        # The published log: base, then entries that are only in the file, then the tail.
        self._snapshot = meta.snapshot
        self._begin_conf_state: ConfState | None = None
        self._base = meta.base
        self._tail = Tail(meta.base.index + 1)

        # The batch between stage() and publish().
        self._staged: list[Entry] = []
        self._staged_crcs: list[int] = []
        self._staged_snapshot: SnapshotMeta | None = None
        self._held: Watermark | None = None
        self._staged_last = meta.base.index
        self._staged_crc = meta.base.crc or 0  # of the entry at _staged_last
        self._is_committing = False
        self._is_committed = False
        self._meta_is_stale = False

        # Rows from _lowest_row to _base_in_file wait for _cut_slice.
        self._lowest_row = meta.base.index + 1
        self._base_in_file = meta.base.index
        self.written_bytes_total = 0  # into the -wal file
        self._wal_frames = 0
        self._moved_frames = 0  # of these, by a checkpoint
        self._wal_frames_due = CHECKPOINT_FRAMES

        # Called in either thread when the disk is full; whether another try is worth it.
        self.on_full: Callable[[], bool] | None = None
        self.full_total = 0
        # What the open transaction holds: statements, and whether of many rows.
        self._written: list[tuple[str, Sequence[Any], bool]] = []

    def forgo_fsync(self) -> None:
        """--unsafe-no-fsync: `commit` promises nothing against a power cut from now on."""
        db.forgo_fsync(self._connection)

    # -- raft's Storage --------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self._begin_conf_state or self._snapshot.conf_state

    def begin_with(self, conf_state: ConfState) -> None:
        """Raft is about to go on behind the keyspace's applied index, where this is the
        configuration; what the log keeps may be of an earlier checkpoint."""
        self._begin_conf_state = conf_state

    def first_index(self) -> int:
        return self._base.index + 1

    def last_index(self) -> int:
        return self._tail.last

    def term(self, index: int) -> int:
        """Of the base or any later entry."""
        tail = self._tail
        if tail.start <= index <= tail.last:
            return tail.term(index)
        return self.watermark(index).term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries [lo, hi), at least one, as many as fit in max_bytes. From the file at most
        READ_ENTRIES_MAX at a time, and never file and memory in one answer."""
        assert lo <= hi, (lo, hi)
        if lo <= self._base.index:
            raise LogCompacted(f"entry {lo}, the log begins at {self.first_index()}")
        if hi > self._tail.last + 1:
            raise LogUnavailable(f"entry {hi - 1}, the log ends at {self._tail.last}")
        if lo == hi:
            return []
        if lo >= self._tail.start:
            return self._tail.read(lo, hi, max_bytes)
        return self._read(lo, min(hi, self._tail.start, lo + READ_ENTRIES_MAX), max_bytes)

    def snapshot(self) -> Snapshot:
        """Only the meta data: the keyspace file itself is sent by the peer transport."""
        if self._snapshot.index == 0:
            raise SnapshotTemporarilyUnavailable("the keyspace was never checkpointed")
        return Snapshot(self._snapshot)

    # -- writing ---------------------------------------------------------------------------------

    def stage(self, ready: Ready) -> bool:
        """Write a batch into the open transaction. False: at most the commit index moved, so the
        caller need not commit now (etcd's MustSync rule); the next batch takes it along."""
        self._require_usable()
        assert not self._is_committing and not self._is_committed, "publish() comes first"
        old, state = self.hard_state, ready.hard_state
        must_sync = bool(ready.entries) or ready.snapshot is not None
        if state is not None and state != old:
            # A term never falls, and a vote is given once per term (thesis 3.4).
            assert state.term > old.term or (state.term == old.term and old.vote in (0, state.vote))
            assert state.commit >= old.commit, (old, state)
            must_sync = must_sync or (state.term, state.vote) != (old.term, old.vote)
            self.hard_state = state
            self._meta_is_stale = True
        if not must_sync and not self._meta_is_stale:
            return False
        try:
            if not self._connection.in_transaction:
                self._written.clear()
                self._connection.execute("BEGIN IMMEDIATE")
            if ready.snapshot is not None:
                self._stage_snapshot(ready.snapshot.meta)
            if ready.entries:
                self._stage_entries(ready.entries)
            if self._meta_is_stale:
                self._stage_meta()
        except apsw.Error as error:
            self._fail("write", error)
        assert self.hard_state.commit <= self._staged_last, (self.hard_state, self._staged_last)
        return must_sync

    def commit(self) -> None:
        """The fsync. The batch is durable when this returns, and not before. In the WAL thread:
        SQLite lets go of the GIL meanwhile."""
        self._require_usable()
        assert not self._is_committed, "publish() comes first"
        self._is_committing = True
        try:
            self._cut_slice()
            # SQLite rolls a transaction back by itself on some errors; a COMMIT without one would
            # promise entries that are not there.
            if not self._connection.in_transaction:
                self._refuse("there is no transaction to commit")
            failpoints.hit("walBeforeSync")
            self._end_transaction()
            failpoints.hit("walAfterSync")
            if self._wal_frames >= self._wal_frames_due:
                self._checkpoint()
        except apsw.Error as error:
            self._fail("commit", error)
        finally:
            self._is_committing = False
        self._is_committed = True

    def publish(self) -> None:
        """Let readers see what commit() made durable. Nothing if stage() asked for no commit."""
        self._require_usable()
        if not self._is_committed:
            assert not self._staged and self._staged_snapshot is None, "commit() comes first"
            return
        self._is_committed = False
        if self._staged_snapshot is not None:
            self._snapshot = self._staged_snapshot
            self._base = Base(self._snapshot.index, self._snapshot.term)
            self._tail = Tail(self._base.index + 1)
            self._staged_snapshot = self._held = None
        if self._staged:
            self._tail.replace(self._staged, self._staged_crcs)
            self._staged, self._staged_crcs = [], []
        assert self._tail.last == self._staged_last, (self._tail.last, self._staged_last)

    @property
    def installed_index(self) -> int:
        """Where a snapshot from another member was put under this log, 0 if it begins by itself.
        At start the received keyspace file of that index may still wait for its rename
        (snapshot.recover)."""
        return self._base.index if self._base.crc is None else 0

    @property
    def awaits_snapshot(self) -> bool:
        """Whether a snapshot from another member is on its way under this log. From commit() to
        publish() the entries that it replaces are gone from the file, and are read from memory
        only: who can wait, asks for none of them, and who cannot, has hold() called before."""
        return self._staged_snapshot is not None

    def hold(self, index: int) -> None:
        """Before a snapshot is staged: watermark(index) is answered until it is published."""
        self._held = self.watermark(index)

    def save_snapshot_meta(self, meta: SnapshotMeta) -> None:
        """The keyspace is on the disk (checkpointed, fsynced) up to meta.index, and
        meta.conf_state is the configuration there: where a restart begins. Durable with the next
        batch. Forgotten if a snapshot from the leader is on its way in."""
        if meta.index <= self._snapshot.index:
            return
        assert meta.index <= self._tail.last, (meta, self._tail.last)
        assert self.term(meta.index) == meta.term, meta
        self._snapshot = meta
        self._meta_is_stale = True

    def compact(self, index: int) -> None:
        """Forget the entries up to and including index. Below first_index(), and with a snapshot
        on its way in, it does nothing."""
        if index <= self._base.index or self.awaits_snapshot:
            return
        assert index <= self._snapshot.index, "rule 3: cut only below a keyspace checkpoint"
        mark = self.watermark(index)
        self._base = Base(mark.index, mark.term, mark.crc)
        self._tail.compact(index)
        self._meta_is_stale = True

    def close(self) -> None:
        """Write what is left, empty the -wal, close. After a failure, or again: only close."""
        assert not self._is_committing
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        try:
            if self._failed is None:
                self._failed = db.StorageFailure(f"{self.path} is closed")
                if self._meta_is_stale:
                    if not self._connection.in_transaction:
                        self._written.clear()
                        self._connection.execute("BEGIN IMMEDIATE")
                    self._stage_meta()
                if self._connection.in_transaction:
                    self._end_transaction()
                try:
                    db.checkpoint(self._connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
                except db.DiskFull:
                    pass  # the next start does it
        except apsw.Error as error:
            self._fail("close", error)
        finally:
            self._connection.close()

    # -- the amnesia guard -----------------------------------------------------------------------

    def watermark(self, index: int) -> Watermark:
        """The term and chained crc of the published entry (or base) at index."""
        tail, base = self._tail, self._base
        if index > tail.last and index != base.index:
            raise LogUnavailable(f"entry {index}, the log ends at {tail.last}")
        if index >= tail.start:
            return Watermark(index, tail.term(index), tail.crc(index))
        if index == base.index:
            return Watermark(index, base.term, base.crc or 0)
        if index < base.index:
            raise LogCompacted(f"entry {index}, the log begins at {self.first_index()}")
        if self._held is not None and index == self._held.index:
            return self._held
        try:
            rows = list(self._read_connection().execute(logrows.SELECT_MARK, (index,)))
        except apsw.Error as error:
            self._fail("read", error, self._reader)
        if not rows:
            self._refuse(f"entry {index} is missing")
        return Watermark(index, int(rows[0][0]), int(rows[0][1]))

    def verify_watermark(self, index: int, term: int, crc: int) -> None:
        """Refuse if the keyspace, applied up to index, knows more than this log. An entry is
        applied only when it is durable here, so a shorter log has lost something."""
        if index == 0:
            return
        if index > self._tail.last:
            lost = f"but the log ends at {self._tail.last}"
            raise LogDamaged(self.path, f"the keyspace is at entry {index} {lost}")
        if index < self._base.index:
            lost = f"but the log begins after {self._base.index}"
            raise LogDamaged(self.path, f"the keyspace is at entry {index} {lost}")
        mark = self.watermark(index)
        # The base of a snapshot from elsewhere: its crc belongs to another member's chain.
        crc_is_known = index > self._base.index or self._base.crc is not None
        if mark.term != term or (crc_is_known and mark.crc != crc):
            reason = f"entry {index} is not the one the keyspace has applied"
            marks = f"term {mark.term} crc {mark.crc:08x}, applied {term} {crc:08x}"
            raise LogDamaged(self.path, f"{reason} ({marks})")

    # -- opening ---------------------------------------------------------------------------------

    def _load(self) -> None:
        db.guarded(self.path, "read", self._load_entries)
        commit, last = self.hard_state.commit, self._staged_last
        if commit > last:
            raise LogDamaged(self.path, f"entry {commit} was committed, the last is {last}")
        self._connection.set_wal_hook(self._on_wal)

    def _load_entries(self) -> None:
        for (lowest,) in self._connection.execute("SELECT min(idx) FROM log"):
            self._lowest_row = self._lowest_row if lowest is None else int(lowest)
        entries: list[Entry] = []
        crcs: list[int] = []
        index, crc = self._staged_last, self._staged_crc
        for row in self._connection.execute(logrows.SELECT_FROM, (index + 1,)):
            index += 1
            entry = logrows.decode_entry(index, crc, row)
            if entry is None:
                raise LogDamaged(self.path, f"entry {index} is damaged or missing")
            crc = int(row[4])
            entries.append(entry)
            crcs.append(crc)
            if len(entries) >= 1000:
                self._tail.replace(entries, crcs)
                entries, crcs = [], []
        if entries:
            self._tail.replace(entries, crcs)
        self._staged_last, self._staged_crc = index, crc

    # -- staging ---------------------------------------------------------------------------------

    def _stage_snapshot(self, meta: SnapshotMeta) -> None:
        # raft asks for this only when the log does not reach the snapshot: nothing of it stays.
        assert meta.index > self._base.index, (meta, self._base)
        self._write("DELETE FROM log", ())
        self._lowest_row = meta.index + 1
        self._staged, self._staged_crcs = [], []
        self._staged_snapshot = meta
        self._staged_last, self._staged_crc = meta.index, 0
        self._meta_is_stale = True

    def _stage_entries(self, entries: list[Entry]) -> None:
        first = entries[0].index
        if first <= self._staged_last:
            self._staged_crc = self._crc_before(first)
            self._write("DELETE FROM log WHERE idx >= ?", (first,))
            if self._staged:
                keep = max(0, first - self._staged[0].index)
                del self._staged[keep:], self._staged_crcs[keep:]
        else:
            assert first == self._staged_last + 1, (first, self._staged_last)
        rows = logrows.encode_entries(entries, self._staged_crc)
        self._write(logrows.INSERT, rows, many=True)
        self._staged += entries
        self._staged_crcs += [row[4] for row in rows]
        self._staged_last, self._staged_crc = rows[-1][0], rows[-1][4]

    def _crc_before(self, index: int) -> int:
        before = index - 1
        if self._staged and before >= self._staged[0].index:
            return self._staged_crcs[before - self._staged[0].index]
        if self._staged_snapshot is not None:
            assert before == self._staged_snapshot.index, "raft replaces a compacted entry"
            return 0
        assert before >= self._base.index, "raft replaces a compacted entry"
        return self.watermark(before).crc

    def _stage_meta(self) -> None:
        base, snapshot = self._base, self._snapshot
        if self._staged_snapshot is not None:
            snapshot = self._staged_snapshot
            base = Base(snapshot.index, snapshot.term)
        meta = Meta(self.cluster_id, self.member_id, self.hard_state, snapshot, base)
        self._write(logrows.REPLACE_META, logrows.encode_meta(meta))
        self._base_in_file = base.index
        self._meta_is_stale = False

    def _write(self, sql: str, bindings: Sequence[Any], *, many: bool = False) -> None:
        self._written.append((sql, bindings, many))
        try:
            self._execute(sql, bindings, many)
        except apsw.FullError as error:
            self._write_again(error)

    def _execute(self, sql: str, bindings: Sequence[Any], many: bool) -> None:
        if many:
            self._connection.executemany(sql, bindings)
        else:
            self._connection.execute(sql, bindings)

    def _write_again(self, error: apsw.FullError) -> None:
        """Rule 1: everything that the transaction held."""
        is_undone = not self._connection.in_transaction
        if not is_undone or self.on_full is None or not self.on_full():
            raise error
        self.full_total += 1
        self._connection.execute("BEGIN IMMEDIATE")
        for sql, bindings, many in self._written:
            self._execute(sql, bindings, many)

    # -- in the WAL thread -----------------------------------------------------------------------

    def _end_transaction(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except apsw.FullError as error:
            self._write_again(error)
            self._connection.execute("COMMIT")
        self._written.clear()

    @property
    def waiting_bytes(self) -> int:
        """What of the -wal file the next checkpoint has to move; the main file may grow by it."""
        return max(self._wal_frames - self._moved_frames, 0) * (
            db.PAGE_BYTES + walscan.FRAME_HEADER_BYTES
        )

    def _cut_slice(self) -> None:
        if self._lowest_row > self._base_in_file:
            return
        slice_end = min(self._base_in_file, self._lowest_row + CUT_SLICE - 1)
        self._write("DELETE FROM log WHERE idx <= ?", (slice_end,))
        self._lowest_row = slice_end + 1

    def _on_wal(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        if frames < self._wal_frames:  # from the front again
            self._moved_frames = self._wal_frames = 0
        frame_bytes = db.PAGE_BYTES + walscan.FRAME_HEADER_BYTES
        self.written_bytes_total += (frames - self._wal_frames) * frame_bytes
        self._wal_frames = frames
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        self._wal_frames_due = CHECKPOINT_FRAMES
        try:
            done = db.checkpoint(self._connection)
            self._moved_frames = done.moved_frames
            if done.complete:
                return
        except db.DiskFull:
            if self.on_full is not None:
                self.on_full()
        # A reader was in the way, or the disk is full. Not at every commit again: each try is an
        # fsync.
        self._wal_frames_due = self._wal_frames + CHECKPOINT_FRAMES // 8

    # -- reading the file, failing ---------------------------------------------------------------

    def _read(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        crc = self.watermark(lo - 1).crc
        found: list[Entry] = []
        total = 0
        try:
            cursor = self._read_connection().execute(logrows.SELECT_RANGE, (lo, hi))
            for row in cursor:
                entry = logrows.decode_entry(lo + len(found), crc, row)
                if entry is None:
                    self._refuse(f"entry {lo + len(found)} is damaged or missing")
                total += len(entry.data) + ENTRY_OVERHEAD_BYTES
                if found and total > max_bytes:
                    break
                found.append(entry)
                crc = row[4]
            cursor.close()  # an open one would hold back every checkpoint
        except apsw.Error as error:
            self._fail("read", error, self._reader)
        if not found:
            self._refuse(f"entry {lo} is missing")
        return found

    def _read_connection(self) -> apsw.Connection:
        self._require_usable()
        if self._reader is None:
            self._reader = db.open_reader(self.path, vfs=self._vfs)
        return self._reader

    def _require_usable(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _fail(
        self, doing: str, error: apsw.Error, connection: apsw.Connection | None = None
    ) -> NoReturn:
        self._failed = db.failure(self.path, doing, error, connection or self._connection)
        raise self._failed from error

    def _refuse(self, reason: str) -> NoReturn:
        self._failed = db.StorageFailure(f"{self.path}: {reason}")
        raise self._failed
