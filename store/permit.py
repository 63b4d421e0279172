"""May this request be done in this name? Asked when an entry is applied, and before a read.

Rules. One function for each kind of operation, used at the top level and at any depth of nested
transactions alike: etcd once checked less inside (CVE-2026-33343, CVE-2026-44283). A transaction is
judged whole, both branches and every compare, before any of it runs.

- A put writes its key, reads it for prev_kv, and may take a lease only if all keys of the lease may
  be written: who may not end a lease must not bind more keys to it.
- A delete writes its range, reads it for prev_kv. A range reads. A compare reads.
- Revoking a lease deletes its keys, so it writes all of them.
- Users, roles and the switch are root's. A user may look at itself and at its own roles.
- What members propose by themselves (compaction, alarms, versions, checkpoints) carries no name
  and is not judged here; the API judges who asks for it.
"""

from collections.abc import Iterable
from typing import Final

from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from pyetcd.store.auth import AuthStore, Who
from pyetcd.store.lease import Lessor

ROOT_ONLY: Final = (
    "auth_enable",
    "auth_disable",
    "auth_status",
    "auth_user_add",
    "auth_user_delete",
    "auth_user_change_password",
    "auth_user_grant_role",
    "auth_user_revoke_role",
    "auth_user_list",
    "auth_role_add",
    "auth_role_delete",
    "auth_role_list",
    "auth_role_grant_permission",
    "auth_role_revoke_permission",
)


def permit(auth: AuthStore, lessor: Lessor, request: InternalRaftRequest) -> None:
    """Raises the refusal of a request out of the log; called while authentication is on."""
    who = Who(request.header.username, request.header.auth_revision)
    if request.HasField("put"):
        permit_put(auth, lessor, who, request.put)
    elif request.HasField("txn"):
        permit_txn(auth, lessor, who, request.txn)
    elif request.HasField("range"):
        permit_range(auth, who, request.range)
    elif request.HasField("delete_range"):
        permit_delete_range(auth, who, request.delete_range)
    elif request.HasField("lease_revoke"):
        permit_lease(auth, lessor, who, request.lease_revoke.ID)
    elif request.HasField("auth_user_get"):
        if request.auth_user_get.name != who.name:
            auth.check_root(who)
    elif request.HasField("auth_role_get"):
        if not auth.has_role(who.name, request.auth_role_get.role):
            auth.check_root(who)
    elif any(request.HasField(field) for field in ROOT_ONLY):
        auth.check_root(who)


def permit_put(auth: AuthStore, lessor: Lessor, who: Who, request: PutRequest) -> None:
    auth.check_write(who, request.key, b"")
    if request.lease:
        permit_lease(auth, lessor, who, request.lease)
    if request.prev_kv:
        auth.check_read(who, request.key, b"")


def permit_range(auth: AuthStore, who: Who, request: RangeRequest) -> None:
    auth.check_read(who, request.key, request.range_end)


def permit_delete_range(auth: AuthStore, who: Who, request: DeleteRangeRequest) -> None:
    auth.check_write(who, request.key, request.range_end)
    if request.prev_kv:
        auth.check_read(who, request.key, request.range_end)


def permit_txn(auth: AuthStore, lessor: Lessor, who: Who, request: TxnRequest) -> None:
    for compare in request.compare:
        auth.check_read(who, compare.key, compare.range_end)
    _permit_ops(auth, lessor, who, request.success)
    _permit_ops(auth, lessor, who, request.failure)


def _permit_ops(auth: AuthStore, lessor: Lessor, who: Who, ops: Iterable[RequestOp]) -> None:
    for op in ops:
        kind = op.WhichOneof("request")
        if kind == "request_range":
            permit_range(auth, who, op.request_range)
        elif kind == "request_put":
            permit_put(auth, lessor, who, op.request_put)
        elif kind == "request_delete_range":
            permit_delete_range(auth, who, op.request_delete_range)
        elif kind == "request_txn":
            permit_txn(auth, lessor, who, op.request_txn)


def permit_lease(auth: AuthStore, lessor: Lessor, who: Who, id: int) -> None:
    """Whether `who` may write every key of the lease: to revoke, renew or take it. A lease without
    keys, or none of that id, is anybody's."""
    lease = lessor.get(id)
    if lease is None:
        return
    for key in lease.keys:
        auth.check_write(who, key, b"")
        if auth.is_root(who.name):
            return  # and so for the other keys, which may be many


def permit_reading(auth: AuthStore, who: Who, keys: Iterable[bytes]) -> None:
    """Whether `who` may read each of the keys."""
    for key in keys:
        auth.check_read(who, key, b"")
