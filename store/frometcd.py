"""A keyspace of ours made from the database of etcd 3.5: the same revisions, leases, users, alarms.

The bucket `key` becomes the table of revisions row by row, in its order, and so HashKV stays what
it was. etcd's index is in memory and is not in the file: `current` is computed at the end, from the
newest row of each key. Members are left out, for who restores makes new ones.
"""

from struct import Struct
from struct import error as StructError
from typing import Final

from google.protobuf.message import DecodeError

from pyetcd.proto.auth_pb2 import Role, User
from pyetcd.proto.kv_pb2 import KeyValue
from pyetcd.proto.lease_pb2 import Lease
from pyetcd.proto.rpc_pb2 import AlarmMember
from pyetcd.store import db
from pyetcd.store.backend import SUB_BITS, Backend
from pyetcd.store.boltfile import BoltFile, open_bolt, packed_revision
from pyetcd.store.db import signed
from pyetcd.store.history import crc_of
from pyetcd.store.snapshot import SnapshotFailed

BATCH_ROWS: Final = 10_000
_TOMBSTONE_KEY_BYTES: Final = 18
_U64: Final = Struct(">Q")

_INSERT: Final = "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?)"
_FILL_CURRENT: Final = """
    INSERT INTO current SELECT r.key, r.rev, r.create_revision, r.version, r.lease
    FROM (SELECT key, max(rev) AS rev FROM revisions GROUP BY key) AS newest
    JOIN revisions AS r ON r.rev = newest.rev WHERE r.value IS NOT NULL
"""


def convert(path: str, target: str) -> None:
    """Makes the new file `target` from a bbolt file; raises SnapshotFailed."""
    try:
        with open_bolt(path) as bolt:
            backend = Backend.open(target, create=True)
            try:
                _revisions(bolt, backend)
                _rest(bolt, backend)
                backend.commit()
                backend.empty_wal()
            finally:
                backend.close()
        db.fsync_file(target)
    except (DecodeError, StructError) as error:
        raise SnapshotFailed(f"invalid database: {path}: a value cannot be read") from error
    except db.StorageFailure as error:
        raise SnapshotFailed(error.reason) from error


def _revisions(bolt: BoltFile, backend: Backend) -> None:
    kv = KeyValue()
    for bolt_key, raw in bolt.bucket(b"key"):
        rev = packed_revision(bolt_key, bolt.path)
        kv.ParseFromString(raw)
        if not kv.key:  # --bump-revision of etcdutl; the compacted revision says the same
            continue
        if len(bolt_key) == _TOMBSTONE_KEY_BYTES:
            crc = crc_of(rev, kv.key, b"", 0, 0, 0)
            backend.execute(_INSERT, (rev, kv.key, None, 0, 0, 0, crc))
        else:
            numbers = (kv.create_revision, kv.version, kv.lease)
            crc = crc_of(rev, kv.key, kv.value, *numbers)
            backend.execute(_INSERT, (rev, kv.key, kv.value, *numbers, crc))
        if backend.pending > BATCH_ROWS:
            backend.commit()
            backend.rewind()
    backend.execute(_FILL_CURRENT)


def _rest(bolt: BoltFile, backend: Backend) -> None:
    for key, value in bolt.bucket(b"meta"):
        if key in (b"scheduledCompactRev", b"finishedCompactRev"):
            mark = "compact_scheduled" if key.startswith(b"s") else "compact_finished"
            backend.meta_put(mark, packed_revision(value, bolt.path) >> SUB_BITS)
    for _, value in bolt.bucket(b"lease"):
        lease = Lease.FromString(value)
        backend.execute(
            "INSERT INTO leases VALUES (?, ?, ?)", (lease.ID, lease.TTL, lease.RemainingTTL)
        )
    for key, _ in bolt.bucket(b"alarm"):
        alarm = AlarmMember.FromString(key)
        backend.execute(
            "INSERT INTO alarms VALUES (?, ?)", (signed(alarm.memberID), int(alarm.alarm))
        )
    for key, value in bolt.bucket(b"auth"):
        if key == b"authEnabled":
            backend.meta_put("auth_enabled", int(value == b"\x01"))
        elif key == b"authRevision":
            backend.meta_put("auth_revision", _U64.unpack(value)[0])
    for name, raw in bolt.bucket(b"authUsers"):
        User.FromString(raw)  # or it is damaged
        backend.execute("INSERT INTO auth_users VALUES (?, ?)", (name, raw))
    for name, raw in bolt.bucket(b"authRoles"):
        Role.FromString(raw)
        backend.execute("INSERT INTO auth_roles VALUES (?, ?)", (name, raw))
    for key, value in bolt.bucket(b"cluster"):
        if key == b"clusterVersion":
            backend.meta_put("cluster_version", value)
