"""Request validation before anything else happens; pure. The rules and texts are etcd's (key.go).

Each function returns the error to answer with, or None. Nothing is raised: a check runs for every
request, an exception would cost more than the check.
"""

from collections.abc import Iterable, Sequence

from pyetcd.proto.errors import (
    Code,
    DuplicateKey,
    EmptyKey,
    EtcdError,
    InvalidSortOption,
    KeyNotFound,
    LeaseProvided,
    RpcError,
    TooManyOps,
    ValueProvided,
)
from pyetcd.proto.rpc_pb2 import (
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

_SORT_ORDERS = frozenset(RangeRequest.SortOrder.values())
_SORT_TARGETS = frozenset(RangeRequest.SortTarget.values())

Interval = tuple[bytes, bytes]


def check_range(request: RangeRequest) -> EtcdError | None:
    """A key is needed; sort options must exist (3.6: etcd 3.5.1 panics on an unknown target)."""
    if not request.key:
        return EmptyKey()
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        return InvalidSortOption()
    return None


def check_range_stream(request: RangeRequest) -> EtcdError | None:
    """As a range, in key order and without filters (etcd 3.7: checkRangeStreamRequest)."""
    error = check_range(request)
    if error is not None:
        return error
    by_key = request.sort_target == RangeRequest.KEY
    if request.sort_order != RangeRequest.NONE and not (
        by_key and request.sort_order == RangeRequest.ASCEND
    ):
        text = "RangeStream does not support custom sort orders"
        return RpcError(Code.UNIMPLEMENTED, text)
    if (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    ):
        return RpcError(Code.UNIMPLEMENTED, "RangeStream does not support revision filters")
    return None


def check_put(request: PutRequest) -> EtcdError | None:
    """A key is needed; what is to be kept must not be given as well."""
    if not request.key:
        return EmptyKey()
    if request.ignore_value and request.value:
        return ValueProvided()
    if request.ignore_lease and request.lease:
        return LeaseProvided()
    return None


def check_delete_range(request: DeleteRangeRequest) -> EtcdError | None:
    """A key is needed."""
    return None if request.key else EmptyKey()


def check_txn(request: TxnRequest, ops_max: int) -> EtcdError | None:
    """Sizes, every compare and operation in order, then duplicate puts in each branch."""
    error = _check_txn_ops(request, ops_max)
    if error is not None:
        return error
    for branch in (request.success, request.failure):
        if _branch_writes(branch) is None:
            return DuplicateKey()
    return None


def _check_txn_ops(request: TxnRequest, ops_max: int) -> EtcdError | None:
    """A nested transaction gets what the outer one leaves of the budget."""
    used = max(len(request.compare), len(request.success), len(request.failure))
    if used > ops_max:
        return TooManyOps()
    if any(not compare.key for compare in request.compare):
        return EmptyKey()
    for branch in (request.success, request.failure):
        for op in branch:
            error = _check_op(op, ops_max - used)
            if error is not None:
                return error
    return None


def _check_op(op: RequestOp, ops_left: int) -> EtcdError | None:
    kind = op.WhichOneof("request")
    if kind == "request_range":
        return check_range(op.request_range)
    if kind == "request_put":
        return check_put(op.request_put)
    if kind == "request_delete_range":
        return check_delete_range(op.request_delete_range)
    if kind == "request_txn":
        return _check_txn_ops(op.request_txn, ops_left)
    return KeyNotFound()  # an empty operation: etcd answers with this text


class _Writes:
    """The keys a branch puts and the ranges it deletes."""

    __slots__ = ("deletes", "puts")

    def __init__(self, puts: set[bytes], deletes: list[Interval]) -> None:
        self.puts = puts
        self.deletes = deletes


def _branch_writes(ops: Sequence[RequestOp]) -> _Writes | None:
    """What one branch writes, or None when it writes a key twice.

    A put may meet neither another put of its key nor a delete over it; deletes may overlap. The
    two branches of a nested transaction exclude each other, so they are checked against what is
    outside of it, not against each other. As in etcd, a nested put is held against the deletes of
    this level and of the nested transactions before it, not of those after it.
    """
    deletes = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in ops
        if op.HasField("request_delete_range")
    ]
    puts: set[bytes] = set()
    for op in ops:
        if op.HasField("request_txn"):
            nested = _txn_writes(op.request_txn)
            if nested is None or puts & nested.puts or _any_deleted(nested.puts, deletes):
                return None
            puts |= nested.puts
            deletes += nested.deletes
    for op in ops:
        if op.HasField("request_put"):
            key = op.request_put.key
            if key in puts or _any_deleted((key,), deletes):
                return None
            puts.add(key)
    return _Writes(puts, deletes)


def _txn_writes(request: TxnRequest) -> _Writes | None:
    success = _branch_writes(request.success)
    failure = _branch_writes(request.failure)
    if success is None or failure is None:
        return None
    return _Writes(success.puts | failure.puts, success.deletes + failure.deletes)


def _any_deleted(puts: Iterable[bytes], deletes: list[Interval]) -> bool:
    """A range_end of "\\0" is taken literally here, as etcd's interval tree does: a delete "from
    key" never counts as a duplicate of a put."""
    return any(key <= put < end if end else put == key for put in puts for key, end in deletes)
