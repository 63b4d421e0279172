"""One process per data directory: an flock'ed LOCK file, and a directory fit for SQLite.

Strategy. The kernel drops an flock when its process dies, however it dies, so there is no stale
lock to clean up; the pid in the file is only there for the message. The file is never deleted: a
deleted one that is still locked, and a new one beside it, would be two locks.

Rules. Taken before any other file in the directory is opened, released after the last is closed.
Directories are made with mode 0700. A network filesystem is refused: SQLite's WAL mode needs
memory shared through the file, which NFS and SMB do not give.

Limits. A forked child shares the lock; pyetcd does not fork.
"""

import errno
import fcntl
import os
from typing import Final

from pyetcd.store import db

NAME: Final = "LOCK"
_NETWORK_TYPES: Final = ("nfs", "cifs", "smb", "afs", "ncpfs", "fuse.sshfs", "fuse.glusterfs")


class InUse(db.ForeignFile):
    """Another process has the directory."""


class LockFile:
    """The lock on one directory, held from claim() to release()."""

    def __init__(self, path: str, descriptor: int, notes: list[str]) -> None:
        self.path = path
        self.notes = notes  # one line each: what a person should look at
        self._descriptor = descriptor

    @classmethod
    def claim(cls, directory: str) -> "LockFile":
        """Make the directory if need be and take its lock, or refuse in one line."""
        directory = os.fspath(directory)
        make_directory(directory)
        refuse_network_filesystem(directory)
        path = os.path.join(directory, NAME)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            reason = "is a symbolic link" if is_link else f"cannot be opened: {error.strerror}"
            raise db.ForeignFile(path, reason, "check the data directory and its owner") from error
        try:
            _lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, _look_at_mode(directory))

    def release(self) -> None:
        """Twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def make_directory(path: str) -> None:
    """`path` and its missing parents, each 0700 and durable; an existing one is left as it is."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_directory(parent)
    try:
        os.mkdir(path, 0o700)
        db.fsync_dir(parent)
    except FileExistsError as error:
        if not os.path.isdir(path):
            remedy = "move it away or choose another data directory"
            raise db.ForeignFile(path, "is not a directory", remedy) from error
    except OSError as error:
        reason = f"cannot be created: {error.strerror}"
        raise db.ForeignFile(path, reason, "check its parent directory and owner") from error


def refuse_network_filesystem(directory: str, mounts_path: str = "/proc/self/mounts") -> None:
    """By the type of the mount that holds `directory`; no answer (not Linux) is no refusal."""
    try:
        with open(mounts_path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    kind = _mount_type(os.path.realpath(directory), lines)
    if kind.startswith(_NETWORK_TYPES):
        remedy = "put the data directory on a local disk"
        raise db.ForeignFile(directory, f"is on a network filesystem ({kind})", remedy)


def _look_at_mode(directory: str) -> list[str]:
    """As etcd, say it and go on: the mode may be somebody's intention."""
    mode = os.stat(directory).st_mode & 0o777
    if not mode & 0o077:
        return []
    return [f"{directory} is open to others (mode {mode:04o}); 0700 keeps the data private"]


def _mount_type(path: str, lines: list[str]) -> str:
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").rstrip("/")
        # >=: of two mounts on one point the later one covers the earlier.
        if (path == point or path.startswith(point + "/")) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _lock(path: str, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).split(b"\n")[0]
        who = f"process {int(holder)}" if holder.isdigit() else "another process"
        remedy = "stop it first or choose another data directory"
        raise InUse(os.path.dirname(path), f"is in use by {who}", remedy) from error
    except OSError as error:
        remedy = "put the data directory on a local disk"
        raise db.ForeignFile(path, f"cannot be locked: {error.strerror}", remedy) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        if error.errno != errno.ENOSPC:  # on a full disk the number stays unknown
            raise db.StorageFailure(f"{path}: write failed: {error.strerror}") from error
