"""A snapshot in a file, as Maintenance.Snapshot streams it: what it is, whole or not, what it says.

A snapshot is a copy of the keyspace file followed by its SHA-256. 512 divides the size of every
page, so a file of 32 bytes more has the trailer (etcd: hasChecksum). A copy of kv.db out of a
stopped member's directory has none, and is taken only when the caller knows.

Rules. Nothing of the source is changed. What cannot be used is `SnapshotFailed`, one line: what it
is and what to do; where etcdutl has a text for it, with that.
"""

import hashlib
import os
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import apsw

from pyetcd.store import db
from pyetcd.store.backend import SCHEMA
from pyetcd.store.compact import HashResult, hash_all, hash_on
from pyetcd.store.logrows import SCHEMA as LOG_SCHEMA
from pyetcd.store.snapshot import SnapshotFailed

TRAILER_BYTES: Final = 32
SECTOR_BYTES: Final = 512
PIECE_BYTES: Final = 1 << 20
_BOLT_MAGIC: Final = (0xED0CDAED).to_bytes(4, "little")

_COUNTED: Final = (
    "revisions",
    "leases",
    "members",
    "members_removed",
    "alarms",
    "auth_users",
    "auth_roles",
    "meta",
)


class Kind(Enum):
    """What a file is by its first bytes."""

    OURS = "a snapshot of pyetcd"
    BOLT = "a snapshot of etcd"


@dataclass(frozen=True, slots=True)
class Contents:
    """`keys`: the rows of all tables; `hash`: a CRC over what members have in common."""

    hash: int
    revision: int
    keys: int
    size_bytes: int


def go_reason(error: OSError) -> str:
    """As Go ends its path errors: `no such file or directory`."""
    return (error.strerror or str(error)).lower()


def kind_of(path: str) -> Kind:
    """Looks at the first bytes; raises SnapshotFailed for what is no snapshot."""
    try:
        with open(path, "rb") as file:
            head = file.read(8192)
    except OSError as error:
        raise SnapshotFailed(f"open {path}: {go_reason(error)}") from error
    if _is_bolt(head):
        return Kind.BOLT
    if head[: len(db.SQLITE_MAGIC)] == db.SQLITE_MAGIC and len(head) >= db.HEADER_BYTES:
        application_id = int.from_bytes(head[68:72], "big", signed=True)
        if application_id == SCHEMA.application_id:
            return Kind.OURS
        if application_id == LOG_SCHEMA.application_id:
            raise _invalid(path, "is the raft log of a member; its keyspace is kv.db beside it")
        raise _invalid(path, "is a SQLite file of another program")
    if not head:
        raise _invalid(path, "is empty; save the snapshot again")
    if head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd":
        raise _invalid(path, "is compressed; unpack it first")
    raise _invalid(path, "is neither a snapshot of pyetcd nor one of etcd, or its start is damaged")


def _invalid(path: str, reason: str) -> SnapshotFailed:
    return SnapshotFailed(f"invalid database: {path} {reason}")


def _is_bolt(head: bytes) -> bool:
    """Two meta pages begin a bbolt file; behind the page header of 16 bytes stands the magic."""
    return head[16:20] == _BOLT_MAGIC


def has_trailer(size_bytes: int) -> bool:
    return size_bytes % SECTOR_BYTES == TRAILER_BYTES


def check_trailer(path: str) -> int:
    """The size without the trailer; raises SnapshotFailed when the trailer is another's."""
    return _digest(path, target=None, required=False)


def extract(path: str, target: str, *, skip_hash_check: bool) -> None:
    """Copies a snapshot without its trailer to the new file `target`, fsynced, and verifies it."""
    _digest(path, target=target, required=not skip_hash_check)


def _digest(path: str, *, target: str | None, required: bool) -> int:
    """Reads all; the size without the trailer. `required`: a trailer must be there. With a target
    and not required nobody looks at the trailer: that is what --skip-hash-check means."""
    try:
        with open(path, "rb") as source:
            size_bytes = os.fstat(source.fileno()).st_size
            trailed = has_trailer(size_bytes)
            if required and not trailed:
                raise SnapshotFailed("snapshot missing hash but --skip-hash-check=false")
            body_bytes = size_bytes - TRAILER_BYTES if trailed else size_bytes
            found = _copy(source.fileno(), body_bytes, target)
            trailer = os.read(source.fileno(), TRAILER_BYTES) if trailed else b""
    except OSError as error:
        raise SnapshotFailed(f"read {path}: {go_reason(error)}") from error
    if trailed and (required or target is None) and trailer != found:
        wanted, got = _go_bytes(trailer), _go_bytes(found)
        raise SnapshotFailed(f"expected sha256 {wanted}, got {got}")
    return body_bytes


def _copy(source: int, left_bytes: int, target: str | None) -> bytes:
    digest = hashlib.sha256()
    descriptor = -1
    try:
        if target is not None:
            descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        while left_bytes:
            piece = os.read(source, min(PIECE_BYTES, left_bytes))
            if not piece:
                raise SnapshotFailed("the snapshot was cut short while it was read")
            left_bytes -= len(piece)
            digest.update(piece)
            view = memoryview(piece) if target is not None else memoryview(b"")
            while view:
                view = view[os.write(descriptor, view) :]
        if target is not None:
            os.fsync(descriptor)
    except OSError as error:
        if target is None:
            raise
        raise SnapshotFailed(f"write {target}: {go_reason(error)}") from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return digest.digest()


def _go_bytes(raw: bytes) -> str:
    return "[" + " ".join(str(byte) for byte in raw) + "]"


def status(path: str) -> Contents:
    """What a snapshot of ours, or the kv.db of a stopped member, holds; all of it is verified."""
    size_bytes = check_trailer(path)
    connection = _open(path)
    try:
        db.quick_check(connection)
        crc, revision = hash_all(connection)
        keys = 0
        for table in _COUNTED:
            rows: list[Any] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
            keys += int(rows[0][0])
    except apsw.Error as error:
        raise SnapshotFailed(db.failure(path, "read", error).reason) from error
    except db.StorageFailure as error:
        raise SnapshotFailed(error.reason) from error
    finally:
        connection.close()
    return Contents(crc, revision, keys, size_bytes)


def hash_kv(path: str, revision: int) -> HashResult:
    """HashKV of a snapshot or of a stopped member's kv.db; raises Compacted and FutureRev."""
    connection = _open(path)
    try:
        return hash_on(connection, revision)
    except db.StorageFailure as error:
        raise SnapshotFailed(error.reason) from error
    except apsw.Error as error:
        raise SnapshotFailed(db.failure(path, "read", error).reason) from error
    finally:
        connection.close()


def _open(path: str) -> apsw.Connection:
    """A snapshot is one file; what a killed member left in the -wal file belongs to its kv.db."""
    side = path + "-wal"
    try:
        db.preflight(path, SCHEMA)
        if os.path.exists(side) and os.path.getsize(side):
            return db.open_reader(path)
        return db.guarded(path, "open", lambda: db.open_alone(path))
    except db.ForeignFile as error:
        raise SnapshotFailed(str(error)) from error
    except db.StorageFailure as error:
        raise SnapshotFailed(error.reason) from error
