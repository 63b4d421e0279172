"""RFC 9113 sections 3 to 5, as a table: what a client says, and how the server must react.

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
    # 3.4 preface
    ("3.4 good preface", lambda p: b"", "quiet"),
    # 4.1 frame format
    ("4.1 unknown type is ignored", lambda p: _frame(0x16, 0, 0, b"x" * 8) + p.call(1), "answer 1"),
    ("4.1 unknown type 0x0a", lambda p: _frame(0x0A, 0, 1, b"x") + p.call(1), "answer 1"),
    ("4.1 undefined flags", lambda p: _frame(f.PING, 0x16, 0, b"x" * 8), "ping"),
    ("4.1 reserved bit", lambda p: _frame(f.PING, 0, 0x80000000, b"x" * 8), "ping"),
    # 4.2 frame size
    (
        "4.2 DATA of 2^14",
        lambda p: p.headers(1) + p.data(1, b"\0\0\0\x3f\xfb" + b"\x12\xf5\x7f" + bytes(16376)),
        "status 1 13",
    ),
    (
        "4.2 DATA above the size",
        lambda p: _open(p) + _frame(f.DATA, 0, 1, bytes(16385)),
        "goaway 6",
    ),
    ("4.2 HEADERS above the size", lambda p: _frame(f.HEADERS, 5, 1, bytes(16385)), "goaway 6"),
    ("4.2 huge length announced", lambda p: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "goaway 6"),
    # 4.3 header compression
    ("4.3 bad block", lambda p: _frame(f.HEADERS, 5, 1, b"\x40"), "goaway 9"),
    (
        "4.3 PRIORITY inside a block",
        lambda p: _frame(f.HEADERS, 1, 1, p.block()) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1"),
        "goaway 1",
    ),
    (
        "4.3 HEADERS of another stream inside a block",
        lambda p: _frame(f.HEADERS, 1, 1, p.block()) + _frame(f.HEADERS, 5, 3, p.block()),
        "goaway 1",
    ),
    # 5.1 idle
    ("5.1 idle: DATA", lambda p: p.data(1, b"x"), "goaway 1"),
    ("5.1 idle: RST_STREAM", lambda p: f.rst_stream(1, 8), "goaway 1"),
    ("5.1 idle: WINDOW_UPDATE", lambda p: f.window_update(1, 100), "goaway 1"),
    ("5.1 idle: CONTINUATION", lambda p: _frame(f.CONTINUATION, 4, 1, p.block()), "goaway 1"),
    # 5.1 half-closed (remote)
    ("5.1 half-closed: DATA", lambda p: _half(p) + p.data(1, b"x"), "rst 1 5"),
    ("5.1 half-closed: HEADERS", lambda p: _half(p) + p.headers(1, end=True), "rst 1 5"),
    (
        "5.1 half-closed: CONTINUATION",
        lambda p: _half(p) + _frame(f.CONTINUATION, 4, 1, b""),
        "goaway 1",
    ),
    ("5.1 half-closed: WINDOW_UPDATE", lambda p: _half(p) + f.window_update(1, 9), "quiet"),
    (
        "5.1 half-closed: PRIORITY",
        lambda p: _half(p) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1"),
        "quiet",
    ),
    ("5.1 half-closed: RST_STREAM", lambda p: _half(p) + f.rst_stream(1, 8), "quiet"),
    # 5.1 closed
    (
        "5.1 closed by RST: DATA",
        lambda p: _open(p) + f.rst_stream(1, 8) + p.data(1, b"x"),
        "rst 1 5",
    ),
    (
        "5.1 closed by RST: HEADERS",
        lambda p: _open(p) + f.rst_stream(1, 8) + p.headers(1),
        "goaway 5",
    ),
    (
        "5.1 closed by RST: CONTINUATION",
        lambda p: _open(p) + f.rst_stream(1, 8) + _frame(f.CONTINUATION, 4, 1, b""),
        "goaway 1",
    ),
    ("5.1 closed by END_STREAM: DATA", lambda p: p.call(1) + p.data(1, b"x"), "rst 1 5"),
    ("5.1 closed by END_STREAM: HEADERS", lambda p: p.call(1) + p.headers(1), "goaway 5"),
    (
        "5.1 closed: CONTINUATION",
        lambda p: p.call(1) + _frame(f.CONTINUATION, 4, 1, b""),
        "goaway 1",
    ),
    (
        "5.1 closed: WINDOW_UPDATE",
        lambda p: p.call(1) + f.window_update(1, 9) + p.call(3),
        "answer 3",
    ),
    ("5.1 closed: RST_STREAM", lambda p: p.call(1) + f.rst_stream(1, 8) + p.call(3), "answer 3"),
    (
        "5.1 closed: PRIORITY",
        lambda p: p.call(1) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1") + p.call(3),
        "answer 3",
    ),
    # 5.1.1 identifiers
    ("5.1.1 even id", lambda p: p.headers(2), "goaway 1"),
    ("5.1.1 id 0", lambda p: p.headers(0), "goaway 1"),
    ("5.1.1 smaller than before", lambda p: p.call(1) + p.call(5) + p.call(3), "goaway 1"),
    ("5.1.1 a jump is allowed", lambda p: p.call(1) + p.call(101), "answer 101"),
    # 5.3 priority, read for its errors only
    (
        "5.3.1 HEADERS depend on themselves",
        lambda p: _frame(f.HEADERS, 0x25, 1, b"\0\0\0\1\0" + p.block()),
        "rst 1 1",
    ),
    (
        "5.3.1 HEADERS with a priority",
        lambda p: (
            _frame(f.HEADERS, 0x24, 1, b"\x80\0\0\3\xff" + p.block()) + p.data(1, b"\0\0\0\0\0")
        ),
        "answer 1",
    ),
    (
        "5.3.1 PRIORITY depends on itself",
        lambda p: _open(p) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\1\0"),
        "rst 1 1",
    ),
    (
        "5.3 PRIORITY on an idle stream",
        lambda p: _frame(f.PRIORITY, 0, 7, b"\0\0\0\0\1") + p.call(1),
        "answer 1",
    ),
    # 5.5 extensions
    (
        "5.5 unknown frame inside a block",
        lambda p: _frame(f.HEADERS, 1, 1, p.block()) + _frame(0x16, 0, 0, b""),
        "goaway 1",
    ),
]


@pytest.mark.parametrize(("name", "said", "expected"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("cut", ["whole", "octets", "trailing"])
def test_reaction(wire, name, said, expected, cut):
    wire.check_reaction(said, expected, cut)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n" + bytes(20), f.PREFACE[:-1] + b"x"],
)
def test_bad_preface(wire, data):
    peer = wire.Peer(greet=False)
    assert [wire.seen(frame) for frame in peer.say(data)][-1] == "goaway 1"


def test_the_first_frame_must_be_settings(wire):
    for first in (f.ping(bytes(8), ack=False), f.SETTINGS_ACK):
        peer = wire.Peer(greet=False)
        assert wire.seen(peer.say(f.PREFACE, first)[-1]) == "goaway 1"


def test_the_server_greets_with_its_settings(wire):
    peer = wire.Peer()
    kinds = [frame.kind for frame in peer.greeting]
    assert kinds == [f.SETTINGS, f.WINDOW_UPDATE, f.SETTINGS]
    settings = dict(f.read_settings(peer.greeting[0].payload))
    assert settings[f.MAX_CONCURRENT_STREAMS] == 1000
    assert settings[f.MAX_FRAME_SIZE] == 16384
    assert settings[f.MAX_HEADER_LIST_SIZE] == 65536
