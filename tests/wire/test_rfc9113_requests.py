"""RFC 9113 section 8, RFC 7541 and gRPC, as a table: what a client says, and the reaction.

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
    # 8.1 requests
    (
        "8.1 second HEADERS without END_STREAM",
        lambda p: _open(p) + f.headers(1, p.raw_block(("x", "y")), end_stream=False),
        "rst 1 1",
    ),
    (
        "8.1 pseudo-field in trailers",
        lambda p: _open(p) + f.headers(1, p.raw_block((":path", "/")), end_stream=True),
        "rst 1 1",
    ),
    (
        "8.1.1 content-length too large",
        lambda p: (
            f.headers(1, p.block("/t.T/Hold", content_length="9"), end_stream=False)
            + p.data(1, b"\0\0\0\0\0")
        ),
        "rst 1 1",
    ),
    (
        "8.1.1 content-length too small",
        lambda p: (
            f.headers(1, p.block("/t.T/Hold", content_length="3"), end_stream=False)
            + p.data(1, b"\0\0\0\0\0")
        ),
        "rst 1 1",
    ),
    (
        "8.1.1 content-length in several DATA",
        lambda p: (
            f.headers(1, p.block("/t.T/Hold", content_length="9"), end_stream=False)
            + p.data(1, b"\0\0\0", end=False)
            + p.data(1, b"\0\0")
        ),
        "rst 1 1",
    ),
    (
        "8.1.1 content-length without DATA",
        lambda p: f.headers(1, p.block(content_length="9"), end_stream=True),
        "rst 1 1",
    ),
    (
        "8.1.1 content-length in trailers' way",
        lambda p: (
            f.headers(1, p.block(content_length="9"), end_stream=False)
            + f.headers(1, p.raw_block(("x", "y")), end_stream=True)
        ),
        "rst 1 1",
    ),
    (
        "8.1.1 right content-length",
        lambda p: (
            f.headers(1, p.block(content_length="5"), end_stream=False) + p.data(1, b"\0\0\0\0\0")
        ),
        "answer 1",
    ),
    (
        "8.1.1 no number",
        lambda p: f.headers(1, p.block(content_length="x"), end_stream=False),
        "rst 1 1",
    ),
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
    (
        "8.3.1 two :authority",
        _only(M, S, P, (":authority", "a"), (":authority", "b"), T),
        "rst 1 1",
    ),
    # 7541
    ("7541 2.3.3 index beyond the tables", lambda p: _frame(f.HEADERS, 5, 1, b"\xc8"), "goaway 9"),
    (
        "7541 4.2 size update at the end",
        lambda p: _frame(f.HEADERS, 5, 1, p.block() + b"\x20"),
        "goaway 9",
    ),
    (
        "7541 5.2 padding of 8 bits",
        lambda p: _frame(
            f.HEADERS, 5, 1, b"\x82\x86\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"
        ),
        "goaway 9",
    ),
    (
        "7541 5.2 padding with zeros",
        lambda p: _frame(f.HEADERS, 5, 1, b"\x00\x81\x18\x00"),
        "goaway 9",
    ),
    (
        "7541 5.2 EOS in a string",
        lambda p: _frame(f.HEADERS, 5, 1, b"\x00\x85\xff\xff\xff\xff\xff\x00"),
        "goaway 9",
    ),
    ("7541 6.1 index 0", lambda p: _frame(f.HEADERS, 5, 1, b"\x80"), "goaway 9"),
    (
        "7541 6.3 size above the setting",
        lambda p: _frame(f.HEADERS, 5, 1, b"\x3f\xe2\x1f" + p.block()),
        "goaway 9",
    ),
    # gRPC over HTTP/2: never a request for the handlers
    ("gRPC: GET", _only((":method", "GET"), S, P), "status 1 13"),
    ("gRPC: other content type", _only(M, S, P, ("content-type", "text/plain")), "status 1 2"),
    (
        "gRPC: path without a slash (CVE-2026-33186)",
        _only(M, S, (":path", "t.T/Echo"), T),
        "status 1 12",
    ),
    ("gRPC: path is not normalised", _only(M, S, (":path", "//t.T/Echo"), T), "status 1 12"),
]


@pytest.mark.parametrize(("name", "said", "expected"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("cut", ["whole", "octets", "trailing"])
def test_reaction(wire, name, said, expected, cut):
    wire.check_reaction(said, expected, cut)
