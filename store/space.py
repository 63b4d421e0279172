"""Space kept back on the disk, so that a full disk refuses writes of clients and nothing else.

Strategy. A delete, a compaction, an alarm and a checkpoint all need space before they give any
back, and on a disk that somebody else has filled to the last byte there is none. So two kinds of it
are taken beforehand:

    beyond the ends of all files        blocks that belong to them already (`keep_ahead`), so that
                                        neither a commit nor a checkpoint depends on the moment in
                                        which somebody notices that the disk is full
    <data-dir>/member/reserve           a preallocated file, given up when the disk is full, whose
                                        blocks go to the main files in the same moment: who has
                                        filled the disk may still be writing

The empty file is a mark: this member has raised its NOSPACE alarm because of the disk, and may
disarm it. Without the mark the alarm is the quota's, which an operator disarms.

Rules. The blocks ahead lie beyond the end of the file: its length, and so what a start has to scan,
is what was written. SQLite cuts them off the main file at the end of each whole checkpoint, and
they are taken anew. Descriptors stay open as long as SQLite has the file open: closing one would
drop its POSIX locks.

Limits. Without Linux's fallocate there are no blocks ahead. A file system that writes elsewhere
what it overwrites (btrfs, ZFS) may refuse a commit although its blocks are there: wal.py then gives
up the reserve and writes again, and a keyspace that cannot be written ends the process.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final, cast

from pyetcd.store.db import StorageFailure

NAME: Final = "reserve"

# All sizes are multiples of one: as small a part of a small disk. The reserve holds what the
# keyspace's -wal file has at most (machine.WAL_BYTES_MAX), all of it new pages of the main file.
UNIT_BYTES_MAX: Final = 16 << 20
UNIT_PARTS: Final = 32
RESERVE_UNITS: Final = 4
# For the -wal files, what is written in 0.1 s at full speed (measured: 27 MB and 8 MB).
KEYSPACE_WAL_UNITS: Final = 2
LOG_WAL_UNITS: Final = 1
# For the main files, before and after the reserve was given up.
MAIN_UNITS: Final = 1
KEYSPACE_FULL_UNITS: Final = 3
LOG_FULL_UNITS: Final = 2

# Side files, the first commits of log and keyspace, and the entries that a new leader writes.
START_BYTES: Final = 2 << 20

# For the -shm files, SQLite's indexes of the -wal files: 32 KiB for each 16 MiB of these. A commit
# that cannot extend one fails behind its frames, and cannot be repeated.
SHM_UNITS: Final = 1 / 32

BLOCK_BYTES: Final = 512  # of st_blocks, whatever the file system has
_KEEP_SIZE: Final = 1  # linux/falloc.h: FALLOC_FL_KEEP_SIZE


class Reserve:
    """The reserve of one member, and what its disk has left."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, NAME)
        self._folder = folder
        found = os.statvfs(folder)
        self.unit_bytes = min(UNIT_BYTES_MAX, found.f_blocks * found.f_frsize // UNIT_PARTS)
        self.size_bytes = RESERVE_UNITS * self.unit_bytes
        self._descriptors: dict[str, int] = {}
        self._fallocate = _fallocate()

    def free_bytes(self) -> int:
        """0.7 us."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    @property
    def is_held(self) -> bool:
        return self._length() > 0

    @property
    def is_claimed(self) -> bool:
        """Whether the alarm is ours to disarm."""
        return self._length() == 0

    def hold(self) -> bool:
        """Take the reserve; False when there is no room for it. No mark stays."""
        if self.is_held:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self.size_bytes)
        except OSError:
            os.ftruncate(descriptor, 0)
            return False
        finally:
            os.close(descriptor)
        return True

    def give_up(self) -> bool:
        """Empty it, and leave the mark. Any thread; whether that gave anything back."""
        was_held = self.is_held
        if was_held:
            os.truncate(self.path, 0)
        return was_held

    def claim(self) -> None:
        """Leave the mark, which needs no space but a name."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        except OSError:
            pass  # after a restart an operator has to disarm it

    def remove(self) -> None:
        """Neither reserve nor mark."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def keep_ahead(self, path: str, units: float) -> bool:
        """Let the file have blocks for at least so many units behind its end; whether it has."""
        if self._fallocate is None:
            return True
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            try:
                descriptor = self._descriptors[path] = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                return True
        found = os.fstat(descriptor)
        ahead_bytes = int(units * self.unit_bytes)
        if found.st_blocks * BLOCK_BYTES >= found.st_size + ahead_bytes:
            return True
        wanted = found.st_size + ahead_bytes + ahead_bytes // 2
        if self._fallocate(descriptor, _KEEP_SIZE, 0, wanted) == 0:
            return True
        return self._fallocate(descriptor, _KEEP_SIZE, 0, found.st_size + ahead_bytes) == 0

    def forget(self) -> None:
        """The files were closed, or exchanged for others."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _length(self) -> int:
        """-1: there is no such file."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return -1


def make_room(folder: str) -> bool:
    """Before a start: on a full disk, give up the reserve that a killed process has left; whether
    that was done. StorageFailure without room for a first commit."""
    was_held = False
    try:
        reserve = Reserve(folder)
        if reserve.is_held and reserve.free_bytes() < reserve.unit_bytes:
            reserve.remove()
            was_held = True
        # What the -wal files have: they are cut at the start, or overwritten.
        side_files = [os.path.join(folder, name) for name in ("wal.db-wal", "kv.db-wal")]
        has_bytes = reserve.free_bytes() + sum(
            os.stat(path).st_blocks * BLOCK_BYTES for path in side_files if os.path.exists(path)
        )
    except OSError:
        return False  # what is wrong with the folder is said by those who open it
    if has_bytes < START_BYTES:
        needed = f"the start needs {START_BYTES >> 20} MiB"
        raise StorageFailure(f"{folder}: no space left on the disk; {needed}")
    return was_held


def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Linux's; the os module has posix_fallocate only, which changes the length."""
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    call.restype = ctypes.c_int
    return cast("Callable[[int, int, int, int], int]", call)
