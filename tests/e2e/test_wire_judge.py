"""Calls at the edge of gRPC, to real etcd 3.5.1 and to pyetcd: the same codes and texts.

Malformed and huge messages, unknown methods, deep transactions, deadlines; and a cluster of three
without a quorum, whose answers are those that etcd gave to the same calls.
"""

import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.decode import decode
from pyetcd.proto.services import METHODS

LARGE_BYTES = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
Answer = tuple[object, object]


def ask(channel: grpc.Channel, path: str, data: bytes, **meta: str) -> Answer:
    """("ok", the bytes without who answered), or the error's code and text."""
    stub = channel.unary_unary(path)
    metadata = tuple((key.replace("_", "-"), value) for key, value in meta.items())
    try:
        answer = stub(data, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        return error.code().value[0], error.details()  # type: ignore[attr-defined]
    method = METHODS.get(path)
    if method is None:
        return "ok", answer
    message: Any = decode(method.response, answer)
    if hasattr(message, "header"):
        message.ClearField("header")
    return "ok", message.SerializeToString()


def talk(channel: grpc.Channel, path: str, datas: list[bytes], timeout_s: float = 20) -> list[Any]:
    """The same for a stream, up to its end; without what came before."""
    requests: queue.Queue[bytes | None] = queue.Queue()
    for data in datas:
        requests.put(data)
    call = channel.stream_stream(path)(iter(requests.get, None), timeout=timeout_s)
    count = 0
    try:
        for _ in call:
            count += 1
    except grpc.RpcError as error:
        return [count, error.code().value[0], error.details()]  # type: ignore[attr-defined]
    finally:
        requests.put(None)
    return [count]


def nested(levels: int, data: bytes = b"") -> bytes:
    """A transaction in a transaction in ..."""
    for _ in range(levels):
        data = field(2, field(4, data))
    return data


def field(number: int, data: bytes) -> bytes:
    size, head = len(data), bytes([number << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + data


KV, CLUSTER = "/etcdserverpb.KV/", "/etcdserverpb.Cluster/"
UNARY = {
    "unknown method": ("/etcdserverpb.KV/Nope", b""),
    "unknown service": ("/etcdserverpb.Nope/Range", b""),
    "no method": ("/etcdserverpb.KV/", b""),
    "truncated": (KV + "Put", b"\x0a\xff"),
    "truncated varint": (KV + "Range", b"\xff\xff\xff"),
    "wire type 7": (KV + "Range", b"\x0f"),
    "field 0": (KV + "Range", b"\x00\x01"),
    "end of a group": (KV + "Range", b"\x0c"),
    "unknown field": (KV + "Range", b"\x0a\x01a\xf8\x07\x01"),
    "empty key": (KV + "Range", b""),
    "empty compare": (KV + "Txn", field(1, b"")),
    "empty operation": (KV + "Txn", field(2, b"")),
    "not wanted fields": (KV + "Put", b"\x0a\x01a\x12\x01b\x28\x01"),
    "129 operations": (KV + "Txn", field(2, field(1, field(1, b"a"))) * 129),
    "128 operations": (KV + "Txn", field(2, field(1, field(1, b"a"))) * 128),
    "bad member URL": (CLUSTER + "MemberAdd", field(1, b"http://127.0.0.1:1/path")),
    "no member URL": (CLUSTER + "MemberAdd", b""),
    "members": (CLUSTER + "MemberRemove", b"\x08\x01"),
    "health": ("/grpc.health.v1.Health/Check", b""),
    "health of a part": ("/grpc.health.v1.Health/Check", field(1, b"etcdserverpb.KV")),
    "health of nothing": ("/grpc.health.v1.Health/Check", field(1, b"x")),
    **{f"{n} levels": (KV + "Txn", nested(n)) for n in (20, 49, 50, 51, 100, 127, 128, 129, 200)},
    "1000 levels": (KV + "Txn", nested(1000)),
    "a put 40 levels deep": (KV + "Txn", nested(40, field(2, field(2, field(1, b"deep"))))),
    "a put 60 levels deep": (KV + "Txn", nested(60, field(2, field(2, field(1, b"deep"))))),
    **{
        f"a put of {n} bytes": (KV + "Put", field(1, b"k") + field(2, b"x" * n))
        for n in (1 << 19, 1_572_800, 1_572_864, 2_000_000, 2_097_152, 5_000_000)
    },
    "a get of 2,200,000 bytes": (KV + "Range", field(1, b"x" * 2_200_000)),
    "the deep key": (KV + "Range", field(1, b"deep")),
}
STREAMS = {
    "malformed watch": ("/etcdserverpb.Watch/Watch", [b"\xff"], 20.0),
    "malformed create": ("/etcdserverpb.Watch/Watch", [field(1, b"\x00")], 20.0),
    "huge watch": ("/etcdserverpb.Watch/Watch", [b"x" * 3_000_000], 20.0),
    "malformed keep-alive": ("/etcdserverpb.Lease/LeaseKeepAlive", [b"\xff"], 20.0),
    "unknown stream": ("/etcdserverpb.Watch/Nope", [b""], 20.0),
    "watch with a deadline": ("/etcdserverpb.Watch/Watch", [field(1, field(1, b"a"))], 0.5),
    "keep-alives": ("/etcdserverpb.Lease/LeaseKeepAlive", [b"\x08\x01", b""], 0.5),
}


@pytest.fixture(scope="module")
def channels(
    tmp_path_factory: pytest.TempPathFactory, machine_type: Any
) -> Iterator[tuple[grpc.Channel, grpc.Channel]]:
    machine = machine_type(tmp_path_factory.mktemp("wire"))
    try:
        ours, real = (machine.single(program).endpoint for program in ("pyetcd", "etcd"))
        with (
            grpc.insecure_channel(ours, LARGE_BYTES) as first,
            grpc.insecure_channel(real, LARGE_BYTES) as second,
        ):
            yield first, second
    finally:
        machine.close()


@pytest.mark.parametrize("name", UNARY)
def test_calls(channels: tuple[grpc.Channel, grpc.Channel], name: str) -> None:
    ours, real = (ask(channel, *UNARY[name]) for channel in channels)
    assert ours == real


@pytest.mark.parametrize("name", STREAMS)
def test_streams(channels: tuple[grpc.Channel, grpc.Channel], name: str) -> None:
    ours, real = (talk(channel, *STREAMS[name]) for channel in channels)
    if STREAMS[name][2] < 1:  # whose clock was first decides the words
        ours, real = ours[:1], real[:1]
    assert ours == real


def test_what_differs_on_purpose(channels: tuple[grpc.Channel, grpc.Channel]) -> None:
    path, data = KV + "Range", field(1, b"a")
    ours, real = (ask(channel, path, data, token="nobody") for channel in channels)
    assert ours[0] == "ok" and real == (16, "etcdserver: invalid auth token")
    # protobuf's runtime keeps to its rule for strings.
    data = field(1, b"\xff")
    ours, real = (ask(channel, CLUSTER + "MemberAdd", data) for channel in channels)
    assert ours == (13, "grpc: error unmarshalling request: proto: invalid UTF-8")
    assert real == (3, "etcdserver: given member URLs are invalid")


# What real etcd 3.5.1 answers in the same place: code, text, seconds.
WITHOUT_LEADER: dict[str, tuple[str, bytes, dict[str, str], Answer, int]] = {
    "put": (KV + "Put", field(1, b"a"), {}, (2, "context deadline exceeded"), 7),
    "delete": (KV + "DeleteRange", field(1, b"a"), {}, (2, "context deadline exceeded"), 7),
    "compact": (KV + "Compact", b"\x08\x01", {}, (2, "context deadline exceeded"), 7),
    "grant": (
        "/etcdserverpb.Lease/LeaseGrant",
        b"\x08\x0a",
        {},
        (2, "context deadline exceeded"),
        7,
    ),
    "time to live": (
        "/etcdserverpb.Lease/LeaseTimeToLive",
        b"\x08\x07",
        {},
        (14, "etcdserver: no leader"),
        7,
    ),
    "alarms": ("/etcdserverpb.Maintenance/Alarm", b"", {}, (2, "context deadline exceeded"), 7),
    "get": (KV + "Range", field(1, b"a"), {}, (14, "etcdserver: request timed out"), 7),
    "members": (CLUSTER + "MemberList", b"\x08\x01", {}, (14, "etcdserver: request timed out"), 7),
    "put with hasleader": (
        KV + "Put",
        field(1, b"a"),
        {"hasleader": "true"},
        (14, "etcdserver: no leader"),
        0,
    ),
    "serializable get with hasleader": (
        KV + "Range",
        field(1, b"a") + b"\x38\x01",
        {"hasleader": "true"},
        (14, "etcdserver: no leader"),
        0,
    ),
    "add": (
        CLUSTER + "MemberAdd",
        field(1, b"http://127.0.0.1:1"),
        {},
        (14, "etcdserver: unhealthy cluster"),
        0,
    ),
    "move": (
        "/etcdserverpb.Maintenance/MoveLeader",
        b"\x08\x01",
        {},
        (9, "etcdserver: not leader"),
        0,
    ),
}


def test_without_a_quorum(machine: Any, wait_until: Any) -> None:
    """Two of three are killed: what needs a leader says so in etcd's words and time, and the rest
    still works."""
    nodes = [node.wait_healthy() for node in machine.cluster(3)]
    with grpc.insecure_channel(nodes[0].endpoint) as channel:
        assert ask(channel, KV + "Put", field(1, b"a") + field(2, b"1"))[0] == "ok"
        for node in nodes[1:]:
            node.kill()

        def has_no_leader() -> bool:
            status = METHODS["/etcdserverpb.Maintenance/Status"]
            answer: Any = status.response.FromString(channel.unary_unary(status.path)(b""))
            return not answer.leader and list(answer.errors) == ["etcdserver: no leader"]

        wait_until(has_no_leader, "the leader to be missed")

        def timed(name: str) -> tuple[Answer, float]:
            path, data, metadata, _, _ = WITHOUT_LEADER[name]
            started_s = time.monotonic()
            return ask(channel, path, data, **metadata), time.monotonic() - started_s

        with ThreadPoolExecutor(len(WITHOUT_LEADER)) as pool:
            found = dict(zip(WITHOUT_LEADER, pool.map(timed, WITHOUT_LEADER), strict=True))
        for name, (answer, took_s) in found.items():
            *_, expected, expected_s = WITHOUT_LEADER[name]
            assert answer == expected, name
            assert expected_s - 0.2 < took_s < expected_s + 3, (name, took_s)
        kind, answer = ask(channel, KV + "Range", field(1, b"a") + b"\x38\x01")
        assert kind == "ok" and rpc.RangeResponse.FromString(answer).kvs[0].value == b"1"


def test_the_deepest_transaction_does_not_stop_a_server(machine: Any) -> None:
    """More operations than usual are allowed, and so a depth that is near every limit of ours."""
    process = machine.single("pyetcd", "--max-txn-ops=2000")
    put = field(2, field(2, field(1, b"k")))
    with grpc.insecure_channel(process.endpoint, LARGE_BYTES) as channel:
        for levels in (290, 295, 296, 297, 298, 299, 300, 301, 302, 400):
            try:
                channel.unary_unary(KV + "Txn")(nested(levels, put), timeout=20)
            except grpc.RpcError as error:
                assert error.details() == "etcdserver: too many operations in txn request"  # type: ignore[attr-defined]
                assert levels > 295
            assert ask(channel, KV + "Put", field(1, b"a"))[0] == "ok"
