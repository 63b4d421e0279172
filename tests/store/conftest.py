"""Helpers for the store's tests."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from pyetcd.raft.types import Entry, EntryType

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FaultyDisk(apsw.VFS):
    """The real disk until `fail` names the operation that shall fail: sync, write or read."""

    def __init__(self) -> None:
        super().__init__("faulty", "unix")
        self.fail = ""
        self.syncs = 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return FaultyFile(self, name, flags)


class FaultyFile(apsw.VFSFile):
    def __init__(
        self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self.disk = disk
        super().__init__("unix", name, flags)

    def _check(self, operation: str, code: int) -> None:
        if self.disk.fail == operation:
            error = apsw.IOError(f"injected at {operation}")
            error.result = apsw.SQLITE_IOERR  # type: ignore[attr-defined]
            error.extendedresult = code  # type: ignore[attr-defined]
            raise error

    def xSync(self, flags: int) -> None:
        self._check("sync", apsw.SQLITE_IOERR_FSYNC)
        self.disk.syncs += 1
        super().xSync(flags)

    def xWrite(self, data: "Buffer", offset: int) -> None:
        self._check("write", apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._check("read", apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)


@pytest.fixture
def faulty_disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    yield disk
    disk.unregister()


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """entry(index, term, size): data that follows from index and term alone."""

    def make(index: int, term: int = 1, size: int = 20) -> Entry:
        return Entry(term, index, EntryType.NORMAL, f"{index}/{term}/".encode().ljust(size, b"."))

    return make


@pytest.fixture
def crash_copy(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """What another process would find if the owner of `path` died now: the files without -shm."""
    count = 0

    def copy(path: Path) -> Path:
        nonlocal count
        count += 1
        target = tmp_path / f"crash{count}" / path.name
        target.parent.mkdir()
        for suffix in ("", "-wal"):
            if path.with_name(path.name + suffix).exists():
                shutil.copy(path.with_name(path.name + suffix), f"{target}{suffix}")
        return target

    yield copy
