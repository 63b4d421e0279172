"""What members ask each other on the peer port, beside raft."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyetcd.proto.rpc_pb2 import HashKVResponse
from pyetcd.server.http.peer_port import HASH_PATH, PeerPort
from pyetcd.server.wire.http1 import HttpRequest


class Asked:
    """A port that answers hashes, and what it answered."""

    def __init__(self) -> None:
        self.hashed: list[int] = []
        self.status, self.body = 0, b""
        identity = SimpleNamespace(cluster_id=0xC1, pyetcd_version="")
        transport = SimpleNamespace(identity=identity)
        loop = cast(asyncio.AbstractEventLoop, None)
        parts: list[Any] = [transport, self, None, None, None, loop]
        self.port = PeerPort(*parts)

    def hash_kv(self, revision: int, done: Callable[[HashKVResponse], None]) -> None:
        self.hashed.append(revision)
        done(HashKVResponse(hash=7, compact_revision=-1))

    def send(self, status: int, headers: object, body: bytes) -> None:
        self.status, self.body = status, body

    def ask(self, headers: dict[str, str]) -> int:
        request = HttpRequest("GET", HASH_PATH, headers, "")
        request.body = b'{"revision":5}'
        self.port.handle(request, cast(Any, self))
        return self.status


@pytest.mark.parametrize("headers", [{}, {"x-etcd-cluster-id": "c1"}, {"x-etcd-cluster-id": ""}])
def test_a_hash_for_a_member(headers: dict[str, str]) -> None:
    asked = Asked()
    assert asked.ask(headers) == 200 and asked.hashed == [5]


def test_no_hash_for_another_cluster() -> None:
    """A URL that was of a member once may be of another cluster now (etcd 15548)."""
    asked = Asked()
    assert asked.ask({"x-etcd-cluster-id": "c2"}) == 412
    assert asked.body == b"cluster ID mismatch\n" and not asked.hashed
