"""Lock and Election: the two services of etcd's that are recipes over keys, leases and watches.

Each who wants something puts a key below the name, bound to a lease; the key that was created
first has it. Who waits watches the newest key that is older than its own, so that a release wakes
one waiter. The answer's key, and the revision at which it was created, are what a client fences
with: a lock alone proves nothing to a third party, for its lease may have run out meanwhile.

Rules. What has waited looks again whether its own key is still there: the lease may have run out
while it waited (etcd-io/etcd#11456). Who leaves while it waits has its key taken away.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from pyetcd.proto.election_pb2 import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ProclaimResponse,
    ResignRequest,
    ResignResponse,
)
from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.proto.keys import prefix_end
from pyetcd.proto.kv_pb2 import Event
from pyetcd.proto.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from pyetcd.proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
)
from pyetcd.server.api.local import Caller, Local
from pyetcd.server.wire.grpc import ServerStream, UnaryCall

SESSION_TTL_S: Final = 60  # of the lease that is granted to who brings none


def _error(text: str) -> RpcError:
    return RpcError(Code.UNKNOWN, text)


class Session:
    """The calls that both recipes are made of, in the name of one client."""

    def __init__(self, local: Local, caller: Caller) -> None:
        self._local = local
        self._caller = caller

    async def lease(self, id: int) -> int:
        """The client's own lease, or a new one."""
        if id:
            return id
        request = LeaseGrantRequest(TTL=SESSION_TTL_S)
        path = "/etcdserverpb.Lease/LeaseGrant"
        return (await self._local.call(self._caller, path, request, LeaseGrantResponse)).ID

    async def txn(self, request: TxnRequest) -> TxnResponse:
        return await self._local.call(self._caller, "/etcdserverpb.KV/Txn", request, TxnResponse)

    async def range(self, request: RangeRequest) -> RangeResponse:
        return await self._local.call(
            self._caller, "/etcdserverpb.KV/Range", request, RangeResponse
        )

    async def delete(self, key: bytes) -> DeleteRangeResponse:
        path = "/etcdserverpb.KV/DeleteRange"
        request = DeleteRangeRequest(key=key)
        return await self._local.call(self._caller, path, request, DeleteRangeResponse)

    async def claim(
        self, key: bytes, value: bytes, lease: int, *others: RangeRequest
    ) -> TxnResponse:
        """Create `key`, or read it when it is there; then read the others."""
        request = TxnRequest()
        request.compare.add(key=key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=0)
        put = request.success.add().request_put
        put.key, put.value, put.lease = key, value, lease
        request.failure.add().request_range.key = key
        for other in others:
            request.success.add().request_range.CopyFrom(other)
            request.failure.add().request_range.CopyFrom(other)
        return await self.txn(request)

    async def wait_deleted(self, prefix: bytes, created_max: int) -> None:
        """Until nothing below `prefix` is left that was created at or before that revision."""
        newest = RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            limit=1,
            sort_order=RangeRequest.DESCEND,
            sort_target=RangeRequest.CREATE,
            max_create_revision=created_max,
        )
        while (found := await self.range(newest)).kvs:
            await self._wait_delete(found.kvs[0].key, found.header.revision)

    async def _wait_delete(self, key: bytes, revision: int) -> None:
        request = WatchCreateRequest(key=key, start_revision=revision)
        async with aclosing(self.events(request)) as events:
            async for _, event in events:
                if event.type == Event.DELETE:
                    return

    async def events(
        self, request: WatchCreateRequest
    ) -> AsyncGenerator[tuple[ResponseHeader, Event], None]:
        """What a watch sees, one event after another; to be closed by who reads it."""
        async with aclosing(self._local.watch(self._caller, request)) as answers:
            async for answer in answers:
                for event in answer.events:
                    yield answer.header, event


def first_created(prefix: bytes) -> RangeRequest:
    """Who has it: the oldest key."""
    return RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_order=RangeRequest.ASCEND,
        sort_target=RangeRequest.CREATE,
    )


def _below(name: bytes, lease: int) -> bytes:
    return b"%s/%s" % (name, format(lease, "x").encode())


class LockApi:
    """v3lockpb.Lock."""

    def __init__(self, local: Local) -> None:
        self._local = local

    def lock(self, call: UnaryCall, request: LockRequest) -> None:
        self._local.serve(call, self._lock(Session(self._local, call), request))

    async def _lock(self, session: Session, request: LockRequest) -> LockResponse:
        prefix = request.name + b"/"
        lease = await session.lease(request.lease)
        key = _below(request.name, lease)
        claimed = await session.claim(key, b"", lease, first_created(prefix))
        created = _created(claimed)
        owner = claimed.responses[1].response_range.kvs
        if not owner or owner[0].create_revision == created:
            return LockResponse(header=claimed.header, key=key)
        try:
            await session.wait_deleted(prefix, created - 1)
            found = await session.range(RangeRequest(key=key))
        except (EtcdError, asyncio.CancelledError):
            self._local.afterwards(session.delete(key))
            raise
        if not found.kvs:
            raise _error("mutex: session is expired")
        return LockResponse(header=found.header, key=key)

    def unlock(self, call: UnaryCall, request: UnlockRequest) -> None:
        self._local.serve(call, self._unlock(Session(self._local, call), request))

    async def _unlock(self, session: Session, request: UnlockRequest) -> UnlockResponse:
        return UnlockResponse(header=(await session.delete(request.key)).header)


class ElectionApi:
    """v3electionpb.Election: a lock whose key has a value, and whose holder others look for."""

    def __init__(self, local: Local) -> None:
        self._local = local

    def campaign(self, call: UnaryCall, request: CampaignRequest) -> None:
        self._local.serve(call, self._campaign(Session(self._local, call), request))

    async def _campaign(self, session: Session, request: CampaignRequest) -> CampaignResponse:
        lease = await session.lease(request.lease)
        key = _below(request.name, lease)
        claimed = await session.claim(key, request.value, lease)
        leader = LeaderKey(name=request.name, key=key, rev=_created(claimed), lease=lease)
        if not claimed.succeeded:
            before = claimed.responses[0].response_range.kvs[0].value
            if before != request.value:
                await self._change_or_resign(session, leader, request.value)
        try:
            await session.wait_deleted(request.name + b"/", leader.rev - 1)
            # Not so in etcd: who waited may have lost its lease, and would lead without a key.
            found = await session.range(RangeRequest(key=key))
        except asyncio.CancelledError:
            self._local.afterwards(self._delete(session, leader))
            raise
        if not found.kvs or found.kvs[0].create_revision != leader.rev:
            raise _error("election: session is expired")
        return CampaignResponse(header=claimed.header, leader=leader)

    def proclaim(self, call: UnaryCall, request: ProclaimRequest) -> None:
        self._local.serve(call, self._proclaim(Session(self._local, call), request))

    async def _proclaim(self, session: Session, request: ProclaimRequest) -> ProclaimResponse:
        leader = _leader_of(request)
        leader.lease = await session.lease(leader.lease)
        return ProclaimResponse(header=await self._change(session, leader, request.value))

    async def _change(self, session: Session, leader: LeaderKey, value: bytes) -> ResponseHeader:
        request = _if_leading(leader)
        put = request.success.add().request_put
        put.key, put.value, put.lease = leader.key, value, leader.lease
        answer = await session.txn(request)
        if not answer.succeeded:
            raise _error("election: not leader")
        return answer.header

    async def _change_or_resign(self, session: Session, leader: LeaderKey, value: bytes) -> None:
        try:
            await self._change(session, leader, value)
        except EtcdError:
            await self._delete(session, leader)
            raise

    def resign(self, call: UnaryCall, request: ResignRequest) -> None:
        self._local.serve(call, self._resign(Session(self._local, call), request))

    async def _resign(self, session: Session, request: ResignRequest) -> ResignResponse:
        answer = await self._delete(session, _leader_of(request))
        return ResignResponse(header=answer.header)

    async def _delete(self, session: Session, leader: LeaderKey) -> TxnResponse:
        request = _if_leading(leader)
        request.success.add().request_delete_range.key = leader.key
        return await session.txn(request)

    def leader(self, call: UnaryCall, request: LeaderRequest) -> None:
        self._local.serve(call, self._leader(Session(self._local, call), request))

    async def _leader(self, session: Session, request: LeaderRequest) -> LeaderResponse:
        found = await session.range(first_created(request.name + b"/"))
        if not found.kvs:
            raise _error("election: no leader")
        return LeaderResponse(header=found.header, kv=found.kvs[0])

    async def observe(self, stream: ServerStream) -> None:
        """Who leads now, then each change; between two leaders nothing."""
        request = await stream.request()
        assert isinstance(request, LeaderRequest)
        prefix = request.name + b"/"
        session = Session(self._local, stream)
        while True:
            shown = await self._next_leader(session, prefix)
            stream.send(shown.SerializeToString())
            await stream.drain()
            create = WatchCreateRequest(key=shown.kv.key, start_revision=shown.header.revision + 1)
            async with aclosing(session.events(create)) as events:
                async for header, event in events:
                    if event.type == Event.DELETE:
                        break
                    stream.send(LeaderResponse(header=header, kv=event.kv).SerializeToString())
                    await stream.drain()

    async def _next_leader(self, session: Session, prefix: bytes) -> LeaderResponse:
        """Who leads, or who is the first to."""
        found = await session.range(first_created(prefix))
        if found.kvs:
            return LeaderResponse(header=found.header, kv=found.kvs[0])
        create = WatchCreateRequest(
            key=prefix, range_end=prefix_end(prefix), start_revision=found.header.revision
        )
        async with aclosing(session.events(create)) as events:
            async for header, event in events:
                if event.type == Event.PUT:
                    header.revision = event.kv.mod_revision
                    return LeaderResponse(header=header, kv=event.kv)
        raise AssertionError("a watch ends by an error only")


def _created(claimed: TxnResponse) -> int:
    """When the claimed key was created: now, or earlier by the same lease."""
    if claimed.succeeded:
        return claimed.header.revision
    return claimed.responses[0].response_range.kvs[0].create_revision


def _leader_of(request: ProclaimRequest | ResignRequest) -> LeaderKey:
    if not request.HasField("leader"):
        raise _error('"leader" field must be provided')
    return request.leader


def _if_leading(leader: LeaderKey) -> TxnRequest:
    request = TxnRequest()
    request.compare.add(
        key=leader.key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=leader.rev
    )
    return request
