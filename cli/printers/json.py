"""JSON as Go's encoding/json writes etcd's messages.

Fields in the order of their declaration, zero values left out, 64-bit numbers as numbers, bytes in
base64, enums as numbers. Some answers are structs of clientv3 and not messages: those are written
out field by field.
"""

import base64
import re

from google.protobuf.message import Message

from pyetcd.cli.printers.base import (
    About,
    At,
    Display,
    Health,
    Named,
    SnapshotHash,
    SnapshotStatus,
    TimeToLive,
)
from pyetcd.proto import rpc_pb2 as rpc

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SPECIAL = re.compile('["\\\\\x00-\x1f<>&\u2028\u2029\udc80-\udcff]')
_ONEOF_NAMES = {"response": "Response", "request": "Request"}


def string(text: str) -> str:
    """A JSON string; Go also escapes what would end a script in a web page."""

    def escape(match: re.Match[str]) -> str:
        char = match.group()
        if "\udc80" <= char <= "\udcff":
            return "\\ufffd"
        return _ESCAPES.get(char) or f"\\u{ord(char):04x}"

    return f'"{_SPECIAL.sub(escape, text)}"'


def message(value: Message) -> str:
    """A message as an object."""
    return "{" + ",".join(_fields(value)) + "}"


def _fields(value: Message) -> list[str]:
    parts = []
    for field in value.DESCRIPTOR.fields:
        if field.is_repeated:
            rows = getattr(value, field.name)
            if rows:
                listed = ",".join(_scalar(row) for row in rows)
                parts.append(f'"{field.name}":[{listed}]')
        elif field.message_type is not None or field.containing_oneof is not None:
            if value.HasField(field.name):
                text = f'"{field.name}":{_scalar(getattr(value, field.name))}'
                if field.containing_oneof is not None:
                    text = f'"{_ONEOF_NAMES[field.containing_oneof.name]}":{{{text}}}'
                parts.append(text)
        elif getattr(value, field.name):
            parts.append(f'"{field.name}":{_scalar(getattr(value, field.name))}')
    return parts


def _scalar(value: object) -> str:
    if isinstance(value, Message):
        return message(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, str):
        return string(value)
    return str(value)


def _message(display: Display, value: Message) -> None:
    display.terminal.print(message(value))


def _about(display: Display, about: About[Message] | Named[Message]) -> None:
    display.terminal.print(message(about.message))


def _list(rows: list[str]) -> str:
    return "[" + ",".join(rows) + "]"


def _watch(display: Display, answer: rpc.WatchResponse) -> None:
    events = _list([message(event) for event in answer.events])
    canceled, created = (str(flag).lower() for flag in (answer.canceled, answer.created))
    display.terminal.print(
        f'{{"Header":{message(answer.header)},"Events":{events},'
        f'"CompactRevision":{answer.compact_revision},'
        f'"Canceled":{canceled},"Created":{created}}}'
    )


def _with_header(display: Display, header: rpc.ResponseHeader, fields: str) -> None:
    """clientv3's lease structs embed the header, so that its fields come first."""
    display.terminal.print("{" + ",".join([*_fields(header), fields]) + "}")


def _grant(display: Display, answer: rpc.LeaseGrantResponse) -> None:
    fields = f'"ID":{answer.ID},"TTL":{answer.TTL},"Error":{string(answer.error)}'
    _with_header(display, answer.header, fields)


def _keep_alive(display: Display, answer: rpc.LeaseKeepAliveResponse) -> None:
    _with_header(display, answer.header, f'"ID":{answer.ID},"TTL":{answer.TTL}')


def _time_to_live(display: Display, result: TimeToLive) -> None:
    answer = result.message
    keys = _list([f'"{base64.b64encode(key).decode()}"' for key in answer.keys])
    fields = f'"id":{answer.ID},"ttl":{answer.TTL},"granted-ttl":{answer.grantedTTL}'
    _with_header(display, answer.header, f'{fields},"keys":{keys if answer.keys else "null"}')


def _leases(display: Display, answer: rpc.LeaseLeasesResponse) -> None:
    rows = _list([f'{{"id":{lease.ID}}}' for lease in answer.leases])
    _with_header(display, answer.header, f'"leases":{rows}')


def _member_list(display: Display, answer: rpc.MemberListResponse) -> None:
    if not display.hexadecimal:
        _message(display, answer)
        return
    # etcdctl builds this form by hand: another spelling of one key, and no isLearner.
    header = answer.header
    text = (
        f'{{"header":{{"cluster_id":"{header.cluster_id:x}","member_id":"{header.member_id:x}",'
        f'"raft_term":{header.raft_term:x}}}'
    )
    rows = [
        f'{{"ID":"{member.ID:x}","name":"{member.name}",'
        f'"peerURLs":{_list([string(url) for url in member.peerURLs])},'
        f'"clientURLS":{_urls(list(member.clientURLs))}}}'
        for member in answer.members
    ]
    display.terminal.print(text + (f',"members":{_list(rows)}' if rows else "") + "}")


def _urls(urls: list[str]) -> str:
    return _list([string(url) for url in urls]) if urls else "null"


def _health(display: Display, results: list[Health]) -> None:
    rows = [
        f'{{"endpoint":{string(result.endpoint)},"health":{str(result.healthy).lower()},'
        f'"took":{string(result.took)}'
        + (f',"error":{string(result.error)}' if result.error else "")
        + "}"
        for result in results
    ]
    display.terminal.print(_list(rows))


def _at(display: Display, answers: list[At[Message]], name: str) -> None:
    rows = [
        f'{{"Endpoint":{string(answer.endpoint)},"{name}":{message(answer.message)}}}'
        for answer in answers
    ]
    display.terminal.print(_list(rows))


def _status(display: Display, answers: list[At[Message]]) -> None:
    _at(display, answers, "Status")


def _hash_kv(display: Display, answers: list[At[Message]]) -> None:
    _at(display, answers, "HashKV")


def _snapshot_status(display: Display, status: SnapshotStatus) -> None:
    display.terminal.print(
        f'{{"hash":{status.hash},"revision":{status.revision},'
        f'"totalKey":{status.keys},"totalSize":{status.size_bytes}}}'
    )


def _snapshot_hash(display: Display, found: SnapshotHash) -> None:
    display.terminal.print(
        f'{{"hash":{found.hash},"hashRevision":{found.revision},'
        f'"compactRevision":{found.compact_revision}}}'
    )


PRINTERS = {
    "put": _message,
    "get": _message,
    "delete": _message,
    "txn": _message,
    "watch": _watch,
    "grant": _grant,
    "revoke": _about,
    "keep_alive": _keep_alive,
    "time_to_live": _time_to_live,
    "leases": _leases,
    "member_add": _about,
    "member_remove": _about,
    "member_update": _about,
    "member_list": _member_list,
    "health": _health,
    "status": _status,
    "hash_kv": _hash_kv,
    "alarm": _message,
    "move_leader": _about,
    "user_add": _about,
    "user_delete": _about,
    "user_get": _about,
    "user_passwd": _about,
    "user_grant_role": _about,
    "user_revoke_role": _about,
    "role_add": _about,
    "role_delete": _about,
    "role_get": _about,
    "role_grant_permission": _about,
    "role_revoke_permission": _about,
    "auth_status": _message,
    "downgrade": _about,
    "user_list": _message,
    "role_list": _message,
    "snapshot_status": _snapshot_status,
    "snapshot_hash": _snapshot_hash,
}
