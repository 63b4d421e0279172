"""Online copies and the installation order: whole or not there, after every crash."""

import hashlib
import os
import shutil
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import apsw
import pytest

from pyetcd.raft.types import Entry, HardState, Ready, Snapshot, SnapshotMeta
from pyetcd.store import db, snapshot
from pyetcd.store.wal import Wal

SCHEMA = db.Schema(
    application_id=0x4321,
    version=1,
    sql="CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);",
    incremental_vacuum=True,
)


def fill(path: Path, first: int, count: int) -> apsw.Connection:
    connection = db.open_writer(str(path), schema=SCHEMA, full_sync=False)
    rows = ((i, b"%d" % i * 20) for i in range(first, first + count))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    connection.execute("COMMIT")
    return connection


def content(path: Path) -> list[int]:
    connection = db.open_writer(str(path), schema=SCHEMA, full_sync=False)
    try:
        return [a for (a,) in connection.execute("SELECT a FROM t ORDER BY a")]
    finally:
        connection.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = fill(tmp_path / "kv.db", 0, 2000)
    yield connection
    connection.close()


def test_a_copy_is_one_state_and_private(tmp_path: Path, writer: apsw.Connection) -> None:
    target = tmp_path / "copy"
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM t WHERE a < 1000")  # not committed: not in the copy
    copy = snapshot.make(str(tmp_path / "kv.db"), str(target))
    writer.execute("COMMIT")
    assert copy.path == str(target)
    assert copy.size_bytes == target.stat().st_size
    assert copy.sha256 == hashlib.sha256(target.read_bytes()).digest()
    assert target.stat().st_mode & 0o777 == 0o600
    before = sorted(os.listdir(tmp_path))
    snapshot.verify(str(target), schema=SCHEMA, sha256=copy.sha256)
    assert sorted(os.listdir(tmp_path)) == before
    assert content(target) == list(range(2000))
    connection = db.open_writer(str(target), schema=SCHEMA, full_sync=False)
    assert connection.pragma("auto_vacuum") == 2
    connection.close()


def test_a_copy_that_is_larger_than_the_page_cache(tmp_path: Path, writer: apsw.Connection) -> None:
    """Every page has its checksum, also those that SQLite writes early; free pages are left out."""
    rows = ((i, os.urandom(2000)) for i in range(10_000, 15_000))
    writer.execute("BEGIN IMMEDIATE")
    writer.executemany("INSERT INTO t VALUES (?, ?)", rows)
    writer.execute("DELETE FROM t WHERE a >= 12500")
    writer.execute("COMMIT")
    copy = snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "copy"))
    snapshot.verify(copy.path, schema=SCHEMA, sha256=copy.sha256)
    assert content(Path(copy.path)) == [*range(2000), *range(10_000, 12_500)]
    assert 5 << 20 < copy.size_bytes < 7 << 20


def test_copies_under_writes(tmp_path: Path, writer: apsw.Connection) -> None:
    """Each transaction moves one row up by 10,000: the number of rows never changes."""
    copies = []
    failures: list[BaseException] = []

    def copy() -> None:
        try:
            for number in range(5):
                target = str(tmp_path / f"copy{number}")
                copies.append(snapshot.make(str(tmp_path / "kv.db"), target))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    moved = 0
    while thread.is_alive() and moved < 2000:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM t WHERE a = ?", (moved,))
        writer.execute("INSERT INTO t VALUES (?, x'00')", (moved + 10_000,))
        writer.execute("COMMIT")
        moved += 1
    thread.join()
    assert not failures and len(copies) == 5
    for made in copies:
        rows = content(Path(made.path))
        done = 2000 - sum(row < 2000 for row in rows)
        assert rows == [*range(done, 2000), *range(10_000, 10_000 + done)]


def test_a_cancelled_copy_leaves_nothing(tmp_path: Path, writer: apsw.Connection) -> None:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(snapshot.SnapshotFailed, match="was cancelled"):
        snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "copy"), is_cancelled=lambda: True)
    assert sorted(os.listdir(tmp_path)) == before
    made = snapshot.make(
        str(tmp_path / "kv.db"), str(tmp_path / "copy"), is_cancelled=lambda: False
    )
    snapshot.verify(made.path, schema=SCHEMA)


def test_a_copy_never_overwrites(tmp_path: Path, writer: apsw.Connection) -> None:
    (tmp_path / "copy").write_text("precious")
    with pytest.raises(snapshot.SnapshotFailed, match="File exists"):
        snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "precious"
    with pytest.raises(snapshot.SnapshotFailed, match="No such file"):
        snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "none" / "copy"))


@pytest.mark.parametrize("offset", [0, 30, 4096 * 3 + 3, 4096 * 5, -1])
def test_verify_finds_a_changed_byte(tmp_path: Path, writer: apsw.Connection, offset: int) -> None:
    made = snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "copy"))
    data = bytearray((tmp_path / "copy").read_bytes())
    data[offset] ^= 1
    (tmp_path / "copy").write_bytes(data)
    with pytest.raises(snapshot.SnapshotFailed):
        snapshot.verify(made.path, schema=SCHEMA, sha256=made.sha256)


def test_verify_refuses_what_is_not_ours(tmp_path: Path, writer: apsw.Connection) -> None:
    snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "copy"))
    other = db.Schema(1, 1, SCHEMA.sql)
    for path, schema in (("copy", other), ("none", SCHEMA), (".", SCHEMA)):
        with pytest.raises(snapshot.SnapshotFailed):
            snapshot.verify(str(tmp_path / path), schema=schema)
    with open(tmp_path / "copy", "r+b") as file:
        file.truncate(8192)
    with pytest.raises(snapshot.SnapshotFailed):
        snapshot.verify(str(tmp_path / "copy"), schema=SCHEMA)


def test_install_removes_the_old_wal_file(tmp_path: Path) -> None:
    """Beside the new main file SQLite would replay it."""
    target = tmp_path / "kv.db"
    fill(tmp_path / "other.db", 5000, 10).close()
    snapshot.make(str(tmp_path / "other.db"), snapshot.temporary_path(str(target), "in"))
    fill(target, 0, 10).close()
    assert (tmp_path / "kv.db-wal").stat().st_size > 0
    kept = snapshot.keep(snapshot.temporary_path(str(target), "in"), str(target), 77)
    assert kept.endswith("kv.db.snap-000000000000004d")
    snapshot.install(kept, str(target))
    assert not (tmp_path / "kv.db-wal").exists()
    assert content(target) == list(range(5000, 5010))


def test_recover_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "kv[1].db"  # a name that glob would take for a pattern
    fill(target, 0, 10).close()
    for name in ("kv[1].db.tmp-x", "kv[1].db.snap-0000000000000001", "kv[1].db.snap-junk"):
        (tmp_path / name).write_text("junk")
    assert not snapshot.recover(str(target), 0)
    assert sorted(p.name for p in tmp_path.iterdir() if ".db." in p.name) == []
    assert content(target) == list(range(10))
    assert not snapshot.recover(str(target), 5)


def test_a_leftover_that_cannot_be_removed_is_a_failed_disk(tmp_path: Path) -> None:
    target = tmp_path / "kv.db"
    fill(target, 0, 10).close()
    (tmp_path / "kv.db.tmp-x").mkdir()  # unlink fails, as it would on a broken or read-only disk
    with pytest.raises(db.StorageFailure, match=r"kv.db.tmp-x: remove failed: "):
        snapshot.recover(str(target), 0)


def crash_points(directory: Path, received: Path) -> Generator[str, None, None]:
    """Receive and install a snapshot at index 100; a yield is a place where we may be killed."""
    target = str(directory / "kv.db")
    log = Wal.open(str(directory / "wal.db"))
    try:
        temporary = snapshot.temporary_path(target, "in")
        shutil.copy(received, temporary)
        yield "received"
        kept = snapshot.keep(temporary, target, 100)
        yield "kept"
        meta = SnapshotMeta(100, 3)
        log.stage(Ready(snapshot=Snapshot(meta), hard_state=HardState(3, 0, 100)))
        yield "staged"
        log.commit()
        yield "committed"
        log.publish()
        db.remove_if_exists(target + "-wal")
        yield "half installed"
        snapshot.install(kept, target)
        yield "installed"
    finally:
        log._connection.close()


@pytest.mark.parametrize("stop", range(6))
def test_installation_survives_a_crash_at_every_step(tmp_path: Path, stop: int) -> None:
    directory = tmp_path / "member"
    directory.mkdir()
    fill(directory / "kv.db", 0, 10).close()
    log = Wal.create(str(directory / "wal.db"), cluster_id=1, member_id=2)
    log.stage(Ready(entries=[Entry(1, i) for i in range(1, 11)], hard_state=HardState(1, 0, 10)))
    log.commit()
    log.publish()
    log.close()
    fill(tmp_path / "other.db", 5000, 10).close()
    received = tmp_path / "received"
    snapshot.make(str(tmp_path / "other.db"), str(received))

    steps = crash_points(directory, received)
    name = [next(steps) for _ in range(stop + 1)][-1]
    steps.close()

    log = Wal.open(str(directory / "wal.db"))
    installed = snapshot.recover(str(directory / "kv.db"), log.installed_index)
    is_new = name in ("committed", "half installed", "installed")
    assert installed == (name in ("committed", "half installed"))
    assert log.last_index() == (100 if is_new else 10)
    assert log.installed_index == (100 if is_new else 0)
    assert content(directory / "kv.db")[0] == (5000 if is_new else 0)
    assert not list(directory.glob("kv.db.*"))
    log.close()


def test_full_disk_harms_only_the_copy(
    tmp_path: Path, writer: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(db, "fsync_file", full)
    with pytest.raises(snapshot.SnapshotFailed, match="No space left on device"):
        snapshot.make(str(tmp_path / "kv.db"), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
    with pytest.raises(snapshot.SnapshotFailed, match="No space left on device"):
        snapshot.keep(str(tmp_path / "kv.db"), str(tmp_path / "x"), 1)
    with pytest.raises(db.StorageFailure, match="No space left on device"):
        snapshot.install(str(tmp_path / "kv.db"), str(tmp_path / "x"))
    writer.execute("INSERT INTO t VALUES (99999, x'00')")


def test_an_installed_file_needs_no_journal(tmp_path: Path, writer: apsw.Connection) -> None:
    """Its first opening must write nothing: a crash in it left a journal that a start refused."""
    target = tmp_path / "here" / "kv.db"
    target.parent.mkdir()
    temporary = snapshot.temporary_path(str(target), "in")
    snapshot.make(str(tmp_path / "kv.db"), temporary)
    kept = snapshot.keep(temporary, str(target), 77)
    assert os.listdir(target.parent) == [os.path.basename(kept)]
    snapshot.install(kept, str(target))
    before = target.read_bytes()
    assert before[18:20] == b"\2\2"  # sqlite.org/fileformat2.html: write-ahead logging
    db.open_reader(str(target)).close()
    content(target)
    assert target.read_bytes() == before
