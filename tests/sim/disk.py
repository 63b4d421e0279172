"""A simulated disk: real SQLite over files that forget what was not fsynced when the power goes.

Strategy. The files lie in a folder (best: in memory, /dev/shm) and are written for real, so that
every connection, reader and copy sees them as usual. Beside that each file keeps what a disk would
keep: the bytes of its last fsync and the list of writes since. A process kill leaves the folder as
it is. A power cut rebuilds it: synced bytes, any subset of the later sectors, and a prefix of the
directory's changes (created, renamed and removed names) that were not yet synced.

`Disks` is SQLite's default VFS while it is installed, and stands in for `os` in the two modules
that rename and fsync files themselves: production code runs as it is, without a parameter.

SQLite's layer of page checksums lies on top, as in production: what is flipped here is met there.

What goes wrong:
- a fuse of n lets the n-th next change of the disk fail, and every later one: the place where a
  crash happens is then any write, fsync, rename or removal that there is;
- one write, fsync or read fails (`fail_in`). What such an fsync should have made durable is there
  or not, sector by sector, and no later fsync tries it again (as on Linux);
- the disk is full: nothing grows;
- a bit is flipped in a file, under a running process or not.
"""

import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from apsw import sqlite_extra

from pyetcd.store import db, snapshot

SECTOR_BYTES = 512
VFS_NAME = "simulated"


# Without these a member cannot live; all others are copies under way.
VITAL = frozenset({"wal.db", "wal.db-wal", "kv.db", "kv.db-wal"})


class PowerLost(OSError):
    """The disk is gone; whoever catches this must not go on for long."""


class File:
    """One inode: what the platter has, and what only the cache has."""

    __slots__ = ("cached", "synced")

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = bytearray(synced)
        self.cached: list[tuple[int, bytes | None]] = []  # (offset, data); None cuts there

    def sync(self) -> None:
        for offset, data in self.cached:
            _perform(self.synced, offset, data)
        self.cached.clear()

    def sync_in_part(self, rng: random.Random) -> None:
        """An fsync that failed: some of it is on the platter, and the rest is not tried again."""
        self.synced = bytearray(self.after_power_cut(rng, rng.choice((0.0, 0.5, 1.0))))
        self.cached.clear()

    def after_power_cut(self, rng: random.Random, kept: float) -> bytes:
        content = bytearray(self.synced)
        for offset, data in self.cached:
            if data is None:
                if rng.random() < kept:
                    _perform(content, offset, None)
                continue
            for start in range(0, len(data), SECTOR_BYTES):
                if rng.random() < kept:
                    _perform(content, offset + start, data[start : start + SECTOR_BYTES])
        return bytes(content)


def _perform(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """The folder of one member."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self.folder = str(folder)
        self.operations_total = 0
        self.syncs_total = 0
        self.fuse = 0  # 0: none
        self.is_dead = False
        self.is_quiet = False  # while dead connections are closed: changes do nothing
        self.ignores_sync = False  # a known bug to find: fsync that does nothing
        self.is_full = False
        self.failed_vital = False
        self.failed = ""  # what has failed in this run of the process
        self.failing: dict[str, int] = {}  # "write", "sync" or "read": until the n-th from now
        self._rng = random.Random(0)
        self._names: dict[str, File] = {}
        self._synced_names: dict[str, File] = {}
        # Each step as a whole, for a rename is atomic: (path, inode), and no inode removes.
        self._cached_names: list[list[tuple[str, File | None]]] = []

    # What the VFS and the os stand-in call

    def change(self, kind: str, path: str) -> bool:
        """Before each change; False when it must not take place. Raises PowerLost, and OSError for
        one that fails."""
        if self.is_quiet:
            return False
        if self.failing and self.fails(kind, path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if self.fuse:
            self.fuse -= 1
            self.is_dead = self.is_dead or self.fuse == 0
        if self.is_dead:
            raise PowerLost("the power is gone")
        self.operations_total += 1
        return True

    def fails(self, kind: str, path: str) -> bool:
        """Whether it is this one."""
        left = self.failing.get(kind, 0)
        if not left or self.is_quiet:
            return False
        self.failing[kind] = left - 1
        if left > 1:
            return False
        del self.failing[kind]
        name = os.path.basename(path)
        self.failed = f"{kind} of {name}"
        self.failed_vital = name in VITAL and kind != "read"  # a copy may fail to read
        if kind == "sync" and path != self.folder:
            self.file(path).sync_in_part(self._rng)
        return True

    def file(self, path: str) -> File:
        file = self._names.get(path)
        if file is None:
            file = self._names[path] = File()
            self._cached_names.append([(path, file)])
        return file

    def sync(self, path: str) -> None:
        if self.ignores_sync:
            return
        self.syncs_total += 1
        if path == self.folder:
            self.sync_names()
        else:
            self.file(path).sync()

    def sync_names(self) -> None:
        _rename_all(self._synced_names, self._cached_names)
        self._cached_names.clear()

    def rename(self, old: str, new: str) -> None:
        file = self._names.pop(old)
        self._names[new] = file
        self._cached_names.append([(old, None), (new, file)])

    def remove(self, path: str) -> None:
        if self._names.pop(path, None) is not None:
            self._cached_names.append([(path, None)])

    # What the world does

    def blow_in(self, changes: int) -> None:
        assert changes > 0
        self.fuse = changes

    def fail_in(self, kind: str, operations: int, rng: random.Random) -> None:
        """The n-th next operation of this kind fails, and none after it."""
        assert operations > 0
        self.failing[kind] = operations
        self._rng = rng

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Whoever looks on from outside meets no failure and uses none up."""
        before = self.fuse, self.is_full, self.failing
        self.fuse, self.is_full, self.failing = 0, False, {}
        try:
            yield
        finally:
            self.fuse, self.is_full, self.failing = before

    def repair(self) -> None:
        """From here on everything works."""
        self.fuse, self.is_full = 0, False
        self.failing.clear()

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Both in what processes see and on the platter."""
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0] ^ 1 << bit
            file.seek(offset)
            file.write(bytes((byte,)))
        inode = self.file(path)
        inode.sync()
        inode.synced[offset] = byte

    def restore_power(self, rng: random.Random | None) -> None:
        """With an rng the power was cut; without, only the process ended."""
        self.fuse, self.is_dead, self.is_quiet = 0, False, False
        self.failed, self.failed_vital = "", False
        self.failing.clear()
        if rng is None:
            return
        kept = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        names = dict(self._synced_names)
        _rename_all(names, self._cached_names[: rng.randint(0, len(self._cached_names))])
        for entry in os.scandir(self.folder):
            if entry.name != "LOCK":
                os.unlink(entry.path)
        self._cached_names.clear()
        self._names = {}
        for path in sorted(names):
            content = names[path].after_power_cut(rng, kept)
            Path(path).write_bytes(content)
            self._names[path] = File(content)
        self._synced_names = dict(self._names)

    def write_file(self, path: str, content: bytes) -> None:
        """A plain write, as a download is."""
        self.change("write", path)
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        Path(path).write_bytes(content)
        self.file(path).cached.append((0, content))


def _rename_all(names: dict[str, File], steps: list[list[tuple[str, File | None]]]) -> None:
    for path, file in (change for step in steps for change in step):
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


class Disks(apsw.VFS):
    """All simulated disks of a world, by folder. Everything else is passed through."""

    def __init__(self) -> None:
        self.by_folder: dict[str, Disk] = {}
        super().__init__(VFS_NAME, "unix", makedefault=True)

    def add(self, folder: Path) -> Disk:
        disk = Disk(folder)
        self.by_folder[disk.folder] = disk
        return disk

    def of(self, path: str) -> Disk | None:
        return self.by_folder.get(os.path.dirname(path)) or self.by_folder.get(path)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        disk = self.of(path)
        if disk is None:
            return apsw.VFSFile("unix", name, flags)
        creates = flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.lexists(path)
        if creates and not self._change(disk, "write", path):
            raise apsw.CantOpenError(path)
        return SimulatedFile(disk, path, name, flags)

    def _change(self, disk: Disk, kind: str, path: str) -> bool:
        try:
            return disk.change(kind, path)
        except PowerLost:
            raise
        except OSError as error:
            raise apsw.exception_for(apsw.SQLITE_IOERR) from error

    def xDelete(self, name: str, syncdir: bool) -> None:
        disk = self.of(name)
        if disk is not None and not self._change(disk, "write", name):
            return
        super().xDelete(name, syncdir)
        if disk is not None:
            disk.remove(name)
            if syncdir:
                disk.sync_names()


class SimulatedFile(apsw.VFSFile):
    def __init__(
        self, disk: Disk, path: str, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._path = path
        self._file = disk.file(path)
        # SQLite's unix VFS syncs the directory together with a new journal or -wal.
        self._new_name = path.endswith(("-wal", "-journal"))

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._disk.failing and self._disk.fails("read", self._path):
            raise apsw.exception_for(apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._change("write", apsw.SQLITE_IOERR_WRITE):
            if self._disk.is_full and offset + len(data) > self.xFileSize():
                self._disk.failed = f"space for {os.path.basename(self._path)}"
                raise apsw.exception_for(apsw.SQLITE_FULL)
            super().xWrite(data, offset)
            self._file.cached.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        if self._change("write", apsw.SQLITE_IOERR_TRUNCATE):
            super().xTruncate(newsize)
            self._file.cached.append((newsize, None))

    def xLock(self, level: int) -> None:
        try:
            super().xLock(level)
        except apsw.IOError as error:
            # The last one to close asks for it, be it a reader, and SQLite takes any no.
            if level != apsw.SQLITE_LOCK_EXCLUSIVE:
                raise
            raise apsw.BusyError from error

    def xSync(self, flags: int) -> None:
        disk = self._disk
        if not self._change("sync", apsw.SQLITE_IOERR_FSYNC) or disk.ignores_sync:
            return
        disk.syncs_total += 1
        self._file.sync()
        if self._new_name:
            self._new_name = False
            disk.sync_names()

    def _change(self, kind: str, code: int) -> bool:
        try:
            return self._disk.change(kind, self._path)
        except PowerLost:
            raise
        except OSError as error:
            raise apsw.exception_for(code) from error


class Os:
    """`os` with the calls that change a simulated disk."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        disk = self._disks.of(path)
        if disk is not None and flags & os.O_CREAT and not os.path.lexists(path):
            disk.change("write", path)
            disk.file(path)
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        os.close(descriptor)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        path = self._paths.get(descriptor, "")
        disk = self._disks.of(path)
        if disk is not None and not disk.change("write", path):
            return len(data)
        written = os.pwrite(descriptor, data, offset)
        if disk is not None:
            disk.file(path).cached.append((offset, bytes(data[:written])))
        return written

    def fsync(self, descriptor: int) -> None:
        path = self._paths.get(descriptor, "")
        disk = self._disks.of(path)
        if disk is None:
            os.fsync(descriptor)
        elif disk.change("sync", path):
            disk.sync(path)

    def rename(self, old: str, new: str) -> None:
        disk = self._disks.of(old)
        if disk is not None:
            disk.change("write", old)
        os.rename(old, new)
        if disk is not None:
            disk.rename(old, new)

    def unlink(self, path: str) -> None:
        disk = self._disks.of(path)
        if disk is not None and os.path.lexists(path):
            disk.change("write", path)
        os.unlink(path)
        if disk is not None:
            disk.remove(path)


@contextmanager
def installed() -> Iterator[Disks]:
    """Simulated disks under all production code, until the end of the block."""
    disks = Disks()
    _load_page_checksums()
    stand_in = Os(disks)
    db.os = stand_in  # type: ignore[attr-defined]
    snapshot.os = stand_in  # type: ignore[attr-defined]
    try:
        yield disks
    finally:
        db.os = snapshot.os = os  # type: ignore[attr-defined]
        apsw.set_default_vfs("unix")
        _load_page_checksums()
        disks.unregister()


def _load_page_checksums() -> None:
    """The layer puts itself on top of the default VFS of this moment, and becomes the default;
    but not when it is there already."""
    apsw.unregister_vfs("cksmvfs")
    connection = apsw.Connection(":memory:", vfs="unix")
    try:
        sqlite_extra.load(connection, "cksumvfs")
    finally:
        connection.close()


def close_all(folder: str) -> None:
    """What the kernel does with the files of a process that is gone."""
    for connection in apsw.connections():
        name = connection.filename if connection else ""
        if name and os.path.dirname(name) == folder:
            try:
                connection.close(True)
            except apsw.Error:  # the error of an earlier statement, said again
                connection.close(True)
