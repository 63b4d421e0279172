"""HTTP/2 frames as the clients make them (RFC 9113, 4 to 6)."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 3, 4, 5
WINDOW_MAX = (1 << 31) - 1
STREAM_ID_MAX = (1 << 31) - 1
FRAME = struct.Struct(">HBBBI")  # the length's two parts, type, flags, stream
SETTING = struct.Struct(">HI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """One frame."""
    length = len(payload)
    return FRAME.pack(length >> 8, length & 255, kind, flags, stream_id) + payload
