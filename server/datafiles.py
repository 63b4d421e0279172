"""The files of a data directory, looked at before any of them is opened, made or changed.

Strategy. Plain reads first (preflight in store/db.py), then read-only connections: whose log and
keyspace these are, and whether they belong to each other, to their -wal files and to the flags.
What is refused here is refused in one line with what to do, and stays as it was.

The log may have a folder of its own, --wal-dir, for a disk of its own; "" is beside the keyspace. A
member is looked for in both places, and one that is where the flag does not point is refused: what
starts without its log would be a new member in the place of an old one.

Rules. A link in the place of a file is refused: SQLite names the -wal file after the name that it
was given, and two names for one file end in damage (sqlite.org/howtocorrupt.html). A keyspace says
which member it belongs to; one from a snapshot that was installed a moment ago says another.
"""

import os
import stat
from dataclasses import dataclass
from typing import Any, Final

import apsw

from pyetcd.server.config import Config
from pyetcd.store import db, snapshot, walscan
from pyetcd.store.backend import META_MEMBER_ID, SCHEMA
from pyetcd.store.db import Damaged, ForeignFile, open_reader, preflight, unsigned
from pyetcd.store.logrows import SCHEMA as WAL_SCHEMA
from pyetcd.store.members import Member, decode_context

TOKEN: Final = "initial_cluster_token"  # a row of kv.db's meta table

REMEDY: Final = (
    "restore all files of this member from one copy, or remove it from the cluster, empty its data"
    " directory and add it again"
)


def wal_path(data_dir: str, wal_dir: str = "") -> str:
    return os.path.join(wal_dir or os.path.join(data_dir, "member"), "wal.db")


def kv_path(data_dir: str) -> str:
    return os.path.join(data_dir, "member", "kv.db")


def has_member(data_dir: str, wal_dir: str = "") -> bool:
    """Whether a member has been started on this directory before."""
    return os.path.lexists(wal_path(data_dir, wal_dir))


def look(data_dir: str, config: Config) -> None:
    """Refuse what cannot be started, before anything is made or changed, a lock included: files
    that are not ours, newer or not whole, and flags that mean another member or cluster.

    etcd goes by the directory and ignores the flags, and so starts one member in the place of
    another. Flags that are merely out of date are ignored here, too.
    """
    wal_dir = config.log_dir
    log, kv = wal_path(data_dir, wal_dir), kv_path(data_dir)
    if wal_dir and os.path.lexists(other := wal_path(data_dir)):
        reason = f"is a second log beside that in --wal-dir ({wal_dir})"
        raise ForeignFile(other, reason, "move the one away that is not this member's")
    _refuse_unusual(data_dir, wal_dir)
    preflight(log, WAL_SCHEMA)
    if not os.path.lexists(kv):
        remedy = "restore it beside wal.db, or remove the member and add it again"
        if wal_dir:
            remedy = "give the --data-dir that belongs to this --wal-dir"
        raise ForeignFile(kv, "is missing", remedy)
    preflight(kv, SCHEMA)
    _refuse_mixture(log)
    _refuse_mixture(kv, header_only=True)
    found = Identity.read(data_dir, wal_dir)
    _refuse_strangers(data_dir, found)
    if not config.force_new_cluster:
        refuse_other(data_dir, found, config)


def _refuse_unusual(data_dir: str, wal_dir: str) -> None:
    """Links, and files that this process may not write to."""
    for base in (wal_path(data_dir, wal_dir), kv_path(data_dir)):
        for path in (base, base + "-wal", base + "-shm"):
            if not os.path.lexists(path):
                continue
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                raise ForeignFile(path, "is a symbolic link", "put the file itself there")
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                reason = f"is a hard link to a file with {found.st_nlink} names"
                raise ForeignFile(path, reason, "put a copy there")
            if not os.access(path, os.R_OK | os.W_OK):
                user = f"user id {os.geteuid()}"
                raise ForeignFile(path, "permission denied", f"let {user} read and write it")


def _refuse_mixture(path: str, *, header_only: bool = False) -> None:
    """A -wal file whose damaged part has been moved into the main file already: SQLite would lay
    the older pages before the damage over the newer ones. Behind a damaged frame of kv.db's this is
    told by the applied index (_refuse_older): a torn write may be of what was there already."""
    if walscan.is_main_ahead(path, header_only=header_only):
        raise ForeignFile(f"{path}-wal", "is damaged", REMEDY)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data a directory holds, as its files say; read without changing them."""

    member_id: int
    cluster_id: int
    installed_index: int  # of the snapshot from elsewhere that the log begins with, or 0
    kv_member_id: int  # 0: not known
    kv_cluster_id: int  # 0: nothing applied yet
    kv_applied_index: int
    token: str | None  # of the cluster it was made for
    members: tuple[Member, ...]

    @classmethod
    def read(cls, data_dir: str, wal_dir: str = "") -> "Identity":
        log, kv = wal_path(data_dir, wal_dir), kv_path(data_dir)
        query = "SELECT member_id, cluster_id, base_index, base_crc FROM meta"
        rows = _select(log, query)
        if len(rows) != 1:
            raise ForeignFile(log, "holds no member", REMEDY)
        member_id, cluster_id, base_index, base_crc = rows[0]
        meta = dict(_select(kv, "SELECT key, value FROM meta"))
        try:
            members = tuple(decode_context(row[0])[0] for row in _select(kv, _MEMBERS))
            identity = cls(
                unsigned(member_id),
                unsigned(cluster_id),
                base_index if base_crc is None else 0,
                unsigned(meta.get(META_MEMBER_ID, 0)),
                int(meta.get("cluster_id", b"0"), 16),
                meta.get("applied_index", 0),
                meta.get(TOKEN),
                members,
            )
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ForeignFile(kv, "is damaged", REMEDY) from error
        _refuse_older(kv, identity.kv_applied_index)
        _refuse_foreign_wal(log, "SELECT member_id FROM meta", identity.member_id)
        # A file that was just installed says whose it was; the -wal file beside it, whose it is.
        # One that another will replace may be as new: then two were installed without a checkpoint.
        installed = identity.installed_index
        is_new = installed and installed == _alone(kv, _APPLIED)
        if not is_new and not _waits(kv, installed):
            query = f"SELECT value FROM meta WHERE key = '{META_MEMBER_ID}'"
            _refuse_foreign_wal(kv, query, identity.kv_member_id)
        return identity


def _waits(kv: str, installed_index: int) -> bool:
    """Whether a received file will take the place of kv.db."""
    return os.path.exists(snapshot.kept_path(kv, installed_index))


_MEMBERS: Final = "SELECT data FROM members"
_APPLIED: Final = "SELECT value FROM meta WHERE key = 'applied_index'"


def _select(path: str, query: str) -> list[Any]:
    reader = open_reader(path)
    try:
        return db.guarded(path, "read", reader.execute(query).fetchall)
    except apsw.Error as error:  # when the statement was prepared
        raise db.failure(path, "read", error) from error
    except Damaged as error:
        raise ForeignFile(path, error.reason.removeprefix(f"{path}: "), REMEDY) from error
    finally:
        reader.close()


def _refuse_foreign_wal(path: str, query: str, member_id: int) -> None:
    """The -wal file of another member is replayed by SQLite without a word: what the main file
    says alone must be what both say together."""
    found = _alone(path, query)
    if found is not None and unsigned(found) != member_id:
        raise ForeignFile(f"{path}-wal", "belongs to another file", REMEDY)


def _refuse_older(kv: str, applied_index: int) -> None:
    """Every commit writes the applied index, into one of the first pages, and a checkpoint moves
    pages in their order: if any was moved that the -wal does not have any more, this one was."""
    alone = _alone(kv, _APPLIED)
    if alone is not None and alone > applied_index:
        raise ForeignFile(f"{kv}-wal", "is damaged", REMEDY)


def _alone(path: str, query: str) -> int | None:
    """A number as the main file says it without its -wal file."""
    try:
        reader = db.open_alone(path)
        try:
            rows: list[Any] = reader.execute(query).fetchall()
        finally:
            reader.close()
    except apsw.Error:
        return None  # an interrupted checkpoint: only the two together are whole
    return rows[0][0] if rows else None


def _refuse_strangers(data_dir: str, found: Identity) -> None:
    """Log and keyspace of one member, not of two."""
    kv = kv_path(data_dir)
    if _waits(kv, found.installed_index):
        return
    if found.kv_cluster_id not in (0, found.cluster_id):
        reason = f"belongs to cluster {found.kv_cluster_id:x}, its log to {found.cluster_id:x}"
        raise ForeignFile(kv, reason, REMEDY)
    just_installed = found.kv_applied_index == found.installed_index > 0
    if found.kv_member_id not in (0, found.member_id) and not just_installed:
        reason = f"belongs to member {found.kv_member_id:x}, its log to {found.member_id:x}"
        raise ForeignFile(kv, reason, REMEDY)


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
    # A member that was moved advertises what is stored, whatever its --initial-cluster still says.
    flagged = {url for urls in config.initial_urls().values() for url in urls}
    flagged |= {url.text for url in config.initial_advertise_peer_urls}
    stored = {url for member in found.members for url in member.peer_urls}
    if flagged and stored and not flagged & stored:
        raise ForeignFile(
            data_dir,
            f"belongs to the cluster of {', '.join(sorted(stored))}",
            "correct --initial-cluster, or choose another --data-dir",
        )


def known_members(data_dir: str, wal_dir: str = "") -> tuple[int, tuple[Member, ...]]:
    """The member id, as the log has it, and the members, as the keyspace has them: whose the
    keyspace is it may not know yet, when it came from the leader a moment ago. Raises ForeignFile
    and StorageFailure."""
    log = wal_path(data_dir, wal_dir)
    rows = _select(log, "SELECT member_id FROM meta")
    if len(rows) != 1:
        raise ForeignFile(log, "holds no member", REMEDY)
    members = tuple(decode_context(row[0])[0] for row in _select(kv_path(data_dir), _MEMBERS))
    return unsigned(rows[0][0]), members


def refuse_foreign(data_dir: str, wal_dir: str = "") -> None:
    """Data that is not a member of ours must not be taken over by mistake."""
    member = os.path.join(data_dir, "member")
    keyspace, log = kv_path(data_dir), wal_path(data_dir, wal_dir)
    if wal_dir and has_member(data_dir):
        remedy = "move it and its -wal file there, or leave out --wal-dir"
        reason = f"is the log of this member, and not in --wal-dir ({wal_dir})"
        raise ForeignFile(wal_path(data_dir), reason, remedy)
    _refuse_unusual(data_dir, wal_dir)
    if os.path.lexists(keyspace):
        preflight(keyspace, SCHEMA)
        if _select(keyspace, "SELECT 1 FROM members LIMIT 1"):
            where = "in --wal-dir" if wal_dir else "beside it"
            remedy = f"restore wal.db {where}, or move the directory away"
            if not wal_dir:
                remedy = f"give its --wal-dir, {remedy}"
            raise ForeignFile(keyspace, "holds a keyspace whose log wal.db is missing", remedy)
    for path in (keyspace, log):
        if not os.path.lexists(path) and _size_bytes(path + "-wal"):
            remedy = "restore the files that belong to it, or move the directory away"
            raise ForeignFile(path, "is missing, but its -wal file exists", remedy)
    names = os.listdir(wal_dir) if wal_dir and os.path.isdir(wal_dir) else []
    if any(name.endswith(".wal") for name in names):
        reason = "holds the log of a real etcd member"
        raise ForeignFile(wal_dir, reason, "choose another --wal-dir")
    for name in ("snap", "wal"):
        if os.path.isdir(os.path.join(member, name)):
            raise ForeignFile(
                member,
                "holds the data of a real etcd member",
                "choose another --data-dir, or restore a snapshot of it",
            )


def _size_bytes(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
