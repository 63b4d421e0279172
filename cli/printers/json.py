"""JSON as Go's encoding/json writes etcd's messages; with --decode, JSON that a person can read.

64-bit numbers as numbers, bytes in base64, enums as numbers, all in one line. Which fields there
are is told in values.py. Decoded JSON is indented where a person looks, and one line elsewhere.
"""

import base64
import re
from collections.abc import Callable
from typing import Any

from pyetcd.cli.printers.base import Display
from pyetcd.cli.printers.values import VALUES, Number, Value, Word
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.gotext import JSON_NEEDED, JSON_SPECIAL, json_string

_INDENT = "  "


def encode(value: Value, special: re.Pattern[str] = JSON_SPECIAL) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        fields = [
            f"{json_string(name, special)}:{encode(inner, special)}"
            for name, inner in value.items()
            if inner or not isinstance(inner, Word)
        ]
        return "{" + ",".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join([encode(inner, special) for inner in value]) + "]"
    return _scalar(value, special)


def readable(value: Value) -> str:
    """A decoded value in one line."""
    return encode(value, JSON_NEEDED)


def indented(value: Value, margin: str = "") -> str:
    """A decoded value with a line for each field."""
    inside = margin + _INDENT
    if isinstance(value, dict) and value:
        rows = [f"{readable(name)}: {indented(inner, inside)}" for name, inner in value.items()]
        return "{\n" + ",\n".join(inside + row for row in rows) + f"\n{margin}}}"
    if isinstance(value, list) and value:
        rows = [indented(inner, inside) for inner in value]
        return "[\n" + ",\n".join(inside + row for row in rows) + f"\n{margin}]"
    return readable(value)


def _scalar(value: str | bytes | int | None, special: re.Pattern[str]) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, str):
        return str(value) if isinstance(value, Number) else json_string(value, special)
    return str(value)


def _show(display: Display, value: Value) -> None:
    if not display.decodes:
        display.terminal.print(encode(value))
        return
    from pyetcd.cli.printers.decoded import decoded

    form = indented if display.terminal.is_terminal else readable
    display.terminal.print(form(decoded(value)))


def _printer(values: Callable[[Any], Value]) -> Callable[[Display, Any], None]:
    return lambda display, result: _show(display, values(result))


def _member_list(display: Display, answer: rpc.MemberListResponse) -> None:
    if not display.hexadecimal:
        _show(display, VALUES["member_list"](answer))
        return
    # etcdctl builds this form by hand: another spelling of one key, and no isLearner.
    header = answer.header
    text = (
        f'{{"header":{{"cluster_id":"{header.cluster_id:x}","member_id":"{header.member_id:x}",'
        f'"raft_term":{header.raft_term:x}}}'
    )
    rows = [
        f'{{"ID":"{member.ID:x}","name":"{member.name}",'
        f'"peerURLs":{encode(list(member.peerURLs))},'
        f'"clientURLS":{encode(list(member.clientURLs) or None)}}}'
        for member in answer.members
    ]
    display.terminal.print(text + (f',"members":[{",".join(rows)}]' if rows else "") + "}")


PRINTERS = {kind: _printer(values) for kind, values in VALUES.items()}
PRINTERS["member_list"] = _member_list
