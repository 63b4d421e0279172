"""Snapshot, Hash, Downgrade and RangeStream over the wire; where etcd 3.5.1 has them, beside it."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

KV = "/etcdserverpb.KV/"
MAINTENANCE = "/etcdserverpb.Maintenance/"


def ask(channel: grpc.Channel, path: str, request: Any) -> Any:
    stub = channel.unary_unary(path, response_deserializer=METHODS[path].response.FromString)
    try:
        return stub(request.SerializeToString(), timeout=10)
    except grpc.RpcError as error:
        return error.code().name, error.details()  # type: ignore[attr-defined]


def stream(channel: grpc.Channel, path: str, request: Any) -> list[Any]:
    stub = channel.unary_stream(path, response_deserializer=METHODS[path].response.FromString)
    try:
        return list(stub(request.SerializeToString(), timeout=20))
    except grpc.RpcError as error:
        return [(error.code().name, error.details())]  # type: ignore[attr-defined]


@pytest.fixture
def filled(machine: Any) -> Any:
    node = machine.single()
    with grpc.insecure_channel(node.endpoint) as channel:
        for number in range(300):
            value = b"%d" % number + b"." * 3000
            ask(channel, KV + "Put", rpc.PutRequest(key=b"k%04d" % number, value=value))
        yield node, channel


def test_a_snapshot_is_the_keyspace_and_its_digest(filled: Any, machine: Any) -> None:
    node, channel = filled
    *pieces, last = stream(channel, MAINTENANCE + "Snapshot", rpc.SnapshotRequest())
    content = b"".join(piece.blob for piece in pieces)
    assert last.blob == hashlib.sha256(content).digest() and last.remaining_bytes == 0
    left = [piece.remaining_bytes for piece in pieces]
    assert left == sorted(left, reverse=True) and left[-1] == 0
    # etcdctl knows by the size that a digest is there, and keeps it behind the file.
    saved = Path(machine.folder) / "saved.db"
    machine.run(machine.etcdctl, f"--endpoints={node.endpoint}", "snapshot", "save", str(saved))
    written = saved.read_bytes()
    assert len(written) % 512 == 32
    assert hashlib.sha256(written[:-32]).digest() == written[-32:]
    saved.write_bytes(written[:-32])
    with sqlite3.connect(saved) as copy:
        assert copy.execute("SELECT count(*) FROM current").fetchone() == (300,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()
    folder = Path(machine.folder) / node.name / "member"
    assert not list(folder.rglob("*.tmp-*"))


def test_a_client_that_leaves_takes_its_copy_with_it(
    filled: Any, machine: Any, wait_until: Any
) -> None:
    node, channel = filled
    stub = channel.unary_stream(MAINTENANCE + "Snapshot")
    for _ in range(3):
        answers = stub(b"")
        next(answers)
        answers.cancel()
    folder = Path(machine.folder) / node.name / "member"
    wait_until(lambda: not list(folder.rglob("*.tmp-*")), "the copies to go")
    assert len(stream(channel, MAINTENANCE + "Snapshot", rpc.SnapshotRequest())) > 20


def test_hash_follows_what_is_stored(filled: Any) -> None:
    _, channel = filled
    first = ask(channel, MAINTENANCE + "Hash", rpc.HashRequest())
    assert first == ask(channel, MAINTENANCE + "Hash", rpc.HashRequest())
    assert first.header.revision == 301
    ask(channel, KV + "Put", rpc.PutRequest(key=b"k"))
    second = ask(channel, MAINTENANCE + "Hash", rpc.HashRequest())
    assert second.header.revision == 302 and second.hash != first.hash


def test_a_range_in_chunks_is_the_range(filled: Any) -> None:
    _, channel = filled
    for limit in (0, 1, 10, 25, 300, 1000):
        request = rpc.RangeRequest(key=b"k", range_end=b"l", limit=limit)
        whole = ask(channel, KV + "Range", request)
        chunks = stream(channel, KV + "RangeStream", request)
        kvs = [kv for chunk in chunks for kv in chunk.range_response.kvs]
        last = chunks[-1].range_response
        assert kvs == list(whole.kvs)
        assert (last.count, last.more) == (whole.count, whole.more)
        assert last.header == whole.header
        assert not any(chunk.range_response.HasField("header") for chunk in chunks[:-1])
    assert len(chunks) > 3
    (counted,) = stream(
        channel, KV + "RangeStream", rpc.RangeRequest(key=b"k", range_end=b"l", count_only=True)
    )
    assert counted.range_response.count == 300 and not counted.range_response.kvs
    for request, expected in (
        (rpc.RangeRequest(), ("INVALID_ARGUMENT", "etcdserver: key is not provided")),
        (
            rpc.RangeRequest(key=b"k", sort_order=rpc.RangeRequest.DESCEND),
            ("UNIMPLEMENTED", "RangeStream does not support custom sort orders"),
        ),
        (
            rpc.RangeRequest(key=b"k", min_mod_revision=2),
            ("UNIMPLEMENTED", "RangeStream does not support revision filters"),
        ),
        (
            rpc.RangeRequest(key=b"k", revision=999),
            ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision"),
        ),
    ):
        assert stream(channel, KV + "RangeStream", request) == [expected]


def test_downgrades_are_agreed_on_as_in_etcd(machine: Any, wait_until: Any) -> None:
    request = rpc.DowngradeRequest
    steps = [
        request(action=request.CANCEL),
        *(
            request(action=request.VALIDATE, version=text)
            for text in ("", "3", "3.3", "3.4", "3.4.7", "3.5.0", "3.6", "x.y", "3.4.0-rc.1")
        ),
        request(action=request.ENABLE, version="3.6.0"),
        request(action=request.ENABLE, version="3.4.0"),
        request(action=request.VALIDATE, version="3.4.0"),
        request(action=request.ENABLE, version="3.4.0"),
        request(action=request.CANCEL),
        request(action=request.CANCEL),
        request(action=7),  # type: ignore[arg-type]
    ]
    answers = {}
    for program in ("etcd", "pyetcd"):
        with grpc.insecure_channel(machine.single(program).endpoint) as channel:
            check = request(action=request.VALIDATE, version="3.4")
            wait_until(
                lambda: not isinstance(ask(channel, MAINTENANCE + "Downgrade", check), tuple),  # noqa: B023
                "a cluster version",
            )
            found = [ask(channel, MAINTENANCE + "Downgrade", step) for step in steps]
        answers[program] = [f if isinstance(f, tuple) else f.version for f in found]
    # etcd 3.5.1 does what it was asked and then forgets to answer.
    forgotten = ("UNAVAILABLE", "etcdserver: request timed out")
    expected = ["3.5.0" if answer == forgotten else answer for answer in answers["etcd"]]
    assert answers["pyetcd"] == expected
    assert answers["etcd"].count(forgotten) == 2
