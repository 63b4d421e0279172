"""times.py's worked example, and its rules and limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyetcd.store import times
from pyetcd.store.backend import Backend
from pyetcd.store.compact import compact, hash_kv
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.times import Moment, Times


class World:
    """A keyspace whose clock stands still until it is told to move."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.backend = Backend.open(str(path), create=create)
        self.keyspace = Keyspace(self.backend)
        self.wall_s = 90.0
        self.times = Times(self.backend, self.keyspace, lambda: self.wall_s)

    def put(self, wall_s: float) -> int:
        """A write and its commit; the revision."""
        self.wall_s = wall_s
        txn = self.keyspace.begin()
        txn.put(b"k", b"v", 0)
        txn.end()
        self.commit()
        return self.keyspace.revision

    def commit(self) -> None:
        self.times.note()
        self.backend.commit()

    def rows(self) -> list[tuple[object, ...]]:
        return self.backend.query("SELECT second, revision FROM times ORDER BY second")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "kv.db")
    yield made
    made.backend.close()


def test_the_worked_example(world: World) -> None:
    for wall_s in (100.2, 100.9, 107.0):
        world.put(wall_s)
    assert world.rows() == [(100, 3), (107, 4)]
    assert [world.times.at(second) for second in (99, 100, 106, 107, 999)] == [
        None,
        Moment(100, 3),
        Moment(100, 3),
        Moment(107, 4),
        Moment(107, 4),
    ]
    assert world.times.first() == Moment(100, 3)
    assert world.times.now() == 107


def test_nothing_is_known_at_first(world: World) -> None:
    assert (world.times.at(1 << 62), world.times.first()) == (None, None)
    world.commit()
    assert world.rows() == [(90, 1)]  # that there was nothing yet


def test_what_changes_nothing_is_not_noted(world: World) -> None:
    world.put(100)
    world.wall_s = 200
    assert world.backend.pending == 0
    world.commit()
    assert world.backend.pending == 0
    assert world.rows() == [(100, 2)]


def test_a_clock_that_goes_back(world: World) -> None:
    for wall_s in (100, 50, 60, 101):
        world.put(wall_s)
    assert world.rows() == [(100, 4), (101, 5)]


def test_oldest_go_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "ROWS_MAX", 3)
    for wall_s in range(100, 110):
        world.put(wall_s)
        world.put(wall_s)
    assert world.rows() == [(107, 17), (108, 19), (109, 21)]


def test_compacted_ones_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "ROWS_MAX", 5)
    for wall_s in range(100, 105):
        world.put(wall_s)
    compact(world.keyspace, 4)
    world.put(105)
    assert world.rows() == [(102, 4), (103, 5), (104, 6), (105, 7)]
    world.put(106)
    world.put(107)
    assert [second for second, _ in world.rows()] == [103, 104, 105, 106, 107]


def test_after_a_restart_and_another_file(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    world = World(path)
    world.put(100)
    world.backend.close()
    world = World(path, create=False)
    world.wall_s = 50
    world.commit()
    assert world.rows() == [(100, 2)]
    world.put(60)
    assert world.rows() == [(100, 3)]
    world.backend.close()
    other = World(tmp_path / "other.db")
    for wall_s in (200, 201, 202, 203):
        other.put(wall_s)
    other.backend.checkpoint()
    other.backend.empty_wal()
    other.backend.close()
    (tmp_path / "other.db").rename(path)
    for name in ("kv.db-wal", "kv.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    world.backend.reopen()
    world.keyspace.reload()
    world.put(210)
    assert world.rows() == [(200, 2), (201, 3), (202, 4), (203, 5), (210, 6)]
    world.backend.close()


def test_members_with_other_clocks_have_the_same_hash(tmp_path: Path) -> None:
    found = []
    for name, first_s in (("a.db", 100), ("b.db", 5000)):
        world = World(tmp_path / name)
        for number in range(5):
            world.put(first_s + number)
        found.append((hash_kv(world.keyspace, 0), world.rows()))
        world.backend.close()
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
