"""The data directory of one member: its lock, the log and the keyspace, opened or made new.

    <data-dir>/member/LOCK     held while the process runs
    <data-dir>/member/wal.db   the raft log (store/wal.py), or <wal-dir>/wal.db beside a LOCK there
    <data-dir>/member/kv.db    the keyspace (store/backend.py)

Rules. A directory without wal.db holds no member; a new one gets kv.db first and wal.db last, whole
with its first entries, so that an interrupted first start begins again. What is there is never
overwritten: anything unexpected is refused with what to do about it.
"""

import os

from pyetcd.raft.types import ConfState, SnapshotMeta
from pyetcd.server.bootstrap import Plan
from pyetcd.server.datafiles import TOKEN, wal_path
from pyetcd.server.datafiles import has_member as has_member
from pyetcd.server.datafiles import known_members as known_members
from pyetcd.server.datafiles import kv_path as kv_path
from pyetcd.server.datafiles import look as look
from pyetcd.server.datafiles import refuse_foreign as refuse_foreign
from pyetcd.store import snapshot
from pyetcd.store.backend import META_MEMBER_ID, SCHEMA, Backend
from pyetcd.store.db import ForeignFile, signed
from pyetcd.store.lockfile import LockFile
from pyetcd.store.members import Members
from pyetcd.store.wal import Wal


class Locks:
    """Those of the data directory and of a log with a folder of its own."""

    def __init__(self, *directories: str) -> None:
        self._locks: list[LockFile] = []
        try:
            for directory in directories:
                if directory:
                    self._locks.append(LockFile.claim(directory))
        except BaseException:  # all or none, whatever it was
            self.release()
            raise
        self.notes = [note for lock in self._locks for note in lock.notes]

    def release(self) -> None:
        for lock in self._locks:
            lock.release()


class DataDir:
    """An open data directory."""

    def __init__(self, lock: LockFile | Locks, wal: Wal, backend: Backend) -> None:
        self.wal = wal
        self.backend = backend
        self.notes = [*lock.notes, *wal.notes]  # one line each, for the log
        self._lock = lock

    def close(self) -> None:
        """Log and keyspace are closed by who uses them; only the lock is left."""
        self._lock.release()

    def abandon(self) -> None:
        """Close everything: the start was refused."""
        self.backend.close()
        self.wal.close()
        self._lock.release()


def create(
    data_dir: str, *, plan: Plan, token: str, lock: LockFile | Locks, wal_dir: str = ""
) -> DataDir:
    """A new member, as planned: with the first members of a new cluster in its log, or with an
    empty log when it joins one."""
    backend = Backend.open(kv_path(data_dir), create=not os.path.lexists(kv_path(data_dir)))
    try:
        Members(backend).set_cluster_id(plan.cluster_id)
        backend.meta_put(TOKEN, token)
        backend.meta_put(META_MEMBER_ID, signed(plan.member_id))
        backend.commit()
        wal = Wal.create(
            wal_path(data_dir, wal_dir),
            cluster_id=plan.cluster_id,
            member_id=plan.member_id,
            entries=plan.entries,
            hard_state=plan.hard_state,
        )
    except BaseException:  # no start leaves a file open or locked, whatever ended it
        backend.close()
        lock.release()
        raise
    return DataDir(lock, wal, backend)


def reopen(data_dir: str, *, lock: LockFile | Locks, wal_dir: str = "") -> DataDir:
    """The member that was here before, with its log checked against its keyspace."""
    path = kv_path(data_dir)
    try:
        wal = Wal.open(wal_path(data_dir, wal_dir))
        try:
            snapshot.recover(path, wal.installed_index)
            backend = Backend.open(path, create=False)
        except BaseException:  # as in create()
            wal.close()
            raise
    except BaseException:  # as in create()
        lock.release()
        raise
    data = DataDir(lock, wal, backend)
    try:
        _check_pair(data)
        if backend.meta_get(META_MEMBER_ID) != signed(wal.member_id):
            backend.meta_put(META_MEMBER_ID, signed(wal.member_id))  # installed a moment ago
            backend.commit()
        wal.verify_watermark(*backend.log_mark)
    except BaseException:  # as in create()
        data.abandon()
        raise
    return data


def _check_pair(data: DataDir) -> None:
    """Log and keyspace of one member, not of two."""
    found = Members(data.backend).cluster_id
    if found and found != data.wal.cluster_id:
        raise ForeignFile(
            data.backend.path,
            f"belongs to cluster {found:x}, its log to cluster {data.wal.cluster_id:x}",
            "put the two files of one member together again",
        )


def settle(data: DataDir, conf_state: ConfState) -> None:
    """Let raft begin with the configuration of the applied index, and make the keyspace
    durable as it is; where there is no room for that, a later checkpoint does it."""
    backend = data.backend
    if not backend.applied_index:
        return
    data.wal.begin_with(conf_state)
    if backend.checkpoint() == backend.applied_index:
        meta = SnapshotMeta(backend.applied_index, backend.applied_term, conf_state)
        data.wal.save_snapshot_meta(meta)


class KeyspaceInstaller:
    """Where snapshots from the leader are put (peer/snapshot.py); called in threads."""

    def __init__(self, path: str) -> None:
        self._path = path

    def temporary_path(self, index: int) -> str:
        return snapshot.temporary_path(self._path, f"received-{index:x}")

    def keep(self, temporary: str, index: int, sha256: bytes | None) -> str:
        snapshot.verify(temporary, schema=SCHEMA, sha256=sha256)
        return snapshot.keep(temporary, self._path, index)
