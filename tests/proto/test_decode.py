"""Bytes that protobuf's Python runtime refuses: wrong ones, with etcd's words, and deep ones."""

import pytest
from google.protobuf.message import DecodeError

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.decode import TooDeep, decode, decode_refused, parser_of
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest


def nested(levels: int) -> bytes:
    """A TxnRequest with so many transactions in it, one in the other."""
    data = b""
    for _ in range(levels):
        op = field(4, data)
        data = field(2, op)
    return data


def field(number: int, data: bytes) -> bytes:
    size, head = len(data), bytes([number << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + data


@pytest.mark.parametrize("levels", (1, 49, 50, 51, 128, 250))
def test_transactions_may_be_nested_beyond_the_runtimes_limit(levels: int) -> None:
    request = decode(rpc.TxnRequest, nested(levels))
    assert request.SerializeToString() == nested(levels)
    proposal = InternalRaftRequest()
    proposal.txn.CopyFrom(request)
    again = decode(InternalRaftRequest, proposal.SerializeToString())
    assert again.txn.SerializeToString() == nested(levels)


@pytest.mark.parametrize("levels", (1_000, 100_000))
def test_how_deep_is_bounded(levels: int) -> None:
    with pytest.raises(TooDeep):
        decode(rpc.TxnRequest, nested(levels))


def test_unknown_groups_are_refused_before_the_runtime_recurses_into_them() -> None:
    with pytest.raises(DecodeError, match="illegal wireType 3"):
        decode(rpc.RangeRequest, b"\xfb\x07" * 100_000)


@pytest.mark.parametrize(
    ("data", "text"),
    (
        (b"\x0a\x05a", "unexpected EOF"),
        (b"\xff\xff\xff", "unexpected EOF"),
        (b"\x0f", "proto: wrong wireType = 7 for field Key"),
        (b"\x12\x01a\x13\x14\xff", "proto: wrong wireType = 3 for field RangeEnd"),
        (b"\x00\x01", "proto: RangeRequest: illegal tag 0 (wire type 0)"),
        (b"\x18" + b"\xff" * 11, "proto: integer overflow"),
        (b"\x0c", "proto: RangeRequest: wiretype end group for non-group"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "proto: negative length found during unmarshaling"),
    ),
)
def test_what_is_wrong_is_said_as_etcd_says_it(data: bytes, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(rpc.RangeRequest, data)
    assert str(caught.value) == text


def test_an_error_inside_a_field_names_the_inner_message() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(rpc.TxnRequest, field(1, b"\x00"))
    assert str(caught.value) == "proto: Compare: illegal tag 0 (wire type 0)"


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    (
        (rpc.PutRequest, b"\x08\x01", "proto: wrong wireType = 0 for field Key"),
        (rpc.PutRequest, b"\x1a\x01a", "proto: wrong wireType = 2 for field Lease"),
        (
            rpc.TxnRequest,
            field(2, field(1, b"\x08\x01")),
            "proto: wrong wireType = 0 for field Key",
        ),
        (rpc.StatusRequest, b"\x00\x01", "proto: StatusRequest: illegal tag 0 (wire type 0)"),
        (rpc.StatusRequest, b"\x0b", "unexpected EOF"),
    ),
)
def test_a_known_field_of_the_wrong_wire_type_is_refused(kind, data: bytes, text: str) -> None:
    with pytest.raises(DecodeError):
        parser_of(kind)(data)
    with pytest.raises(DecodeError) as caught:
        decode_refused(kind, data)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("kind", "data"),
    (
        (rpc.PutRequest, b"\x0a\x01a\xf8\x07\x01"),
        (rpc.TxnRequest, field(2, field(1, b"\x0a\x01a\xf8\x07\x01"))),
        (rpc.WatchCreateRequest, b"\x0a\x01a\x2a\x02\x00\x01\xf8\x07\x01"),  # packed filters
        (rpc.PutRequest, b"\xfb\x07\x08\x01\xfc\x07"),  # a whole unknown group
    ),
)
def test_unknown_fields_are_taken(kind, data: bytes) -> None:
    assert parser_of(kind)(data) == decode(kind, data)
