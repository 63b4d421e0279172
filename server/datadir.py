"""The data directory of one member: its lock, the log and the keyspace, opened or made new.

    <data-dir>/member/LOCK     held while the process runs
    <data-dir>/member/wal.db   the raft log (store/wal.py)
    <data-dir>/member/kv.db    the keyspace (store/backend.py)

Rules. A directory without wal.db holds no member; a new one gets kv.db first and wal.db last, whole
with its first entries, so that an interrupted first start begins again. What is there is never
overwritten: anything unexpected is refused with what to do about it.
"""

import os

from pyetcd.raft.types import ConfState, SnapshotMeta
from pyetcd.server.bootstrap import Plan
from pyetcd.server.config import Config
from pyetcd.store import snapshot
from pyetcd.store.backend import SCHEMA, Backend
from pyetcd.store.db import ForeignFile
from pyetcd.store.lockfile import LockFile
from pyetcd.store.members import Members
from pyetcd.store.wal import Wal

_TOKEN = "initial_cluster_token"  # a row of kv.db's meta table


class DataDir:
    """An open data directory."""

    def __init__(self, lock: LockFile, wal: Wal, backend: Backend) -> None:
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


def wal_path(data_dir: str) -> str:
    return os.path.join(data_dir, "member", "wal.db")


def kv_path(data_dir: str) -> str:
    return os.path.join(data_dir, "member", "kv.db")


def has_member(data_dir: str) -> bool:
    """Whether a member has been started on this directory before."""
    return os.path.lexists(wal_path(data_dir))


def refuse_foreign(data_dir: str) -> None:
    """A directory of the real etcd must not be taken over, or emptied, by mistake."""
    member = os.path.join(data_dir, "member")
    for name in ("snap", "wal"):
        if os.path.isdir(os.path.join(member, name)):
            raise ForeignFile(
                member,
                "holds the data of a real etcd member",
                "choose another --data-dir, or restore a snapshot of it",
            )


def create(data_dir: str, *, plan: Plan, token: str, lock: LockFile) -> DataDir:
    """A new member, as planned: with the first members of a new cluster in its log, or with an
    empty log when it joins one."""
    backend = Backend.open(kv_path(data_dir), create=not os.path.lexists(kv_path(data_dir)))
    try:
        if backend.applied_index:
            raise ForeignFile(
                kv_path(data_dir),
                "holds a keyspace whose log is missing",
                "restore wal.db beside it, or move the directory away",
            )
        Members(backend).set_cluster_id(plan.cluster_id)
        backend.meta_put(_TOKEN, token)
        backend.commit()
        wal = Wal.create(
            wal_path(data_dir),
            cluster_id=plan.cluster_id,
            member_id=plan.member_id,
            entries=plan.entries,
            hard_state=plan.hard_state,
        )
    except BaseException:
        backend.close()
        lock.release()
        raise
    return DataDir(lock, wal, backend)


def reopen(data_dir: str, *, lock: LockFile) -> DataDir:
    """The member that was here before, with its log checked against its keyspace."""
    path = kv_path(data_dir)
    try:
        wal = Wal.open(wal_path(data_dir))
        try:
            snapshot.recover(path, wal.installed_index)
            backend = Backend.open(path, create=False)
        except BaseException:
            wal.close()
            raise
    except BaseException:
        lock.release()
        raise
    data = DataDir(lock, wal, backend)
    try:
        _check_pair(data)
        wal.verify_watermark(*backend.log_mark)
    except BaseException:
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


def refuse_other(data: DataDir, config: Config) -> None:
    """Flags that mean another member, or another cluster, than this directory holds.

    etcd goes by the directory and ignores the flags, and so starts one member in the place of
    another. Flags that are merely out of date are ignored here, too.
    """
    known = Members(data.backend)
    mine = known.get(data.wal.member_id)
    if mine is None or config.force_new_cluster:
        return  # not applied yet, or on its way to be another cluster
    for member in known.all():
        if member.id != mine.id and member.name == config.name != mine.name:
            raise ForeignFile(
                config.data_dir,
                f"holds member {mine.name} ({mine.id:x}), not {config.name}",
                "correct --name, or give this member its own --data-dir",
            )
    token = data.backend.meta_get(_TOKEN)
    if not config.is_new_cluster or token is None:
        return
    if token != config.initial_cluster_token:
        raise ForeignFile(
            config.data_dir,
            f"belongs to a cluster with the token {token}, not {config.initial_cluster_token}",
            "correct --initial-cluster-token, or choose another --data-dir",
        )
    flagged = {url for urls in config.initial_urls().values() for url in urls}
    stored = {url for member in known.all() for url in member.peer_urls}
    if flagged and stored and not flagged & stored:
        raise ForeignFile(
            config.data_dir,
            f"belongs to the cluster of {', '.join(sorted(stored))}",
            "correct --initial-cluster, or choose another --data-dir",
        )


def settle(data: DataDir, conf_state: ConfState) -> None:
    """Make the keyspace durable as it is and let the log start from there: raft then begins with
    the configuration that belongs to the applied index."""
    backend = data.backend
    if backend.applied_index and backend.checkpoint() == backend.applied_index:
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
