"""Blocks kept back, and a log that repeats what a full disk has undone."""

import os
from pathlib import Path

import apsw
import pytest

from pyetcd.raft.types import Entry, HardState, Ready
from pyetcd.store import db
from pyetcd.store.space import BLOCK_BYTES, START_BYTES, Reserve, make_room
from pyetcd.store.wal import Wal


def allocated(path: Path) -> int:
    return path.stat().st_blocks * BLOCK_BYTES


def test_blocks_ahead_do_not_change_the_length(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path))
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert reserve.keep_ahead(str(path), 1)
    assert path.read_bytes() == b"x" * 100
    assert allocated(path) >= reserve.unit_bytes
    os.truncate(path, 100)  # as SQLite does after a checkpoint
    assert reserve.keep_ahead(str(path), 1)
    assert allocated(path) >= reserve.unit_bytes
    assert reserve.keep_ahead(str(tmp_path / "missing"), 1)
    reserve.forget()


def test_the_reserve_is_real(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path))
    assert (reserve.is_held, reserve.is_claimed) == (False, False)
    assert reserve.hold()
    assert (reserve.is_held, reserve.is_claimed) == (True, False)
    assert allocated(Path(reserve.path)) >= reserve.size_bytes
    assert reserve.give_up() and not reserve.give_up()
    assert (reserve.is_held, reserve.is_claimed) == (False, True)
    assert reserve.hold() and not make_room(str(tmp_path)), "there is space: it stays"
    reserve.remove()
    reserve.remove()
    assert not reserve.is_held and not reserve.is_claimed


def test_a_start_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(str(tmp_path))
    assert reserve.hold()
    monkeypatch.setattr(Reserve, "free_bytes", lambda self: 0 if self.is_held else START_BYTES)
    assert make_room(str(tmp_path)) and not reserve.is_held
    monkeypatch.setattr(Reserve, "free_bytes", lambda self: 0)
    with pytest.raises(db.StorageFailure, match="no space left on the disk; the start needs"):
        make_room(str(tmp_path))
    (tmp_path / "kv.db-wal").write_bytes(bytes(START_BYTES))
    assert not make_room(str(tmp_path)), "a killed member has its blocks"


def ready(first: int, count: int, term: int = 1, commit: int = 0) -> Ready:
    entries = [Entry(term, first + at, data=bytes([at]) * 3000) for at in range(count)]
    return Ready(None, HardState(term, 0, commit), entries, None, [], [], [], [])


def set_room(wal: Wal, pages: int) -> None:
    """A disk that has so many pages more for the file; the same error as a full one."""
    now = wal._connection.pragma("page_count")
    wal._connection.pragma("max_page_count", now + pages)


def test_a_log_repeats_what_a_full_disk_has_undone(tmp_path: Path) -> None:
    path = str(tmp_path / "wal.db")
    wal = Wal.create(path, cluster_id=1, member_id=2)
    calls = []

    def make_room_now() -> bool:
        calls.append(wal._connection.in_transaction)
        set_room(wal, 10_000)
        return True

    wal.on_full = make_room_now
    wal.stage(ready(1, 20))
    wal.commit()
    wal.publish()
    set_room(wal, 10)
    # Three stages in one transaction: one fits, one replaces, the last is too much.
    wal.stage(ready(21, 5))
    wal.stage(ready(23, 4, term=2))
    wal.stage(ready(27, 30, term=2, commit=20))
    assert calls == [False], "rolled back, and repeated"
    assert wal.full_total == 1
    wal.commit()
    wal.publish()
    terms = [1] * 22 + [2] * 34
    assert [entry.term for entry in wal.entries(1, 57, 1 << 30)] == terms
    wal.close()
    wal = Wal.open(path)
    assert [entry.term for entry in wal.entries(1, 57, 1 << 30)] == terms
    assert wal.hard_state == HardState(2, 0, 20)
    wal.close()


@pytest.mark.parametrize("has_hook", [True, False])
def test_a_log_that_stays_full_is_the_end(tmp_path: Path, *, has_hook: bool) -> None:
    path = str(tmp_path / "wal.db")
    wal = Wal.create(path, cluster_id=1, member_id=2)
    wal.on_full = (lambda: True) if has_hook else None
    wal.stage(ready(1, 5))
    wal.commit()
    wal.publish()
    set_room(wal, 3)
    with pytest.raises(db.DiskFull, match="SQLITE_FULL"):
        wal.stage(ready(6, 50))
    with pytest.raises(db.StorageFailure):
        wal.commit()
    wal.close()
    wal = Wal.open(path)
    assert wal.last_index() == 5
    wal.close()


def test_a_checkpoint_that_does_not_fit_is_tried_again(tmp_path: Path) -> None:
    """By a VFS below which the main file cannot grow."""
    vfs = Narrow()
    try:
        connection = db.open_writer(
            str(tmp_path / "a.db"),
            schema=db.Schema(1, 1, "CREATE TABLE t (a)"),
            full_sync=True,
            vfs="narrow",
        )
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
        vfs.is_full = True
        with pytest.raises(db.DiskFull):
            db.checkpoint(connection)
        vfs.is_full = False
        assert db.checkpoint(connection).complete
        assert connection.pragma("integrity_check") == "ok"
        connection.close()
    finally:
        vfs.unregister()


class Narrow(apsw.VFS):
    """The real disk, but the main file may not grow while it `is_full`."""

    def __init__(self) -> None:
        self.is_full = False
        super().__init__("narrow", "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "NarrowFile":
        return NarrowFile(self, name, flags)


class NarrowFile(apsw.VFSFile):
    def __init__(self, vfs: Narrow, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._vfs = vfs
        self._is_main = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._vfs.is_full and self._is_main and offset + len(data) > self.xFileSize():
            raise apsw.FullError("no space")
        super().xWrite(data, offset)
