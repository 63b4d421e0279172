"""Header blocks without a dynamic table (RFC 7541): what a client writes, and what it must read.

We tell the peer to keep no table for us, so that a block needs no state. Of an answer only the
fields that a unary call looks at are read; what else stands there is stepped over, undecoded.
"""

# Huffman-coded (RFC 7541, 5.2) as most peers send them.
_STATUS, _MESSAGE = b"grpc-status", b"grpc-message"
_CODED = {
    bytes.fromhex("9acac8b21234da8f"): _STATUS,
    bytes.fromhex("9acac8b5254207317f"): _MESSAGE,
    b"\x07": b"0",
}
_STATIC_STATUS = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
_STATIC_MAX, _STATUS_FIRST, _STATUS_LAST = 61, 8, 14  # of RFC 7541's static table


def literal(raw: bytes) -> bytes:
    """A string of a header block, without Huffman coding (RFC 7541, 5.2)."""
    size = len(raw)
    if size < 127:
        return bytes((size,)) + raw
    out, size = bytearray(b"\x7f"), size - 127
    while size >= 128:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + raw


def read_block(block: bytes) -> dict[bytes, bytes]:
    """Of a header block: `:status`, `grpc-status` and `grpc-message`. Raises ValueError."""
    found: dict[bytes, bytes] = {}
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                if _STATUS_FIRST <= index <= _STATUS_LAST:
                    found[b":status"] = b"%d" % _STATIC_STATUS[index]
                elif not 0 < index <= _STATIC_MAX:
                    raise ValueError("a header of a table that we have not")
                continue
            if first & 0xE0 == 0x20:
                _, at = _integer(block, at, 5)
                continue
            index, at = _integer(block, at, 6 if first & 0x40 else 4)
            name: bytes | None = b":status" if _STATUS_FIRST <= index <= _STATUS_LAST else None
            if not index:
                raw, is_coded, at = _literal(block, at)
                name = _CODED.get(raw) if is_coded else raw
            raw, is_coded, at = _literal(block, at)
            if name in (b":status", _STATUS, _MESSAGE):
                found[name] = _decoded(raw) if is_coded else raw
    except IndexError:
        raise ValueError("a header block that ends too early") from None
    return found


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    mask = (1 << bits) - 1
    value, at = block[at] & mask, at + 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        more, at = block[at], at + 1
        value += (more & 0x7F) << shift
        shift += 7
        if not more & 0x80:
            return value, at


def _literal(block: bytes, at: int) -> tuple[bytes, bool, int]:
    is_coded = bool(block[at] & 0x80)
    length, at = _integer(block, at, 7)
    if at + length > len(block):
        raise IndexError
    return block[at : at + length], is_coded, at + length


def _decoded(raw: bytes) -> bytes:
    known = _CODED.get(raw)
    if known is not None:
        return known
    from hpack.exceptions import HPACKDecodingError
    from hpack.huffman_table import decode_huffman

    try:
        return bytes(decode_huffman(raw))
    except HPACKDecodingError as failure:
        raise ValueError(str(failure)) from None
