"""HTTP/2 frames as bytes (RFC 9113 section 4 and 6): the numbers, and how our own frames are made.

Strategy: a frame head is one struct of three words: (length << 8 | type), flags, stream id.
Reading frames is part of the loop in `h2.py`, because a call per frame would be half its cost.
Nothing here holds state.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

FLAG_END_STREAM: Final = 0x1
FLAG_ACK: Final = 0x1
FLAG_END_HEADERS: Final = 0x4
FLAG_PADDED: Final = 0x8
FLAG_PRIORITY: Final = 0x20

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
SETTINGS_TIMEOUT: Final = 4
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

WINDOW_MAX: Final = 2**31 - 1  # section 6.9.1
STREAM_ID_MAX: Final = 2**31 - 1
FRAME_BYTES_MAX: Final = 16_384  # the default, which we neither raise nor exceed
WINDOW_DEFAULT: Final = 65_535
HEAD_BYTES: Final = 9

HEAD = Struct(">IBI")
_WORD = Struct(">I")
_SETTING = Struct(">HI")
_WORDS = Struct(">II")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(last_id: int, code: int, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _WORDS.pack(last_id, code) + text)


def ping(payload: bytes, *, ack: bool) -> bytes:
    assert len(payload) == 8
    return frame(PING, FLAG_ACK if ack else 0, 0, payload)


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    assert len(block) <= FRAME_BYTES_MAX  # our blocks are small: never a CONTINUATION
    return frame(HEADERS, FLAG_END_HEADERS | end_stream, stream_id, block)


SETTINGS_ACK: Final = frame(SETTINGS, FLAG_ACK, 0)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    return list(_SETTING.iter_unpack(payload))


def read_word(payload: bytes) -> int:
    """The 31 low bits: WINDOW_UPDATE increments and dependencies have a reserved high bit."""
    word: int = _WORD.unpack_from(payload)[0]
    return word & 0x7FFFFFFF


class ConnectionFault(Exception):
    """The peer broke the connection's rules: GOAWAY with this code and text, then close."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
