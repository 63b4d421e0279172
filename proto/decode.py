r"""Decoding what protobuf's Python runtime refuses though etcd takes it; saying why the rest fails.

Strategy: `FromString` first. Only when that fails, the bytes are walked here, by the message's
descriptor: either they are wrong, and then the reason is worded as etcd words it (gogo/protobuf's
generated Unmarshal), or they are only nested more deeply than the runtime's 100 levels. etcd takes
a transaction nested 128 times, which is 257 levels in the log; such bytes are decoded with that
limit lifted, after the walk has shown how deep they go.

Worked example: b"\x0a\x05a" as a RangeRequest is field 1, 5 bytes long, of which one is there:
"unexpected EOF".

Limits: `GROUPS_MAX` unknown groups, one in the other, which nobody sends; `DEPTH_MAX` levels, since
the runtime's C stack grows with each; beyond it, TooDeep. Text that is not UTF-8 is refused,
although etcd takes it.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from google._upb._message import SetAllowOversizeProtos
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

DEPTH_MAX: Final = 600
GROUPS_MAX: Final = 100
ENTRY_DEPTH_MAX: Final = DEPTH_MAX + 10  # what was taken as a request lies deeper in its entry

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_STRING: _BYTES,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _BYTES,
}  # everything else in these messages is a varint
_EOF: Final = "unexpected EOF"

M = TypeVar("M", bound=Message)


class TooDeep(DecodeError):
    """Nested beyond DEPTH_MAX."""


def decode(kind: type[M], data: bytes) -> M:
    """The message. Raises DecodeError with etcd's words, or TooDeep."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return decode_refused(kind, data)


def parser_of(kind: type[M]) -> Callable[[bytes], M]:
    """What a server parses the requests of one RPC with; the parser raises DecodeError, and then
    `decode_refused` knows more."""
    descriptor = kind.DESCRIPTOR
    assert isinstance(descriptor, Descriptor)
    parse = kind.FromString
    if all(field.message_type is None for field in descriptor.fields):

        def parse_flat(data: bytes) -> M:
            found = parse(data)
            if len(UnknownFieldSet(found)):
                _walk(descriptor, data, DEPTH_MAX)
            return found

        return parse_flat

    def parse_nested(data: bytes) -> M:
        # The runtime shows unknown fields level by level only; their size shows them at once.
        found, known = parse(data), parse(data)
        known.DiscardUnknownFields()
        if known.ByteSize() != found.ByteSize():
            _walk(descriptor, data, DEPTH_MAX)
        return found

    return parse_nested


def decode_refused(kind: type[M], data: bytes, *, depth_max: int = DEPTH_MAX) -> M:
    """The same for bytes that `FromString` has refused."""
    descriptor = kind.DESCRIPTOR
    assert isinstance(descriptor, Descriptor)
    _walk(descriptor, data, depth_max)
    SetAllowOversizeProtos(True)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise DecodeError("proto: invalid UTF-8") from None
    finally:
        SetAllowOversizeProtos(False)


def _walk(kind: Descriptor, data: bytes, depth_max: int) -> None:
    """Every field of every level, in the order of the bytes. Raises what is wrong first."""
    # (message kind, where to go on, where it ends); a stack, for Python's own is shallow as well.
    levels = [(kind, 0, len(data))]
    while levels:
        kind, at, end = levels.pop()
        while at < end:
            tag, at = _varint(data, at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _GROUP_END:
                raise DecodeError(f"proto: {kind.name}: wiretype end group for non-group")
            if number == 0:
                raise DecodeError(f"proto: {kind.name}: illegal tag 0 (wire type {wire})")
            field = kind.fields_by_number.get(number)
            if field is not None and not _is_wire_of(field, wire):
                raise DecodeError(f"proto: wrong wireType = {wire} for field {_go_name(field)}")
            start, at = _value(data, at, end, wire)
            if field is not None and field.message_type is not None:
                if len(levels) >= depth_max:
                    raise TooDeep("proto: nested too deeply")
                levels.append((kind, at, end))
                kind, at, end = field.message_type, start, at


def _is_wire_of(field: FieldDescriptor, wire: int) -> bool:
    expected = _WIRE_TYPES.get(field.type, _VARINT)
    is_packed = expected == _VARINT and wire == _BYTES and field.is_repeated
    return wire == expected or is_packed


def _value(data: bytes, at: int, end: int, wire: int) -> tuple[int, int]:
    """Where a field's content starts and ends."""
    if wire == _VARINT:
        return at, _varint(data, at, end)[1]
    if wire == _BYTES:
        size, at = _varint(data, at, end)
        if size >= 1 << 63:
            raise DecodeError("proto: negative length found during unmarshaling")
    elif wire in (_FIXED64, _FIXED32):
        size = 8 if wire == _FIXED64 else 4
    elif wire == _GROUP:
        return at, _end_of_group(data, at, end)
    else:
        raise DecodeError(f"proto: illegal wireType {wire}")
    if at + size > end:
        raise DecodeError(_EOF)
    return at, at + size


def _end_of_group(data: bytes, at: int, end: int) -> int:
    """No message of ours has one; the runtime recurses into those of others."""
    depth = 1
    while depth:
        tag, at = _varint(data, at, end)
        wire = tag & 7
        if wire == _GROUP_END:
            depth -= 1
        elif wire == _GROUP and depth < GROUPS_MAX:
            depth += 1
        elif wire == _GROUP:
            raise DecodeError(f"proto: illegal wireType {wire}")
        else:
            _, at = _value(data, at, end, wire)
    return at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise DecodeError(_EOF)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise DecodeError("proto: integer overflow")


def _go_name(field: FieldDescriptor) -> str:
    return "".join(part[:1].upper() + part[1:] for part in field.name.split("_"))
