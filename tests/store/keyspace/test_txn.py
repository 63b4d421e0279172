"""SURFACE 8.1, item by item; the numbers in the names are its numbers.

Items 8, 11, 13, 19 and 20 are decided before the store: see the tests of server/api.
"""

from collections.abc import Callable
from typing import Any

import pytest

from pyetcd.proto import rpc_pb2 as pb
from pyetcd.proto.errors import (
    Compacted,
    EtcdError,
    FutureRev,
    InvalidSortOption,
    KeyNotFound,
    LeaseNotFound,
    RequestTooLarge,
)
from pyetcd.store import txn as txn_module
from pyetcd.store.backend import Backend
from pyetcd.store.compact import compact
from pyetcd.store.mvcc import DELETE, PUT, Change, Keyspace
from pyetcd.store.txn import (
    apply_delete_range,
    apply_put,
    apply_range,
    apply_txn,
    is_readonly,
    is_serializable,
    read_range_on,
)

ALL = {"key": b"\x00", "range_end": b"\x00"}


class Store:
    """Requests by keyword."""

    def __init__(self, keyspace: Keyspace, lessor: Any) -> None:
        self.keyspace = keyspace
        self.lessor = lessor

    def put(self, key: bytes, value: bytes = b"", **fields: Any) -> pb.PutResponse:
        request = pb.PutRequest(key=key, value=value, **fields)
        return apply_put(self.keyspace, self.lessor, request)

    def delete(self, key: bytes, end: bytes = b"", **fields: Any) -> pb.DeleteRangeResponse:
        request = pb.DeleteRangeRequest(key=key, range_end=end, **fields)
        return apply_delete_range(self.keyspace, self.lessor, request)

    def range(self, key: bytes, range_end: bytes = b"", **fields: Any) -> pb.RangeResponse:
        request = pb.RangeRequest(key=key, range_end=range_end, **fields)
        return apply_range(self.keyspace, request)

    def txn(self, *ops: pb.RequestOp, **fields: Any) -> pb.TxnResponse:
        request = pb.TxnRequest(success=ops, **fields)
        return apply_txn(self.keyspace, self.lessor, request)

    @property
    def state(self) -> tuple[object, ...]:
        rows = self.keyspace.history.since(0, 1 << 62, limit=1000)
        leases = {id: set(keys) for id, keys in self.lessor.keys.items()}
        return self.keyspace.revision, rows, leases


@pytest.fixture
def store(keyspace: Keyspace, lessor: Any) -> Store:
    return Store(keyspace, lessor)


def op_put(key: bytes, value: bytes = b"", **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, **fields))


def op_range(key: bytes, range_end: bytes = b"", **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, range_end=range_end, **fields))


def op_delete(key: bytes, end: bytes = b"", **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(
        request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end, **fields)
    )


def op_txn(*ops: pb.RequestOp, **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_txn=pb.TxnRequest(success=ops, **fields))


def keys(response: pb.RangeResponse) -> list[bytes]:
    return [kv.key for kv in response.kvs]


def test_01_the_first_write_is_revision_2(store: Store) -> None:
    assert store.range(b"a").header.revision == 1
    assert store.keyspace.compact_revision == -1
    assert store.put(b"a").header.revision == 2


def test_02_one_revision_per_request_and_subs_in_order(store: Store) -> None:
    answer = store.txn(op_put(b"a"), op_put(b"b"), op_delete(b"a"), op_put(b"c"))
    assert answer.header.revision == 2
    rows = store.keyspace.history.since(0, 1 << 62, limit=10)
    assert [(row[0] >> 23, row[0] & 0x7FFFFF, row[1]) for row in rows] == [
        (2, 0, b"a"),
        (2, 1, b"b"),
        (2, 2, b"a"),
        (2, 3, b"c"),
    ]


def test_02_without_a_change_the_revision_stays(store: Store) -> None:
    store.put(b"a")
    assert store.delete(b"x").header.revision == 2
    assert store.txn(op_delete(b"x"), op_txn(op_range(b"a"))).header.revision == 2
    assert store.txn().header.revision == 2
    assert store.put(b"b").header.revision == 3


def test_03_create_revision_and_version_start_again_after_a_delete(store: Store) -> None:
    changes: list[Change] = []
    store.keyspace.listener = Recorder(changes)
    for _ in range(2):
        store.put(b"a", b"v")
    store.delete(b"a")
    store.put(b"a", b"w")
    (kv,) = store.range(b"a").kvs
    assert (kv.create_revision, kv.mod_revision, kv.version) == (5, 5, 1)
    assert changes == [
        Change(PUT, b"a", b"v", 2, 2, 1, 0),
        Change(PUT, b"a", b"v", 2, 3, 2, 0),
        Change(DELETE, b"a", b"", 0, 4, 0, 0),
        Change(PUT, b"a", b"w", 5, 5, 1, 0),
    ]


class Recorder:
    """A listener that keeps what it hears."""

    def __init__(self, changes: list[Change], *, wanted: bool = True) -> None:
        self.changes = changes
        self.wanted = wanted
        self.revisions: list[int] = []

    def on_write(self, revision: int, changes: list[Change]) -> None:
        self.revisions.append(revision)
        self.changes += changes


def test_a_listener_hears_once_per_revision_and_only_if_it_wants(store: Store) -> None:
    recorder = store.keyspace.listener = Recorder([])
    store.txn(op_put(b"a"), op_put(b"b"), op_delete(b"a", b"\x00"))
    store.delete(b"x")
    recorder.wanted = False
    store.put(b"c")
    assert recorder.revisions == [2]
    assert [change.type for change in recorder.changes] == [PUT, PUT, DELETE, DELETE]


def test_04_put_always_writes_and_moves_the_lease(store: Store) -> None:
    store.lessor.grant(7)
    store.lessor.grant(8)
    store.put(b"a", b"v", lease=7)
    assert store.lessor.keys == {7: {b"a"}, 8: set()}
    assert store.put(b"a", b"v", lease=7).header.revision == 3
    store.put(b"a", b"v", lease=8)
    assert store.lessor.keys == {7: set(), 8: {b"a"}}
    store.put(b"a", ignore_value=True, ignore_lease=True)
    (kv,) = store.range(b"a").kvs
    assert (kv.value, kv.lease, kv.version) == (b"v", 8, 4)
    store.put(b"a", b"v")
    assert store.lessor.keys == {7: set(), 8: set()}
    store.put(b"a", b"v", lease=7)
    store.delete(b"a")
    assert store.lessor.keys == {7: set(), 8: set()}


def test_05_ignore_value_and_ignore_lease_need_the_key(store: Store) -> None:
    for fields in ({"ignore_value": True}, {"ignore_lease": True}):
        with pytest.raises(KeyNotFound):
            store.put(b"a", **fields)
        with pytest.raises(KeyNotFound):
            store.txn(op_put(b"a", **fields))
    assert store.keyspace.revision == 1


def test_06_header_revisions(store: Store) -> None:
    store.put(b"a")
    store.put(b"a")
    assert store.range(b"a", revision=2).header.revision == 3
    assert store.delete(b"a").header.revision == 4
    assert store.txn(op_range(b"a")).header.revision == 4


def test_07_headers_inside_a_transaction(store: Store) -> None:
    store.put(b"a", b"0")
    answer = store.txn(
        op_range(b"a"),
        op_delete(b"x"),
        op_put(b"a", b"1", prev_kv=True),
        op_range(b"a"),
        op_delete(b"x"),
        op_txn(op_range(b"a")),
    )
    before, none, put, after, late, nested = answer.responses
    assert before.response_range.header.revision == 2
    assert before.response_range.kvs[0].value == b"0"
    assert none.response_delete_range.header.revision == 2
    assert put.response_put.header.revision == 3
    assert put.response_put.prev_kv.value == b"0"
    assert after.response_range.header.revision == 3
    assert after.response_range.kvs[0].value == b"1"
    assert late.response_delete_range.header.revision == 3
    assert nested.response_txn.HasField("header")
    assert nested.response_txn.header.ByteSize() == 0
    assert nested.response_txn.responses[0].response_range.header.revision == 3


def test_07_compares_see_the_state_before(store: Store) -> None:
    missing = pb.Compare(key=b"a", target=pb.Compare.VERSION, version=0)
    answer = store.txn(op_put(b"a"), op_txn(op_put(b"b"), compare=[missing]), compare=[missing])
    assert answer.responses[1].response_txn.succeeded


def test_08_what_may_run_without_raft() -> None:
    ranges = pb.TxnRequest(success=[op_range(b"a")], failure=[op_range(b"a", serializable=True)])
    assert is_readonly(ranges)
    assert not is_serializable(ranges)
    assert is_serializable(pb.TxnRequest(success=[op_range(b"a", serializable=True)]))
    # One that only compares has not asked for a stale answer.
    assert not is_serializable(pb.TxnRequest(compare=[pb.Compare(key=b"a", version=1)]))
    assert not is_readonly(pb.TxnRequest(failure=[op_txn(op_range(b"a"))]))
    assert not is_readonly(pb.TxnRequest(success=[pb.RequestOp()]))


C = pb.Compare
COMPARES = [
    (C(target=C.VERSION, version=0), True),
    (C(target=C.CREATE, create_revision=0), True),
    (C(target=C.MOD, mod_revision=1, result=C.LESS), True),
    (C(target=C.LEASE, lease=0), True),
    (C(target=C.VALUE, value=b""), False),
    (C(target=C.VALUE, value=b"x", result=C.NOT_EQUAL), False),
]


@pytest.mark.parametrize(("compare", "holds"), COMPARES)
def test_09_compare_on_a_missing_key(store: Store, compare: pb.Compare, holds: bool) -> None:
    compare.key = b"missing"
    assert store.txn(compare=[compare]).succeeded is holds
    compare.range_end = b"n"
    assert store.txn(compare=[compare]).succeeded is holds


def test_09_every_key_of_a_range_and_every_compare(store: Store) -> None:
    store.put(b"a", b"v")
    store.put(b"b", b"v")
    store.put(b"b", b"w")
    once = C(key=b"a", range_end=b"c", target=C.VERSION, version=1)
    assert not store.txn(compare=[once]).succeeded
    once.range_end = b"b"
    assert store.txn(compare=[once]).succeeded
    many = C(key=b"a", range_end=b"\x00", target=C.VERSION, version=0, result=C.GREATER)
    assert store.txn(compare=[once, many]).succeeded
    assert not store.txn(compare=[once, C(key=b"a", target=C.VALUE, value=b"w")]).succeeded
    # An unset union reads as zero.
    assert store.txn(compare=[C(key=b"a", target=C.LEASE)]).succeeded


REFUSED: list[tuple[pb.RequestOp, type[EtcdError]]] = [
    (op_put(b"a", lease=99), LeaseNotFound),
    (op_put(b"missing", ignore_value=True), KeyNotFound),
    (op_range(b"a", revision=1), Compacted),
    (op_range(b"a", revision=-1), Compacted),
    (op_range(b"a", revision=9), FutureRev),
    (op_range(b"a", sort_target=9, sort_order=1), InvalidSortOption),
    (op_put(b"gone", ignore_value=True), KeyNotFound),
]


@pytest.mark.parametrize(("op", "error"), REFUSED)
@pytest.mark.parametrize("wrap", [lambda op: op, op_txn, lambda op: op_txn(op_txn(op))])
def test_12_a_refused_operation_leaves_nothing(
    store: Store, op: pb.RequestOp, error: type[EtcdError], wrap: Callable[..., pb.RequestOp]
) -> None:
    # Also RELIABILITY 1.6 row 17.
    for key in (b"a", b"gone", b"z"):
        store.put(key)
    compact(store.keyspace, 3)
    state = store.state
    for position in range(3):
        # etcd panics on an ignore_value whose key the transaction deletes: here it is refused.
        ops = [op_put(b"b"), op_delete(b"g", b"\x00")]
        ops.insert(max(position, 2 if b"gone" in op.SerializeToString() else 0), wrap(op))
        with pytest.raises(error):
            store.txn(*ops)
        assert store.state == state
    # In the branch that is not taken it does no harm.
    answer = apply_txn(store.keyspace, store.lessor, pb.TxnRequest(failure=[op]))
    assert answer.succeeded


def test_12_puts_are_checked_before_ranges(store: Store) -> None:
    with pytest.raises(LeaseNotFound):
        store.txn(op_range(b"a", revision=9), op_put(b"a", lease=99))


def test_12_a_revision_has_room_for_so_many_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(txn_module, "SUB_MAX", 5)
    for key in (b"a", b"b", b"c"):
        store.put(key)
    state = store.state
    with pytest.raises(RequestTooLarge):
        store.delete(b"a", b"\x00")
    with pytest.raises(RequestTooLarge):
        store.txn(op_put(b"x"), op_delete(b"a", b"c"), op_txn(op_delete(b"c", b"d")))
    assert store.state == state
    assert store.delete(b"a", b"c").deleted == 2


@pytest.mark.parametrize(
    ("key", "end", "expected"),
    [
        (b"b", b"", [b"b"]),
        (b"b", b"\x00", [b"b", b"b\x00", b"c", b"\xff"]),
        (b"\x00", b"\x00", [b"\x00", b"a", b"b", b"b\x00", b"c", b"\xff"]),
        (b"b", b"c", [b"b", b"b\x00"]),
        (b"c", b"b", []),
        (b"b", b"b", []),
        (b"missing", b"", []),
    ],
)
def test_14_range_end(store: Store, key: bytes, end: bytes, expected: list[bytes]) -> None:
    for each in (b"c", b"a", b"b", b"b\x00", b"\x00", b"\xff"):
        store.put(each)
    for fields in ({}, {"revision": store.keyspace.revision}, {"keys_only": True}):
        answer = store.range(key, end, **fields)
        assert (keys(answer), answer.count, answer.more) == (expected, len(expected), False)
    store.put(b"later")
    assert keys(store.range(key, end, revision=store.keyspace.revision - 1)) == expected
    assert store.delete(key, end).deleted == len(
        [*expected, *([b"later"] if end == b"\x00" else [])]
    )


def test_15_count_and_more(store: Store) -> None:
    for key in (b"a", b"b", b"c"):
        store.put(key)
    for revision in (0, 4, 3):
        total = 2 if revision == 3 else 3
        answer = store.range(**ALL, revision=revision, limit=1)
        assert (keys(answer), answer.count, answer.more) == ([b"a"], total, True)
        answer = store.range(**ALL, revision=revision, limit=total)
        assert (answer.count, answer.more) == (total, False)
        answer = store.range(**ALL, revision=revision, limit=1, count_only=True, max_mod_revision=2)
        assert (keys(answer), answer.count, answer.more) == ([], total, False)
        answer = store.range(**ALL, revision=revision, limit=-1, max_mod_revision=2)
        assert (keys(answer), answer.count, answer.more) == ([b"a"], total, False)
    assert keys(store.range(**ALL, revision=-4)) == [b"a", b"b", b"c"]
    assert not store.range(**ALL, limit=2**63 - 1).more


def test_15_a_revision_that_is_not_there(store: Store) -> None:
    store.put(b"a")
    store.put(b"a")
    with pytest.raises(FutureRev):
        store.range(b"a", revision=4)
    compact(store.keyspace, 3)
    with pytest.raises(Compacted):
        store.range(b"a", revision=2)
    assert store.range(b"a", revision=3).count == 1


def test_16_filters_come_before_the_limit(store: Store) -> None:
    for key in (b"a", b"b", b"c", b"a"):
        store.put(key)  # a: create 2, mod 5
    answer = store.range(**ALL, min_mod_revision=3, limit=2)
    assert (keys(answer), answer.count, answer.more) == ([b"a", b"b"], 3, True)
    answer = store.range(**ALL, max_create_revision=3, min_mod_revision=3)
    assert (keys(answer), answer.more) == ([b"a", b"b"], False)
    assert keys(store.range(**ALL, min_create_revision=4)) == [b"c"]
    assert keys(store.range(**ALL, max_mod_revision=4)) == [b"b", b"c"]
    assert keys(store.range(**ALL, max_mod_revision=-1)) == []


def test_17_sorting(store: Store) -> None:
    for key, value in ((b"b", b"3"), (b"a", b"2"), (b"c", b"1"), (b"b", b"0")):
        store.put(key, value)
    order, target = pb.RangeRequest.SortOrder, pb.RangeRequest.SortTarget
    for fields, expected in (
        ({}, b"abc"),
        ({"sort_order": order.Value("DESCEND")}, b"cba"),
        ({"sort_target": target.Value("CREATE")}, b"bac"),
        ({"sort_target": target.Value("MOD")}, b"acb"),
        ({"sort_target": target.Value("VALUE")}, b"bca"),
        ({"sort_target": target.Value("VERSION")}, b"acb"),
        ({"sort_target": target.Value("VERSION"), "sort_order": 2}, b"bac"),
        ({"sort_target": target.Value("VALUE"), "keys_only": True}, b"bca"),
        # Without an order the limit comes first, with one the sort does.
        ({"sort_target": target.Value("VALUE"), "limit": 1}, b"b"),
        ({"sort_target": target.Value("MOD"), "limit": 1}, b"a"),
        ({"sort_target": target.Value("CREATE"), "sort_order": 2, "limit": 1}, b"c"),
        ({"sort_target": target.Value("VALUE"), "sort_order": 1, "limit": 2}, b"bc"),
        ({"sort_order": 5, "limit": 2}, b"ab"),
    ):
        for revision in (0, 5):
            answer = store.range(**ALL, revision=revision, **fields)
            assert b"".join(keys(answer)) == expected, fields
            if not fields.get("keys_only"):
                held = {kv.key: kv.value for kv in answer.kvs}
                assert all(held[k] == store.range(k).kvs[0].value for k in held)
            assert answer.count == 3
    # etcd 3.5.1 panics, 3.6 answers.
    with pytest.raises(InvalidSortOption):
        store.range(**ALL, sort_target=7, sort_order=1)


def test_18_keys_only(store: Store) -> None:
    store.lessor.grant(7)
    store.put(b"a", b"v", lease=7)
    store.put(b"a", b"v", lease=7)
    for fields in ({}, {"sort_target": 4}, {"sort_order": 2}, {"limit": 1}):
        (kv,) = store.range(b"a", keys_only=True, **fields).kvs
        assert (kv.value, kv.lease, kv.version, kv.create_revision) == (b"", 7, 2, 2)
    (kv,) = store.range(b"a", keys_only=True, revision=2).kvs
    assert (kv.value, kv.lease, kv.version) == (b"", 7, 1)


def test_prev_kv(store: Store) -> None:
    assert not store.put(b"a", b"1", prev_kv=True).HasField("prev_kv")
    assert store.put(b"a", b"2", prev_kv=True).prev_kv.value == b"1"
    store.put(b"b", b"3")
    answer = store.delete(b"a", b"\x00", prev_kv=True)
    assert answer.deleted == 2
    assert [(kv.key, kv.value, kv.mod_revision) for kv in answer.prev_kvs] == [
        (b"a", b"2", 3),
        (b"b", b"3", 4),
    ]
    assert not store.delete(b"a", b"\x00", prev_kv=True).prev_kvs


def test_an_unknown_lease_is_refused(store: Store) -> None:
    # SURFACE 8.4 item 41.
    with pytest.raises(LeaseNotFound):
        store.put(b"a", lease=1)
    # The lease is looked at before the key.
    with pytest.raises(LeaseNotFound):
        store.put(b"a", lease=1, ignore_value=True)
    assert store.keyspace.revision == 1


def test_on_a_reader_connection(store: Store, backend: Backend) -> None:
    for key in (b"a", b"b", b"c"):
        store.put(key, key)
    request = pb.RangeRequest(**ALL)
    backend.commit()
    reader = backend.reader()
    answers = [store.range(**ALL)]
    answers.append(read_range_on(reader, request, 4))
    store.put(b"d")
    store.delete(b"a")
    backend.commit()
    answers.append(read_range_on(reader, request, 4))
    assert answers[0] == answers[1] == answers[2]
    assert read_range_on(reader, request, 6) == store.range(**ALL)
    old = pb.RangeRequest(**ALL, revision=3)
    assert read_range_on(reader, old, 6) == store.range(**ALL, revision=3)
    compact(store.keyspace, 5)
    backend.commit()
    with pytest.raises(Compacted):
        read_range_on(reader, old, 4)
    with pytest.raises(FutureRev):
        read_range_on(reader, pb.RangeRequest(**ALL, revision=5), 4)
    assert read_range_on(reader, request, 4) == store.range(**ALL)
    assert not reader.in_transaction
    reader.close()
