"""A simulated disk: real SQLite over files that forget what was not fsynced when the power goes.

Strategy. The files lie in a folder (best: in memory, /dev/shm) and are written for real, so that
every connection, reader and copy sees them as usual. Beside that each file keeps what a disk would
keep: the bytes of its last fsync and the list of writes since. A process kill leaves the folder as
it is. A power cut rebuilds it: synced bytes, any subset of the later sectors, and a prefix of the
directory's changes (created, renamed and removed names) that were not yet synced.

`Disks` is SQLite's default VFS while it is installed, and stands in for `os` in the two modules
that rename and fsync files themselves: production code runs as it is, without a parameter.

A fuse of n lets the n-th next change of the disk fail, and every later one: the place where a
crash happens is then any write, fsync, rename or removal that there is.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from pyetcd.store import db, snapshot

SECTOR_BYTES = 512
VFS_NAME = "simulated"


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
        self._names: dict[str, File] = {}
        self._synced_names: dict[str, File] = {}
        # Each step as a whole, for a rename is atomic: (path, inode), and no inode removes.
        self._cached_names: list[list[tuple[str, File | None]]] = []

    # What the VFS and the os stand-in call

    def change(self) -> bool:
        """Before each change; False when it must not take place. Raises PowerLost."""
        if self.is_quiet:
            return False
        if self.fuse:
            self.fuse -= 1
            self.is_dead = self.is_dead or self.fuse == 0
        if self.is_dead:
            raise PowerLost("the power is gone")
        self.operations_total += 1
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

    def restore_power(self, rng: random.Random | None) -> None:
        """With an rng the power was cut; without, only the process ended."""
        self.fuse, self.is_dead, self.is_quiet = 0, False, False
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
        self.change()
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
        if flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.lexists(path) and not disk.change():
            raise apsw.CantOpenError(path)
        return SimulatedFile(disk, path, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        disk = self.of(name)
        if disk is not None and not disk.change():
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
        self._file = disk.file(path)
        # SQLite's unix VFS syncs the directory together with a new journal or -wal.
        self._new_name = path.endswith(("-wal", "-journal"))

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.change():
            super().xWrite(data, offset)
            self._file.cached.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        if self._disk.change():
            super().xTruncate(newsize)
            self._file.cached.append((newsize, None))

    def xSync(self, flags: int) -> None:
        disk = self._disk
        if not disk.change() or disk.ignores_sync:
            return
        disk.syncs_total += 1
        self._file.sync()
        if self._new_name:
            self._new_name = False
            disk.sync_names()


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
            disk.change()
            disk.file(path)
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        os.close(descriptor)

    def fsync(self, descriptor: int) -> None:
        path = self._paths.get(descriptor, "")
        disk = self._disks.of(path)
        if disk is None:
            os.fsync(descriptor)
        elif disk.change():
            disk.sync(path)

    def rename(self, old: str, new: str) -> None:
        disk = self._disks.of(old)
        if disk is not None:
            disk.change()
        os.rename(old, new)
        if disk is not None:
            disk.rename(old, new)

    def unlink(self, path: str) -> None:
        disk = self._disks.of(path)
        if disk is not None and os.path.lexists(path):
            disk.change()
        os.unlink(path)
        if disk is not None:
            disk.remove(path)


@contextmanager
def installed() -> Iterator[Disks]:
    """Simulated disks under all production code, until the end of the block."""
    disks = Disks()
    stand_in = Os(disks)
    db.os = stand_in  # type: ignore[assignment]
    snapshot.os = stand_in  # type: ignore[assignment]
    try:
        yield disks
    finally:
        db.os = snapshot.os = os
        disks.unregister()


def close_all(folder: str) -> None:
    """What the kernel does with the files of a process that is gone."""
    for connection in apsw.connections():
        name = connection.filename if connection else ""
        if name and os.path.dirname(name) == folder:
            try:
                connection.close(True)
            except apsw.Error:  # the error of an earlier statement, said again
                connection.close(True)
