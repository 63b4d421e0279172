"""Header compression: our decoder against the `hpack` package, and its limits."""

import dataclasses

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyetcd.server.wire.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from pyetcd.server.wire.headers import (
    HeaderDecoder,
    content_length,
    literal,
    request_fault,
    trailer_fault,
)
from pyetcd.server.wire.limits import Limits

_TOKEN = st.sampled_from([b":path", b"te", b"grpc-timeout", b"x-a", b"x-bb", b"content-type"])
_VALUE = st.binary(max_size=40) | st.sampled_from([b"", b"trailers", b"x" * 1500, b"y" * 4100])
_FIELD = st.tuples(_TOKEN, _VALUE, st.booleans())


@given(
    blocks=st.lists(st.lists(_FIELD, max_size=8), max_size=8),
    huffman=st.booleans(),
    sizes=st.lists(st.sampled_from([0, 64, 1000, 4096]), max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_dumb_twin(blocks, huffman, sizes):
    encoder, twin, ours = hpack.Encoder(), hpack.Decoder(), HeaderDecoder(Limits())
    for at, fields in enumerate(blocks):
        if at < len(sizes):
            encoder.header_table_size = sizes[at]
        block = encoder.encode(fields, huffman=huffman)
        assert ours.decode(block) == [tuple(f) for f in twin.decode(block, raw=True)]


@given(block=st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_or_fault(block):
    ours = HeaderDecoder(Limits())
    try:
        ours.decode(block)
    except ConnectionFault as fault:
        assert fault.code in (COMPRESSION_ERROR, ENHANCE_YOUR_CALM)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # beyond the static table, with an empty dynamic one
        b"\xff\xff\xff\xff\xff\xff\x7f",  # an integer too long
        b"\x82\x20",  # table size update at the end (RFC 7541 4.2)
        b"\x20\x20\x20",  # three table size updates
        b"\x3f\xe2\x1f",  # 4097, above SETTINGS_HEADER_TABLE_SIZE
        b"\x00\x05ab",  # a string that is cut short
        b"\x00\x81\xff\x00",  # Huffman padding longer than 7 bits
        b"\x00\x84\xff\xff\xff\xff\x00",  # EOS inside Huffman
        b"\x40",
        b"\x7f",
    ],
)
def test_compression_errors(block):
    with pytest.raises(ConnectionFault) as caught:
        HeaderDecoder(Limits()).decode(block)
    assert caught.value.code == COMPRESSION_ERROR


def test_table_of_4096_and_eviction():
    decoder = HeaderDecoder(Limits())
    decoder.decode(
        b"".join(b"\x40\x02x" + bytes((0x61 + n,)) + b"\x7f\x00" + b"v" * 127 for n in range(26))
    )
    # 26 entries of 2 + 127 + 32 = 161 bytes: 25 fit into 4096, the first one went.
    assert decoder.decode(b"\xbe") == [(b"xz", b"v" * 127)]
    assert decoder.decode(bytes((0x80 | 61 + 25,)))[0][0] == b"xb"
    with pytest.raises(ConnectionFault):
        decoder.decode(bytes((0x80 | 61 + 26,)))


def test_bomb_of_one_octet_references():
    """CVE-2026-49975: one octet on the wire, a field in memory."""
    limits = Limits()
    with pytest.raises(ConnectionFault) as caught:
        HeaderDecoder(limits).decode(b"\x82" * (limits.header_fields_max + 1))
    assert caught.value.code == ENHANCE_YOUR_CALM


def test_bomb_of_large_entries():
    """CVE-2016-6581: references to one large entry."""
    decoder = HeaderDecoder(dataclasses.replace(Limits(), header_fields_max=10**6))
    decoder.decode(b"\x40\x01x\x7f\x80\x1e" + b"v" * (127 + 30 * 128 - 0))
    with pytest.raises(ConnectionFault) as caught:
        decoder.decode(b"\xbe" * 20)
    assert caught.value.code == ENHANCE_YOUR_CALM


def test_changes_counts_what_a_cache_must_know():
    decoder = HeaderDecoder(Limits())
    decoder.decode(b"\x82" + literal(b"a", b"b"))
    assert decoder.changes == 0
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.changes == 1


def test_literal_round_trip_of_lengths():
    for size in (0, 1, 126, 127, 128, 254, 255, 256, 5000):
        block = literal(b"n", b"v" * size)
        assert hpack.Decoder().decode(block, raw=True) == [(b"n", b"v" * size)]


_GOOD = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"te", b"trailers")]


@pytest.mark.parametrize(
    "fields",
    [
        [*_GOOD, (b"", b"x")],  # CVE-2019-9516
        [*_GOOD, (b"Upper", b"x")],
        [*_GOOD, (b"a b", b"x")],
        [*_GOOD, (b"a:b", b"x")],
        [*_GOOD, (b"a", b"x\n")],
        [*_GOOD, (b"a", b"x\r\ny: z")],
        [*_GOOD, (b"a", b"\0")],
        [*_GOOD, (b"a", b" x")],
        [*_GOOD, (b"a", b"x\t")],
        [*_GOOD, (b":path", b"/b")],
        [(b":path", b"/b"), *_GOOD],
        [*_GOOD, (b":authority", b"late")],
        [(b":status", b"200"), *_GOOD],
        [(b":unknown", b"x"), *_GOOD],
        [*_GOOD, (b"connection", b"close")],
        [*_GOOD, (b"keep-alive", b"1")],
        [*_GOOD, (b"transfer-encoding", b"chunked")],
        [*_GOOD, (b"upgrade", b"x")],
        [*_GOOD[:3], (b"te", b"gzip")],
        [*_GOOD, (b"host", b"a"), (b"host", b"b")],
        _GOOD[1:],
        [_GOOD[0], *_GOOD[2:]],
        [*_GOOD[:2], _GOOD[3]],
        [*_GOOD[:2], (b":path", b"")],
    ],
)
def test_malformed_requests(fields):
    assert request_fault(fields)


def test_well_formed_requests():
    assert not request_fault(_GOOD)
    assert not request_fault([*_GOOD, (b"x-y_z.1", b"a b\xc3\xa4"), (b"e", b""), (b"host", b"h")])


def test_trailers_and_lengths():
    assert trailer_fault([(b":path", b"/")])
    assert not trailer_fault([(b"x", b"y")])
    assert content_length([]) is None
    assert content_length([(b"content-length", b"7"), (b"content-length", b"7")]) == 7
    assert content_length([(b"content-length", b"7"), (b"content-length", b"8")]) == -1
    assert content_length([(b"content-length", b"-1")]) == -1
