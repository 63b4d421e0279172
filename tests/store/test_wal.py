"""The durable log against a list, its worked example, failures, and the amnesia guard."""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyetcd.raft.storage import MemoryStorage, Storage
from pyetcd.raft.types import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    LogCompacted,
    LogUnavailable,
    Ready,
    Snapshot,
    SnapshotMeta,
    SnapshotTemporarilyUnavailable,
)
from pyetcd.store import db, logrows, tail, wal
from pyetcd.store.wal import LogDamaged, Wal

MakeEntry = Callable[..., Entry]
NO_LIMIT = 1 << 40
VOTERS = ConfState(voters=(1, (1 << 64) - 3), learners=(5,))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Wal]:
    opened = Wal.create(str(tmp_path / "wal.db"), cluster_id=(1 << 64) - 1, member_id=7)
    yield opened
    opened.close()


def write(log: Wal, ready: Ready) -> None:
    log.stage(ready)
    log.commit()
    log.publish()


def terms(log: Wal) -> list[int]:
    return [entry.term for entry in everything(log)]


def everything(log: Storage) -> list[Entry]:
    found: list[Entry] = []
    while log.first_index() + len(found) <= log.last_index():
        found += log.entries(log.first_index() + len(found), log.last_index() + 1, NO_LIMIT)
    return found


def test_is_raft_storage(log: Wal) -> None:
    storage: Storage = log
    assert storage.initial_state() == (HardState(), ConfState())
    assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
    with pytest.raises(SnapshotTemporarilyUnavailable):
        storage.snapshot()


def test_worked_example(log: Wal, entry: MakeEntry) -> None:
    """The one in the docstring of wal.py."""
    write(log, Ready(entries=[entry(i, t) for i, t in enumerate((1, 1, 1, 2, 2), 1)]))
    old = log.watermark(5)
    log.stage(Ready(entries=[entry(4, 3), entry(5, 3)], hard_state=HardState(3, 1, 4)))
    log.commit()
    assert terms(log) == [1, 1, 1, 2, 2]
    log.publish()
    assert terms(log) == [1, 1, 1, 3, 3]
    assert log.watermark(5) != old
    log.save_snapshot_meta(SnapshotMeta(4, 3, VOTERS))
    log.compact(3)
    assert (log.first_index(), log.term(3)) == (4, 1)
    write(log, Ready(entries=[entry(6, 3)]))
    assert [e.index for e in everything(log)] == [4, 5, 6]
    assert list(log._connection.execute("SELECT min(idx), max(idx) FROM log")) == [(4, 6)]
    assert log.snapshot() == Snapshot(SnapshotMeta(4, 3, VOTERS))


def test_everything_survives_a_restart(tmp_path: Path, entry: MakeEntry) -> None:
    path = str(tmp_path / "wal.db")
    log = Wal.create(path, cluster_id=(1 << 64) - 1, member_id=1 << 63)
    kinds = [EntryType.NORMAL, EntryType.CONF_CHANGE, EntryType.CONF_CHANGE_V2]
    entries = [Entry(2, i, kind, bytes(range(i))) for i, kind in enumerate(kinds, 1)]
    write(log, Ready(entries=entries, hard_state=HardState(2, (1 << 64) - 3, 3)))
    log.save_snapshot_meta(SnapshotMeta(2, 2, VOTERS))
    log.compact(1)
    mark = log.watermark(3)
    log.close()  # writes the compaction, too
    log.close()
    log = Wal.open(path)
    assert (log.cluster_id, log.member_id) == ((1 << 64) - 1, 1 << 63)
    assert log.initial_state() == (HardState(2, (1 << 64) - 3, 3), VOTERS)
    assert everything(log) == entries[1:]
    assert (log.first_index(), log.term(1), log.watermark(3)) == (2, 2, mark)
    assert log.notes == [] and log.installed_index == 0
    log.close()
    assert (tmp_path / "wal.db-wal").stat().st_size == 0


def test_a_new_cluster_begins_with_entries(tmp_path: Path, entry: MakeEntry) -> None:
    path = str(tmp_path / "wal.db")
    first = [entry(1), entry(2)]
    state = HardState(1, 0, 2)
    Wal.create(path, cluster_id=1, member_id=2, entries=first, hard_state=state).close()
    log = Wal.open(path)
    assert (everything(log), log.hard_state) == (first, state)
    write(log, Ready(entries=[entry(3)]))
    log.verify_watermark(3, 1, log.watermark(3).crc)
    log.close()


def test_only_a_moved_commit_index_needs_no_fsync(
    log: Wal, tmp_path: Path, entry: MakeEntry, crash_copy: Callable[[Path], Path]
) -> None:
    assert log.stage(Ready(entries=[entry(1)]))
    log.commit()
    log.publish()
    assert log.stage(Ready(hard_state=HardState(1, 0, 0)))  # the term
    assert log.stage(Ready(hard_state=HardState(1, 7, 0)))  # the vote
    log.commit()
    log.publish()
    assert not log.stage(Ready())
    assert not log.stage(Ready(hard_state=HardState(1, 7, 0)))  # nothing new
    assert not log._connection.in_transaction
    assert not log.stage(Ready(hard_state=HardState(1, 7, 1)))
    log.publish()  # allowed: there was nothing to commit
    assert log._connection.in_transaction
    copy = Wal.open(str(crash_copy(tmp_path / "wal.db")))
    assert copy.hard_state == HardState(1, 7, 0)
    copy.close()
    write(log, Ready(entries=[entry(2)]))
    copy = Wal.open(str(crash_copy(tmp_path / "wal.db")))
    assert (copy.hard_state, copy.last_index()) == (HardState(1, 7, 1), 2)
    copy.close()


def test_a_batch_is_not_there_before_its_commit(
    log: Wal, tmp_path: Path, entry: MakeEntry, crash_copy: Callable[[Path], Path]
) -> None:
    write(log, Ready(entries=[entry(1), entry(2)]))
    log.stage(Ready(entries=[entry(2, 5), entry(3, 5)], hard_state=HardState(5, 1, 0)))
    copy = Wal.open(str(crash_copy(tmp_path / "wal.db")))
    assert (terms(copy), copy.hard_state) == ([1, 1], HardState())
    copy.close()
    log.commit()
    copy = Wal.open(str(crash_copy(tmp_path / "wal.db")))
    assert (terms(copy), copy.hard_state) == ([1, 5, 5], HardState(5, 1, 0))
    copy.close()


def test_reads_are_bounded_and_complete(
    log: Wal, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "ENTRIES_MAX", 8)
    monkeypatch.setattr(wal, "READ_ENTRIES_MAX", 3)
    for first in range(1, 30, 3):
        write(log, Ready(entries=[entry(first + i, first) for i in range(3)]))
    assert log._tail.start > 20
    assert [e.index for e in everything(log)] == list(range(1, 31))
    cost = 20 + 16
    for lo in (1, 29):
        assert len(log.entries(lo, 31, 0)) == 1
        assert len(log.entries(lo, 31, 2 * cost - 1)) == 1
        assert len(log.entries(lo, 31, 2 * cost)) == 2
    assert log.entries(31, 31, 0) == []
    assert len(log.entries(1, 31, NO_LIMIT)) == 3
    assert [log.term(i) for i in (0, 1, 3, 4, 30)] == [0, 1, 1, 4, 28]
    with pytest.raises(LogCompacted):
        log.entries(0, 1, 0)
    with pytest.raises(LogCompacted):
        log.watermark(-1)
    with pytest.raises(LogUnavailable):
        log.entries(30, 32, 0)
    with pytest.raises(LogUnavailable):
        log.term(31)


def test_large_entries_leave_memory(
    log: Wal, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "BYTES_MAX", 10_000)
    write(log, Ready(entries=[entry(i, 1, 1000) for i in range(1, 101)]))
    assert log._tail.last == 100 and log._tail.start > 80
    write(log, Ready(entries=[entry(101, 1, 50_000)]))
    assert log._tail.start <= 101
    assert len(everything(log)) == 101


def test_a_conflict_below_the_tail(
    log: Wal, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "ENTRIES_MAX", 4)
    write(log, Ready(entries=[entry(i, 1) for i in range(1, 21)]))
    write(log, Ready(entries=[entry(3, 2), entry(4, 2)], hard_state=HardState(2, 0, 0)))
    assert terms(log) == [1, 1, 2, 2]


def test_two_stages_before_one_commit(log: Wal, entry: MakeEntry) -> None:
    log.stage(Ready(entries=[entry(i, 1) for i in range(1, 6)]))
    log.stage(Ready(entries=[entry(4, 2)]))
    log.stage(Ready(entries=[entry(2, 3), entry(3, 3)]))
    log.commit()
    log.publish()
    assert terms(log) == [1, 3, 3]


def test_snapshot_replaces_the_log(tmp_path: Path, log: Wal, entry: MakeEntry) -> None:
    write(log, Ready(entries=[entry(i) for i in range(1, 6)], hard_state=HardState(1, 1, 2)))
    snapshot = Snapshot(SnapshotMeta(100, 4, VOTERS))
    log.stage(Ready(snapshot=snapshot, entries=[entry(101, 4)], hard_state=HardState(4, 0, 100)))
    assert log.last_index() == 5
    log.commit()
    log.publish()
    assert (log.first_index(), log.last_index(), log.term(100)) == (101, 101, 4)
    assert log.installed_index == 100
    log.close()
    log = Wal.open(str(tmp_path / "wal.db"))
    assert log.snapshot() == snapshot
    assert (log.first_index(), log.last_index(), log.installed_index) == (101, 101, 100)
    # The keyspace that came along carries the crc of another member's chain.
    log.verify_watermark(100, 4, 12345)
    with pytest.raises(LogDamaged):
        log.verify_watermark(100, 3, 12345)
    write(log, Ready(entries=[entry(102, 4)], hard_state=HardState(4, 0, 102)))
    log.save_snapshot_meta(SnapshotMeta(102, 4, VOTERS))
    log.compact(101)
    write(log, Ready(entries=[entry(103, 4)]))
    assert log.installed_index == 0
    log.close()


def test_no_compaction_while_a_snapshot_comes_in(
    log: Wal, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it replaces is gone from the file between commit and publish."""
    monkeypatch.setattr(tail, "ENTRIES_MAX", 4)
    write(log, Ready(entries=[entry(i) for i in range(1, 21)], hard_state=HardState(1, 1, 20)))
    log.save_snapshot_meta(SnapshotMeta(20, 1, VOTERS))
    mark = log.watermark(6)
    log.hold(6)
    log.stage(Ready(snapshot=Snapshot(SnapshotMeta(100, 4, VOTERS))))
    assert log.awaits_snapshot
    log.commit()
    log.compact(5)
    assert log.watermark(6) == mark
    log.publish()
    assert not log.awaits_snapshot and log.first_index() == 101


def test_compaction_is_spread_over_commits(
    log: Wal, tmp_path: Path, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CUT_SLICE", 10)
    write(log, Ready(entries=[entry(i) for i in range(1, 31)], hard_state=HardState(1, 0, 30)))
    log.save_snapshot_meta(SnapshotMeta(30, 1, VOTERS))
    log.compact(25)
    counts = []
    for index in range(31, 35):
        write(log, Ready(entries=[entry(index)]))
        counts.append(next(log._connection.execute("SELECT min(idx) FROM log"))[0])
    assert counts == [11, 21, 26, 26]
    with pytest.raises(AssertionError):
        log.compact(31)  # beyond the keyspace checkpoint


def test_the_order_of_calls_is_asserted(log: Wal, entry: MakeEntry) -> None:
    with pytest.raises(AssertionError):
        log.stage(Ready(entries=[entry(2)]))  # a gap
    with pytest.raises(AssertionError):
        log.stage(Ready(entries=[entry(1), entry(3)]))
    log.stage(Ready(entries=[entry(1)]))
    with pytest.raises(AssertionError):
        log.publish()
    log.commit()
    with pytest.raises(AssertionError):
        log.stage(Ready(entries=[entry(2)]))
    log.publish()
    with pytest.raises(AssertionError):
        log.stage(Ready(hard_state=HardState(0, 0, 2)))  # committed beyond the end


@pytest.mark.parametrize("operation", ["sync", "write"])
def test_a_failed_commit_is_final(
    tmp_path: Path, faulty_disk: "object", entry: MakeEntry, operation: str
) -> None:
    disk = faulty_disk
    log = Wal.create(str(tmp_path / "wal.db"), cluster_id=1, member_id=2, vfs="faulty")
    write(log, Ready(entries=[entry(1)]))
    log.stage(Ready(entries=[entry(2)]))
    disk.fail = operation  # type: ignore[attr-defined]
    with pytest.raises(db.StorageFailure, match="IOERR"):
        log.commit()
    disk.fail = ""  # type: ignore[attr-defined]
    for call in (lambda: log.stage(Ready(entries=[entry(2)])), log.commit, log.publish):
        with pytest.raises(db.StorageFailure, match="IOERR"):
            call()
    assert log.last_index() == 1
    log.close()
    # Neither accepted nor rejected: it may be there now.
    log = Wal.open(str(tmp_path / "wal.db"), vfs="unix")
    assert log.last_index() in (1, 2)
    log.close()


def test_one_fsync_per_commit(tmp_path: Path, faulty_disk: "object", entry: MakeEntry) -> None:
    log = Wal.create(str(tmp_path / "wal.db"), cluster_id=1, member_id=2, vfs="faulty")
    write(log, Ready(entries=[entry(1)]))
    before = faulty_disk.syncs  # type: ignore[attr-defined]
    for index in range(2, 12):
        write(log, Ready(entries=[entry(index)], hard_state=HardState(1, 0, index - 1)))
    assert faulty_disk.syncs - before == 10  # type: ignore[attr-defined]
    log.close()


def test_a_transaction_that_vanished_is_not_committed(log: Wal, entry: MakeEntry) -> None:
    log.stage(Ready(entries=[entry(1)]))
    log._connection.execute("ROLLBACK")  # as SQLITE_FULL does
    with pytest.raises(db.StorageFailure, match="no transaction"):
        log.commit()


def test_full_disk(log: Wal, entry: MakeEntry) -> None:
    log._connection.pragma("max_page_count", 10)
    with pytest.raises(db.StorageFailure, match="SQLITE_FULL"):
        log.stage(Ready(entries=[entry(i, 1, 2000) for i in range(1, 100)]))
    with pytest.raises(db.StorageFailure, match="SQLITE_FULL"):
        log.commit()


def test_the_wal_file_is_bounded(
    log: Wal, tmp_path: Path, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CHECKPOINT_FRAMES", 20)
    log._wal_frames_due = 20
    for index in range(1, 300):
        write(log, Ready(entries=[entry(index)], hard_state=HardState(1, 0, index - 1)))
    assert (tmp_path / "wal.db-wal").stat().st_size < 40 * 4120
    # A reader in the way lets it grow, and is not asked again at every commit.
    cursor = log._read_connection().execute("SELECT idx FROM log")
    for index in range(300, 400):
        write(log, Ready(entries=[entry(index)], hard_state=HardState(1, 0, index - 1)))
    assert log._wal_frames_due > 20
    cursor.close()
    write(log, Ready(entries=[entry(i) for i in range(400, 500)]))
    assert len(everything(log)) == 499


def test_damage_is_found_when_it_is_read(
    log: Wal, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "ENTRIES_MAX", 4)
    write(log, Ready(entries=[entry(i) for i in range(1, 21)]))
    log._connection.execute("UPDATE log SET data = x'00' WHERE idx = 5")
    assert len(log.entries(1, 5, NO_LIMIT)) == 4
    with pytest.raises(db.StorageFailure, match="entry 5 is damaged"):
        log.entries(3, 7, NO_LIMIT)
    with pytest.raises(db.StorageFailure, match="entry 5 is damaged"):
        log.stage(Ready())


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE log SET data = x'00' WHERE idx = 5", "entry 5 is damaged or missing"),
        ("UPDATE log SET term = 2 WHERE idx = 10", "entry 10 is damaged or missing"),
        ("UPDATE log SET type = 9 WHERE idx = 4", "entry 4 is damaged or missing"),
        ("DELETE FROM log WHERE idx = 5", "entry 5 is damaged or missing"),
        ("DELETE FROM log WHERE idx = 1", "entry 1 is damaged or missing"),
        ("DELETE FROM log WHERE idx > 8", "entry 9 was committed, the last is 8"),
        ("UPDATE meta SET vote = 2", "its meta row is damaged"),
        ("UPDATE meta SET conf_state = '{}'", "its meta row is damaged"),
        ("DELETE FROM meta", "its meta row is damaged"),
    ],
)
def test_open_refuses_a_damaged_log(
    tmp_path: Path, entry: MakeEntry, statement: str, reason: str
) -> None:
    path = str(tmp_path / "wal.db")
    log = Wal.create(path, cluster_id=1, member_id=2)
    entries = [entry(i) for i in range(1, 11)]
    write(log, Ready(entries=entries, hard_state=HardState(1, 1, 9)))
    log.close()
    connection = db.open_writer(path, schema=logrows.SCHEMA, full_sync=True)
    connection.execute(statement)
    connection.close()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(LogDamaged) as caught:
        Wal.open(path)
    assert caught.value.reason == reason
    assert "again as a learner" in str(caught.value)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert after["wal.db"] == before["wal.db"] and after["wal.db-wal"] == before["wal.db-wal"]


def test_watermark_guards_against_amnesia(
    log: Wal, tmp_path: Path, entry: MakeEntry, crash_copy: Callable[[Path], Path]
) -> None:
    write(log, Ready(entries=[entry(i) for i in range(1, 6)], hard_state=HardState(1, 1, 5)))
    old = crash_copy(tmp_path / "wal.db")
    write(log, Ready(entries=[entry(i) for i in range(6, 9)], hard_state=HardState(1, 1, 8)))
    for index in range(9):
        mark = log.watermark(index)
        log.verify_watermark(mark.index, mark.term, mark.crc)
    mark = log.watermark(8)
    with pytest.raises(LogDamaged, match="entry 8 is not the one the keyspace has applied"):
        log.verify_watermark(8, 1, mark.crc ^ 1)
    with pytest.raises(LogDamaged, match="at entry 9 but the log ends at 8"):
        log.verify_watermark(9, 1, 0)
    # An older copy of the log is in itself sound; only the keyspace knows better.
    copy = Wal.open(str(old))
    with pytest.raises(LogDamaged, match="at entry 8 but the log ends at 5"):
        copy.verify_watermark(8, 1, mark.crc)
    # Back then the term had another entry 6: same length, another chain.
    write(copy, Ready(entries=[Entry(1, i, EntryType.NORMAL, b"other") for i in (6, 7, 8)]))
    with pytest.raises(LogDamaged, match="entry 8 is not the one"):
        copy.verify_watermark(8, 1, mark.crc)
    copy.close()
    log.save_snapshot_meta(SnapshotMeta(8, 1, VOTERS))
    log.compact(7)
    log.verify_watermark(7, 1, log.watermark(7).crc)
    with pytest.raises(LogDamaged, match="entry 7 is not the one"):
        log.verify_watermark(7, 1, 0)
    with pytest.raises(LogDamaged, match="at entry 5 but the log begins after 7"):
        log.verify_watermark(5, 1, 0)


def test_the_chain_is_the_same_however_it_was_batched(tmp_path: Path, entry: MakeEntry) -> None:
    marks = []
    for step in (1, 3, 10):
        log = Wal.create(str(tmp_path / f"{step}.db"), cluster_id=1, member_id=step)
        for first in range(1, 11, step):
            write(log, Ready(entries=[entry(i) for i in range(first, min(first + step, 11))]))
        marks.append(log.watermark(10))
        log.close()
    assert len(set(marks)) == 1


def test_it_is_readable_while_the_commit_runs(log: Wal, entry: MakeEntry) -> None:
    """compact() and save_snapshot_meta() between stage() and publish() wait for the next batch."""
    write(log, Ready(entries=[entry(i) for i in range(1, 11)], hard_state=HardState(1, 0, 10)))
    log.stage(Ready(entries=[entry(11)]))
    log.save_snapshot_meta(SnapshotMeta(9, 1, VOTERS))
    log.compact(5)
    assert log.first_index() == 6
    log.commit()
    assert next(log._connection.execute("SELECT base_index FROM meta")) == (0,)
    log.publish()
    write(log, Ready())
    assert next(log._connection.execute("SELECT base_index FROM meta")) == (5,)


def test_old_entries_are_read_while_another_thread_commits(
    log: Wal, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "ENTRIES_MAX", 10)
    monkeypatch.setattr(wal, "CHECKPOINT_FRAMES", 10)
    log._wal_frames_due = 10
    write(log, Ready(entries=[entry(i) for i in range(1, 101)]))
    with ThreadPoolExecutor(1) as thread:
        for first in range(101, 1101, 20):
            log.stage(Ready(entries=[entry(first + i) for i in range(20)]))
            commit = thread.submit(log.commit)
            while True:
                assert [e.index for e in log.entries(1, 61, NO_LIMIT)] == list(range(1, 61))
                assert log.term(70) == 1 and log.last_index() == first - 1
                if commit.done():
                    break
            commit.result()
            log.publish()
    assert len(everything(log)) == 1100


# -- the dumb twin ---------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 12), st.integers(1, 12)),
        st.tuples(st.just("stage_twice"), st.integers(0, 6), st.integers(1, 6)),
        st.tuples(st.just("compact"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("snapshot"), st.integers(1, 5), st.integers(0, 3)),
        st.tuples(st.just("restart"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 12), st.integers(1, 5)),
        st.tuples(st.just("read"), st.integers(0, 60), st.integers(0, 400)),
    ),
    max_size=25,
)


class Twin:
    """Drives a Wal and a MemoryStorage through the same steps."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.log = Wal.create(path, cluster_id=1, member_id=2)
        self.memory = MemoryStorage()
        self.term = 1

    def batch(self, back: int, count: int) -> list[Entry]:
        """`count` entries that replace up to `back` uncommitted ones."""
        commit = max(self.memory.hard_state.commit, self.memory.first_index() - 1)
        self.term += back > 0
        first = max(self.memory.last_index() + 1 - back, commit + 1)
        return [
            Entry(self.term, first + i, EntryType(i % 3), b"%d" % (first + i) * (i % 7))
            for i in range(count)
        ]

    def append(self, back: int, count: int) -> None:
        entries = self.batch(back, count)
        commit = max(self.memory.hard_state.commit, entries[0].index - 1)
        state = HardState(self.term, 0, commit)
        self.log.stage(Ready(entries=entries, hard_state=state))
        self.log.commit()
        self.log.publish()
        self.memory.append(entries)
        self.memory.hard_state = state

    def stage_twice(self, back: int, count: int) -> None:
        first = self.batch(0, count)
        self.log.stage(Ready(entries=first))
        self.memory.append(first)
        self.append(back, count)

    def compact(self, checkpoint: int, cut: int) -> None:
        low = self.memory.snapshot().meta.index
        index = min(low + checkpoint, self.memory.hard_state.commit)
        if index <= low or index < self.memory.first_index():
            return
        meta = self.memory.create_snapshot(index, VOTERS).meta
        self.log.save_snapshot_meta(meta)
        cut = min(self.memory.first_index() - 1 + cut, index)
        if cut >= self.memory.first_index():
            self.memory.compact(cut)
        self.log.compact(cut)

    def snapshot(self, ahead: int, count: int) -> None:
        self.term += 1
        index = self.memory.last_index() + ahead
        snapshot = Snapshot(SnapshotMeta(index, self.term, VOTERS))
        entries = [Entry(self.term, index + 1 + i, EntryType.NORMAL, b"s") for i in range(count)]
        state = HardState(self.term, 0, index)
        self.log.stage(Ready(snapshot=snapshot, entries=entries, hard_state=state))
        self.log.commit()
        self.log.publish()
        self.memory.apply_snapshot(snapshot)
        self.memory.append(entries)
        self.memory.hard_state = state

    def restart(self, clean: int, _: int) -> None:
        if clean:
            self.log.close()
        else:
            # Memory that only the next batch would have written is lost: the cut.
            if self.log._reader is not None:
                self.log._reader.close()
            self.log._connection.close()
        self.log = Wal.open(self.path)
        self.follow_the_cut()

    def lose(self, back: int, count: int) -> None:
        """A batch that is staged and never committed."""
        self.log.stage(Ready(entries=self.batch(back, count)))
        self.restart(0, 0)

    def follow_the_cut(self) -> None:
        # After a crash the log may have forgotten its last cut and checkpoint, nothing else.
        assert self.log.first_index() <= self.memory.first_index()
        self.log.save_snapshot_meta(self.memory.snapshot().meta)
        self.log.compact(self.memory.first_index() - 1)

    def read(self, lo: int, max_bytes: int) -> None:
        memory, log = self.memory, self.log
        lo = memory.first_index() + lo
        if lo <= memory.last_index():
            found = log.entries(lo, memory.last_index() + 1, max_bytes)
            wanted = memory.entries(lo, memory.last_index() + 1, max_bytes)
            assert found and found == wanted[: len(found)]
            assert len(found) == len(wanted) or found[-1].index + 1 == log._tail.start

    def check(self) -> None:
        log, memory = self.log, self.memory
        assert log.first_index() == memory.first_index()
        assert log.last_index() == memory.last_index()
        assert everything(log) == everything(memory)
        for index in range(memory.first_index() - 1, memory.last_index() + 1):
            assert log.term(index) == memory.term(index)
        assert log.initial_state() == memory.initial_state()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_twin(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int, int]]) -> None:
    monkeypatch.setattr(tail, "ENTRIES_MAX", 6)
    monkeypatch.setattr(wal, "CUT_SLICE", 4)
    monkeypatch.setattr(wal, "CHECKPOINT_FRAMES", 6)
    with tempfile.TemporaryDirectory() as directory:
        twin = Twin(os.path.join(directory, "wal.db"))
        try:
            for name, first, second in steps:
                getattr(twin, name)(first, second)
                twin.check()
        finally:
            twin.log.close()


def test_pragmas_of_the_log(log: Wal) -> None:
    assert log._connection.pragma("synchronous") == 2
    assert log._connection.pragma("journal_mode") == "wal"
    assert log._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, -1) == 1
