"""RFC 9113 (and 7541) as a table: what a client says, and how the server must react.

The rows are the cases an HTTP/2 conformance suite asks for, section by section. An expectation is
one of: `goaway CODE`, `rst ID CODE`, `answer ID` (gRPC status 0), `status ID CODE`, `ping`,
`ack`, `quiet` (nothing at all), and it must be among the reactions; after a GOAWAY with an error
nothing more is read.
"""

import pytest

from pyetcd.server.wire import frames as f

NO, PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 0, 1, 3, 5, 6, 7, 9, 11


def _frame(kind, flags, stream_id, payload=b""):
    return f.frame(kind, flags, stream_id, payload)


def _open(p, stream_id=1):
    """A stream that stays half-open: HEADERS without END_STREAM."""
    return p.headers(stream_id, "/t.T/Hold")


def _half(p, stream_id=1):
    """A stream whose client has ended and whose handler has not answered."""
    return p.call(stream_id, "/t.T/Hold")


def _block(*fields):
    good = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/t.T/Hold"),
        ("content-type", "application/grpc"),
    ]
    return lambda p: f.headers(1, p.raw_block(*good, *fields), end_stream=True)


def _only(*fields, end=True):
    return lambda p: f.headers(1, p.raw_block(*fields), end_stream=end)


M, S, P = (":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo")
T = ("content-type", "application/grpc")

CASES = [
    # 3.4 preface
    ("3.4 good preface", lambda p: b"", "quiet"),
    # 4.1 frame format
    ("4.1 unknown type is ignored", lambda p: _frame(0x16, 0, 0, b"x" * 8) + p.call(1), "answer 1"),
    ("4.1 unknown type 0x0a", lambda p: _frame(0x0A, 0, 1, b"x") + p.call(1), "answer 1"),
    ("4.1 undefined flags", lambda p: _frame(f.PING, 0x16, 0, b"x" * 8), "ping"),
    ("4.1 reserved bit", lambda p: _frame(f.PING, 0, 0x80000000, b"x" * 8), "ping"),
    # 4.2 frame size
    ("4.2 DATA of 2^14", lambda p: p.headers(1) + p.data(1, b"\0\0\0\x3f\xfb" + b"\x12\xf5\x7f" + bytes(16376)), "status 1 13"),
    ("4.2 DATA above the size", lambda p: _open(p) + _frame(f.DATA, 0, 1, bytes(16385)), "goaway 6"),
    ("4.2 HEADERS above the size", lambda p: _frame(f.HEADERS, 5, 1, bytes(16385)), "goaway 6"),
    ("4.2 huge length announced", lambda p: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "goaway 6"),
    # 4.3 header compression
    ("4.3 bad block", lambda p: _frame(f.HEADERS, 5, 1, b"\x40"), "goaway 9"),
    ("4.3 PRIORITY inside a block", lambda p: _frame(f.HEADERS, 1, 1, p.block()) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1"), "goaway 1"),
    ("4.3 HEADERS of another stream inside a block", lambda p: _frame(f.HEADERS, 1, 1, p.block()) + _frame(f.HEADERS, 5, 3, p.block()), "goaway 1"),
    # 5.1 idle
    ("5.1 idle: DATA", lambda p: p.data(1, b"x"), "goaway 1"),
    ("5.1 idle: RST_STREAM", lambda p: f.rst_stream(1, 8), "goaway 1"),
    ("5.1 idle: WINDOW_UPDATE", lambda p: f.window_update(1, 100), "goaway 1"),
    ("5.1 idle: CONTINUATION", lambda p: _frame(f.CONTINUATION, 4, 1, p.block()), "goaway 1"),
    # 5.1 half-closed (remote)
    ("5.1 half-closed: DATA", lambda p: _half(p) + p.data(1, b"x"), "rst 1 5"),
    ("5.1 half-closed: HEADERS", lambda p: _half(p) + p.headers(1, end=True), "rst 1 5"),
    ("5.1 half-closed: CONTINUATION", lambda p: _half(p) + _frame(f.CONTINUATION, 4, 1, b""), "goaway 1"),
    ("5.1 half-closed: WINDOW_UPDATE", lambda p: _half(p) + f.window_update(1, 9), "quiet"),
    ("5.1 half-closed: PRIORITY", lambda p: _half(p) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1"), "quiet"),
    ("5.1 half-closed: RST_STREAM", lambda p: _half(p) + f.rst_stream(1, 8), "quiet"),
    # 5.1 closed
    ("5.1 closed by RST: DATA", lambda p: _open(p) + f.rst_stream(1, 8) + p.data(1, b"x"), "rst 1 5"),
    ("5.1 closed by RST: HEADERS", lambda p: _open(p) + f.rst_stream(1, 8) + p.headers(1), "goaway 5"),
    ("5.1 closed by RST: CONTINUATION", lambda p: _open(p) + f.rst_stream(1, 8) + _frame(f.CONTINUATION, 4, 1, b""), "goaway 1"),
    ("5.1 closed by END_STREAM: DATA", lambda p: p.call(1) + p.data(1, b"x"), "rst 1 5"),
    ("5.1 closed by END_STREAM: HEADERS", lambda p: p.call(1) + p.headers(1), "goaway 5"),
    ("5.1 closed: CONTINUATION", lambda p: p.call(1) + _frame(f.CONTINUATION, 4, 1, b""), "goaway 1"),
    ("5.1 closed: WINDOW_UPDATE", lambda p: p.call(1) + f.window_update(1, 9) + p.call(3), "answer 3"),
    ("5.1 closed: RST_STREAM", lambda p: p.call(1) + f.rst_stream(1, 8) + p.call(3), "answer 3"),
    ("5.1 closed: PRIORITY", lambda p: p.call(1) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1") + p.call(3), "answer 3"),
    # 5.1.1 identifiers
    ("5.1.1 even id", lambda p: p.headers(2), "goaway 1"),
    ("5.1.1 id 0", lambda p: p.headers(0), "goaway 1"),
    ("5.1.1 smaller than before", lambda p: p.call(1) + p.call(5) + p.call(3), "goaway 1"),
    ("5.1.1 a jump is allowed", lambda p: p.call(1) + p.call(101), "answer 101"),
    # 5.3 priority, read for its errors only
    ("5.3.1 HEADERS depend on themselves", lambda p: _frame(f.HEADERS, 0x25, 1, b"\0\0\0\1\0" + p.block()), "rst 1 1"),
    ("5.3.1 HEADERS with a priority", lambda p: _frame(f.HEADERS, 0x24, 1, b"\x80\0\0\3\xff" + p.block()) + p.data(1, b"\0\0\0\0\0"), "answer 1"),
    ("5.3.1 PRIORITY depends on itself", lambda p: _open(p) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\1\0"), "rst 1 1"),
    ("5.3 PRIORITY on an idle stream", lambda p: _frame(f.PRIORITY, 0, 7, b"\0\0\0\0\1") + p.call(1), "answer 1"),
    # 5.5 extensions
    ("5.5 unknown frame inside a block", lambda p: _frame(f.HEADERS, 1, 1, p.block()) + _frame(0x16, 0, 0, b""), "goaway 1"),
    # 6.1 DATA
    ("6.1 DATA on stream 0", lambda p: p.data(0, b"x"), "goaway 1"),
    ("6.1 padding", lambda p: p.headers(1) + _frame(f.DATA, 9, 1, b"\3\0\0\0\0\0xyz"), "answer 1"),
    ("6.1 padding fills the frame", lambda p: _open(p) + _frame(f.DATA, 9, 1, b"\5abcd"), "goaway 1"),
    ("6.1 padded and empty", lambda p: _open(p) + _frame(f.DATA, 9, 1, b""), "goaway 1"),
    ("6.1 all padding", lambda p: p.headers(1) + _frame(f.DATA, 8, 1, b"\2xx") + p.data(1, b"\0\0\0\0\0"), "answer 1"),
    # 6.2 HEADERS
    ("6.2 END_HEADERS missing, then DATA", lambda p: _frame(f.HEADERS, 0, 1, p.block()) + p.data(1, b"x"), "goaway 1"),
    ("6.2 padding", lambda p: _frame(f.HEADERS, 0xC, 1, b"\2" + p.block() + b"xx") + p.data(1, b"\0\0\0\0\0"), "answer 1"),
    ("6.2 padding too long", lambda p: _frame(f.HEADERS, 0xD, 1, b"\xff" + p.block()), "goaway 1"),
    ("6.2 priority cut short", lambda p: _frame(f.HEADERS, 0x25, 1, b"\0\0"), "goaway 6"),
    ("6.2 trailers", lambda p: p.headers(1) + p.data(1, b"\0\0\0\0\0", end=False) + f.headers(1, p.raw_block(("x", "y")), end_stream=True), "answer 1"),
    # 6.3 PRIORITY
    ("6.3 on stream 0", lambda p: _frame(f.PRIORITY, 0, 0, b"\0\0\0\1\1"), "goaway 1"),
    ("6.3 wrong length", lambda p: _open(p) + _frame(f.PRIORITY, 0, 1, b"\0\0\0\0"), "rst 1 6"),
    ("6.3 wrong length, closed stream", lambda p: p.call(1) + _frame(f.PRIORITY, 0, 1, b""), "rst 1 6"),
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
    ("6.5.2 window above 2^31-1", lambda p: f.settings([(f.INITIAL_WINDOW_SIZE, 2**31)]), "goaway 3"),
    ("6.5.2 frame size below 2^14", lambda p: f.settings([(f.MAX_FRAME_SIZE, 16383)]), "goaway 1"),
    ("6.5.2 frame size 0", lambda p: f.settings([(f.MAX_FRAME_SIZE, 0)]), "goaway 1"),
    ("6.5.2 frame size above 2^24-1", lambda p: f.settings([(f.MAX_FRAME_SIZE, 2**24)]), "goaway 1"),
    ("6.5.2 unknown setting", lambda p: f.settings([(0xFF, 1)]) + p.call(1), "answer 1"),
    ("6.5.2 32 settings", lambda p: f.settings([(9, 1)] * 32), "ack"),
    ("6.5.2 33 settings (CVE-2020-11080)", lambda p: f.settings([(9, 1)] * 33), "goaway 11"),
    ("6.5.3 the last of equal settings counts", lambda p: f.settings([(f.INITIAL_WINDOW_SIZE, 0), (f.INITIAL_WINDOW_SIZE, 99)]) + p.call(1), "answer 1"),
    # 6.6 PUSH_PROMISE
    ("6.6 from a client", lambda p: _frame(f.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + p.block()), "goaway 1"),
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
    ("6.9.1 stream above 2^31-1", lambda p: _half(p) + f.window_update(1, 2**31 - 1) * 2, "rst 1 3"),
    ("6.9.2 setting overflows a stream", lambda p: _half(p) + f.window_update(1, 2**31 - 1 - 65535) + f.settings([(f.INITIAL_WINDOW_SIZE, 65536)]), "goaway 3"),
    # 6.10 CONTINUATION
    ("6.10 several", lambda p: (lambda b: _frame(f.HEADERS, 0, 1, b[:3]) + _frame(f.CONTINUATION, 0, 1, b[3:6]) + _frame(f.CONTINUATION, 4, 1, b[6:]))(p.block()) + p.data(1, b"\0\0\0\0\0"), "answer 1"),
    ("6.10 then another frame", lambda p: _frame(f.HEADERS, 0, 1, p.block()) + _frame(f.CONTINUATION, 0, 1, b"") + p.data(1, b"x"), "goaway 1"),
    ("6.10 on stream 0", lambda p: _frame(f.HEADERS, 0, 1, p.block()) + _frame(f.CONTINUATION, 4, 0, b""), "goaway 1"),
    ("6.10 after END_HEADERS", lambda p: _open(p) + _frame(f.CONTINUATION, 4, 1, b""), "goaway 1"),
    # 8.1 requests
    ("8.1 second HEADERS without END_STREAM", lambda p: _open(p) + f.headers(1, p.raw_block(("x", "y")), end_stream=False), "rst 1 1"),
    ("8.1 pseudo-field in trailers", lambda p: _open(p) + f.headers(1, p.raw_block((":path", "/")), end_stream=True), "rst 1 1"),
    ("8.1.1 content-length too large", lambda p: f.headers(1, p.block("/t.T/Hold", content_length="9"), end_stream=False) + p.data(1, b"\0\0\0\0\0"), "rst 1 1"),
    ("8.1.1 content-length too small", lambda p: f.headers(1, p.block("/t.T/Hold", content_length="3"), end_stream=False) + p.data(1, b"\0\0\0\0\0"), "rst 1 1"),
    ("8.1.1 content-length in several DATA", lambda p: f.headers(1, p.block("/t.T/Hold", content_length="9"), end_stream=False) + p.data(1, b"\0\0\0", end=False) + p.data(1, b"\0\0"), "rst 1 1"),
    ("8.1.1 content-length without DATA", lambda p: f.headers(1, p.block(content_length="9"), end_stream=True), "rst 1 1"),
    ("8.1.1 content-length in trailers' way", lambda p: f.headers(1, p.block(content_length="9"), end_stream=False) + f.headers(1, p.raw_block(("x", "y")), end_stream=True), "rst 1 1"),
    ("8.1.1 right content-length", lambda p: f.headers(1, p.block(content_length="5"), end_stream=False) + p.data(1, b"\0\0\0\0\0"), "answer 1"),
    ("8.1.1 no number", lambda p: f.headers(1, p.block(content_length="x"), end_stream=False), "rst 1 1"),
    ("8.2 upper case name", _block(("X-Test", "ok")), "rst 1 1"),
    ("8.2.1 line feed in a value", _block(("x", "a\nb")), "rst 1 1"),
    ("8.2.1 empty name", _block(("", "b")), "rst 1 1"),
    ("8.2.2 connection", _block(("connection", "keep-alive")), "rst 1 1"),
    ("8.2.2 te: trailers, deflate", _block(("te", "trailers, deflate")), "rst 1 1"),
    ("8.2.2 transfer-encoding", _block(("transfer-encoding", "chunked")), "rst 1 1"),
    ("8.3 unknown pseudo-field", _only(M, S, P, (":test", "ok"), T), "rst 1 1"),
    ("8.3 response pseudo-field", _only(M, S, P, (":status", "200"), T), "rst 1 1"),
    ("8.3 pseudo-field behind a field", _only(M, S, T, P), "rst 1 1"),
    ("8.3.1 empty :path", _only(M, S, (":path", ""), T), "rst 1 1"),
    ("8.3.1 no :method", _only(S, P, T), "rst 1 1"),
    ("8.3.1 no :scheme", _only(M, P, T), "rst 1 1"),
    ("8.3.1 no :path", _only(M, S, T), "rst 1 1"),
    ("8.3.1 two :method", _only(M, M, S, P, T), "rst 1 1"),
    ("8.3.1 two :scheme", _only(M, S, S, P, T), "rst 1 1"),
    ("8.3.1 two :path", _only(M, S, P, P, T), "rst 1 1"),
    ("8.3.1 two :authority", _only(M, S, P, (":authority", "a"), (":authority", "b"), T), "rst 1 1"),
    # 7541
    ("7541 2.3.3 index beyond the tables", lambda p: _frame(f.HEADERS, 5, 1, b"\xc8"), "goaway 9"),
    ("7541 4.2 size update at the end", lambda p: _frame(f.HEADERS, 5, 1, p.block() + b"\x20"), "goaway 9"),
    ("7541 5.2 padding of 8 bits", lambda p: _frame(f.HEADERS, 5, 1, b"\x82\x86\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"), "goaway 9"),
    ("7541 5.2 padding with zeros", lambda p: _frame(f.HEADERS, 5, 1, b"\x00\x81\x18\x00"), "goaway 9"),
    ("7541 5.2 EOS in a string", lambda p: _frame(f.HEADERS, 5, 1, b"\x00\x85\xff\xff\xff\xff\xff\x00"), "goaway 9"),
    ("7541 6.1 index 0", lambda p: _frame(f.HEADERS, 5, 1, b"\x80"), "goaway 9"),
    ("7541 6.3 size above the setting", lambda p: _frame(f.HEADERS, 5, 1, b"\x3f\xe2\x1f" + p.block()), "goaway 9"),
    # gRPC over HTTP/2: never a request for the handlers
    ("gRPC: GET", _only((":method", "GET"), S, P), "status 1 13"),
    ("gRPC: other content type", _only(M, S, P, ("content-type", "text/plain")), "status 1 2"),
    ("gRPC: path without a slash (CVE-2026-33186)", _only(M, S, (":path", "t.T/Echo"), T), "status 1 12"),
    ("gRPC: path is not normalised", _only(M, S, (":path", "//t.T/Echo"), T), "status 1 12"),
]  # fmt: skip


def _seen(frame):
    if frame.kind == f.GOAWAY:
        return f"goaway {frame.code}"
    if frame.kind == f.RST_STREAM:
        return f"rst {frame.stream_id} {frame.code}"
    if frame.kind == f.HEADERS and frame.status == "0":
        return f"answer {frame.stream_id}"
    if frame.kind == f.HEADERS and frame.status:
        return f"status {frame.stream_id} {frame.status}"
    if frame.kind == f.PING:
        return "ping"
    return "ack" if frame.kind == f.SETTINGS and frame.flags & f.FLAG_ACK else ""


@pytest.mark.parametrize(("name", "said", "expected"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("cut", ["whole", "octets", "trailing"])
def test_reaction(wire, name, said, expected, cut):
    peer = wire.Peer()
    data = said(peer)
    if cut == "octets":
        got = [frame for at in range(len(data)) for frame in peer.say(data[at : at + 1])]
        got += peer.read()
    else:
        got = peer.say(data + (f.HEAD.pack(8 << 8 | f.PING, 0, 0) if cut == "trailing" else b""))
    seen = [text for text in map(_seen, got) if text]
    if expected == "quiet":
        assert not seen
    else:
        assert expected in seen, seen
    assert peer.connection.closing == (expected.startswith("goaway"))
    if peer.connection.closing:
        assert not peer.say(peer.call(99)) and not peer.connection.streams


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n" + bytes(20), f.PREFACE[:-1] + b"x"],
)
def test_bad_preface(wire, data):
    peer = wire.Peer(greet=False)
    assert [_seen(frame) for frame in peer.say(data)][-1] == "goaway 1"


def test_the_first_frame_must_be_settings(wire):
    for first in (f.ping(bytes(8), ack=False), f.SETTINGS_ACK):
        peer = wire.Peer(greet=False)
        assert _seen(peer.say(f.PREFACE, first)[-1]) == "goaway 1"


def test_the_server_greets_with_its_settings(wire):
    peer = wire.Peer()
    kinds = [frame.kind for frame in peer.greeting]
    assert kinds == [f.SETTINGS, f.WINDOW_UPDATE, f.SETTINGS]
    settings = dict(f.read_settings(peer.greeting[0].payload))
    assert settings[f.MAX_CONCURRENT_STREAMS] == 1000
    assert settings[f.MAX_FRAME_SIZE] == 16384
    assert settings[f.MAX_HEADER_LIST_SIZE] == 65536
