"""The method table, the error catalogue and key ranges."""

import pytest

from pyetcd.proto import errors, keys
from pyetcd.proto.pool import POOL
from pyetcd.proto.services import METHODS, Kind

SERVICES = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "pyetcdpb.Times",
]


def test_the_table_is_the_services_of_the_proto_files() -> None:
    declared = {}
    for name in SERVICES:
        for method in POOL.FindServiceByName(name).methods:
            declared[f"/{name}/{method.name}"] = (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
    streams = {
        Kind.UNARY: (False, False),
        Kind.SERVER_STREAM: (False, True),
        Kind.CLIENT_STREAM: (True, False),
        Kind.BIDI: (True, True),
    }
    table = {
        path: (
            row.request.DESCRIPTOR.full_name,
            row.response.DESCRIPTOR.full_name,
            *streams[row.kind],
        )
        for path, row in METHODS.items()
    }
    assert table == declared
    # etcd 3.5, KV.RangeStream of 3.7, health, reflection, and what only pyetcd has
    assert len(table) == 48 + 1 + 2 + 2 + 1


def test_errors_are_found_by_their_text() -> None:
    found = errors.from_status(11, "etcdserver: mvcc: required revision has been compacted")
    assert isinstance(found, errors.Compacted)
    other = errors.from_status(2, "something else")
    assert isinstance(other, errors.RpcError) and other.text == "something else"
    assert errors.from_status(99, "x").code is errors.Code.UNKNOWN


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"ab", b"ac"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert keys.prefix_end(prefix) == end


def test_ranges() -> None:
    assert keys.contains(b"a", b"", b"a") and not keys.contains(b"a", b"", b"ab")
    assert keys.contains(b"a", b"c", b"b") and not keys.contains(b"a", b"c", b"c")
    assert keys.contains(b"a", b"\0", b"zz") and not keys.contains(b"b", b"\0", b"a")
    assert keys.is_empty(b"b", b"a") and not keys.is_empty(b"b", b"\0")
    assert keys.covers((b"a", b"c"), (b"a", b"b")) and not keys.covers((b"a", b"c"), (b"a", b"\0"))
    assert keys.covers((b"a", b""), (b"a", b"")) and not keys.covers((b"a", b""), (b"a", b"b"))
    assert keys.overlaps((b"a", b"c"), (b"b", b"")) and not keys.overlaps((b"a", b"b"), (b"b", b""))
    assert keys.overlaps((b"a", b"\0"), (b"z", b"\0"))
