"""kv.db: what is durable when, what a crash leaves, and damage that is noticed."""

import threading
from pathlib import Path
from typing import Any

import apsw
import pytest

from pyetcd.store.backend import SCHEMA, Backend
from pyetcd.store.db import Damaged, ForeignFile, StorageFailure
from pyetcd.store.history import crc_of
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.verify import verify


def _put(keyspace: Keyspace, key: bytes, value: bytes = b"v") -> None:
    txn = keyspace.begin()
    txn.put(key, value)
    txn.end()


def test_applied_index_and_data_move_together(tmp_path: Path) -> None:
    # RELIABILITY 1.6 row 1: closing without a commit is what a kill leaves.
    path = str(tmp_path / "kv.db")
    for index in range(1, 8):
        backend = Backend.open(path, create=index == 1)
        keyspace = Keyspace(backend)
        assert backend.applied_index == keyspace.revision - 1 == (index - 1) // 2 * 2
        for entry in range(backend.applied_index + 1, index + 1):
            _put(keyspace, b"a")
            backend.set_applied(entry, 3, log_crc=entry * 7)
        if index % 2 == 0:
            backend.commit()
            assert backend.log_mark == (index, 3, index * 7)
        backend.close()


def test_the_applied_index_alone_is_written_too(backend: Backend) -> None:
    backend.set_applied(5, 2)
    backend.commit()
    backend.close()
    backend.reopen()
    assert (backend.applied_index, backend.applied_term, backend.pending) == (5, 2, 0)


def test_reads_see_what_is_not_committed_and_readers_do_not(backend: Backend) -> None:
    reader = backend.reader()
    backend.meta_put("x", b"1")
    assert backend.meta_get("x") == b"1"
    assert backend.meta_get("y") is None
    statement = "SELECT value FROM meta WHERE key = 'x'"
    assert reader.execute(statement).fetchall() == []
    backend.commit()
    assert reader.execute(statement).fetchall() == [(b"1",)]
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM meta")
    reader.close()


def test_a_checkpoint_in_a_thread_names_the_index_it_made_durable(backend: Backend) -> None:
    backend.set_applied(3, 1)
    backend.commit()
    backend.set_applied(4, 1)
    backend.meta_put("x", 1)  # the writer is inside a transaction
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(backend.checkpoint()))
    thread.start()
    thread.join()
    assert found == [3]
    backend.commit()
    reader = backend.reader()
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    backend.meta_put("x", 2)
    backend.commit()
    assert backend.checkpoint() is None  # the reader still needs the older pages
    reader.close()
    assert backend.checkpoint() == 4


def test_the_wal_file_does_not_grow_under_steady_writes(backend: Backend) -> None:
    """A transaction is always open when the checkpoint runs, as under load."""
    keyspace = Keyspace(backend)
    wal = Path(backend.path + "-wal")
    limit, sizes = 400_000, []
    for number in range(2000):
        _put(keyspace, b"%d" % (number % 50), bytes(500))
        backend.set_applied(number, 1)
        if number % 20 == 19:
            backend.commit()
            _put(keyspace, b"next", b"")
            if backend.wal_bytes > limit:
                thread = threading.Thread(target=backend.checkpoint)
                thread.start()
                thread.join()
                assert backend.rewind() == number
        sizes.append(backend.wal_bytes)
    assert limit < max(sizes) < limit * 2
    assert wal.stat().st_size < limit * 2
    assert min(sizes[1000:]) < limit // 4


def test_a_close_leaves_no_wal_file_to_scan(backend: Backend, keyspace: Keyspace) -> None:
    _put(keyspace, b"a")
    backend.commit()
    side = Path(f"{backend.path}-wal")
    assert side.stat().st_size > 0
    backend.empty_wal()
    assert side.stat().st_size == 0
    assert keyspace.range(b"a").count == 1


def test_a_snapshot_takes_the_place_of_the_file(tmp_path: Path) -> None:
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    keyspace = Keyspace(backend)
    _put(keyspace, b"old")
    backend.commit()
    other = Backend.open(str(tmp_path / "other.db"), create=True)
    for _ in range(3):
        _put(Keyspace(other), b"new")
    other.set_applied(9, 2)
    other.commit()
    assert other.checkpoint() == 9
    other.close()
    backend.close()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"kv.db{suffix}").unlink(missing_ok=True)
    (tmp_path / "other.db").rename(tmp_path / "kv.db")
    generation = backend.generation
    backend.reopen()
    keyspace.reload()
    assert backend.generation == generation + 1
    assert (backend.applied_index, keyspace.revision) == (9, 4)
    assert keyspace.history.get(b"old") is None
    _put(keyspace, b"later")
    assert keyspace.revision == 5
    backend.close()


def test_space_is_given_back_in_slices(backend: Backend, keyspace: Keyspace) -> None:
    for _ in range(50):
        _put(keyspace, b"a", bytes(20_000))
    backend.commit()
    full = backend.size_bytes
    assert backend.in_use_bytes == full
    backend.execute("DELETE FROM revisions WHERE rev < 50 << 23")
    backend.commit()
    assert backend.size_bytes == full
    assert backend.in_use_bytes < full // 4
    steps = 1
    while backend.vacuum_step(20):
        steps += 1
    assert steps > 5
    assert backend.size_bytes == backend.in_use_bytes < full // 4
    assert backend.query("PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ForeignFile):
        Backend.open(str(tmp_path / "kv.db"), create=False)


def test_a_full_disk_ends_the_member_and_keeps_the_last_commit(tmp_path: Path) -> None:
    # RELIABILITY 3.1, auto-rollback: SQLITE_FULL throws the whole transaction away.
    path = str(tmp_path / "kv.db")
    backend = Backend.open(path, create=True)
    keyspace = Keyspace(backend)
    _put(keyspace, b"a")
    backend.set_applied(1, 1)
    backend.commit()
    backend.query(f"PRAGMA max_page_count = {backend.size_bytes // 4096 + 30}")
    with pytest.raises(StorageFailure, match="SQLITE_FULL"):
        for _ in range(1000):
            _put(keyspace, b"b", bytes(10_000))
            backend.set_applied(backend.applied_index + 1, 1)
    with pytest.raises(AssertionError, match="after a failure"):
        backend.commit()
    with pytest.raises(AssertionError, match="after a failure"):
        backend.meta_put("x", 1)
    backend.close()
    backend = Backend.open(path, create=False)
    assert (backend.applied_index, Keyspace(backend).revision) == (1, 2)
    assert verify(backend.connection) == []
    backend.close()


@pytest.mark.parametrize("operation", ["write", "read"])
def test_an_io_error_ends_the_member(tmp_path: Path, faulty_disk: Any, operation: str) -> None:
    path = str(tmp_path / "kv.db")
    backend = Backend.open(path, create=True, vfs="faulty")
    keyspace = Keyspace(backend)
    for number in range(200):
        _put(keyspace, b"%d" % number, bytes(1000))
    backend.commit()
    backend.close()
    backend.reopen()
    keyspace.reload()
    faulty_disk.fail = operation
    with pytest.raises(StorageFailure):
        _put(keyspace, b"a")
        backend.commit()
        keyspace.range(b"\x00", b"\x00")
    faulty_disk.fail = ""
    backend.close()
    backend.reopen()
    keyspace.reload()
    assert verify(backend.connection) == []
    assert keyspace.revision == 201
    backend.close()


COLUMNS = ("value", "create_revision", "version", "lease", "key", "crc")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_row_is_noticed(backend: Backend, keyspace: Keyspace, column: str) -> None:
    _put(keyspace, b"a", b"value")
    _put(keyspace, b"b", b"value")
    assert verify(backend.connection) == []
    new = "x'62'" if column == "key" else "x'7661'" if column == "value" else f"{column} + 1"
    backend.execute(f"UPDATE revisions SET {column} = {new} WHERE key = x'61'")
    with pytest.raises(Damaged):
        keyspace.range(b"a")
    assert "kv.db: the row of revision 2 is damaged" in verify(backend.connection)
    assert keyspace.range(b"b").count == 1


def test_current_keys_that_do_not_fit_their_history(backend: Backend, keyspace: Keyspace) -> None:
    for key in (b"a", b"b", b"c"):
        _put(keyspace, key)
    backend.execute("DELETE FROM current WHERE key = x'61'")
    backend.execute("UPDATE current SET version = 9 WHERE key = x'62'")
    backend.execute("DELETE FROM revisions WHERE key = x'63'")
    assert verify(backend.connection) == [
        "the current key differs from its newest revision: b'a', revision 2",
        "the current key differs from its newest revision: b'b', revision 3",
        "a current key has no revision: b'c', revision 4",
    ]


def test_every_single_bit_of_a_row_changes_its_crc() -> None:
    row = (5 << 23 | 2, b"key", b"value", 3, 2, -7)
    good = crc_of(*row)
    assert good == 0x3F8CD4C7  # part of the file format
    rev, key, value, create, version, lease = row
    for bit in range(62):
        flip = 1 << bit
        assert crc_of(rev ^ flip, key, value, create, version, lease) != good
        assert crc_of(rev, key, value, create ^ flip, version, lease) != good
        assert crc_of(rev, key, value, create, version ^ flip, lease) != good
        assert crc_of(rev, key, value, create, version, lease ^ flip) != good
    assert crc_of(rev, b"keyv", b"alue", create, version, lease) == good  # lengths are SQLite's
    assert crc_of(rev, key, value, version, create, lease) != good


def test_the_schema_names_itself(backend: Backend) -> None:
    assert backend.query("PRAGMA application_id") == [(SCHEMA.application_id,)]
    assert backend.query("PRAGMA integrity_check") == [("ok",)]
