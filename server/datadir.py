"""The data directory of one member: its lock, the log and the keyspace, opened or made new.

    <data-dir>/member/LOCK     held while the process runs
    <data-dir>/member/wal.db   the raft log (store/wal.py)
    <data-dir>/member/kv.db    the keyspace (store/backend.py)

Rules. A directory without wal.db holds no member; a new one gets kv.db first and wal.db last, whole
with its first entries, so that an interrupted first start begins again. What is there is never
overwritten: anything unexpected is refused with what to do about it.
"""

import os
from dataclasses import dataclass
from typing import Any

from pyetcd.raft.types import ConfState, SnapshotMeta
from pyetcd.server.bootstrap import Plan
from pyetcd.server.config import Config
from pyetcd.store import snapshot
from pyetcd.store.backend import SCHEMA, Backend
from pyetcd.store.db import ForeignFile, open_reader, preflight, unsigned
from pyetcd.store.lockfile import LockFile
from pyetcd.store.logrows import SCHEMA as WAL_SCHEMA
from pyetcd.store.members import Member, Members, decode_context
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


def look(data_dir: str, config: Config) -> None:
    """Refuse what cannot be started, before anything is made or changed, a lock included: files
    that are not ours, newer or not whole, and flags that mean another member or cluster.

    etcd goes by the directory and ignores the flags, and so starts one member in the place of
    another. Flags that are merely out of date are ignored here, too.
    """
    log, kv = wal_path(data_dir), kv_path(data_dir)
    preflight(log, WAL_SCHEMA)
    if not os.path.lexists(kv):
        remedy = "restore it beside wal.db, or remove the member and add it again"
        raise ForeignFile(kv, "is missing", remedy)
    preflight(kv, SCHEMA)
    if not config.force_new_cluster:
        refuse_other(data_dir, Identity.read(data_dir), config)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data a directory holds, as its files say; read without changing them."""

    member_id: int
    token: str | None  # of the cluster it was made for
    members: tuple[Member, ...]

    @classmethod
    def read(cls, data_dir: str) -> "Identity":
        log = open_reader(wal_path(data_dir))
        try:
            rows: list[Any] = log.execute("SELECT member_id FROM meta").fetchall()
        finally:
            log.close()
        keyspace = open_reader(kv_path(data_dir))
        try:
            members: list[Any] = keyspace.execute("SELECT data FROM members").fetchall()
            meta: list[Any] = keyspace.execute(
                "SELECT value FROM meta WHERE key = ?", (_TOKEN,)
            ).fetchall()
        finally:
            keyspace.close()
        return cls(
            unsigned(rows[0][0]),
            meta[0][0] if meta else None,
            tuple(decode_context(data)[0] for (data,) in members),
        )


def refuse_other(data_dir: str, found: Identity, config: Config) -> None:
    """Flags that mean another member, or another cluster, than this directory holds."""
    mine = next((member for member in found.members if member.id == found.member_id), None)
    if mine is None:
        return  # nothing applied yet
    for member in found.members:
        if member.id != mine.id and member.name == config.name != mine.name:
            raise ForeignFile(
                data_dir,
                f"holds member {mine.name} ({mine.id:x}), not {config.name}",
                "correct --name, or give this member its own --data-dir",
            )
    if not config.is_new_cluster or found.token is None:
        return
    if found.token != config.initial_cluster_token:
        raise ForeignFile(
            data_dir,
            f"belongs to a cluster with the token {found.token}, not"
            f" {config.initial_cluster_token}",
            "correct --initial-cluster-token, or choose another --data-dir",
        )
    flagged = {url for urls in config.initial_urls().values() for url in urls}
    stored = {url for member in found.members for url in member.peer_urls}
    if flagged and stored and not flagged & stored:
        raise ForeignFile(
            data_dir,
            f"belongs to the cluster of {', '.join(sorted(stored))}",
            "correct --initial-cluster, or choose another --data-dir",
        )


def refuse_foreign(data_dir: str) -> None:
    """Data that is not a member of ours must not be taken over by mistake."""
    member = os.path.join(data_dir, "member")
    keyspace = kv_path(data_dir)
    if os.path.lexists(keyspace):
        preflight(keyspace, SCHEMA)
        reader = open_reader(keyspace)
        try:
            if reader.execute("SELECT 1 FROM members LIMIT 1").fetchall():
                remedy = "restore wal.db beside it, or move the directory away"
                raise ForeignFile(keyspace, "holds a keyspace whose log wal.db is missing", remedy)
        finally:
            reader.close()
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
