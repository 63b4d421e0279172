"""HashKV by hand, by state, and beside a real etcd (test_differential.py has the random half)."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from pyetcd.proto import rpc_pb2 as pb
from pyetcd.proto.errors import Compacted, FutureRev
from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, HashResult, compact, hash_kv, hash_on
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.txn import apply_delete_range, apply_put

Call = Callable[[str, Message], Message]


def _crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _put(keyspace: Keyspace, key: bytes, value: bytes = b"", lease: int = 0) -> None:
    txn = keyspace.begin()
    txn.put(key, value, lease)
    txn.end()


def _delete(keyspace: Keyspace, key: bytes) -> None:
    txn = keyspace.begin()
    txn.delete_range(key)
    txn.end()


def test_the_bytes_that_are_hashed(keyspace: Keyspace) -> None:
    # SURFACE 8.8 item 59: bucket name, then revision key and KeyValue of each pair.
    assert hash_kv(keyspace, 0) == HashResult(_crc32c(b"key"), 1, -1, 1)
    _put(keyspace, b"a", b"v", 300)
    one = bytes.fromhex("0000000000000002 5f 0000000000000000") + bytes.fromhex(
        "0a0161 1002 1802 2001 2a0176 30ac02"
    )
    assert hash_kv(keyspace, 0).hash == _crc32c(b"key" + one)
    _delete(keyspace, b"a")
    two = bytes.fromhex("0000000000000003 5f 0000000000000000 74 0a0161")
    assert hash_kv(keyspace, 0).hash == _crc32c(b"key" + one + two)
    assert hash_kv(keyspace, 2).hash == _crc32c(b"key" + one)


def test_revisions_that_cannot_be_hashed(keyspace: Keyspace) -> None:
    for _ in range(3):
        _put(keyspace, b"a")
    compact(keyspace, 3)
    with pytest.raises(Compacted):
        hash_kv(keyspace, 2)
    with pytest.raises(FutureRev):
        hash_kv(keyspace, 5)
    # At the compact revision itself: an answer since etcd 3.5.10.
    result = hash_kv(keyspace, 3)
    assert (result.revision, result.compact_revision, result.current_revision) == (3, 3, 4)


@pytest.mark.parametrize("last", ["put", "delete"])
def test_the_same_before_and_after_the_rows_go(keyspace: Keyspace, last: str) -> None:
    for number in range(20):
        _put(keyspace, b"%d" % (number % 3), b"x")
    if last == "delete":
        for key in (b"0", b"1", b"2"):
            _delete(keyspace, key)
    for revision in (5, keyspace.revision - 1, keyspace.revision):
        compact(keyspace, revision)
        job = CompactionJob(keyspace)
        before = hash_kv(keyspace, 0)
        while job.step():
            assert hash_kv(keyspace, 0) == before
        assert hash_kv(keyspace, 0) == before


def test_a_tombstone_at_the_compact_revision_is_kept_and_not_hashed(keyspace: Keyspace) -> None:
    # 3.5.16 keeps it, earlier releases do not; the hash has to be equal (etcd mvcc/hash.go).
    _put(keyspace, b"a")
    _delete(keyspace, b"a")
    compact(keyspace, 3)
    job = CompactionJob(keyspace)
    while job.step():
        pass
    assert len(keyspace.history.key_history(b"a")) == 1
    assert hash_kv(keyspace, 0).hash == _crc32c(b"key")


def test_in_a_thread_on_a_reader(keyspace: Keyspace, backend: Backend) -> None:
    for number in range(1200):
        _put(keyspace, b"%d" % (number % 700), b"x" * 50)
    compact(keyspace, 800)
    backend.commit()
    expected = hash_kv(keyspace, 0)
    _put(keyspace, b"later")  # not committed: not seen
    results: list[HashResult] = []
    reader = backend.reader()
    thread = threading.Thread(target=lambda: results.append(hash_on(reader, 0)))
    thread.start()
    thread.join()
    reader.close()
    assert results == [expected]


def test_as_etcd_hashes(etcd: Call, keyspace: Keyspace, lessor: Any) -> None:
    """Puts, deletes and leases, compacted in between: one hash per revision."""
    lessor.grant(5)
    etcd("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(ID=5, TTL=1000))
    job = CompactionJob(keyspace)
    for number in range(60):
        key = b"%d" % (number % 7)
        if number % 5 == 4:
            delete = pb.DeleteRangeRequest(key=key, range_end=b"\x00" if number % 2 else b"")
            etcd("/etcdserverpb.KV/DeleteRange", delete)
            apply_delete_range(keyspace, lessor, delete)
        else:
            put = pb.PutRequest(key=key, value=b"v" * number, lease=5 if number % 3 else 0)
            etcd("/etcdserverpb.KV/Put", put)
            apply_put(keyspace, lessor, put)
        if number in (20, 21, 44):
            revision = keyspace.revision - 1
            compact(keyspace, revision)
            request = pb.CompactionRequest(revision=revision, physical=True)
            etcd("/etcdserverpb.KV/Compact", request)
        if number in (30, 50):
            while job.step():
                pass
        for revision in (
            0,
            keyspace.revision,
            (keyspace.revision + keyspace.compact_revision) // 2,
        ):
            if revision and revision <= keyspace.compact_revision:
                continue
            answer: Any = etcd(
                "/etcdserverpb.Maintenance/HashKV", pb.HashKVRequest(revision=revision)
            )
            ours = hash_kv(keyspace, revision)
            assert (answer.hash, answer.compact_revision) == (ours.hash, ours.compact_revision)
