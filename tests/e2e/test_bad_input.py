"""Bad input to every RPC of the method table: what no client would send, from bytes that are no
protobuf up to values of the wrong size. A server answers with a status and stays up.

The cases are made from the fields of each request, so that a new RPC or field is asked by itself.
Where real etcd 3.5.1 answers without harm, the answers are equal.
"""

import queue
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from pyetcd.proto.services import METHODS, Kind, Method

WAIT_S = 5.0
WAITS = (0, "waits")
WAITING = ("/v3lockpb.", "/v3electionpb.")
LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
# Would end the run, or wait for what never comes.
LEFT_OUT = {"/etcdserverpb.Maintenance/Snapshot"}
ONLY_OURS = ("/etcdserverpb.KV/RangeStream", "/grpc.", "/pyetcdpb.")
Answer = tuple[object, ...]

RAW: dict[str, bytes] = {
    "truncated": b"\x0a\xff",
    "truncated varint": b"\xff\xff\xff",
    "varint of 11 bytes": b"\x08" + b"\xff" * 10 + b"\x01",
    "field 0": b"\x00\x01",
    "wire type 7": b"\x0f",
    "open group": b"\x0b",
    "length beyond the end": b"\x0a\x7f",
    "zeros": bytes(64),
}


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def tagged(number: int, kind: int, data: bytes) -> bytes:
    return varint(number << 3 | kind) + data


def cases(method: Method) -> Iterator[tuple[str, bytes]]:
    """A name and a request each."""
    yield "empty", b""
    yield from RAW.items()
    for field in method.request.DESCRIPTOR.fields:
        number, name = field.number, field.name
        if field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
            yield f"{name} as a number", tagged(number, 0, b"\x01")
            yield f"{name} empty", tagged(number, 2, b"\x00")
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield f"{name} empty", tagged(number, 2, b"\x00")
            yield f"{name} malformed", tagged(number, 2, b"\x01\xff")
            yield f"{name} as a number", tagged(number, 0, b"\x01")
        else:
            yield f"{name} -1", tagged(number, 0, varint(-1))
            yield f"{name} least", tagged(number, 0, varint(-(1 << 63)))
            yield f"{name} most", tagged(number, 0, varint((1 << 63) - 1))
            yield f"{name} 99", tagged(number, 0, b"\x63")
            yield f"{name} as bytes", tagged(number, 2, b"\x01a")


class Server:
    def __init__(self, process: Any) -> None:
        self.process = process
        self.channel = grpc.insecure_channel(process.endpoint, LARGE)

    def ask(self, method: Method, data: bytes, **options: Any) -> Answer:
        """("ok",) with the size of nothing: or code and text of the error."""
        try:
            if method.kind is Kind.UNARY:
                wait_s = 0.5 if method.path.startswith(WAITING) else WAIT_S
                self.channel.unary_unary(method.path)(data, timeout=wait_s, **options)
                return ("ok",)
            return self._talk(method, data)
        except grpc.RpcError as error:
            code, text = error.code(), error.details()  # type: ignore[attr-defined]
            if code == grpc.StatusCode.DEADLINE_EXCEEDED or text == "context deadline exceeded":
                return WAITS  # for somebody else; whose clock was first decides the words
            return code.value[0], text

    def _talk(self, method: Method, data: bytes) -> Answer:
        """One request on a stream, then its end; what the stream ends with."""
        requests: queue.Queue[bytes | None] = queue.Queue()
        requests.put(data)
        requests.put(None)
        call = self.channel.stream_stream(method.path)(iter(requests.get, None), timeout=0.3)
        for _ in call:
            break  # an answer: alive
        call.cancel()
        return ("ok",)

    def lives(self) -> bool:
        return not self.process.has_ended() and self.process.health()


@pytest.fixture(scope="module")
def machine_of_module(tmp_path_factory: pytest.TempPathFactory, machine_type: Any) -> Iterator[Any]:
    machine = machine_type(tmp_path_factory.mktemp("bad"))
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module")
def servers(machine_of_module: Any) -> Iterator[tuple[Server, Server]]:
    ours, real = (Server(machine_of_module.single(program)) for program in ("pyetcd", "etcd"))
    yield ours, real
    ours.channel.close()
    real.channel.close()


PATHS = [path for path in METHODS if path not in LEFT_OUT]
# What real etcd is not asked, and why.
PANICS = {("/etcdserverpb.Maintenance/Alarm", f"action {value}") for value in ("-1", "most", "99")}
DIFFERENT = {
    ("/etcdserverpb.Watch/Watch", "progress_request empty"),  # answered once there is a watch
    ("/etcdserverpb.Auth/RoleGrantPermission", "perm empty"),  # a range without keys: 3.5.8
}


@pytest.mark.parametrize("path", PATHS)
def test_every_rpc_survives_garbage(servers: tuple[Server, Server], path: str) -> None:
    ours, real = servers
    method = METHODS[path]
    since = len(ours.process.log)
    for name, data in cases(method):
        answer = ours.ask(method, data)
        if not path.startswith(ONLY_OURS) and (path, name) not in PANICS | DIFFERENT:
            expected = real.ask(method, data)
            if path.startswith("/etcdserverpb.Cluster/") and expected == WAITS:
                # etcd drops a member change that comes before raft is through with the last one.
                expected = real.ask(method, data)
            assert answer == expected, name
        if (path, name) in PANICS:
            assert answer == (3, "etcdserver: invalid alarm action"), name
    log = ours.process.log[since:]
    assert ours.lives() and "Traceback" not in log and '"panic"' not in log, log[-3000:]


@pytest.mark.parametrize("kind", ["application/grpc+json", "application/grpc;x", "text/plain",
                                  "application/json", "application/grpcx", ""])  # fmt: skip
def test_wrong_content_types(servers: tuple[Server, Server], kind: str) -> None:
    """What is no gRPC is HTTP to pyetcd, as it is to etcd over TLS; etcd resets it without."""
    ours, real = (post(server.process.client_port, kind) for server in servers)
    if (kind.startswith("application/grpc") and not kind.endswith("x")) or ";" in kind:
        assert ours == real
    else:
        assert ours == ("ended", "404", "") and real == ("StreamReset", "", "")


def post(port: int, kind: str) -> tuple[str, str, str]:
    """HTTP and gRPC status of an empty KV/Range over HTTP/2 with another content type."""
    from h2.connection import H2Connection
    from h2.events import (
        ConnectionTerminated,
        ResponseReceived,
        StreamEnded,
        StreamReset,
        TrailersReceived,
    )

    client = H2Connection()
    found: dict[bytes, bytes] = {}
    over = ""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        client.initiate_connection()
        head = [(":method", "POST"), (":path", "/etcdserverpb.KV/Range"), (":scheme", "http"),
                (":authority", "x"), ("te", "trailers")]  # fmt: skip
        if kind:
            head.append(("content-type", kind))
        client.send_headers(1, head)
        client.send_data(1, bytes(5), end_stream=True)
        connection.sendall(client.data_to_send())
        while not over:
            data = connection.recv(65536)
            if not data:
                over = "closed"
            for event in client.receive_data(data):
                if isinstance(event, (ResponseReceived, TrailersReceived)):
                    found.update(dict(event.headers or []))
                elif isinstance(event, StreamEnded):
                    over = "ended"
                elif isinstance(event, (StreamReset, ConnectionTerminated)):
                    over = type(event).__name__
            connection.sendall(client.data_to_send())
    return over, found.get(b":status", b"").decode(), found.get(b"grpc-status", b"").decode()


def test_huge_metadata(servers: tuple[Server, Server]) -> None:
    """More than a server takes: refused, and the connection goes on."""
    method = METHODS["/etcdserverpb.KV/Range"]
    for server in servers:
        answer = server.ask(method, b"\x0a\x01a", metadata=(("x-huge", "a" * (20 << 20)),))
        assert isinstance(answer[0], int), answer
        assert server.ask(method, b"\x0a\x01a") == ("ok",)
        assert server.lives()
