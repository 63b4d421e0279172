"""Which right each RPC asks for while authentication is on: one row per method.

What has no row is root's. So a new method is closed until somebody decides otherwise, and the
authorisation matrix (tests/e2e/test_auth_matrix.py) fails until it has a row there.

Rows marked 3.5.28 let everybody in, without any token, in etcd 3.5.1.
"""

from enum import Enum
from typing import Final


class Rule(Enum):
    """Who is let in."""

    OPEN = "anybody"
    INNER = "anybody: it is made of calls that are judged themselves"
    LOGGED = "judged by the state machine, when the entry is applied"
    KEYS = "judged by its handler, by the keys it touches"
    USER = "any user"
    USER_THEN_LOGGED = "any user; then the state machine judges"
    USER_THEN_KEYS = "any user; then the handler judges, by the keys it shows"
    ALARM = "any user to look, root to change"
    ROOT = "root"
    ROOT_RAW = "root; refusals are raw internal texts of code Unknown, as in etcd 3.5"


_KV = "/etcdserverpb.KV/"
_LEASE = "/etcdserverpb.Lease/"
_CLUSTER = "/etcdserverpb.Cluster/"
_MAINTENANCE = "/etcdserverpb.Maintenance/"
_AUTH = "/etcdserverpb.Auth/"

RULES: Final[dict[str, Rule]] = {
    _KV + "Range": Rule.KEYS,
    _KV + "RangeStream": Rule.KEYS,
    _KV + "Put": Rule.LOGGED,
    _KV + "DeleteRange": Rule.LOGGED,
    _KV + "Txn": Rule.LOGGED,  # a read-only one by its handler
    _KV + "Compact": Rule.ROOT,  # 3.5.28
    "/etcdserverpb.Watch/Watch": Rule.KEYS,
    _LEASE + "LeaseGrant": Rule.USER,  # 3.5.28
    _LEASE + "LeaseRevoke": Rule.USER_THEN_LOGGED,  # a lease without keys: 3.5.28
    _LEASE + "LeaseKeepAlive": Rule.USER_THEN_KEYS,  # 3.5.28
    _LEASE + "LeaseTimeToLive": Rule.USER_THEN_KEYS,  # 3.5.28
    _LEASE + "LeaseLeases": Rule.USER_THEN_KEYS,  # 3.5.28
    _CLUSTER + "MemberAdd": Rule.ROOT,
    _CLUSTER + "MemberRemove": Rule.ROOT,
    _CLUSTER + "MemberUpdate": Rule.ROOT,
    _CLUSTER + "MemberPromote": Rule.ROOT,
    _CLUSTER + "MemberList": Rule.USER,  # 3.5.28
    _MAINTENANCE + "Alarm": Rule.ALARM,  # 3.5.28
    _MAINTENANCE + "Status": Rule.USER,  # 3.5.28
    _MAINTENANCE + "Defragment": Rule.ROOT_RAW,
    _MAINTENANCE + "Hash": Rule.ROOT_RAW,
    _MAINTENANCE + "HashKV": Rule.ROOT_RAW,
    _MAINTENANCE + "Snapshot": Rule.ROOT_RAW,
    _MAINTENANCE + "MoveLeader": Rule.ROOT,  # 3.5.28
    _MAINTENANCE + "Downgrade": Rule.ROOT,  # 3.5.28
    _AUTH + "Authenticate": Rule.OPEN,
    _AUTH + "AuthEnable": Rule.LOGGED,
    _AUTH + "AuthDisable": Rule.LOGGED,
    _AUTH + "AuthStatus": Rule.LOGGED,
    _AUTH + "UserAdd": Rule.LOGGED,
    _AUTH + "UserGet": Rule.LOGGED,
    _AUTH + "UserList": Rule.LOGGED,
    _AUTH + "UserDelete": Rule.LOGGED,
    _AUTH + "UserChangePassword": Rule.LOGGED,
    _AUTH + "UserGrantRole": Rule.LOGGED,
    _AUTH + "UserRevokeRole": Rule.LOGGED,
    _AUTH + "RoleAdd": Rule.LOGGED,
    _AUTH + "RoleGet": Rule.LOGGED,
    _AUTH + "RoleList": Rule.LOGGED,
    _AUTH + "RoleDelete": Rule.LOGGED,
    _AUTH + "RoleGrantPermission": Rule.LOGGED,
    _AUTH + "RoleRevokePermission": Rule.LOGGED,
    "/v3lockpb.Lock/Lock": Rule.INNER,
    "/v3lockpb.Lock/Unlock": Rule.INNER,
    "/v3electionpb.Election/Campaign": Rule.INNER,
    "/v3electionpb.Election/Proclaim": Rule.INNER,
    "/v3electionpb.Election/Leader": Rule.INNER,
    "/v3electionpb.Election/Observe": Rule.INNER,
    "/v3electionpb.Election/Resign": Rule.INNER,
    "/grpc.health.v1.Health/Check": Rule.OPEN,
    "/grpc.health.v1.Health/Watch": Rule.OPEN,
    "/pyetcdpb.Times/RevisionAt": Rule.USER,
    # What every release of the protocol says in public.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule.OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule.OPEN,
}


def rule_of(path: str) -> Rule:
    return RULES.get(path, Rule.ROOT)
