"""Transactions, reads without a leader and limits: facts 7 to 12, 19 and 20."""

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.server.propose import Proposer, RequestIds

INVALID = 3
DUPLICATE = (INVALID, "etcdserver: duplicate key given in txn request")
TOO_MANY = (INVALID, "etcdserver: too many operations in txn request")
TOO_LARGE = (INVALID, "etcdserver: request is too large")
KIB = 1024
MIB = 1024 * KIB


def put(key: bytes, value: bytes = b"", **fields: Any) -> rpc.RequestOp:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, **fields))


def delete(key: bytes, range_end: bytes = b"", **fields: Any) -> rpc.RequestOp:
    request = rpc.DeleteRangeRequest(key=key, range_end=range_end, **fields)
    return rpc.RequestOp(request_delete_range=request)


def get(key: bytes, **fields: Any) -> rpc.RequestOp:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, **fields))


def nested(success: Any = (), failure: Any = (), compare: Any = ()) -> rpc.RequestOp:
    request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
    return rpc.RequestOp(request_txn=request)


def compare(key: bytes, result: str = "EQUAL", range_end: bytes = b"", **union: Any) -> rpc.Compare:
    ((name, value),) = union.items()
    target = name.split("_")[0].upper()
    made = rpc.Compare(key=key, result=result, target=target, range_end=range_end)
    setattr(made, name, value)
    return made


def test_fact_07_headers_inside_a_transaction(side: Any) -> None:
    """Inside a transaction a header has the revision alone: the one before until the first write,
    then the transaction's own; a nested transaction's header is empty."""
    key, missing = side.key(b"k"), side.key(b"missing")
    before = side.put(b"k", b"0").header.revision
    asked = [
        get(key),
        delete(missing),
        nested([get(key)]),
        put(key, b"1", prev_kv=True),
        get(key),
        delete(missing),
        nested([get(key)]),
    ]
    answer = side.raw("KV.Txn", rpc.TxnRequest(success=asked))
    assert answer.header.revision == before + 1 and answer.header.member_id
    assert answer.succeeded
    old, none, early, put_, new, late, inner = answer.responses
    early_read, inner_read = (
        each.response_txn.responses[0].response_range for each in (early, inner)
    )
    for response, revision in (
        (old.response_range, before),
        (none.response_delete_range, before),
        (early_read, before),
        (put_.response_put, before + 1),
        (new.response_range, before + 1),
        (late.response_delete_range, before + 1),
        (inner_read, before + 1),
    ):
        assert response.header == rpc.ResponseHeader(revision=revision)
    for each in (early, inner):
        assert each.response_txn.HasField("header")
        assert each.response_txn.header == rpc.ResponseHeader()
    # Reads see the writes before them in the same transaction.
    assert old.response_range.kvs[0].value == early_read.kvs[0].value == b"0"
    assert put_.response_put.prev_kv.value == b"0"
    assert new.response_range.kvs[0].value == inner_read.kvs[0].value == b"1"


def test_fact_07_compares_see_the_state_before(side: Any) -> None:
    """A compare sees what was before the transaction, also a nested one after a write."""
    key = side.key(b"k")
    missing = compare(key, version=0)
    answer = side.txn([missing], [put(key), nested([get(key)], compare=[missing])])
    assert answer.succeeded
    inner = answer.responses[1].response_txn
    assert inner.succeeded and inner.responses[0].response_range.count == 1


def test_fact_08_what_goes_through_raft(side: Any) -> None:
    """A transaction of reads alone adds nothing to the log; a nested one does, even of reads."""

    def version() -> str:
        with urllib.request.urlopen(f"http://{side.endpoint}/version", timeout=10) as answer:
            return str(json.load(answer)["etcdcluster"])

    while version() == "not_decided":  # an entry of the server's own
        time.sleep(0.02)

    def added_once(success: list[rpc.RequestOp]) -> int:
        before = side("Maintenance.Status").raftIndex
        assert side.txn(success=success, failure=success).succeeded
        return int(side("Maintenance.Status").raftIndex - before)

    def added(success: list[rpc.RequestOp]) -> int:
        return min(added_once(success) for _ in range(3))  # others can only add

    key = side.key(b"k")
    side.put(b"k")
    assert added([get(key), get(key, serializable=True)]) == 0
    assert added([get(key, serializable=True)]) == 0
    assert added([nested([get(key)])]) == 1
    assert added([nested([get(key, serializable=True)])]) == 1
    assert added([put(key)]) == 1


@pytest.mark.parametrize(
    ("union", "result", "holds"),
    [
        ({"version": 0}, "EQUAL", True),
        ({"create_revision": 0}, "EQUAL", True),
        ({"mod_revision": 1}, "LESS", True),
        ({"mod_revision": 0}, "NOT_EQUAL", False),
        ({"lease": 0}, "EQUAL", True),
        ({"lease": -1}, "GREATER", True),
        ({"value": b""}, "EQUAL", False),
        ({"value": b"x"}, "NOT_EQUAL", False),
        ({"value": b"x"}, "LESS", False),
    ],
)
def test_fact_09_compare_on_a_missing_key(side: Any, union: Any, result: str, holds: bool) -> None:
    """A key that is not there compares as zeros; its value compares as false, whatever is asked."""
    key = side.key(b"missing")
    for end in (b"", side.key(b"n")):
        assert side.txn([compare(key, result, end, **union)]).succeeded is holds


def test_fact_09_every_key_and_every_compare(side: Any) -> None:
    """All keys of a range must satisfy a compare, all compares must hold, and none is true."""
    a, b, c = (side.key(name) for name in (b"a", b"b", b"c"))
    side.put(b"a", b"v")
    side.put(b"b", b"v")
    side.put(b"b", b"v")
    assert not side.txn([compare(a, range_end=c, version=1)]).succeeded
    assert side.txn([compare(a, range_end=b, version=1)]).succeeded
    assert side.txn([compare(a, range_end=c, value=b"v")]).succeeded
    assert not side.txn([compare(a, "NOT_EQUAL", range_end=c, value=b"v")]).succeeded
    holds, fails = compare(a, version=1), compare(b, version=1)
    assert side.txn([holds, holds]).succeeded
    assert not side.txn([holds, fails]).succeeded and not side.txn([fails, holds]).succeeded
    assert side.txn().succeeded


def test_fact_10_duplicate_keys(side: Any) -> None:
    """No two puts of a key in a branch, no put inside a delete, however nested; the branches
    stand alone, and deletes may overlap."""
    a, b, c = (side.key(name) for name in (b"a", b"b", b"c"))
    before = side.revision()
    for bad in (
        [put(a), put(a)],
        [put(a), delete(a)],
        [delete(a, b), put(a)],
        [put(b), delete(a, c)],
        [put(a), nested([put(a)])],
        [nested([put(a)]), nested(failure=[put(a)])],
        [nested([nested([put(a)])]), delete(a, b)],
        [delete(a, c), nested(failure=[put(b)])],
        [nested([put(a), put(a)])],
        # Seen before anything is applied, so before an unknown lease.
        [put(a, lease=404), put(a)],
    ):
        assert side.txn(success=bad) == side.txn(failure=bad) == DUPLICATE
    assert side.revision() == before
    for good in (
        [delete(a, c), delete(a), delete(a, b)],
        [nested([put(a)], [put(a)])],
        [nested([put(a)], [delete(a)])],
        [delete(a, b), put(b)],
        [put(a), get(a)],
    ):
        assert side.txn(success=good).succeeded
    assert side.txn(success=[put(a)], failure=[put(a)]).succeeded


def test_fact_10_a_delete_without_an_end_is_no_duplicate(side: Any) -> None:
    """Exception: a put beside a delete "from key" on is not seen as inside of it."""
    key = b"\xff" + side.key(b"k")  # behind all other keys
    answer = side.txn(success=[put(key), delete(key, b"\0")])
    assert answer.responses[1].response_delete_range.deleted == 1


def test_fact_10_duplicates_are_seen_before_rights(guarded: Any) -> None:
    """Who may not write at all is told of the duplicate first."""
    key = guarded.key(b"k")
    bad = [put(key), put(key)]
    assert guarded.txn(success=bad) == DUPLICATE
    assert guarded.txn(success=bad, metadata=guarded.login("user")) == DUPLICATE
    denied = guarded.txn(success=[put(key)], metadata=guarded.login("user"))
    assert denied == (7, "etcdserver: permission denied")


def test_fact_11_how_many_operations(side: Any) -> None:
    """128 compares and 128 operations a branch; what is nested shares what the longest left."""
    key = side.key(b"k")
    reads = [get(key)] * 129
    checks = [compare(key, version=0)] * 129
    assert side.txn(checks[:128], reads[:128], reads[:128]).succeeded
    for too_many in (
        {"compare": checks},
        {"success": reads},
        {"failure": reads},
        {"success": [nested(reads[:128])]},
        {"failure": [nested(compare=checks[:128])]},
        {"compare": checks[:64], "success": [nested(reads[:65])]},
        {"success": [nested([nested(reads[:127])])]},
    ):
        assert side.txn(**too_many) == TOO_MANY
    for fits in (
        {"success": [nested(reads[:127], reads[:127], checks[:127])]},
        {"compare": checks[:64], "success": [nested(reads[:64])]},
        {"success": [nested([nested(reads[:126])])]},
        {"success": [nested(reads[:126]), nested(reads[:126])]},
    ):
        assert side.txn(**fits).succeeded


@pytest.mark.parametrize("wrap", [lambda op: op, lambda op: nested([op])], ids=["top", "nested"])
def test_fact_12_checked_before_anything_is_applied(
    side: Any, wrap: Callable[[rpc.RequestOp], rpc.RequestOp]
) -> None:
    """A transaction with one bad operation changes nothing and has no revision."""
    key, other, missing = (side.key(name) for name in (b"k", b"other", b"missing"))
    side.put(b"k", b"0")
    before = side.put(b"k", b"1").header.revision
    assert side("KV.Compact", revision=before).header.revision == before
    for bad, refusal in (
        (put(other, lease=404), (5, "etcdserver: requested lease not found")),
        (put(missing, ignore_value=True), (INVALID, "etcdserver: key not found")),
        (put(missing, ignore_lease=True), (INVALID, "etcdserver: key not found")),
        (
            get(key, revision=before - 1),
            (11, "etcdserver: mvcc: required revision has been compacted"),
        ),
        (
            get(key, revision=before + 9),
            (11, "etcdserver: mvcc: required revision is a future revision"),
        ),
    ):
        assert side.txn(success=[put(key, b"2"), wrap(bad)]) == refusal
        assert side.txn(success=[wrap(bad), delete(key)]) == refusal
        # In the branch that is not taken it does no harm.
        assert side.txn(success=[get(key)], failure=[wrap(bad)]).succeeded
    assert side.revision() == before
    assert side.get_all().kvs[0].value == b"1" and side.get_all().count == 1


def test_fact_19_a_serializable_read_needs_no_leader(leaderless: Any) -> None:
    """A serializable read is of local data: it is answered without a leader, others are not.
    (That it may be stale is a permission: nothing to see from outside.)"""
    answer = leaderless("KV.Range", key=b"before", serializable=True)
    assert [each.value for each in answer.kvs] == [b"v"]
    assert leaderless.txn(success=[get(b"before", serializable=True)]).succeeded
    for reads in (False, True):
        linearizable = rpc.TxnRequest(success=[get(b"before")])
        refusal = (
            leaderless("KV.Range", key=b"before", timeout=0.1)
            if reads
            else leaderless("KV.Txn", linearizable, timeout=0.1)
        )
        # The deadline is over; the server may be the first to say so.
        assert refusal[0] in (2, 4) and "deadline exceeded" in refusal[1].lower(), refusal


def test_fact_19_a_serializable_read_needs_rights(guarded: Any) -> None:
    """Authentication holds for serializable reads as well."""
    asked = {"key": guarded.key(b"k"), "serializable": True}
    assert guarded("KV.Range", **asked) == (INVALID, "etcdserver: user name is empty")
    denied = guarded("KV.Range", **asked, metadata=guarded.login("user"))
    assert denied == (7, "etcdserver: permission denied")
    assert guarded("KV.Range", **asked, metadata=guarded.login("root")).count == 0


def test_fact_20_how_large_a_request_may_be(side: Any) -> None:
    """What goes into the log is at most 1.5 MiB; a message at most 512 KiB more."""
    limit = 3 * MIB // 2
    assert side.put(b"k", bytes(limit - 100)).header.revision
    assert side.put(b"k", bytes(limit)) == TOO_LARGE
    assert side.put(b"k", bytes(2 * MIB - 100)) == TOO_LARGE
    code, text = side.put(b"k", bytes(2 * MIB))
    size = rpc.PutRequest(key=side.key(b"k"), value=bytes(2 * MIB)).ByteSize()
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert text == f"grpc: received message larger than max ({size} vs. {2 * MIB})"
    # Reads do not go into the log.
    assert side.get(bytes(limit + 100)).count == 0


def test_fact_20_how_large_an_answer_may_be(side: Any) -> None:
    """Answers may be larger than any request. (Their bound, 2 GiB, is beyond a test.)"""
    for name in (b"a", b"b", b"c", b"d"):
        side.put(name, bytes(MIB))
    assert sum(len(each.value) for each in side.get_all().kvs) == 4 * MIB
    for name in (b"a", b"b", b"c", b"d"):
        side.delete(name)


def test_fact_20_a_server_that_cannot_follow() -> None:
    """With more than 5000 entries committed and not yet applied new requests are refused. (Not to
    be had from outside: asked of the part that decides.)"""

    class Driver:
        apply_gap = 5000
        taken = 0

        def submit(self, request_id: int, data: bytes) -> None:
            self.taken += 1

    driver = Driver()
    answers: list[Any] = []
    made: Any = Proposer(
        driver,  # type: ignore[arg-type]
        RequestIds(1, 1.0),
        monotonic_s=lambda: 0.0,
        request_bytes_max=1000,
        timeout_s=7.0,
    )
    request = InternalRaftRequest(put=rpc.PutRequest(key=b"k"))
    made.propose(request, answers.append)
    assert (driver.taken, answers) == (1, [])
    driver.apply_gap = 5001
    made.propose(request, answers.append)
    assert driver.taken == 1
    assert [(answer.code, answer.text) for answer in answers] == [
        (grpc.StatusCode.UNKNOWN.value[0], "etcdserver: too many requests")
    ]
