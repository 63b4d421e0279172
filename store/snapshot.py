"""Copies of the keyspace file: made online, verified, installed by rename.

Strategy. A copy is made with SQLite's backup API in a thread, beside the running writer, from a
read-only connection that holds one read transaction throughout: one consistent state, and no step
starts over. The free pages are dropped from the copy. VACUUM INTO will not do: it writes other
pages before the first one, and the layer of checksums learns only from that one that it is wanted.
Whatever is made or received stands under a temporary name until it is whole, verified and fsynced.

A snapshot from the leader replaces the keyspace in an order that every crash survives:

    1 keep()         kv.db.tmp-x is fsynced and renamed to kv.db.snap-<index>
    2 the log        commits the snapshot's meta data: from here on the log begins at index
    3 install()      the old kv.db-wal and -shm go, kv.db.snap-<index> becomes kv.db

A crash before 2 leaves the old log and the old keyspace; recover() removes the file. A crash after
2 leaves a log that wants `index`; recover() repeats 3, whose steps may all be repeated. The old
-wal goes before the rename: beside the new file SQLite would replay it into the new file.

Rules. During install() and recover() nobody has the keyspace file open. A failed copy is nobody's
end (`SnapshotFailed`): the disk may be full just because of it.

Limits. The reader of a running copy holds the source's -wal file: it grows until the copy is done.
"""

import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import apsw

from pyetcd.store import db, failpoints

# How often a running copy looks whether it was cancelled: about 1 ms, in pages and in VM steps.
_CANCEL_PAGES: Final = 256
_CANCEL_STEPS: Final = 4_000


class SnapshotFailed(Exception):
    """No copy was made, or it cannot be used. One line. Nothing else is affected."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole, fsynced file."""

    path: str
    size_bytes: int
    sha256: bytes


def make(source: str, target: str, *, is_cancelled: Callable[[], bool] | None = None) -> Copy:
    """Copy the SQLite file `source`, whose writer may be at work, to the new file `target`.

    For a thread. `is_cancelled` is asked there about every millisecond.
    """
    failpoints.hit("snapshotBeforeCopy", SnapshotFailed)
    reader = db.open_reader(source)
    try:
        # SQLite takes an empty file for a new database: so the mode is ours.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _copy(reader, target, is_cancelled or _never)
            db.fsync_file(target)
            return describe(target)
        except BaseException:
            db.remove_if_exists(target)
            db.remove_if_exists(target + "-journal")
            raise
    except apsw.InterruptError as error:
        raise SnapshotFailed(f"copy of {source} was cancelled") from error
    except apsw.Error as error:
        raise SnapshotFailed(db.failure(source, "copy", error).reason) from error
    except OSError as error:
        raise SnapshotFailed(f"copy to {target} failed: {db.os_reason(error)}") from error
    finally:
        reader.close()


def _copy(reader: apsw.Connection, target: str, is_cancelled: Callable[[], bool]) -> None:
    writer = apsw.Connection(target, apsw.SQLITE_OPEN_READWRITE)
    try:
        writer.reserve_bytes(reserve=db.PAGE_CHECKSUM_BYTES)
        for name, value in (("journal_mode", "off"), ("synchronous", "off")):
            writer.pragma(name, value)  # who finds half a copy throws it away
        writer.pragma("user_version", 1)  # writes the first page: see above
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM sqlite_schema").fetchall()
        with writer.backup("main", reader, "main") as backup:
            while not backup.done:
                if is_cancelled():
                    raise apsw.InterruptError("cancelled")
                backup.step(_CANCEL_PAGES)
        writer.pragma("journal_mode", "delete")  # the source's is WAL, which makes side files
        writer.pragma("journal_mode", "off")
        writer.set_progress_handler(is_cancelled, _CANCEL_STEPS)
        writer.execute("PRAGMA incremental_vacuum").fetchall()
    finally:
        writer.close()


def _never() -> bool:
    return False


def describe(path: str) -> Copy:
    """Size and digest of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return Copy(path, os.fstat(file.fileno()).st_size, digest)


def verify(path: str, *, schema: db.Schema, sha256: bytes | None = None) -> None:
    """Whether a received file is what was sent, ours, and sound. Nothing is written."""
    try:
        if sha256 is not None and describe(path).sha256 != sha256:
            raise SnapshotFailed(f"{path}: its sha256 is not the one that was sent")
        db.preflight(path, schema)
        connection = db.open_alone(path)
        try:
            db.quick_check(connection)
        finally:
            connection.close()
    except db.ForeignFile as error:
        raise SnapshotFailed(str(error)) from error
    except db.StorageFailure as error:
        raise SnapshotFailed(error.reason) from error
    except apsw.Error as error:
        raise SnapshotFailed(db.failure(path, "check", error).reason) from error
    except OSError as error:
        raise SnapshotFailed(f"{path}: {db.os_reason(error)}") from error


def temporary_path(target: str, name: str) -> str:
    """Where to write a file that may become `target`; recover() removes it."""
    assert name and "/" not in name, name
    return f"{target}.tmp-{name}"


def kept_path(target: str, index: int) -> str:
    """Where the received file for `index` waits for its installation."""
    return f"{target}.snap-{index:016x}"


def keep(temporary: str, target: str, index: int) -> str:
    """Step 1: make a verified file durable under the name that recover() knows."""
    kept = kept_path(target, index)
    failpoints.hit("snapshotBeforeKeep", SnapshotFailed)
    try:
        _enter_wal_mode(temporary)
        db.fsync_file(temporary)
        os.rename(temporary, kept)
        db.fsync_dir(os.path.dirname(kept) or ".")
    except OSError as error:
        raise SnapshotFailed(f"{temporary} was not kept: {db.os_reason(error)}") from error
    failpoints.hit("snapshotAfterKeep", SnapshotFailed)
    return kept


def _enter_wal_mode(path: str) -> None:
    """Copies travel without it. Entered here and not by the first open of the installed file: that
    needs a rollback journal, and a crash would leave it to a start that only reads at first."""
    try:
        connection = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.pragma("journal_mode", "wal")
        finally:
            connection.close()
    except apsw.Error as error:
        raise SnapshotFailed(db.failure(path, "keep", error).reason) from error


def install(kept: str, target: str) -> None:
    """Step 3: `kept` becomes `target`. Nobody has target open. A failure ends the process."""
    directory = os.path.dirname(target) or "."
    failpoints.hit("snapshotBeforeInstall")
    try:
        db.fsync_file(kept)
        for suffix in ("-wal", "-shm", "-journal"):
            db.remove_if_exists(target + suffix)
        # Gone on the disk, too, before the new file can be there.
        db.fsync_dir(directory)
        failpoints.hit("snapshotBeforeRename")
        os.rename(kept, target)
        failpoints.hit("snapshotAfterRename")
        db.fsync_dir(directory)
    except OSError as error:
        raise db.StorageFailure(f"{target}: install failed: {db.os_reason(error)}") from error


def recover(target: str, installed_index: int) -> bool:
    """At start, before target is opened: finish an interrupted installation, remove all leftovers.
    `installed_index` is the log's (Wal.installed_index). Whether a file was installed."""
    kept = kept_path(target, installed_index)
    # 0: the log begins by itself and wants no file.
    is_wanted = installed_index > 0 and os.path.exists(kept)
    if is_wanted:
        install(kept, target)
    escaped = glob.escape(target)
    for leftover in (*glob.glob(f"{escaped}.tmp-*"), *glob.glob(f"{escaped}.snap-*")):
        db.remove_if_exists(leftover)
    return is_wanted
