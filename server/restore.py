"""A data directory made from a snapshot, or copied from another one, while no member runs on it.

Strategy. A restored member is one of a new cluster that begins with data. Ids come from the flags
alone, as in a first start (bootstrap.py), so each member is restored on its own machine from the
same snapshot and the same flags. Its log begins behind the first members' configuration entries,
which the keyspace has applied already: so a member that is added later is sent the keyspace, and
never learns the cluster from entries that lack it. Users, leases and alarms stay; the members of
the old cluster, and the ids that it must not use again, go.

Rules. Everything is built in member.restoring and renamed to member when it is whole and fsynced: a
crash leaves no member, and the next restore removes what it left. A directory that holds anything
else is refused. A failure removes what was made.

A bumped revision needs no row: the store's revision is at least the compacted one, and a watch from
before it ends as compacted, which is what tells clients to read again (etcd 3.5.10).
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pyetcd.raft.types import ConfState, SnapshotMeta
from pyetcd.server import bootstrap, datafiles
from pyetcd.server.bootstrap import InitialCluster, Plan
from pyetcd.server.config_values import parse_urls
from pyetcd.server.machine import save_conf_state
from pyetcd.store import db, frometcd, snapfile, snapshot
from pyetcd.store.backend import META_MEMBER_ID, SCHEMA, Backend
from pyetcd.store.db import signed
from pyetcd.store.lockfile import LockFile, make_directory
from pyetcd.store.members import Members, raft_attributes_json
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.snapfile import go_reason
from pyetcd.store.snapshot import SnapshotFailed
from pyetcd.store.v2 import V2Store
from pyetcd.store.wal import Wal

WORK: Final = "member.restoring"
Told = Callable[[str, str, dict[str, object]], None]  # where, message, fields
Fill = Callable[[str], None]  # makes the new file whose path it is given a keyspace of ours


class RestoreRefused(Exception):
    """No member was made. One line, in etcdutl's words where it has some."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What a restored member is to be."""

    name: str
    peer_urls: str
    initial_cluster: str
    token: str
    data_dir: str
    bump_revision: int = 0


def plan(flags: Flags) -> Plan:
    """Ids and first entries; raises RestoreRefused as a start with these flags would be."""
    try:
        advertised = tuple(url.text for url in parse_urls(flags.peer_urls))
        urls = bootstrap.parse_initial_cluster(flags.initial_cluster)
        initial = InitialCluster(flags.name, urls, flags.token, advertised, is_new=True)
        resolved: dict[str, str] = {}
        theirs = urls.get(flags.name, ())
        if theirs and sorted(advertised) != sorted(theirs):
            resolved = asyncio.run(bootstrap.resolve_urls([*advertised, *theirs]))
        bootstrap.check_new(initial, resolved)
        return bootstrap.plan_new(initial)
    except (ValueError, bootstrap.BootstrapError) as error:
        raise RestoreRefused(str(error)) from error


def check_empty(data_dir: str) -> None:
    """Refuse a directory with anything in it but the remains of an earlier restore."""
    try:
        names = os.listdir(data_dir)
    except FileNotFoundError:
        return
    except OSError:
        names = ["unreadable"]
    if [name for name in names if name != WORK]:
        raise RestoreRefused(f'data-dir "{data_dir}" not empty or could not be read')


def restore(flags: Flags, made: Plan, fill: Fill, tell: Told) -> None:
    """Makes the data directory; `fill` brings the keyspace. Raises RestoreRefused."""
    check_empty(flags.data_dir)
    with building(flags.data_dir) as work:
        kv = os.path.join(work, "kv.db")
        fill(kv)
        snapshot.verify(kv, schema=SCHEMA)
        tell("membership/store.go:141", "Trimming membership information from the backend...", {})
        mark_crc = _write_log(os.path.join(work, "wal.db"), made)
        for member in made.members:
            fields: dict[str, object] = {
                "cluster-id": f"{made.cluster_id:x}",
                "local-member-id": "0",
                "added-peer-id": f"{member.id:x}",
                "added-peer-peer-urls": list(member.peer_urls),
            }
            tell("membership/cluster.go:421", "added member", fields)
        _settle(kv, made, flags, mark_crc, tell)


def _write_log(path: str, made: Plan) -> int:
    """The log of a member that has applied the configuration entries; the CRC of the last one."""
    wal = Wal.create(
        path,
        cluster_id=made.cluster_id,
        member_id=made.member_id,
        entries=made.entries,
        hard_state=made.hard_state,
    )
    last = made.entries[-1]
    crc = wal.watermark(last.index).crc
    wal.save_snapshot_meta(SnapshotMeta(last.index, last.term, _conf_state(made)))
    wal.compact(last.index)
    wal.close()
    return crc


def _conf_state(made: Plan) -> ConfState:
    return ConfState(voters=tuple(sorted(member.id for member in made.members)))


def _settle(kv: str, made: Plan, flags: Flags, mark_crc: int, tell: Told) -> None:
    """What the keyspace says of its cluster, and how far it is in the new log."""
    backend = Backend.open(kv, create=False)
    try:
        backend.meta_put("cluster_id", b"0")  # of the old one, which never changes otherwise
        members = Members(backend)
        members.replace_all(made.members)
        members.set_cluster_id(made.cluster_id)
        v2 = V2Store(backend, lambda: 0)
        v2.reset()
        for member in made.members:
            v2.set_member(member.id, raft_attributes_json(member))
        backend.meta_put(datafiles.TOKEN, flags.token)
        backend.meta_put(META_MEMBER_ID, signed(made.member_id))
        save_conf_state(backend, _conf_state(made))
        if flags.bump_revision:
            _bump(backend, flags.bump_revision, tell)
        last = made.entries[-1]
        backend.applied_index = 0  # that was of the old log
        backend.set_applied(last.index, last.term, log_crc=mark_crc)
        backend.commit()
        backend.empty_wal()
    finally:
        backend.close()
    db.fsync_file(kv)


def _bump(backend: Backend, amount: int, tell: Told) -> None:
    latest = Keyspace(backend).revision
    fields: dict[str, object] = {
        "latest-revision": latest,
        "bump-amount": amount,
        "new-latest-revision": latest + amount,
    }
    tell("snapshot/v3_snapshot.go:360", "bumping latest revision", fields)
    tell("snapshot/v3_snapshot.go:377", "marking revision compacted", {"revision": latest + amount})
    backend.meta_put("compact_scheduled", latest + amount)


@contextmanager
def building(data_dir: str) -> Iterator[str]:
    """The folder to build a member in; it becomes `member` if all went well, else it goes."""
    existed = os.path.isdir(data_dir)
    work = os.path.join(data_dir, WORK)
    try:
        make_directory(data_dir)
        lock = LockFile.claim(work)  # two restores at once: the second one is refused
    except db.ForeignFile as error:
        raise RestoreRefused(str(error)) from error
    try:
        for name in os.listdir(work):
            if name != "LOCK":
                os.unlink(os.path.join(work, name))  # of one that was killed
        yield work
        db.fsync_dir(work)
        os.rename(work, os.path.join(data_dir, "member"))
        db.fsync_dir(data_dir)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if not existed and not os.listdir(data_dir):
            os.rmdir(data_dir)
        if isinstance(error, db.StorageFailure):
            raise RestoreRefused(error.reason) from error
        if isinstance(error, SnapshotFailed | db.ForeignFile):
            raise RestoreRefused(str(error).replace(work + "/", "")) from error
        if isinstance(error, OSError):
            raise RestoreRefused(f"{work}: {go_reason(error)}") from error
        raise
    finally:
        lock.release()


def fill_from(path: str, *, skip_hash_check: bool) -> Fill:
    """The keyspace of a snapshot file, of pyetcd or of etcd 3.5."""

    def fill(target: str) -> None:
        if snapfile.kind_of(path) is snapfile.Kind.OURS:
            return snapfile.extract(path, target, skip_hash_check=skip_hash_check)
        foreign = f"{target}.etcd"  # of a real etcd
        snapfile.extract(path, foreign, skip_hash_check=skip_hash_check)
        frometcd.convert(foreign, target)
        return os.unlink(foreign)

    return fill
