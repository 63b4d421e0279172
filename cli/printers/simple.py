"""The default format: short lines for a person or a shell script."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    hash_rows,
    member_rows,
    snapshot_cells,
    snapshot_hash_cells,
    status_rows,
)
from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY, prefix_end

if TYPE_CHECKING:
    from pyetcd.cli.printers.cluster import View


def _pair(display: Display, pair: kv.KeyValue) -> None:
    key, value = pair.key, pair.value
    if display.hexadecimal:
        key, value = _hex(key), _hex(value)
    if not display.value_only:
        display.terminal.print(key)
    display.terminal.print(value)


def _hex(raw: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in raw)


def _put(display: Display, answer: rpc.PutResponse) -> None:
    display.terminal.print("OK")
    if answer.HasField("prev_kv"):
        _pair(display, answer.prev_kv)


def _get(display: Display, answer: rpc.RangeResponse) -> None:
    for pair in answer.kvs:
        _pair(display, pair)


def _delete(display: Display, answer: rpc.DeleteRangeResponse) -> None:
    display.terminal.print(str(answer.deleted))
    for pair in answer.prev_kvs:
        _pair(display, pair)


def _txn(display: Display, answer: rpc.TxnResponse) -> None:
    display.terminal.print("SUCCESS" if answer.succeeded else "FAILURE")
    for part in answer.responses:
        display.terminal.print("")
        if part.HasField("response_put"):
            _put(display, part.response_put)
        elif part.HasField("response_range"):
            _get(display, part.response_range)
        elif part.HasField("response_delete_range"):
            _delete(display, part.response_delete_range)


def _watch(display: Display, answer: rpc.WatchResponse) -> None:
    for event in answer.events:
        display.terminal.print("DELETE" if event.type == kv.Event.DELETE else "PUT")
        if event.HasField("prev_kv"):
            _pair(display, event.prev_kv)
        _pair(display, event.kv)


def _grant(display: Display, answer: rpc.LeaseGrantResponse) -> None:
    display.terminal.print(f"lease {_lease(answer.ID)} granted with TTL({answer.TTL}s)")


def _revoke(display: Display, about: About[rpc.LeaseRevokeResponse]) -> None:
    display.terminal.print(f"lease {_lease(about.id)} revoked")


def _keep_alive(display: Display, answer: rpc.LeaseKeepAliveResponse) -> None:
    display.terminal.print(f"lease {_lease(answer.ID)} keepalived with TTL({answer.TTL})")


def _time_to_live(display: Display, result: TimeToLive) -> None:
    answer = result.message
    name = f"lease {_lease(answer.ID)}"
    if answer.grantedTTL == 0 and answer.TTL == -1:
        display.terminal.print(f"{name} already expired")
        return
    line = f"{name} granted with TTL({answer.grantedTTL}s), remaining({answer.TTL}s)".encode()
    if result.keys:
        line += b", attached keys([" + b" ".join(answer.keys) + b"])"
    display.terminal.print(line)


def _leases(display: Display, answer: rpc.LeaseLeasesResponse) -> None:
    display.terminal.print(f"found {len(answer.leases)} leases")
    for lease in answer.leases:
        display.terminal.print(_lease(lease.ID))


def _lease(lease_id: int) -> str:
    """Go's %016x of a signed number."""
    return f"{lease_id:016x}"


def _member(verb: str, about: About[rpc.MemberRemoveResponse]) -> str:
    return f"Member {about.id:16x} {verb} cluster {about.message.header.cluster_id:16x}"


def _table(display: Display, rows: list[list[str]]) -> None:
    for row in rows:
        display.terminal.print(", ".join(row))


def _health(display: Display, results: list[Health]) -> None:
    for result in results:
        if result.error:
            display.terminal.warn(
                f"{result.endpoint} is unhealthy: failed to commit proposal: {result.error}"
            )
        else:
            display.terminal.print(
                f"{result.endpoint} is healthy: successfully committed proposal:"
                f" took = {result.took}"
            )


def _alarm(display: Display, answer: rpc.AlarmResponse) -> None:
    for member in answer.alarms:
        text = f"memberID:{member.memberID} " if member.memberID else ""
        if member.alarm:
            text += f"alarm:{rpc.AlarmType.Name(member.alarm)} "
        display.terminal.print(text)


def _move_leader(display: Display, about: About[rpc.MoveLeaderResponse]) -> None:
    display.terminal.print(f"Leadership transferred from {about.id:x} to {about.target:x}")


def _member_list(display: Display, answer: rpc.MemberListResponse) -> None:
    _table(display, member_rows(answer))


def _status(display: Display, answers: list[At[rpc.StatusResponse]]) -> None:
    _table(display, status_rows(answers))


def _hash_kv(display: Display, answers: list[At[rpc.HashKVResponse]]) -> None:
    _table(display, hash_rows(answers))


def _member_printer(
    verb: str,
) -> Callable[[Display, About[rpc.MemberRemoveResponse]], None]:
    return lambda display, about: display.terminal.print(_member(verb, about))


def _said(text: str) -> Callable[[Display, Named[Any]], None]:
    return lambda display, named: display.terminal.print(text.format(*named.names))


def _auth_status(display: Display, answer: rpc.AuthStatusResponse) -> None:
    display.terminal.print(f"Authentication Status: {str(answer.enabled).lower()}")
    display.terminal.print(f"AuthRevision: {answer.authRevision}")


def _downgrade(display: Display, named: Named[rpc.DowngradeResponse]) -> None:
    version = named.message.version
    display.terminal.print(f"Downgrade {named.names[0]} success, cluster version {version}")


def _user_get(display: Display, named: Named[rpc.AuthUserGetResponse]) -> None:
    display.terminal.print(f"User: {named.names[0]}")
    display.terminal.print("Roles:" + "".join(f" {role}" for role in named.message.roles))


def _user_list(display: Display, answer: rpc.AuthUserListResponse) -> None:
    for user in answer.users:
        display.terminal.print(user)


def _role_list(display: Display, answer: rpc.AuthRoleListResponse) -> None:
    for role in answer.roles:
        display.terminal.print(role)


def _role_get(display: Display, named: Named[rpc.AuthRoleGetResponse]) -> None:
    display.terminal.print(f"Role {named.names[0]}")
    both = auth.Permission.READWRITE
    for title, kind in (("Read", auth.Permission.READ), ("Write", auth.Permission.WRITE)):
        display.terminal.print(f"KV {title}:")
        for permission in named.message.perm:
            if permission.permType in (kind, both):
                display.terminal.print(b"\t" + _permission(permission))


def _permission(permission: auth.Permission) -> bytes:
    key, end = permission.key, permission.range_end
    if not end:
        return key
    line = b"[%s, <open ended>" % key if end == FROM_KEY else b"[%s, %s)" % (key, end)
    return line + b" (prefix %s)" % key if prefix_end(key) == end else line


def _role_revoke_permission(display: Display, revoked: Revoked) -> None:
    key, end, role = revoked.key, revoked.range_end, revoked.role.encode()
    if not end:
        line = b"Permission of key %s" % key
    elif end == FROM_KEY:
        line = b"Permission of range [%s, <open ended>" % key
    else:
        line = b"Permission of range [%s, %s)" % (key, end)
    display.terminal.print(b"%s is revoked from role %s" % (line, role))


def _snapshot_status(display: Display, status: SnapshotStatus) -> None:
    display.terminal.print(", ".join(snapshot_cells(status)))


def _snapshot_hash(display: Display, found: SnapshotHash) -> None:
    display.terminal.print(", ".join(snapshot_hash_cells(found)))


def _top(display: Display, view: "View") -> None:
    from pyetcd.cli.printers.table import show_top

    show_top(display, view)


PRINTERS = {
    "top": _top,
    "put": _put,
    "get": _get,
    "delete": _delete,
    "txn": _txn,
    "watch": _watch,
    "grant": _grant,
    "revoke": _revoke,
    "keep_alive": _keep_alive,
    "time_to_live": _time_to_live,
    "leases": _leases,
    "member_add": _member_printer("added to"),
    "member_remove": _member_printer("removed from"),
    "member_update": _member_printer("updated in"),
    "member_promote": _member_printer("promoted in"),
    "member_list": _member_list,
    "health": _health,
    "status": _status,
    "hash_kv": _hash_kv,
    "alarm": _alarm,
    "move_leader": _move_leader,
    "auth_status": _auth_status,
    "downgrade": _downgrade,
    "user_add": _said("User {} created"),
    "user_delete": _said("User {} deleted"),
    "user_get": _user_get,
    "user_list": _user_list,
    "user_passwd": _said("Password updated"),
    "user_grant_role": _said("Role {} is granted to user {}"),
    "user_revoke_role": _said("Role {} is revoked from user {}"),
    "role_add": _said("Role {} created"),
    "role_delete": _said("Role {} deleted"),
    "role_get": _role_get,
    "role_list": _role_list,
    "role_grant_permission": _said("Role {} updated"),
    "role_revoke_permission": _role_revoke_permission,
    "snapshot_status": _snapshot_status,
    "snapshot_hash": _snapshot_hash,
}
