"""RFC 9113 section 6, as a table: what a client says, and how the server must react.

The rows are the cases an HTTP/2 conformance suite asks for, section by section. An expectation is
one of: `goaway CODE`, `rst ID CODE`, `answer ID` (gRPC status 0), `status ID CODE`, `ping`,
`ack`, `quiet` (nothing at all), and it must be among the reactions; after a GOAWAY with an error
nothing more is read.
"""

import pytest

from pyetcd.server.wire import frames as f


def _frame(kind, flags, stream_id, payload=b""):
    return f.frame(kind, flags, stream_id, payload)


def _open(p, stream_id=1):
    """A stream that stays half-open: HEADERS without END_STREAM."""
    return p.headers(stream_id, "/t.T/Hold")


def _half(p, stream_id=1):
    """A stream whose client has ended and whose handler has not answered."""
    return p.call(stream_id, "/t.T/Hold")


CASES = [
    # 6.1 DATA
    ("6.1 DATA on stream 0", lambda p: p.data(0, b"x"), "goaway 1"),
    ("6.1 padding", lambda p: p.headers(1) + _frame(f.DATA, 9, 1, b"\3\0\0\0\0\0xyz"), "answer 1"),
    (
        "6.1 padding fills the frame",
        lambda p: _open(p) + _frame(f.DATA, 9, 1, b"\5abcd"),
        "goaway 1",
    ),
    ("6.1 padded and empty", lambda p: _open(p) + _frame(f.DATA, 9, 1, b""), "goaway 1"),
    (
        "6.1 all padding",
        lambda p: p.headers(1) + _frame(f.DATA, 8, 1, b"\2xx") + p.data(1, b"\0\0\0\0\0"),
        "answer 1",
    ),
    # 6.2 HEADERS
    (
        "6.2 END_HEADERS missing, then DATA",
        lambda p: _frame(f.HEADERS, 0, 1, p.block()) + p.data(1, b"x"),
        "goaway 1",
    ),
    (
        "6.2 padding",
        lambda p: _frame(f.HEADERS, 0xC, 1, b"\2" + p.block() + b"xx") + p.data(1, b"\0\0\0\0\0"),
        "answer 1",
    ),
    ("6.2 padding too long", lambda p: _frame(f.HEADERS, 0xD, 1, b"\xff" + p.block()), "goaway 1"),
    ("6.2 priority cut short", lambda p: _frame(f.HEADERS, 0x25, 1, b"\0\0"), "goaway 6"),
    (
        "6.2 trailers",
        lambda p: (
            p.headers(1)
            + p.data(1, b"\0\0\0\0\0", end=False)
            + f.headers(1, p.raw_block(("x", "y")), end_stream=True)
        ),
        "answer 1",
    ),
    # 6.3 PRIORITY
    ("6.3 on stream 0", lambda p: _frame(f.PRIORITY, 0, 0, b"\0\0\0\1\1"), "goaway 1"),
    ("6.3 wrong length", lambda p: _open(p) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0"), "rst 1 6"),
    (
        "6.3 wrong length, closed stream",
        lambda p: p.call(1) + _frame(f.PRIORITY, 0, 1, b""),
        "rst 1 6",
    ),
    ("6.3 wrong length, idle stream", lambda p: _frame(f.PRIORITY, 0, 1, b""), "goaway 6"),
    # 6.4 RST_STREAM
    ("6.4 on stream 0", lambda p: f.rst_stream(0, 8), "goaway 1"),
    ("6.4 wrong length", lambda p: _open(p) + _frame(f.RST_STREAM, 0, 1, b"\0\0\0"), "goaway 6"),
    # 6.5 SETTINGS
    ("6.5 is acknowledged", lambda p: f.settings([(f.MAX_FRAME_SIZE, 20000)]), "ack"),
    ("6.5 ACK with a payload", lambda p: _frame(f.SETTINGS, 1, 0, bytes(6)), "goaway 6"),
    ("6.5 ACK", lambda p: f.SETTINGS_ACK, "quiet"),
    ("6.5 on a stream", lambda p: _frame(f.SETTINGS, 0, 1, b""), "goaway 1"),
    ("6.5 wrong length", lambda p: _frame(f.SETTINGS, 0, 0, bytes(5)), "goaway 6"),
    ("6.5.2 ENABLE_PUSH 2", lambda p: f.settings([(f.ENABLE_PUSH, 2)]), "goaway 1"),
    ("6.5.2 ENABLE_PUSH 0", lambda p: f.settings([(f.ENABLE_PUSH, 0)]), "ack"),
    (
        "6.5.2 window above 2^31-1",
        lambda p: f.settings([(f.INITIAL_WINDOW_SIZE, 2**31)]),
        "goaway 3",
    ),
    ("6.5.2 frame size below 2^14", lambda p: f.settings([(f.MAX_FRAME_SIZE, 16383)]), "goaway 1"),
    ("6.5.2 frame size 0", lambda p: f.settings([(f.MAX_FRAME_SIZE, 0)]), "goaway 1"),
    (
        "6.5.2 frame size above 2^24-1",
        lambda p: f.settings([(f.MAX_FRAME_SIZE, 2**24)]),
        "goaway 1",
    ),
    ("6.5.2 unknown setting", lambda p: f.settings([(0xFF, 1)]) + p.call(1), "answer 1"),
    ("6.5.2 32 settings", lambda p: f.settings([(9, 1)] * 32), "ack"),
    ("6.5.2 33 settings (CVE-2020-11080)", lambda p: f.settings([(9, 1)] * 33), "goaway 11"),
    (
        "6.5.3 the last of equal settings counts",
        lambda p: f.settings([(f.INITIAL_WINDOW_SIZE, 0), (f.INITIAL_WINDOW_SIZE, 99)]) + p.call(1),
        "answer 1",
    ),
    # 6.6 PUSH_PROMISE
    (
        "6.6 from a client",
        lambda p: _frame(f.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + p.block()),
        "goaway 1",
    ),
    # 6.7 PING
    ("6.7 is answered", lambda p: f.ping(b"12345678", ack=False), "ping"),
    ("6.7 unknown ACK", lambda p: f.ping(b"12345678", ack=True), "quiet"),
    ("6.7 on a stream", lambda p: _frame(f.PING, 0, 1, bytes(8)), "goaway 1"),
    ("6.7 wrong length", lambda p: _frame(f.PING, 0, 0, bytes(6)), "goaway 6"),
    # 6.8 GOAWAY
    ("6.8 on a stream", lambda p: _frame(f.GOAWAY, 0, 1, bytes(8)), "goaway 1"),
    ("6.8 from the client, work goes on", lambda p: f.goaway(0, 0) + p.call(1), "answer 1"),
    # 6.9 WINDOW_UPDATE
    ("6.9 of 0 on the connection", lambda p: f.window_update(0, 0), "goaway 1"),
    ("6.9 of 0 on a stream", lambda p: _half(p) + f.window_update(1, 0), "rst 1 1"),
    ("6.9 wrong length", lambda p: _frame(f.WINDOW_UPDATE, 0, 0, bytes(3)), "goaway 6"),
    ("6.9.1 connection above 2^31-1", lambda p: f.window_update(0, 2**31 - 1) * 2, "goaway 3"),
    (
        "6.9.1 stream above 2^31-1",
        lambda p: _half(p) + f.window_update(1, 2**31 - 1) * 2,
        "rst 1 3",
    ),
    (
        "6.9.2 setting overflows a stream",
        lambda p: (
            _half(p)
            + f.window_update(1, 2**31 - 1 - 65535)
            + f.settings([(f.INITIAL_WINDOW_SIZE, 65536)])
        ),
        "goaway 3",
    ),
    # 6.10 CONTINUATION
    (
        "6.10 several",
        lambda p: (
            (
                lambda b: (
                    _frame(f.HEADERS, 0, 1, b[:3])
                    + _frame(f.CONTINUATION, 0, 1, b[3:6])
                    + _frame(f.CONTINUATION, 4, 1, b[6:])
                )
            )(p.block())
            + p.data(1, b"\0\0\0\0\0")
        ),
        "answer 1",
    ),
    (
        "6.10 then another frame",
        lambda p: (
            _frame(f.HEADERS, 0, 1, p.block()) + _frame(f.CONTINUATION, 0, 1, b"") + p.data(1, b"x")
        ),
        "goaway 1",
    ),
    (
        "6.10 on stream 0",
        lambda p: _frame(f.HEADERS, 0, 1, p.block()) + _frame(f.CONTINUATION, 4, 0, b""),
        "goaway 1",
    ),
    ("6.10 after END_HEADERS", lambda p: _open(p) + _frame(f.CONTINUATION, 4, 1, b""), "goaway 1"),
]


@pytest.mark.parametrize(("name", "said", "expected"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("cut", ["whole", "octets", "trailing"])
def test_reaction(wire, name, said, expected, cut):
    wire.check_reaction(said, expected, cut)
