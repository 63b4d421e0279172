"""`"Name" : value`, one field a line."""

from collections.abc import Iterable
from typing import Any

from pyetcd.cli.gotext import quote
from pyetcd.cli.printers.base import (
    About,
    At,
    Display,
    Health,
    Named,
    Revoked,
    SnapshotHash,
    SnapshotStatus,
    TimeToLive,
)
from pyetcd.cli.terminal import Exit
from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc


def _line(display: Display, name: str, value: object) -> None:
    if isinstance(value, bool):
        value = "true" if value else "false"
    display.terminal.print(f'"{name}" : {value}')


def _text(display: Display, name: str, value: str) -> None:
    _line(display, name, quote(value.encode("utf-8", "surrogateescape")))


def _header(display: Display, header: rpc.ResponseHeader) -> None:
    _line(display, "ClusterID", header.cluster_id)
    _line(display, "MemberID", header.member_id)
    _line(display, "Revision", header.revision)
    _line(display, "RaftTerm", header.raft_term)


def _pair(display: Display, pair: kv.KeyValue, prefix: str = "") -> None:
    _line(display, f"{prefix}Key", quote(pair.key))
    _line(display, f"{prefix}CreateRevision", pair.create_revision)
    _line(display, f"{prefix}ModRevision", pair.mod_revision)
    _line(display, f"{prefix}Version", pair.version)
    _line(display, f"{prefix}Value", quote(pair.value))
    _line(display, f"{prefix}Lease", pair.lease)


def _put(display: Display, answer: rpc.PutResponse) -> None:
    _header(display, answer.header)
    if answer.HasField("prev_kv"):
        _pair(display, answer.prev_kv, "Prev")


def _get(display: Display, answer: rpc.RangeResponse) -> None:
    _header(display, answer.header)
    for pair in answer.kvs:
        _pair(display, pair)
    _line(display, "More", answer.more)
    _line(display, "Count", answer.count)


def _delete(display: Display, answer: rpc.DeleteRangeResponse) -> None:
    _header(display, answer.header)
    _line(display, "Deleted", answer.deleted)
    for pair in answer.prev_kvs:
        _pair(display, pair, "Prev")


def _txn(display: Display, answer: rpc.TxnResponse) -> None:
    _header(display, answer.header)
    _line(display, "Succeeded", answer.succeeded)
    for part in answer.responses:
        if part.HasField("response_put"):
            _put(display, part.response_put)
        elif part.HasField("response_range"):
            _get(display, part.response_range)
        elif part.HasField("response_delete_range"):
            _delete(display, part.response_delete_range)


def _watch(display: Display, answer: rpc.WatchResponse) -> None:
    _header(display, answer.header)
    for event in answer.events:
        _line(display, "Type", "DELETE" if event.type == kv.Event.DELETE else "PUT")
        if event.HasField("prev_kv"):
            _pair(display, event.prev_kv, "Prev")
        _pair(display, event.kv)


def _lease(display: Display, answer: rpc.LeaseGrantResponse | rpc.LeaseKeepAliveResponse) -> None:
    _header(display, answer.header)
    _line(display, "ID", answer.ID)
    _line(display, "TTL", answer.TTL)


def _revoke(display: Display, about: About[rpc.LeaseRevokeResponse]) -> None:
    _header(display, about.message.header)


def _time_to_live(display: Display, result: TimeToLive) -> None:
    answer = result.message
    _header(display, answer.header)
    _line(display, "ID", answer.ID)
    _line(display, "TTL", answer.TTL)
    _line(display, "GrantedTTL", answer.grantedTTL)
    for key in answer.keys:
        _line(display, "Key", quote(key))


def _leases(display: Display, answer: rpc.LeaseLeasesResponse) -> None:
    _header(display, answer.header)
    for lease in answer.leases:
        _line(display, "ID", lease.ID)


def _member_list(display: Display, answer: rpc.MemberListResponse) -> None:
    _header(display, answer.header)
    for member in answer.members:
        _line(display, "ID", member.ID)
        _text(display, "Name", member.name)
        _urls(display, "PeerURL", member.peerURLs)
        _urls(display, "ClientURL", member.clientURLs)
        _line(display, "IsLearner", member.isLearner)
        display.terminal.print("")


def _urls(display: Display, name: str, urls: Iterable[str]) -> None:
    for url in urls:
        _text(display, name, url)


def _health(display: Display, results: list[Health]) -> None:
    for result in results:
        _text(display, "Endpoint", result.endpoint)
        _line(display, "Health", result.healthy)
        _line(display, "Took", result.took)
        _line(display, "Error", result.error)
        display.terminal.print("")


def _status(display: Display, answers: list[At[rpc.StatusResponse]]) -> None:
    for answer in answers:
        status = answer.message
        _header(display, status.header)
        _text(display, "Version", status.version)
        _line(display, "DBSize", status.dbSize)
        _line(display, "Leader", status.leader)
        _line(display, "IsLearner", status.isLearner)
        _line(display, "RaftIndex", status.raftIndex)
        _line(display, "RaftTerm", status.raftTerm)
        _line(display, "RaftAppliedIndex", status.raftAppliedIndex)
        _line(display, "Errors", "[" + " ".join(status.errors) + "]")
        _text(display, "Endpoint", answer.endpoint)
        display.terminal.print("")


def _hash_kv(display: Display, answers: list[At[rpc.HashKVResponse]]) -> None:
    for answer in answers:
        _header(display, answer.message.header)
        _text(display, "Endpoint", answer.endpoint)
        _line(display, "Hash", answer.message.hash)
        display.terminal.print("")


def _alarm(display: Display, answer: rpc.AlarmResponse) -> None:
    if not answer.HasField("header"):
        # `alarm disarm` has no header to show, and etcdctl 3.5.1 dies of it with this code.
        display.terminal.warn(
            "panic: runtime error: invalid memory address or nil pointer dereference"
        )
        raise Exit(2)
    _header(display, answer.header)
    for member in answer.alarms:
        _line(display, "MemberID", member.memberID)
        _line(display, "AlarmType", rpc.AlarmType.Name(member.alarm))
        display.terminal.print("")


def _named(display: Display, named: Named[Any] | Revoked) -> None:
    _header(display, named.message.header)


def _role_get(display: Display, named: Named[rpc.AuthRoleGetResponse]) -> None:
    _header(display, named.message.header)
    for permission in named.message.perm:
        _line(display, "PermType", " " + auth.Permission.Type.Name(permission.permType))
        _line(display, "Key", quote(permission.key))
        _line(display, "RangeEnd", quote(permission.range_end))


def _role_list(display: Display, answer: rpc.AuthRoleListResponse) -> None:
    _header(display, answer.header)
    roles = "".join(f" {quote(role.encode())}" for role in answer.roles)
    display.terminal.print(f'"Roles" :{roles}')


def _snapshot_status(display: Display, status: SnapshotStatus) -> None:
    _line(display, "Hash", status.hash)
    _line(display, "Revision", status.revision)
    _line(display, "Keys", status.keys)
    _line(display, "Size", status.size_bytes)


def _snapshot_hash(display: Display, found: SnapshotHash) -> None:
    _line(display, "Hash", found.hash)
    _line(display, "Hash revision", found.revision)
    _line(display, "Compact revision", found.compact_revision)


PRINTERS = {
    "put": _put,
    "get": _get,
    "delete": _delete,
    "txn": _txn,
    "watch": _watch,
    "grant": _lease,
    "revoke": _revoke,
    "keep_alive": _lease,
    "time_to_live": _time_to_live,
    "leases": _leases,
    "member_list": _member_list,
    "health": _health,
    "status": _status,
    "hash_kv": _hash_kv,
    "alarm": _alarm,
    "user_add": _named,
    "user_delete": _named,
    "user_passwd": _named,
    "user_grant_role": _named,
    "user_revoke_role": _named,
    "role_add": _named,
    "role_delete": _named,
    "role_get": _role_get,
    "role_list": _role_list,
    "role_grant_permission": _named,
    "role_revoke_permission": _named,
    "snapshot_status": _snapshot_status,
    "snapshot_hash": _snapshot_hash,
}
