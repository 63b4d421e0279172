"""Work on the files of a member that does not run: defragmenting and copying them.

Rules. The lock of the directory is held throughout; a directory without a member is refused before
a lock is made in it. A -wal file that the member left behind belongs to its file and is read, and
what a snapshot from the leader was about to replace is left to the next start.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import apsw

from pyetcd.server import datafiles
from pyetcd.server.restore import building
from pyetcd.store import db, frometcd, lockfile, logrows, snapfile, snapshot
from pyetcd.store.backend import META_MEMBER_ID, SCHEMA, Backend
from pyetcd.store.compact import HashResult
from pyetcd.store.snapfile import go_reason
from pyetcd.store.snapshot import SnapshotFailed

VACUUM_PAGES: Final = 1000


class Refused(Exception):
    """Nothing was done. One line."""


@dataclass(frozen=True, slots=True)
class Defragmented:
    """What a defragmentation has come to."""

    size_bytes_before: int
    size_bytes: int
    in_use_bytes: int


@contextmanager
def stopped_member(data_dir: str) -> Iterator[str]:
    """The keyspace file of the member in this directory, which is kept from starting meanwhile."""
    kv, log = datafiles.kv_path(data_dir), datafiles.wal_path(data_dir)
    for path in (kv, log):
        if not os.path.lexists(path):
            raise Refused(_absence(data_dir, path))
    try:
        lock = lockfile.LockFile.claim(os.path.dirname(kv))
        try:
            db.preflight(kv, SCHEMA)
            db.preflight(log, logrows.SCHEMA)
            yield kv
        finally:
            lock.release()
    except (db.ForeignFile, SnapshotFailed) as error:
        raise Refused(str(error)) from error
    except db.StorageFailure as error:
        raise Refused(error.reason) from error
    except OSError as error:
        raise Refused(f"{data_dir}: {go_reason(error)}") from error


def _absence(data_dir: str, path: str) -> str:
    member = os.path.join(data_dir, "member")
    if os.path.isdir(os.path.join(member, "snap")):
        return f"{member} holds the data of a real etcd member; use etcdutl"
    return f"open {path}: no such file or directory"


@contextmanager
def locked_beside(path: str) -> Iterator[None]:
    """The lock of the data directory that the file belongs to, if it does; raises ForeignFile."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.exists(os.path.join(folder, lockfile.NAME)):
        yield
        return
    lock = lockfile.LockFile.claim(folder)
    try:
        yield
    finally:
        lock.release()


def defragment(kv: str, began: Callable[[int, int], None]) -> Defragmented:
    """Gives the free pages of the file back to the file system."""
    backend = Backend.open(kv, create=False)
    try:
        before = backend.size_bytes
        began(before, backend.in_use_bytes)
        while backend.vacuum_step(VACUUM_PAGES):
            pass
        backend.empty_wal()
        return Defragmented(before, backend.size_bytes, backend.in_use_bytes)
    finally:
        backend.close()


def hash_kv_of_etcd(path: str, revision: int) -> HashResult:
    """HashKV of a database of etcd, by way of a keyspace of ours; raises SnapshotFailed."""
    with tempfile.TemporaryDirectory(prefix="pyetcd-hashkv-") as folder:
        kv = os.path.join(folder, "kv.db")
        frometcd.convert(path, kv)
        return snapfile.hash_kv(kv, revision)


def backup(data_dir: str, backup_dir: str) -> None:
    """Copies log and keyspace under new ids, so that the copy cannot take part in the cluster by
    mistake: it is started with --force-new-cluster. The caller holds the lock of `data_dir`."""
    member_id, cluster_id = secrets.randbits(63) | 1, secrets.randbits(63) | 1
    with building(backup_dir) as work:
        kv, log = os.path.join(work, "kv.db"), os.path.join(work, "wal.db")
        snapshot.make(datafiles.kv_path(data_dir), kv)
        _rename_keyspace(kv, member_id, cluster_id)
        snapshot.make(datafiles.wal_path(data_dir), log)
        _rename_log(log, member_id, cluster_id)


def _rename_keyspace(kv: str, member_id: int, cluster_id: int) -> None:
    backend = Backend.open(kv, create=False)
    try:
        backend.meta_put("cluster_id", f"{cluster_id:x}".encode())
        backend.meta_put(META_MEMBER_ID, db.signed(member_id))
        backend.commit()
        backend.empty_wal()
    finally:
        backend.close()
    db.fsync_file(kv)


def _rename_log(path: str, member_id: int, cluster_id: int) -> None:
    connection = db.open_writer(path, schema=logrows.SCHEMA, full_sync=True, create=False)
    try:
        rows = db.guarded(path, "read", connection.execute(logrows.SELECT_META).fetchall)
        meta = logrows.decode_meta(rows)
        if meta is None:
            raise SnapshotFailed(f"{path}: its meta row is damaged")
        renamed = replace(meta, member_id=member_id, cluster_id=cluster_id)
        row = logrows.encode_meta(renamed)
        db.guarded(path, "write", lambda: connection.execute(logrows.REPLACE_META, row))
        db.checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close()
    db.fsync_file(path)
