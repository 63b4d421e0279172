"""Messages as JSON, as grpc-gateway v1 reads and writes them (golang/protobuf jsonpb, OrigName).

Out: names as declared, zero values left out, 64-bit numbers as strings, bytes as base64, enums by
name. In: declared or lowerCamel names (the latter counts when both are there), unknown names
ignored, numbers or strings for any number, enum names or numbers, null for nothing.

Strategy: one table per message kind, made when it is first met. Python's json parses; what it
refuses, gojson.py finds words for. Fields are looked at in the order of their declaration, so that
of two mistakes the one is told that etcd tells.

Limits: nesting beyond what Python's parser takes (some hundred levels) is refused.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from pyetcd.proto.gotext import json_string, quote
from pyetcd.server.http.gojson import base64_bytes, why_broken

M = TypeVar("M", bound=Message)

_F = FieldDescriptor
_RANGES: Final = {
    _F.TYPE_INT64: ("int64", -(1 << 63), (1 << 63) - 1),
    _F.TYPE_UINT64: ("uint64", 0, (1 << 64) - 1),
    _F.TYPE_INT32: ("int32", -(1 << 31), (1 << 31) - 1),
    _F.TYPE_UINT32: ("uint32", 0, (1 << 32) - 1),
    _F.TYPE_ENUM: ("protoreflect.EnumNumber", -(1 << 31), (1 << 31) - 1),
}
_MESSAGE: Final = "map[string]json.RawMessage"
_LIST: Final = "[]json.RawMessage"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)\Z")


class Refused(ValueError):
    """A JSON text that is not the message; the text is etcd's."""


class _Number(str):
    """A number as it was written: 1e2 and 1.0 are none of Go's integers."""


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN, Infinity


_PARSER: Final = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_no_constant
)

# By descriptor: those of upb have a type of their own, which has no name for a checker.

# ---- out ----

Text = Callable[[Any], str]
_writers: dict[Any, dict[int, tuple[str, Text]]] = {}


def encode(message: Message) -> str:
    """The message as an object, on one line."""
    descriptor = message.DESCRIPTOR
    rows = _writers.get(descriptor) or _writer(descriptor)
    parts = []
    for field, value in message.ListFields():
        head, text = rows[field.number]
        parts.append(head + text(value))
    return "{" + ",".join(parts) + "}"


def _writer(descriptor: Any) -> dict[int, tuple[str, Text]]:
    rows = {}
    for field in descriptor.fields:
        text = _text_of(field)
        rows[field.number] = (f'"{field.name}":', _listed(text) if field.is_repeated else text)
    _writers[descriptor] = rows
    return rows


def _listed(text: Text) -> Text:
    return lambda values: "[" + ",".join([text(value) for value in values]) + "]"


def _text_of(field: FieldDescriptor) -> Text:
    if field.type == _F.TYPE_MESSAGE:
        return encode
    if field.type == _F.TYPE_BYTES:
        return lambda value: '"' + base64.b64encode(value).decode() + '"'
    if field.type == _F.TYPE_STRING:
        return json_string
    if field.type == _F.TYPE_BOOL:
        return lambda value: "true" if value else "false"
    if field.type == _F.TYPE_ENUM:
        names = {value.number: f'"{value.name}"' for value in _enum(field).values}
        return lambda value: names.get(value) or str(value)
    assert field.type in _RANGES, field.full_name
    return str if field.type in (_F.TYPE_INT32, _F.TYPE_UINT32) else _in_quotes


def _in_quotes(value: int) -> str:
    return f'"{value}"'


# ---- in ----


def decode(kind: type[M], body: bytes) -> M:
    """The first value of the body, or an empty message if there is none. Raises Refused."""
    for value in _values(body):
        return message_of(kind, value)
    return kind()


def decode_all(kind: type[M], body: bytes) -> Iterator[M]:
    """All values of the body, one after the other. Raises Refused at the first that is none."""
    for value in _values(body):
        yield message_of(kind, value)


def message_of(kind: type[M], value: object) -> M:
    message = kind()
    _fill(message, value)
    return message


def _values(body: bytes) -> Iterator[object]:
    text = body.decode("utf-8", "replace")
    at = 0
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if at == len(text):
            return
        try:
            value, at = _PARSER.raw_decode(text, at)
        except (ValueError, RecursionError):
            rest = body if at == 0 else text[at:].encode()
            raise Refused(why_broken(rest, whole=False) or "exceeded max depth") from None
        yield value


Put = Callable[[Message, Any], None]
_readers: dict[Any, list[tuple[str, str, Put]]] = {}


def _fill(message: Message, value: object) -> None:
    if value is None:
        return
    if type(value) is not dict:
        raise _mismatch(value, _MESSAGE)
    for name, json_name, put in _readers.get(message.DESCRIPTOR) or _reader(message.DESCRIPTOR):
        found = value.get(json_name)
        if found is None and json_name not in value:
            found = value.get(name)
        if found is not None:
            put(message, found)


def _reader(descriptor: Any) -> list[tuple[str, str, Put]]:
    rows = [(f.name, f.json_name, _put_list(f) if f.is_repeated else _put(f))
            for f in descriptor.fields]  # fmt: skip
    _readers[descriptor] = rows
    return rows


def _put(field: FieldDescriptor) -> Put:
    name = field.name
    if field.type == _F.TYPE_MESSAGE:

        def put_message(message: Message, value: object) -> None:
            inner = getattr(message, name)
            inner.SetInParent()
            _fill(inner, value)

        return put_message
    scalar = _scalar_of(field)
    return lambda message, value: setattr(message, name, scalar(value))


def _put_list(field: FieldDescriptor) -> Put:
    name = field.name
    scalar = None if field.type == _F.TYPE_MESSAGE else _scalar_of(field)

    def put(message: Message, value: object) -> None:
        if type(value) is not list:
            raise _mismatch(value, _LIST)
        rows = getattr(message, name)
        for row in value:
            if scalar is None:
                _fill(rows.add(), row)
            else:
                rows.append(scalar(row))

    return put


def _scalar_of(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.type == _F.TYPE_BYTES:
        return _bytes
    if field.type == _F.TYPE_STRING:
        return _string
    if field.type == _F.TYPE_BOOL:
        return _bool
    kind, low, high = _RANGES[field.type]
    if field.type != _F.TYPE_ENUM:
        return lambda value: _integer(value, kind, low, high)
    enum = _enum(field)
    numbers = {value.name: value.number for value in enum.values}

    def number(value: object) -> int:
        if type(value) is not str:
            return _integer(value, kind, low, high)
        if value not in numbers:
            text = f"unknown value {quote(json_string(value))} for enum {enum.full_name}"
            raise Refused(text)
        return numbers[value]

    return number


def _integer(value: object, kind: str, low: int, high: int) -> int:
    if type(value) is str:  # numbers may stand in quotes
        if broken := why_broken(value.encode("utf-8", "replace"), whole=True):
            raise Refused(broken)
        value = _PARSER.decode(value)
        if value is None:
            return 0
    if type(value) is not _Number:
        raise _mismatch(value, kind)
    if not _INTEGER.match(value) or len(value) > 20 or not low <= int(value) <= high:
        raise Refused(f"json: cannot unmarshal number {value} into Go value of type {kind}")
    return int(value)


def _bytes(value: object) -> bytes:
    if type(value) is str:
        try:
            return base64_bytes(value)
        except ValueError as error:
            raise Refused(str(error)) from None
    if type(value) is list:  # Go takes a list of numbers for bytes, too
        return bytes(0 if each is None else _integer_only(each, "uint8", 255) for each in value)
    if value is None:
        return b""
    raise _mismatch(value, "[]uint8")


def _integer_only(value: object, kind: str, high: int) -> int:
    if type(value) is str:
        raise _mismatch(value, kind)
    return _integer(value, kind, 0, high)


def _string(value: object) -> str:
    if value is None:
        return ""
    if type(value) is not str:
        raise _mismatch(value, "string")
    if value.isascii():
        return value
    # Halves of a surrogate pair, which \u can write, are no text.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bool(value: object) -> bool:
    if value is None:
        return False
    if type(value) is not bool:
        raise _mismatch(value, "bool")
    return value


def _mismatch(value: object, kind: str) -> Refused:
    names = {_Number: "number", str: "string", bool: "bool", list: "array", dict: "object"}
    return Refused(f"json: cannot unmarshal {names[type(value)]} into Go value of type {kind}")


def _enum(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None
    return field.enum_type
