"""Status, timeouts and metadata of gRPC as header bytes (gRPC over HTTP/2 specification).

Strategy: everything an answer needs is constant bytes: the response headers and the OK trailers
are made at import, error blocks are kept by (code, text). No encoder state, see `headers.py`.
"""

import base64
import binascii
import re
from functools import lru_cache
from typing import Final

from pyetcd.server.wire.headers import Field, literal

TEXT_BYTES_MAX: Final = 4096  # of an error text; the rest is cut, so that a block is one frame

_STATUS_200: Final = b"\x88"  # RFC 7541 appendix A, entry 8
_CONTENT_TYPE: Final = b"\x0f\x10\x10application/grpc"  # name by entry 31, without indexing

RESPONSE_BLOCK: Final = _STATUS_200 + _CONTENT_TYPE
OK_BLOCK: Final = literal(b"grpc-status", b"0")


@lru_cache(maxsize=256)
def error_trailers(code: int, text: str) -> bytes:
    """The fields behind a started answer."""
    return literal(b"grpc-status", b"%d" % code) + literal(b"grpc-message", percent(text))


def error_response(code: int, text: str) -> bytes:
    """A whole answer in one block ("Trailers-Only")."""
    return RESPONSE_BLOCK + error_trailers(code, text)


def http_refusal(http_status: int, code: int, text: str, extra: bytes = b"") -> bytes:
    """For what is no gRPC request at all; the gRPC status is there for clients that look for it."""
    status = b"\x08" + literal(b"", b"%d" % http_status)[2:]  # name by entry 8
    return status + _CONTENT_TYPE + error_trailers(code, text) + extra


def percent(text: str) -> bytes:
    """Everything but printable ASCII, and the percent sign itself, as %XX of its UTF-8."""
    raw = text.encode("utf-8", "replace")[:TEXT_BYTES_MAX]
    return b"".join(
        bytes((octet,)) if 0x20 <= octet <= 0x7E and octet != 0x25 else b"%%%02X" % octet
        for octet in raw
    )


_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def timeout_s(value: bytes) -> float | None:
    """None when it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    return None if match is None else int(match[1]) * _UNIT_S[match[2]]


def metadata(fields: list[Field]) -> dict[str, str | bytes] | None:
    """What a handler may look up. The first of equal names counts, as everywhere in etcd.

    Names are ASCII (`request_fault`). Values that are not UTF-8 are mended, not refused, so that
    no later use as a label or log text can fail. None when a binary value is not base64.
    """
    found: dict[str, str | bytes] = {}
    for name, value in fields:
        key = name.decode("ascii")
        if key in found:
            continue
        if not key.endswith("-bin"):
            found[key] = value.decode("utf-8", "replace")
            continue
        try:
            first = value.partition(b",")[0]  # a sender may join values
            found[key] = base64.b64decode(
                first.rstrip(b"=") + b"=" * (-len(first.rstrip(b"=")) % 4), validate=True
            )
        except binascii.Error:
            return None
    return found
