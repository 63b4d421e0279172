"""Opening SQLite files: refusals change nothing, pragmas hold, errors are final."""

import os
from pathlib import Path

import apsw
import pytest

from pyetcd.store import db, snapshot

SCHEMA = db.Schema(
    application_id=0x1234, version=3, sql="CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);"
)


def make(path: Path) -> apsw.Connection:
    return db.open_writer(str(path), schema=SCHEMA, full_sync=True)


def listing(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


def test_new_file_is_private_and_complete(tmp_path: Path) -> None:
    connection = make(tmp_path / "a.db")
    connection.execute("INSERT INTO t VALUES (1, x'00')")
    reader = db.open_reader(str(tmp_path / "a.db"))
    assert list(reader.execute("SELECT * FROM t")) == [(1, b"\0")]
    for name in ("a.db", "a.db-wal", "a.db-shm"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    reader.close()
    connection.close()
    assert not list(tmp_path.glob("*.new*"))


@pytest.mark.parametrize(("full_sync", "level"), [(True, 2), (False, 1)])
def test_pragmas(tmp_path: Path, full_sync: bool, level: int) -> None:
    path = str(tmp_path / "a.db")
    schema = db.Schema(1, 1, SCHEMA.sql, incremental_vacuum=True)
    connection = db.open_writer(path, schema=schema, full_sync=full_sync)
    found = {
        name: connection.pragma(name)
        for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size")
    }
    assert found == {
        "journal_mode": "wal",
        "synchronous": level,
        "wal_autocheckpoint": 0,
        "mmap_size": 0,
    }
    assert connection.pragma("secure_delete") == 0
    assert connection.pragma("auto_vacuum") == 2
    connection.close()


def test_reader_neither_writes_nor_checkpoints(tmp_path: Path) -> None:
    connection = make(tmp_path / "a.db")
    connection.execute("INSERT INTO t VALUES (1, x'00')")
    reader = db.open_reader(str(tmp_path / "a.db"))
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("INSERT INTO t VALUES (2, x'00')")
    with pytest.raises(db.StorageFailure):
        db.checkpoint(reader)
    connection.close()
    before = (tmp_path / "a.db-wal").read_bytes()
    reader.close()
    # The last one out must not have checkpointed on its way.
    assert (tmp_path / "a.db-wal").read_bytes() == before != b""


def test_closing_the_writer_does_not_checkpoint(tmp_path: Path) -> None:
    connection = make(tmp_path / "a.db")
    connection.execute("INSERT INTO t VALUES (1, x'00')")
    connection.close()
    assert (tmp_path / "a.db-wal").stat().st_size > 0


def test_a_refused_start_does_not_checkpoint(tmp_path: Path) -> None:
    live = make(tmp_path / "a.db")
    live.execute("INSERT INTO t VALUES (1, 'x')")
    directory = tmp_path / "killed"
    directory.mkdir()
    for name in ("a.db", "a.db-wal"):
        (directory / name).write_bytes((tmp_path / name).read_bytes())
    live.close()
    content = bytearray((directory / "a.db").read_bytes())
    content[200] ^= 1  # in the first page, which the statement did not change
    (directory / "a.db").write_bytes(content)
    before = {name: (directory / name).read_bytes() for name in ("a.db", "a.db-wal")}
    with pytest.raises(db.Damaged):
        db.open_writer(str(directory / "a.db"), schema=SCHEMA, full_sync=True, create=False)
    assert before == {name: (directory / name).read_bytes() for name in before}


def test_checkpoint_stops_at_a_reader_and_does_not_wait_for_it(tmp_path: Path) -> None:
    connection = make(tmp_path / "a.db")
    connection.execute("INSERT INTO t VALUES (1, x'00')")
    reader = db.open_reader(str(tmp_path / "a.db"))
    cursor = reader.execute("SELECT * FROM t")
    connection.execute("INSERT INTO t VALUES (2, x'00')")
    assert not db.checkpoint(connection).complete
    cursor.close()
    assert db.checkpoint(connection).complete
    connection.execute("INSERT INTO t VALUES (3, x'00')")
    done = db.checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert done.complete and (tmp_path / "a.db-wal").stat().st_size == 0
    reader.close()
    connection.close()


def foreign_text(path: Path) -> None:
    path.write_bytes(b"hello" * 100)


def foreign_empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign_short(path: Path) -> None:
    path.write_bytes(db.SQLITE_MAGIC + b"\0" * 10)


def foreign_directory(path: Path) -> None:
    path.mkdir()


def foreign_fifo(path: Path) -> None:
    os.mkfifo(path)


def foreign_dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def foreign_program(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE x (y)")
    connection.close()


def foreign_newer(path: Path) -> None:
    schema = db.Schema(SCHEMA.application_id, 4, SCHEMA.sql)
    db.create_file(str(path), schema=schema)


def foreign_older(path: Path) -> None:
    schema = db.Schema(SCHEMA.application_id, 2, SCHEMA.sql)
    db.create_file(str(path), schema=schema)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (foreign_text, "is not a SQLite database"),
        (foreign_empty, "is empty"),
        (foreign_short, "is not a SQLite database"),
        (foreign_directory, "is a directory"),
        (foreign_fifo, "is not a regular file"),
        (foreign_dangling, "cannot be read: No such file or directory"),
        (foreign_program, "belongs to another program (application id 0x0)"),
        (foreign_newer, "was written by a newer pyetcd (schema 4, this one knows 3)"),
        (foreign_older, "has schema 2, this pyetcd needs 3"),
    ],
)
def test_refusals_change_nothing(tmp_path: Path, build: object, reason: str) -> None:
    path = tmp_path / "a.db"
    assert callable(build)
    build(path)
    if build is not foreign_fifo:
        before = listing(tmp_path)
    with pytest.raises(db.ForeignFile) as caught:
        make(path)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{path}: {reason}; ")
    assert "\n" not in str(caught.value)
    if build is not foreign_fifo:
        assert listing(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make(path).close()
    path.chmod(0)
    with pytest.raises(db.ForeignFile, match="cannot be read: Permission denied"):
        make(path)


def test_missing_file_is_refused_when_it_must_exist(tmp_path: Path) -> None:
    with pytest.raises(db.ForeignFile, match="no such file"):
        db.open_writer(str(tmp_path / "a.db"), schema=SCHEMA, full_sync=True, create=False)
    assert listing(tmp_path) == {}


def test_a_stale_wal_is_never_replayed_into_a_new_file(tmp_path: Path) -> None:
    connection = make(tmp_path / "a.db")
    connection.execute("INSERT INTO t VALUES (1, x'00')")
    connection.close()
    (tmp_path / "a.db").unlink()
    before = listing(tmp_path)
    with pytest.raises(db.ForeignFile, match="is missing, but its -wal file exists"):
        make(tmp_path / "a.db")
    assert listing(tmp_path) == before


def test_remains_of_an_interrupted_creation_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.db.new").write_bytes(b"half")
    (tmp_path / "a.db.new-journal").write_bytes(b"half")
    make(tmp_path / "a.db").close()
    assert not list(tmp_path.glob("*.new*"))


def test_full_disk_is_final_and_rolls_back_everything(tmp_path: Path) -> None:
    """The auto-rollback trap: after SQLITE_FULL the transaction is gone."""
    connection = make(tmp_path / "a.db")
    connection.pragma("max_page_count", 8)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES (1, x'00')")
    with pytest.raises(db.StorageFailure, match="write failed: SQLITE_FULL"):
        db.guarded(
            "a.db", "write", lambda: connection.execute("INSERT INTO t VALUES (2, zeroblob(99999))")
        )
    assert not connection.in_transaction
    assert list(connection.execute("SELECT count(*) FROM t")) == [(0,)]
    connection.close()


def test_our_own_mistakes_are_assertions() -> None:
    with pytest.raises(AssertionError):
        db.failure("a.db", "write", apsw.SQLError("no such table"))


def test_damage_is_found_by_quick_check(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = make(path)
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, b"x" * 500) for i in range(100)])
    db.checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 3 + 64] = b"\xff" * 64
    path.write_bytes(data)
    connection = make(path)
    with pytest.raises(db.Damaged) as caught:
        db.quick_check(connection)
    assert "\n" not in caught.value.reason
    connection.close()


@pytest.mark.parametrize(
    ("version", "sound"),
    [
        ("3.40.1", False),
        ("3.44.5", False),
        ("3.44.6", True),
        ("3.45.0", False),
        ("3.50.6", False),
        ("3.50.7", True),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.54.1", True),
        ("4.0.0", True),
    ],
)
def test_sqlite_with_the_wal_reset_bug_is_refused(version: str, sound: bool) -> None:
    if sound:
        db.require_sound_sqlite(version)
    else:
        with pytest.raises(db.StorageFailure, match="WAL-reset bug"):
            db.require_sound_sqlite(version)


def test_ids_use_all_64_bits() -> None:
    for value in (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        assert db.unsigned(db.signed(value)) == value
        assert -(1 << 63) <= db.signed(value) < 1 << 63
    with pytest.raises(AssertionError):
        db.signed(1 << 64)
    with pytest.raises(AssertionError):
        db.signed(-1)


# -- page checksums


def test_a_flipped_bit_in_any_page_is_damage(tmp_path: Path) -> None:
    """Also where no row has a crc: interior pages, indexes, tables of any kind."""
    path = tmp_path / "a.db"
    writer = make(path)
    writer.execute("CREATE TABLE more (a INTEGER PRIMARY KEY, b BLOB)")
    writer.execute("CREATE INDEX more_b ON more (b)")
    for number in range(300):
        writer.execute("INSERT INTO more VALUES (?, ?)", (number, b"%d" % number * 50))
    db.checkpoint(writer, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    writer.close()
    whole = path.read_bytes()
    pages = len(whole) // db.PAGE_BYTES
    assert pages > 20
    for page in range(1, pages):  # the first one is preflight's, too
        spoilt = bytearray(whole)
        spoilt[page * db.PAGE_BYTES + page * 131 % db.PAGE_BYTES] ^= 1 << page % 8
        path.write_bytes(spoilt)
        reader = db.open_reader(str(path))
        try:
            with pytest.raises(db.Damaged):
                db.quick_check(reader)
                db.guarded(str(path), "read", reader.execute("SELECT * FROM more").fetchall)
                query = "SELECT count(*) FROM more INDEXED BY more_b"
                db.guarded(str(path), "read", reader.execute(query).fetchall)
        finally:
            reader.close()


def test_a_copy_has_its_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    writer = make(path)
    writer.execute("CREATE TABLE more (a INTEGER PRIMARY KEY, b BLOB)")
    writer.execute("INSERT INTO more VALUES (1, ?)", (b"x" * 20_000,))
    snapshot.make(str(path), str(tmp_path / "copy.db"))
    writer.close()
    copy = bytearray((tmp_path / "copy.db").read_bytes())
    snapshot.verify(str(tmp_path / "copy.db"), schema=SCHEMA)
    copy[-5000] ^= 1
    (tmp_path / "copy.db").write_bytes(copy)
    with pytest.raises(snapshot.SnapshotFailed, match=r"quick_check|checksum"):
        snapshot.verify(str(tmp_path / "copy.db"), schema=SCHEMA)
