"""KV: Range, Put, DeleteRange, Txn, Compact. Check, send through raft or read, fill the header.

Writes and everything a nested transaction holds go through raft. Ranges and read-only transactions
are served here once the read is linearizable; serializable ones at once. A range that would return
more than `RANGE_INLINE_MAX` keys is read in a thread, from a connection of its own at a fixed
revision, so that it never holds the loop.
"""

from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError, NoSpace
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
)
from pyetcd.server.access import OFF, Access, Switch
from pyetcd.server.api import checks
from pyetcd.server.api.base import Done, Headers, Proposer, answer_to, refuse
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.wire.grpc import UnaryCall
from pyetcd.store.txn import is_readonly, is_serializable

RANGE_INLINE_MAX = 1000


class Store(Protocol):
    """Reading the keyspace as it is now applied on this member."""

    @property
    def revision(self) -> int: ...

    def range(self, request: RangeRequest) -> RangeResponse: ...

    def exceeds(self, request: RangeRequest, keys_max: int) -> bool:
        """Whether a thread should answer it: more than keys_max keys are read, or many counted."""

    def range_in_thread(
        self, request: RangeRequest, done: Callable[[RangeResponse | EtcdError], None]
    ) -> None: ...

    def read_txn(self, request: TxnRequest) -> TxnResponse: ...

    def when_compacted(self, done: Callable[[], None]) -> None:
        """Call back when the physical compaction under way is finished, or at once."""


class Quota(Protocol):
    """Whether the store has room for what a request adds."""

    def fits(self, request: InternalRaftRequest) -> bool: ...

    def raise_nospace(self, then: Callable[[], None]) -> None:
        """Raise this member's NOSPACE alarm through raft, then call back."""


class KvApi:
    """The five unary methods of etcdserverpb.KV."""

    def __init__(
        self,
        *,
        headers: Headers,
        proposer: Proposer,
        reads: LinearizableReads,
        store: Store,
        quota: Quota,
        txn_ops_max: int,
        access: Access | None = None,
    ) -> None:
        self._headers = headers
        self._proposer = proposer
        self._reads = reads
        self._store = store
        self._quota = quota
        self._txn_ops_max = txn_ops_max
        self._access = access
        self._auth: Switch = OFF if access is None else access.auth

    def range(self, call: UnaryCall, request: RangeRequest) -> None:
        error = checks.check_range(request)
        if error is not None:
            return refuse(call, error)
        done = answer_to(call, self._headers)
        if request.serializable:
            return self._serve_range(call, request, done)
        return self._reads.wait(
            lambda error: (
                done(error) if error is not None else self._serve_range(call, request, done)
            )
        )

    def _serve_range(self, call: UnaryCall, request: RangeRequest, done: Done) -> None:
        if self._auth.enabled:
            assert self._access is not None
            try:
                self._access.permit_range(call, request)
            except EtcdError as refusal:
                return done(refusal)
            done = self._access.stable(done)
        if request.range_end and self._store.exceeds(request, RANGE_INLINE_MAX):
            return self._store.range_in_thread(request, done)
        return _run(lambda: self._store.range(request), done)

    def put(self, call: UnaryCall, request: PutRequest) -> None:
        error = checks.check_put(request)
        if error is not None:
            return refuse(call, error)
        proposal = InternalRaftRequest(put=request)
        if self._auth.enabled:
            self._sign(call, proposal)
        return self._write(proposal, answer_to(call, self._headers))

    def _sign(self, call: UnaryCall, proposal: InternalRaftRequest) -> None:
        assert self._access is not None
        self._access.sign(call, proposal)

    def _write(self, request: InternalRaftRequest, done: Done) -> None:
        """Through raft, unless the store has no room: then the alarm comes first."""
        if self._quota.fits(request):
            return self._proposer.propose(request, done)
        if self._auth.enabled:
            assert self._access is not None
            try:  # who may not write may not raise an alarm by it either
                self._access.permit(request)
            except EtcdError as error:
                return done(error)
        return self._quota.raise_nospace(lambda: done(NoSpace()))

    def delete_range(self, call: UnaryCall, request: DeleteRangeRequest) -> None:
        error = checks.check_delete_range(request)
        if error is not None:
            return refuse(call, error)
        proposal = InternalRaftRequest(delete_range=request)
        if self._auth.enabled:
            self._sign(call, proposal)
        return self._proposer.propose(proposal, answer_to(call, self._headers))

    def txn(self, call: UnaryCall, request: TxnRequest) -> None:
        error = checks.check_txn(request, self._txn_ops_max)
        if error is not None:
            return refuse(call, error)
        done = answer_to(call, self._headers)
        if not is_readonly(request):
            # Not by the constructor: it parses again, and refuses what is nested deeply.
            proposal = InternalRaftRequest()
            proposal.txn.CopyFrom(request)
            if self._auth.enabled:
                self._sign(call, proposal)
            return self._write(proposal, done)
        if is_serializable(request):
            return _run(lambda: self._read_txn(call, request), done)
        return self._reads.wait(
            lambda error: (
                done(error)
                if error is not None
                else _run(lambda: self._read_txn(call, request), done)
            )
        )

    def _read_txn(self, call: UnaryCall, request: TxnRequest) -> TxnResponse:
        if self._auth.enabled:
            assert self._access is not None
            self._access.permit_txn(call, request)
        return self._store.read_txn(request)

    def compact(self, call: UnaryCall, request: CompactionRequest) -> None:
        done = answer_to(call, self._headers)

        def compacted(answer: Message | EtcdError) -> None:
            if isinstance(answer, CompactionResponse):
                answer.header.revision = self._store.revision
                if request.physical:
                    return self._store.when_compacted(lambda: done(answer))
            return done(answer)

        self._proposer.propose(InternalRaftRequest(compaction=request), compacted)


def _run(read: Callable[[], Message], done: Done) -> None:
    try:
        answer = read()
    except EtcdError as error:
        return done(error)
    return done(answer)
