"""v2 events, errors and times as Go's encoding/json writes etcd's structs."""

import time
from typing import Any

from pyetcd.proto.gotext import json_string
from pyetcd.store.v2 import KEYS
from pyetcd.store.v2error import MESSAGES, V2Error
from pyetcd.store.v2event import PERMANENT, Event, View


def event_json(event: Event) -> str:
    """As clients see it: keys without the place they have in the tree."""
    parts = [f'"action":{json_string(event.action)}', f'"node":{_node(event.node)}']
    if event.prev_node is not None:
        parts.append(f'"prevNode":{_node(event.prev_node)}')
    return "{" + ",".join(parts) + "}\n"


def _node(view: View) -> str:
    parts = []
    if key := view.key.removeprefix(KEYS):
        parts.append(f'"key":{json_string(key)}')
    if view.value is not None:
        parts.append(f'"value":{json_string(view.value)}')
    if view.is_dir:
        parts.append('"dir":true')
    if view.expiration_ns != PERMANENT:
        parts.append(f'"expiration":"{rfc3339(view.expiration_ns)}"')
    if view.ttl_s:
        parts.append(f'"ttl":{view.ttl_s}')
    if view.nodes:
        parts.append(f'"nodes":[{",".join(map(_node, view.nodes))}]')
    if view.modified_index:
        parts.append(f'"modifiedIndex":{view.modified_index}')
    if view.created_index:
        parts.append(f'"createdIndex":{view.created_index}')
    return "{" + ",".join(parts) + "}"


def error_json(error: V2Error) -> str:
    cause = error.cause.removeprefix(KEYS)
    shown = f'"cause":{json_string(cause)},' if cause else ""
    message = json_string(MESSAGES[error.number])
    return f'{{"errorCode":{error.number},"message":{message},{shown}"index":{error.index}}}\n'


def rfc3339(time_ns: int) -> str:
    """UTC, with as many digits of a second as there are."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


def dump(value: Any) -> str:
    """A value of plain lists, dicts and text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json_string(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json_string(k)}:{dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dump, value)) + "]"
    return str(value)


def sound(value: Any) -> Any:
    """A value of parsed JSON; half a surrogate pair is no character, and Go puts a mark for it."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [sound(item) for item in value]
    if isinstance(value, dict):
        return {sound(key): sound(item) for key, item in value.items()}
    return value
