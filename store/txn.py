"""Requests on the keyspace: range, put, delete range and transactions, with etcd's semantics.

Strategy. Each function takes a request that the API layer has checked for shape, and returns the
response with header.revision set, or raises an EtcdError. Everything that depends on the store's
state is decided before the first write, so an error leaves nothing behind:
a transaction first walks its compares and so fixes which branches are taken, then checks every
put, then every range of those branches, and only then writes.

Rules.
1. The same request on the same state gives the same answer on every member, whatever the request:
   these functions run on log entries that another program may have checked. Where etcd 3.5.1 would
   panic at this point, the whole transaction is refused instead.
2. Compares see the state before the transaction, its ranges see its earlier writes (item 7).

Limits. A request is answered whole. Ranges that may be long belong on a reader connection in a
thread (`read_range_on`). Sorting ties come out as in etcd 3.5.1 for up to 12 keys, see `_sort`.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Final

import apsw

from pyetcd.proto.errors import (
    Compacted,
    FutureRev,
    InvalidSortOption,
    KeyNotFound,
    LeaseNotFound,
    RequestTooLarge,
)
from pyetcd.proto.keys import contains
from pyetcd.proto.kv_pb2 import KeyValue
from pyetcd.proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from pyetcd.store.backend import SUB_BITS, SUB_MAX
from pyetcd.store.history import NO_LIMIT, History, Row, reading
from pyetcd.store.mvcc import Keyspace, Leases, View, WriteTxn

# SQLite's LIMIT is an int64; a request's limit may be the largest one.
_LIMIT_MAX: Final = 1 << 62

_SORT_FIELD: Final[dict[int, Callable[[Row], int | bytes]]] = {
    RangeRequest.KEY: itemgetter(1),
    RangeRequest.VERSION: itemgetter(4),
    RangeRequest.CREATE: itemgetter(3),
    RangeRequest.MOD: lambda row: row[0] >> SUB_BITS,
    RangeRequest.VALUE: lambda row: row[2] or b"",
}


def apply_put(keyspace: Keyspace, leases: Leases, request: PutRequest) -> PutResponse:
    """The hot path: see tests/bench/keyspace.py for what each part costs."""
    lease = request.lease
    if lease and not leases.has(lease):
        raise LeaseNotFound
    response = PutResponse()
    if request.prev_kv or request.ignore_value or request.ignore_lease:
        previous = keyspace.history.get(request.key)
        if previous is None and (request.ignore_value or request.ignore_lease):
            raise KeyNotFound
        keyspace.tally.ranges += 1
        keyspace.tally.txns += 1
        txn = keyspace.begin(leases)
        _put_over(txn, request, previous, response)
    else:
        txn = keyspace.begin(leases)
        txn.put(request.key, request.value, lease)
    response.header.revision = txn.end()
    return response


def apply_range(keyspace: Keyspace, request: RangeRequest) -> RangeResponse:
    """header.revision is the store's, also when an older one was asked for."""
    keyspace.tally.ranges += 1
    response = RangeResponse()
    _range_into(response, keyspace.view(), request)
    return response


def apply_delete_range(
    keyspace: Keyspace, leases: Leases, request: DeleteRangeRequest
) -> DeleteRangeResponse:
    """Deleting nothing uses no revision."""
    _require_room(keyspace.history, [(request.key, request.range_end)])
    response = DeleteRangeResponse()
    before = keyspace.tally.operations
    txn = keyspace.begin(leases)
    _delete_into(response, txn, request)
    response.header.revision = txn.end()
    keyspace.tally.end(before)
    return response


def apply_txn(keyspace: Keyspace, leases: Leases, request: TxnRequest) -> TxnResponse:
    """With operations other than ranges it belongs through raft, see `is_readonly`."""
    view = keyspace.view()
    tally = keyspace.tally
    before = tally.operations
    taken = _Branch(view, request)
    tally.ranges += taken.compares
    readonly = is_readonly(request)
    deletes: list[tuple[bytes, bytes]] = []
    if not readonly:
        _check_puts(view, leases, taken, deletes)
    _check_ranges(view, taken)
    _require_room(keyspace.history, deletes)
    response = TxnResponse()
    if readonly:
        tally.ranges += len(taken.ops)
        tally.end(before)
        _run_reads(response, view, taken)
        response.header.revision = view.revision
        return response
    tally.end(before)  # the compares are a transaction of their own, as in etcd
    before = tally.operations
    txn = keyspace.begin(leases)
    _run(response, txn, taken)
    response.header.revision = txn.end()
    tally.end(before)
    return response


def is_readonly(request: TxnRequest) -> bool:
    """Only ranges in both branches; a nested transaction counts as a write (etcd v3_server.go)."""
    for ops in (request.success, request.failure):
        for op in ops:
            if op.WhichOneof("request") != "request_range":
                return False
    return True


def is_serializable(request: TxnRequest) -> bool:
    """Whether a readonly transaction may be answered from local state: all its ranges say so. One
    that only compares says nothing of the kind; etcd answers it from local state all the same,
    which may be stale (server/etcdserver/v3_server.go: isTxnSerializable)."""
    ranges = [op.request_range for ops in (request.success, request.failure) for op in ops]
    return bool(ranges) and all(each.serializable for each in ranges)


def read_range_on(
    connection: apsw.Connection, request: RangeRequest, revision: int
) -> RangeResponse:
    """A range on a reader connection, for a thread; the answer is that of a store at `revision`,
    which must have been committed. Behind a compaction since then, a range that asked for no
    revision is answered as of now: rows below it may be gone. One short read transaction."""
    with reading(connection) as (newest, compacted):
        assert revision <= newest, "the reader is behind: commit first"
        if request.revision > revision:
            raise FutureRev
        if revision < compacted:
            if request.revision > 0:
                raise Compacted
            revision = newest
        view = View(
            History(connection),
            revision=revision,
            compact_revision=compacted,
            is_newest=revision == newest,
        )
        response = RangeResponse()
        _range_into(response, view, request)
    return response


# -- ranges --------------------------------------------------------------------------------------


def _range_into(response: RangeResponse, view: View, request: RangeRequest) -> None:
    """Count before limit and filters; filters before limit; order before limit, if one is asked."""
    target = request.sort_target
    field = _SORT_FIELD.get(target)
    if field is None:
        raise InvalidSortOption
    upper = view.upper_of(request.revision)
    history = view.history
    key, end = request.key, request.range_end
    response.header.revision = view.revision
    if request.count_only:
        response.count = history.count(key, end, upper=upper)
        return
    filtered = bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    order = request.sort_order
    limit = min(request.limit, _LIMIT_MAX)
    # One more than asked for shows whether there is more.
    fetch = NO_LIMIT if filtered or order or limit <= 0 else limit + 1
    # Values are read only where they are sorted by or answered; what is filtered, last.
    keys_only = request.keys_only
    late = (keys_only or filtered or order) and target != RangeRequest.VALUE
    read = history.heads if late else history.rows
    rows = read(key, end, upper=upper, limit=fetch)
    count = len(rows)
    if count == fetch:
        count = history.count(key, end, upper=upper)
    if filtered:
        rows = _filtered(rows, request)
    # A target without an order sorts what the limit has left (item 17); an unknown order does not
    # sort at all.
    if (order or target) and order in RangeRequest.SortOrder.values():
        _sort(rows, field, reverse=order == RangeRequest.DESCEND)
    if 0 < limit < len(rows):
        del rows[limit:]
        response.more = True
    response.count = count
    if late and not keys_only:
        rows = history.with_values(rows)
    add = response.kvs.add
    for rev, row_key, value, create, version, lease, _ in rows:
        add(
            key=row_key,
            create_revision=create,
            mod_revision=rev >> SUB_BITS,
            version=version,
            value=b"" if keys_only else value or b"",
            lease=lease,
        )


def _sort(rows: list[Row], field: Callable[[Row], int | bytes], *, reverse: bool) -> None:
    """Up to 12 rows as Go 1.16 sorts them, which etcd 3.5.1 is built with: one pass with a gap of
    6, then by insertion. Above that Go's order of ties is a matter of chance; ours is by key."""
    if 6 < len(rows) <= 12:
        for at in range(6, len(rows)):
            here, there = field(rows[at]), field(rows[at - 6])
            if here > there if reverse else here < there:  # type: ignore[operator]  # one type each
                rows[at], rows[at - 6] = rows[at - 6], rows[at]
    rows.sort(key=field, reverse=reverse)


def _filtered(rows: list[Row], request: RangeRequest) -> list[Row]:
    """0 means no bound; a bound below 0 is one."""
    mod_min, mod_max = request.min_mod_revision, request.max_mod_revision
    create_min, create_max = request.min_create_revision, request.max_create_revision
    return [
        row
        for row in rows
        if (not mod_min or row[0] >> SUB_BITS >= mod_min)
        and (not mod_max or row[0] >> SUB_BITS <= mod_max)
        and (not create_min or row[3] >= create_min)
        and (not create_max or row[3] <= create_max)
    ]


# -- transactions --------------------------------------------------------------------------------


class _Branch:
    """The branch that a transaction takes, decided before anything is written, and those of the
    nested transactions in it, in the order of its operations."""

    __slots__ = ("compares", "nested", "ops", "succeeded")

    def __init__(self, view: View, request: TxnRequest) -> None:
        self.succeeded = True
        self.compares = 0  # made, with those of the nested
        for compare in request.compare:
            self.compares += 1
            if not _holds(view, compare):
                self.succeeded = False
                break
        self.ops: Sequence[RequestOp] = request.success if self.succeeded else request.failure
        self.nested = [
            _Branch(view, op.request_txn) for op in self.ops if op.HasField("request_txn")
        ]
        self.compares += sum(branch.compares for branch in self.nested)


def _check_puts(
    view: View, leases: Leases, branch: _Branch, deletes: list[tuple[bytes, bytes]]
) -> None:
    """etcd apply.go: checkRequestPut. `deletes` collects the ranges that are deleted before."""
    nested = iter(branch.nested)
    for op in branch.ops:
        kind = op.WhichOneof("request")
        if kind == "request_txn":
            _check_puts(view, leases, next(nested), deletes)
        elif kind == "request_delete_range":
            deletes.append((op.request_delete_range.key, op.request_delete_range.range_end))
        elif kind == "request_put":
            put = op.request_put
            if put.ignore_value or put.ignore_lease:
                # etcd panics when an earlier operation deletes the key; we find it missing.
                gone = any(contains(key, end, put.key) for key, end in deletes)
                if gone or not view.history.heads(put.key, b""):
                    raise KeyNotFound
            if put.lease and not leases.has(put.lease):
                raise LeaseNotFound


def _check_ranges(view: View, branch: _Branch) -> None:
    """etcd apply.go: checkRequestRange; unlike in a plain range, a revision below 0 may be
    compacted."""
    nested = iter(branch.nested)
    for op in branch.ops:
        kind = op.WhichOneof("request")
        if kind == "request_txn":
            _check_ranges(view, next(nested))
        elif kind == "request_range":
            revision = op.request_range.revision
            if revision > view.revision:
                raise FutureRev
            if revision and revision < view.compact_revision:
                raise Compacted
            if op.request_range.sort_target not in _SORT_FIELD:
                raise InvalidSortOption


def _require_room(history: History, deletes: Iterable[tuple[bytes, bytes]]) -> None:
    """A revision holds SUB_MAX changes. Half of them are left to puts: a request that is allowed
    at all has far fewer."""
    room = SUB_MAX // 2
    for key, end in deletes:
        if end:
            room -= history.count(key, end)
            if room < 0:
                raise RequestTooLarge


def _run(response: TxnResponse, txn: WriteTxn, branch: _Branch) -> None:
    response.succeeded = branch.succeeded
    response.header.SetInParent()  # a nested transaction answers with an empty header
    nested = iter(branch.nested)
    add = response.responses.add
    for op in branch.ops:
        kind = op.WhichOneof("request")
        answer = add()
        if kind == "request_put":
            put = op.request_put
            if put.prev_kv or put.ignore_value or put.ignore_lease:
                txn.tally.ranges += 1
                previous = txn.view().history.get(put.key)
                _put_over(txn, put, previous, answer.response_put)
            else:
                txn.put(put.key, put.value, put.lease)
            answer.response_put.header.revision = txn.revision
        elif kind == "request_range":
            txn.tally.ranges += 1
            _range_into(answer.response_range, txn.view(), op.request_range)
        elif kind == "request_delete_range":
            _delete_into(answer.response_delete_range, txn, op.request_delete_range)
        elif kind == "request_txn":
            _run(answer.response_txn, txn, next(nested))


def _run_reads(response: TxnResponse, view: View, branch: _Branch) -> None:
    response.succeeded = branch.succeeded
    for op in branch.ops:
        _range_into(response.responses.add().response_range, view, op.request_range)


def _put_over(
    txn: WriteTxn, request: PutRequest, previous: Row | None, response: PutResponse
) -> None:
    """A put that needs the row before it; that there is one, if it must, has been checked."""
    value, lease = request.value, request.lease
    if request.ignore_value:
        assert previous is not None
        value = previous[2] or b""
    if request.ignore_lease:
        assert previous is not None
        lease = previous[5]
    if request.prev_kv and previous is not None:
        response.prev_kv.CopyFrom(key_value_of(previous))
    txn.put(request.key, value, lease)


def _delete_into(response: DeleteRangeResponse, txn: WriteTxn, request: DeleteRangeRequest) -> None:
    key, end = request.key, request.range_end
    if request.prev_kv:
        txn.tally.ranges += 1
        response.prev_kvs.extend(key_value_of(row) for row in txn.view().history.rows(key, end))
    response.deleted = txn.delete_range(key, end)
    response.header.revision = txn.view().revision


def key_value_of(row: Row) -> KeyValue:
    """A row as etcd's KeyValue."""
    rev, key, value, create, version, lease, _ = row
    return KeyValue(
        key=key,
        create_revision=create,
        mod_revision=rev >> SUB_BITS,
        version=version,
        value=value or b"",
        lease=lease,
    )


# -- compares ------------------------------------------------------------------------------------

_MISSING: Final[Row] = (0, b"", b"", 0, 0, 0, 0)


def _holds(view: View, compare: Compare) -> bool:
    """Every key of the range must satisfy it."""
    wants_value = compare.target == Compare.VALUE
    read = view.history.rows if wants_value else view.history.heads
    rows = read(compare.key, compare.range_end)
    if not rows:
        # A missing value is not an empty one: no compare of it holds.
        return not wants_value and _row_holds(_MISSING, compare)
    return all(_row_holds(row, compare) for row in rows)


def _row_holds(row: Row, compare: Compare) -> bool:
    """An unset or different target_union reads as zero; an unknown target is always equal, and an
    unknown result always holds (etcd apply.go: compareKV)."""
    target = compare.target
    order = 0
    if target == Compare.VALUE:
        order = _order(row[2] or b"", compare.value)
    elif target == Compare.CREATE:
        order = _order(row[3], compare.create_revision)
    elif target == Compare.MOD:
        order = _order(row[0] >> SUB_BITS, compare.mod_revision)
    elif target == Compare.VERSION:
        order = _order(row[4], compare.version)
    elif target == Compare.LEASE:
        order = _order(row[5], compare.lease)
    result = compare.result
    if result == Compare.EQUAL:
        return order == 0
    if result == Compare.NOT_EQUAL:
        return order != 0
    if result == Compare.GREATER:
        return order > 0
    if result == Compare.LESS:
        return order < 0
    return True


def _order(found: int | bytes, wanted: int | bytes) -> int:
    if found == wanted:
        return 0
    return 1 if found > wanted else -1  # type: ignore[operator]
