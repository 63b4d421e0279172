"""Historic bugs of etcd that one committed entry after another can show (docs/regressions.md)."""

from typing import Any

import pytest

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from pyetcd.store.compact import CompactionJob


def put(key: str, value: str) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key.encode(), value=value.encode()))


def test_row_10_a_transaction_that_reads_what_it_writes(
    machine: Any, client: Any, decode: Any
) -> None:
    """etcd#17247: the changes of a transaction were kept in a cache of its reads, and watchers
    were told of them twice."""
    client.watch("a", "c", prev_kv=True)
    machine.put("a", "0")
    client.take()
    txn = TxnRequest()
    txn.compare.add(
        key=b"a", target=Compare.VALUE, result=Compare.EQUAL, value=b"0", range_end=b"c"
    )
    inner = TxnRequest(success=[put("b", "2"), RequestOp(request_range=RangeRequest(key=b"a"))])
    inner.compare.add(key=b"a", target=Compare.VALUE, result=Compare.EQUAL, value=b"0")
    read = RequestOp(request_range=RangeRequest(key=b"a", range_end=b"c"))
    txn.success.extend([read, put("a", "1"), read, RequestOp(request_txn=inner), read])
    answer = machine.do(txn=txn)
    assert answer.succeeded and answer.responses[3].response_txn.succeeded
    seen = [
        [(kv.key, kv.value) for kv in answer.responses[at].response_range.kvs] for at in (0, 2, 4)
    ]
    assert seen == [[(b"a", b"0")], [(b"a", b"1")], [(b"a", b"1"), (b"b", b"2")]]
    (reply,) = client.take()
    events = decode(reply)
    assert [(e.kv.key, e.kv.value, e.kv.mod_revision, e.prev_kv.value) for e in events] == [
        (b"a", b"1", 3, b"0"),
        (b"b", b"2", 3, b""),
    ]
    assert client.take() == []


def test_row_13_the_revision_is_that_of_the_last_write(machine: Any) -> None:
    """etcd#17780: the newest revisions were tombstones, a compaction removed them, a crash came
    before its end was noted: the member began again below what it had answered."""
    for number in range(500):
        machine.put(f"k{number}")
    machine.do(delete_range=DeleteRangeRequest(key=b"k", range_end=b"l"))
    machine.put("k0")
    machine.do(delete_range=DeleteRangeRequest(key=b"k", range_end=b"l"))
    revision = machine.keyspace.revision
    machine.do(compaction=CompactionRequest(revision=revision))
    slices = 0
    while True:  # a crash after each number of slices, until so many are enough
        machine.reopen()
        assert machine.keyspace.revision == machine.keyspace.compact_revision == revision
        job = CompactionJob(machine.keyspace)
        if job.is_done:
            break
        slices += 1
        for _ in range(slices):
            job.step()
    assert slices > 2
    assert machine.put("later") == revision + 1


@pytest.mark.parametrize("id", [-1, -(1 << 63), 1, (1 << 63) - 1])
def test_row_25_a_lease_of_any_id_ends_with_its_keys(machine: Any, id: int) -> None:
    """etcd PR 14239: a negative id was read back as another lease, and the members fell apart;
    etcd#10686: keys outlived their lease."""
    machine.do(lease_grant=LeaseGrantRequest(ID=id, TTL=10))
    machine.put("a", lease=id)
    machine.put("b", lease=id)
    machine.reopen()
    machine.lessor.promote(0)
    machine.now_s += 10.5
    assert machine.lessor.expired() == [id]
    machine.do(lease_revoke=LeaseRevokeRequest(ID=id))
    assert machine.do(range=RangeRequest(key=b"a", range_end=b"z")).count == 0
    with pytest.raises(EtcdError, match="lease not found"):
        machine.put("c", lease=id)
    machine.reopen()
    assert not machine.lessor.has(id)
    assert machine.keyspace.revision == 4
