"""A file of an older schema is upgraded when it is opened, whole or not at all."""

from pathlib import Path

import apsw
import pytest

from pyetcd.store import db

ONE = db.Schema(0x1234, 1, "CREATE TABLE t (a INTEGER PRIMARY KEY);")
TWO = db.Schema(
    0x1234, 2, "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);", ("ALTER TABLE t ADD b TEXT;",)
)
THREE = db.Schema(
    0x1234,
    3,
    "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); CREATE TABLE u (c);",
    (*TWO.upgrades, "CREATE TABLE u (c); INSERT INTO u SELECT sum(a) FROM t;"),
)


def opened(path: Path, schema: db.Schema) -> apsw.Connection:
    return db.open_writer(str(path), schema=schema, full_sync=True)


def version_in_main_file(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[60:64], "big")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A killed process's file of version 1; two rows are in the -wal file alone."""
    path = tmp_path / "a.db"
    connection = opened(path, ONE)
    connection.execute("INSERT INTO t VALUES (1), (2)")
    connection.close()  # without a checkpoint
    assert (tmp_path / "a.db-wal").stat().st_size > 0
    return path


def test_one_step_and_two(old: Path) -> None:
    for schema in (TWO, THREE):
        connection = opened(old, schema)
        assert connection.pragma("user_version") == schema.version
        assert version_in_main_file(old) == schema.version
        connection.close()
    connection = opened(old, THREE)
    assert list(connection.execute("SELECT * FROM u")) == [(3,)]
    assert list(connection.execute("SELECT a, b FROM t")) == [(1, None), (2, None)]
    connection.close()


def test_two_steps_at_once(old: Path) -> None:
    connection = opened(old, THREE)
    assert list(connection.execute("SELECT * FROM u")) == [(3,)]
    connection.close()
    db.preflight(str(old), THREE)
    with pytest.raises(db.ForeignFile, match="newer pyetcd"):
        db.preflight(str(old), ONE)
    with pytest.raises(db.ForeignFile, match="newer pyetcd"):
        opened(old, TWO)


def test_a_step_that_fails_leaves_the_old_version(old: Path) -> None:
    broken = db.Schema(
        0x1234, 3, "", (TWO.upgrades[0], "INSERT INTO t (a) VALUES (3); INSERT INTO t SELECT 1, 2;")
    )
    with pytest.raises(db.StorageFailure, match="upgrade failed"):
        opened(old, broken)
    assert version_in_main_file(old) == 1
    connection = opened(old, ONE)
    assert list(connection.execute("SELECT * FROM t")) == [(1,), (2,)]
    connection.close()


def test_too_old(tmp_path: Path) -> None:
    opened(tmp_path / "a.db", ONE).close()
    before = (tmp_path / "a.db").read_bytes()
    later = db.Schema(0x1234, 3, THREE.sql, THREE.upgrades[1:])
    with pytest.raises(db.ForeignFile, match="has schema 1, this pyetcd needs 3; "):
        opened(tmp_path / "a.db", later)
    assert (tmp_path / "a.db").read_bytes() == before
