"""Header compression (RFC 7541) and the rules for request fields (RFC 9113 section 8).

Strategy: the decoder is our own loop over one block, because the `hpack` package spends 30-60 us a
block in generality and the request path has 15 us in all; its Huffman tables and static table are
used, and a property test holds the two decoders equal. The encoder has no state at all: response
fields are static indices or literals without indexing, so their bytes are constants.

Rules: a block that leaves the dynamic table alone decodes to the same fields until the table
changes; `changes` counts the changes, so a caller may keep results by block bytes while it stands.

Limits: table 4096 bytes (the default, never raised), list size, field count; beyond them the
connection ends, since a table out of step cannot be mended.
"""

import re
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from pyetcd.server.wire.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from pyetcd.server.wire.limits import Limits

Field = tuple[bytes, bytes]

TABLE_BYTES_MAX: Final = 4096
_ENTRY_OVERHEAD: Final = 32  # section 4.1
_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_STATIC_COUNT: Final = len(_STATIC) - 1
_INTEGER_BYTES_MAX: Final = 4  # continuation octets: enough for 2^28
_SIZE_UPDATES_MAX: Final = 2  # section 4.2: the lowest and the last


class HeaderDecoder:
    """One direction of one connection. The dynamic table is oldest first: appending is cheap."""

    __slots__ = ("_fields_max", "_list_bytes_max", "_size", "_size_max", "_table", "changes")

    def __init__(self, limits: Limits) -> None:
        self._table: list[Field] = []
        self._size = 0
        self._size_max = TABLE_BYTES_MAX
        self._list_bytes_max = limits.header_list_bytes_max
        self._fields_max = limits.header_fields_max
        self.changes = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields in order. Raises ConnectionFault; the decoder is then of no use any more."""
        try:
            return self._decode(block)
        except IndexError:
            raise ConnectionFault(COMPRESSION_ERROR, "header block is cut short") from None
        except HPACKDecodingError:
            raise ConnectionFault(COMPRESSION_ERROR, "bad Huffman code") from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        pos, end, updates = 0, len(block), 0
        left = self._list_bytes_max
        while pos < end:
            octet = block[pos]
            if octet & 0x80:  # 6.1 indexed; without a call for an index of one octet
                if octet == 0xFF:
                    index, pos = _integer(block, pos, 0x7F)
                else:
                    index, pos = octet & 0x7F, pos + 1
                known = 0 < index <= _STATIC_COUNT
                field = _STATIC[index] if known else self._entry(index)
            elif octet & 0xC0 == 0x40:  # 6.2.1 literal, to be indexed
                field, pos = self._literal(block, pos, 0x3F)
                self._insert(field)
            elif octet & 0xE0 == 0x20:  # 6.3 table size update
                updates += 1
                if fields or updates > _SIZE_UPDATES_MAX:
                    raise ConnectionFault(COMPRESSION_ERROR, "misplaced table size update")
                size, pos = _integer(block, pos, 0x1F)
                self._resize(size)
                continue
            else:  # 6.2.2 and 6.2.3 literal, not indexed
                field, pos = self._literal(block, pos, 0x0F)
            left -= len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
            if left < 0 or len(fields) >= self._fields_max:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "header list too large")
            fields.append(field)
        return fields

    def _entry(self, index: int) -> Field:
        if 0 < index <= _STATIC_COUNT:
            return _STATIC[index]
        offset = index - _STATIC_COUNT
        if index == 0 or offset > len(self._table):
            raise ConnectionFault(COMPRESSION_ERROR, "no such header table entry")
        return self._table[-offset]

    def _literal(self, block: bytes, pos: int, mask: int) -> tuple[Field, int]:
        index, pos = _integer(block, pos, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, pos = _string(block, pos)
        value, pos = _string(block, pos)
        return (name, value), pos

    def _insert(self, field: Field) -> None:
        self.changes += 1
        self._size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
        self._table.append(field)
        self._evict()  # an entry larger than the table empties it (section 4.4)

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES_MAX:
            raise ConnectionFault(COMPRESSION_ERROR, "header table size beyond the setting")
        self.changes += 1
        self._size_max = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._size_max:
            name, value = self._table.pop(0)
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(block: bytes, pos: int, mask: int) -> tuple[int, int]:
    """Section 5.1."""
    value = block[pos] & mask
    pos += 1
    if value < mask:
        return value, pos
    for shift in range(0, 7 * _INTEGER_BYTES_MAX, 7):
        octet = block[pos]
        pos += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, pos
    raise ConnectionFault(COMPRESSION_ERROR, "header integer too long")


def _string(block: bytes, pos: int) -> tuple[bytes, int]:
    """Section 5.2."""
    huffman = block[pos] & 0x80
    length, pos = _integer(block, pos, 0x7F)
    stop = pos + length
    if stop > len(block):
        raise ConnectionFault(COMPRESSION_ERROR, "header string is cut short")
    text = block[pos:stop]
    return (decode_huffman(text) if huffman else text), stop


def literal(name: bytes, value: bytes) -> bytes:
    """A response field without indexing and without Huffman: no encoder state, constant bytes."""
    return b"\x00" + _plain(name) + _plain(value)


def _plain(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    octets = bytearray((0x7F,))
    length -= 0x7F
    while length >= 0x80:
        octets.append(length & 0x7F | 0x80)
        length >>= 7
    octets.append(length)
    return bytes(octets) + text


# A name may hold visible ASCII but no upper case and no colon (8.2.1); a pseudo-field has its
# colon in front. A value may not hold NUL, LF or CR, nor begin or end with a space or tab.
_NAME = re.compile(rb":?[\x21-\x39\x3b-\x40\x5b-\x7e]+")
_VALUE = re.compile(rb"(?:[^\x00\r\n\t ](?:[^\x00\r\n]*[^\x00\r\n\t ])?)?")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


def request_fault(fields: list[Field]) -> str:
    """Why these fields are malformed as a request (8.1.1, 8.3.1), or an empty string."""
    pseudo: dict[bytes, bytes] = {}
    hosts = 0
    plain = False
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return "illegal characters in a field"
        if name[0] == 0x3A:
            if plain or name in pseudo or name not in _PSEUDO:
                return "misplaced, repeated or unknown pseudo-field"
            pseudo[name] = value
            continue
        plain = True
        if name in _OF_CONNECTION:
            return "connection-specific field"
        if name == b"te" and value != b"trailers":
            return "te other than trailers"
        hosts += name == b"host"
    if not pseudo.get(b":method") or not pseudo.get(b":path") or b":scheme" not in pseudo:
        return "missing pseudo-field"
    return "repeated host" if hosts > 1 else ""


def trailer_fault(fields: list[Field]) -> str:
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name[0] == 0x3A:
            return "illegal field in trailers"
    return ""


def content_length(fields: list[Field]) -> int | None:
    """The one declared length; -1 when it is no number or declared twice with different values."""
    values = {value for name, value in fields if name == b"content-length"}
    if not values:
        return None
    value = values.pop()
    return int(value) if not values and value.isdigit() and len(value) <= 18 else -1
