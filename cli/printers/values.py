"""Each kind of result as plain values: what -w json, -w yaml and --decode write, each in its way.

A table `VALUES` from kind of result to function, as the printers have. A message becomes a dict of
its fields in the order of their declaration, those left out that Go's encoding/json leaves out;
bytes stay bytes and an enum knows its name, so that each format can say them as it likes. Some
answers are structs of clientv3 and not messages: those are written out field by field.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from pyetcd.cli.printers.base import (
    About,
    At,
    Health,
    Named,
    SnapshotHash,
    SnapshotStatus,
    TimeToLive,
)
from pyetcd.proto import rpc_pb2 as rpc

Value = dict[str, "Value"] | list["Value"] | str | bytes | int | None

_ONEOF_NAMES = {"response": "Response", "request": "Request"}


class Number(str):
    """A number in the digits in which somebody's JSON had it."""


class Word(int):
    """An enum's number, with its name. JSON leaves out the one that is zero."""

    name: str


@cache
def _plan(descriptor: Descriptor) -> list[tuple[str, str, dict[int, str]]]:
    """(name, kind, words of an enum) of each field. A kind is repeated, optional, enum, scalar or
    the name of the oneof."""
    found: list[tuple[str, str, dict[int, str]]] = []
    for field in descriptor.fields:
        words: dict[int, str] = {}
        if field.is_repeated:
            kind = "repeated"
        elif field.containing_oneof is not None:
            kind = _ONEOF_NAMES[field.containing_oneof.name]
        elif field.message_type is not None:
            kind = "optional"
        elif field.enum_type is not None:
            kind = "enum"
            words = {number: row.name for number, row in field.enum_type.values_by_number.items()}
        else:
            kind = "scalar"
        found.append((field.name, kind, words))
    return found


def message(value: Message) -> dict[str, Value]:
    """A message as an object."""
    found: dict[str, Value] = {}
    for name, kind, words in _plan(value.DESCRIPTOR):
        if kind == "scalar":
            scalar = getattr(value, name)
            if scalar:
                found[name] = scalar
        elif kind == "repeated":
            rows = getattr(value, name)
            if rows:
                found[name] = [message(row) if isinstance(row, Message) else row for row in rows]
        elif kind == "enum":
            word = Word(getattr(value, name))
            word.name = words.get(word, str(int(word)))
            found[name] = word
        elif value.HasField(name):
            inner = message(getattr(value, name))
            found |= {name: inner} if kind == "optional" else {kind: {name: inner}}
    return found


def _about(about: About[Message] | Named[Message]) -> Value:
    return message(about.message)


def _watch(answer: rpc.WatchResponse) -> Value:
    return {
        "Header": message(answer.header),
        "Events": [message(event) for event in answer.events],
        "CompactRevision": answer.compact_revision,
        "Canceled": answer.canceled,
        "Created": answer.created,
    }


# clientv3's lease structs embed the header, so that its fields come first.


def _grant(answer: rpc.LeaseGrantResponse) -> Value:
    return message(answer.header) | {"ID": answer.ID, "TTL": answer.TTL, "Error": answer.error}


def _keep_alive(answer: rpc.LeaseKeepAliveResponse) -> Value:
    return message(answer.header) | {"ID": answer.ID, "TTL": answer.TTL}


def _time_to_live(result: TimeToLive) -> Value:
    answer = result.message
    keys: list[Value] = list(answer.keys)
    return message(answer.header) | {
        "id": answer.ID,
        "ttl": answer.TTL,
        "granted-ttl": answer.grantedTTL,
        "keys": keys or None,
    }


def _leases(answer: rpc.LeaseLeasesResponse) -> Value:
    rows: list[Value] = [{"id": lease.ID} for lease in answer.leases]
    return message(answer.header) | {"leases": rows}


def _health(results: list[Health]) -> Value:
    rows: list[Value] = []
    for result in results:
        row: dict[str, Value] = {
            "endpoint": result.endpoint,
            "health": result.healthy,
            "took": result.took,
        }
        if result.error:
            row["error"] = result.error
        rows.append(row)
    return rows


def _status(answers: list[At[Message]]) -> Value:
    return [{"Endpoint": one.endpoint, "Status": message(one.message)} for one in answers]


def _hash_kv(answers: list[At[Message]]) -> Value:
    return [{"Endpoint": one.endpoint, "HashKV": message(one.message)} for one in answers]


def _snapshot_status(status: SnapshotStatus) -> Value:
    return {
        "hash": status.hash,
        "revision": status.revision,
        "totalKey": status.keys,
        "totalSize": status.size_bytes,
    }


def _snapshot_hash(found: SnapshotHash) -> Value:
    return {
        "hash": found.hash,
        "hashRevision": found.revision,
        "compactRevision": found.compact_revision,
    }


def _top(view: Any) -> Value:
    """Ids in hexadecimal, as everywhere but in etcd's own JSON; what is not known is null."""
    rows: list[Value] = []
    for member in view.members:
        row: dict[str, Value] = {}
        for name, value in member._asdict().items():
            if isinstance(value, float):
                value = Number(f"{value:.6g}")
            row[name] = list(value) if isinstance(value, tuple) else value
        rows.append(row | {"id": f"{member.id:x}"})
    writes_s = None if view.writes_s is None else Number(f"{view.writes_s:.6g}")
    return {
        "cluster_id": f"{view.cluster_id:x}",
        "leader": view.leader,
        "term": view.term,
        "revision": view.revision,
        "writes_s": writes_s,
        "members": rows,
    }


VALUES: dict[str, Callable[[Any], Value]] = {
    "top": _top,
    "put": message,
    "get": message,
    "delete": message,
    "txn": message,
    "watch": _watch,
    "grant": _grant,
    "revoke": _about,
    "keep_alive": _keep_alive,
    "time_to_live": _time_to_live,
    "leases": _leases,
    "member_add": _about,
    "member_remove": _about,
    "member_update": _about,
    "member_list": message,
    "health": _health,
    "status": _status,
    "hash_kv": _hash_kv,
    "alarm": message,
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
    "auth_status": message,
    "downgrade": _about,
    "user_list": message,
    "role_list": message,
    "snapshot_status": _snapshot_status,
    "snapshot_hash": _snapshot_hash,
}
