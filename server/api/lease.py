"""Lease: grant and revoke through raft; keep alive and time to live from the leader's clock.

Granting and revoking are log entries. Renewing is not: the leader's lessor does it in memory. So a
leader first makes sure that it still leads and has applied what was committed before (one
ReadIndex round, shared by all callers), or it could renew a lease that others have seen revoked
(etcd PR 20615). A follower asks the leader over the peer port, by etcd's own two paths:

    POST /leases            LeaseKeepAliveRequest -> LeaseKeepAliveResponse
    POST /leases/internal   LeaseInternalRequest -> LeaseInternalResponse

Rules. The header of a keep-alive answer is made before the renewal, so that its revision is not
later than the moment the lease was known to live. A missing lease is no error here: TTL 0 when
kept alive, -1 when asked for, as in etcd.

Limits. A request is tried for `timeout_s`, with FORWARD_PAUSE_S between two rounds over the
leader's URLs. Bodies from peers: BODY_BYTES_MAX, beyond it 413.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from pyetcd.proto.errors import EtcdError, LeaderChanged, LeaseNotFound, NoLeader, NoSpace, Timeout
from pyetcd.proto.lease_pb2 import LeaseInternalRequest, LeaseInternalResponse
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    LeaseCheckpoint,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from pyetcd.server.access import OFF, Access, Switch
from pyetcd.server.api.base import Done, Headers, answer_to
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.api.kv import Quota
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.wire.grpc import ServerStream, UnaryCall
from pyetcd.store.lease import Expiring, Lessor, NotPrimary

RENEW_PATH: Final = "/leases"
INTERNAL_PATH: Final = "/leases/internal"
BODY_BYTES_MAX: Final = 64 * 1024
FORWARD_PAUSE_S: Final = 0.05
APPLY_TIMEOUT_S: Final = 1.0  # a peer's question waits this long for our applied index

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# (url, body) -> (status, body); status 0 when nobody answered.
Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]


class Proposer(Protocol):
    """Sends a request through raft (server/propose.py)."""

    def propose(self, request: InternalRaftRequest, done: Done) -> None: ...

    def next_id(self) -> int: ...


class Leadership(Protocol):
    """Who leads, as far as this member knows."""

    @property
    def is_leader(self) -> bool: ...

    def leader_peer_urls(self) -> Sequence[str]:
        """Empty while no leader is known."""


class LeaseApi:
    """The five methods of etcdserverpb.Lease, and the peer's side of their forwarding."""

    def __init__(
        self,
        *,
        headers: Headers,
        proposer: Proposer,
        reads: LinearizableReads,
        lessor: Lessor,
        leadership: Leadership,
        guard: LeaderGuard,
        quota: Quota | None = None,
        post: Post,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        access: Access | None = None,
    ) -> None:
        self._headers = headers
        self._proposer = proposer
        self._reads = reads
        self._lessor = lessor
        self._leadership = leadership
        self._guard = guard
        self._quota = quota
        self._post = post
        self._loop = loop
        self._timeout_s = timeout_s
        self._access = access
        self._auth: Switch = OFF if access is None else access.auth
        # Bound: one per unary call under way, which the listener bounds.
        self._tasks: set[asyncio.Task[None]] = set()

    # -- client calls

    def lease_grant(self, call: UnaryCall, request: LeaseGrantRequest) -> None:
        while request.ID == 0:  # the server picks one, and only positive ones
            request.ID = self._proposer.next_id() & (1 << 63) - 1
        done = answer_to(call, self._headers)
        proposal = InternalRaftRequest(lease_grant=request)
        if self._quota is None or self._quota.fits(proposal):
            return self._proposer.propose(proposal, done)
        return self._quota.raise_nospace(lambda: done(NoSpace()))

    def lease_revoke(self, call: UnaryCall, request: LeaseRevokeRequest) -> None:
        done = answer_to(call, self._headers)
        proposal = InternalRaftRequest(lease_revoke=request)
        if self._auth.enabled:
            assert self._access is not None
            self._access.sign(call, proposal)
        self._proposer.propose(proposal, done)

    def lease_leases(self, call: UnaryCall, request: LeaseLeasesRequest) -> None:
        """Those that this member has applied, as etcd: no question to the leader."""
        ids = self._lessor.ids()
        if self._auth.enabled:
            assert self._access is not None
            self._access.permit_reading(call, (key for id in ids for key in self._lessor.keys(id)))
        leases = [LeaseStatus(ID=id) for id in ids]
        answer_to(call, self._headers)(LeaseLeasesResponse(leases=leases))

    def lease_time_to_live(self, call: UnaryCall, request: LeaseTimeToLiveRequest) -> None:
        task = self._loop.create_task(self._answer_time_to_live(call, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def lease_keep_alive(self, stream: ServerStream) -> None:
        with self._guard.watch(stream):
            async for request in stream:
                assert isinstance(request, LeaseKeepAliveRequest)
                if self._auth.enabled:
                    assert self._access is not None
                    self._access.permit_renewal(stream, request.ID)
                answer = LeaseKeepAliveResponse(ID=request.ID)
                self._headers.fill(answer.header)
                try:
                    answer.TTL = await self.renew(request.ID)
                except LeaseNotFound:
                    answer.TTL = 0
                stream.send(answer.SerializeToString())
                await stream.drain()

    # -- renewing and asking, here or at the leader

    async def renew(self, id: int) -> int:
        """The new TTL; raises LeaseNotFound, or why nobody could be asked."""
        request = LeaseKeepAliveRequest(ID=id).SerializeToString()
        answer = await self._ask(
            lambda: self._renew_here(id), RENEW_PATH, request, LeaseKeepAliveResponse
        )
        if isinstance(answer, int):
            return answer
        if id != answer.ID:
            raise LeaderChanged  # not the answer to our question
        return answer.TTL

    async def time_to_live(self, id: int, *, keys: bool) -> LeaseTimeToLiveResponse:
        """Without a header; raises LeaseNotFound, or why nobody could be asked."""
        question = LeaseTimeToLiveRequest(ID=id, keys=keys)
        request = LeaseInternalRequest(LeaseTimeToLiveRequest=question).SerializeToString()
        answer = await self._ask(
            lambda: self._describe_here(question), INTERNAL_PATH, request, LeaseInternalResponse
        )
        if isinstance(answer, LeaseInternalResponse):
            return answer.LeaseTimeToLiveResponse
        return answer

    async def _answer_time_to_live(self, call: UnaryCall, request: LeaseTimeToLiveRequest) -> None:
        done = answer_to(call, self._headers)
        try:
            answer = await self.time_to_live(request.ID, keys=request.keys)
            answer.ClearField("header")
            if self._auth.enabled:
                # By the answer's own keys: this member may not have applied all of them yet.
                assert self._access is not None
                self._access.permit_reading(call, answer.keys)
            done(answer)
        except LeaseNotFound:
            done(LeaseTimeToLiveResponse(ID=request.ID, TTL=-1))
        except EtcdError as error:
            done(error)

    async def _ask(
        self, here: Callable[[], Awaitable[T]], path: str, body: bytes, kind: type[M]
    ) -> T | M:
        """`here` while this member leads, else the leader at `path`; again until it is known."""
        deadline_s = self._loop.time() + self._timeout_s
        while self._loop.time() < deadline_s:
            if self._leadership.is_leader:
                try:
                    return await here()
                except NotPrimary:
                    pass  # just elected, or just not any more
            else:
                for url in self._leadership.leader_peer_urls():
                    status, answer = await self._post(url + path, body)
                    if status == 404:
                        raise LeaseNotFound
                    if status == 200:
                        try:
                            return kind.FromString(answer)
                        except DecodeError:
                            pass  # something else listens there: the next one
            await asyncio.sleep(FORWARD_PAUSE_S)
        # Whether there is one now: it may have gone away meanwhile (etcd: waitLeader).
        has_leader = self._leadership.is_leader or self._leadership.leader_peer_urls()
        raise Timeout if has_leader else NoLeader

    async def _renew_here(self, id: int) -> int:
        await self._confirm()
        while True:
            if self._lessor.is_primary and self._lessor.must_forget_checkpoint(id):
                await self._forget_checkpoint(id)
            try:
                return self._lessor.renew(id)
            except Expiring:
                # Its revoke is on the way; only when that is settled there is an answer.
                await self._settled(id)

    async def _describe_here(self, request: LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse:
        await self._confirm()
        lessor = self._lessor
        lease = lessor.get(request.ID)
        if lease is None:
            raise LeaseNotFound
        if not lessor.is_primary:
            raise NotPrimary
        answer = LeaseTimeToLiveResponse(
            ID=lease.id, TTL=int(lessor.remaining_s(lease)), grantedTTL=lease.ttl_s
        )
        if request.keys:
            answer.keys.extend(lessor.keys(lease.id))
        return answer

    async def _confirm(self) -> None:
        """This member leads, and has applied what was committed when we asked."""
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: EtcdError | None) -> None:
            if future.done():
                return  # the caller went away
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._reads.wait(done)
        await future
        if not self._leadership.is_leader:
            raise NotPrimary

    async def _forget_checkpoint(self, id: int) -> None:
        future: asyncio.Future[None] = self._loop.create_future()

        def done(answer: Message | EtcdError) -> None:
            if future.done():
                return
            if isinstance(answer, EtcdError):
                future.set_exception(answer)
            else:
                future.set_result(None)

        request = InternalRaftRequest()
        request.lease_checkpoint.checkpoints.append(LeaseCheckpoint(ID=id, remaining_TTL=0))
        self._proposer.propose(request, done)
        await future

    async def _settled(self, id: int) -> None:
        event = asyncio.Event()
        self._lessor.when_settled(id, event.set)
        try:
            await event.wait()
        finally:
            self._lessor.forget_waiter(id, event.set)

    # -- the peer's side

    async def handle_leases(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a POST to one of the two paths: status and body. 200 has the content type
        application/protobuf, everything else is text (etcd lease/leasehttp)."""
        if len(body) > BODY_BYTES_MAX:
            return 413, b"request body too large\n"
        if path not in (RENEW_PATH, INTERNAL_PATH):
            return 400, f'unknown request path "{path}"\n'.encode()
        try:
            keep_alive = LeaseKeepAliveRequest.FromString(body) if path == RENEW_PATH else None
            internal = LeaseInternalRequest.FromString(body) if path == INTERNAL_PATH else None
        except DecodeError:
            return 400, b"error unmarshalling request\n"
        try:
            if not self._leadership.is_leader:
                raise NotPrimary
            async with asyncio.timeout(APPLY_TIMEOUT_S if internal else self._timeout_s):
                answer = await self._answer_peer(keep_alive, internal)
        except LeaseNotFound:
            return 404, b"lease not found\n"
        except NotPrimary:
            return (400 if keep_alive else 500), b"not a primary lessor\n"
        except TimeoutError:
            text = b"waiting for node to catch up its applied index has timed out\n"
            return 408, text
        except EtcdError as error:
            return 500, f"{error.text}\n".encode()
        return 200, answer.SerializeToString()

    async def _answer_peer(
        self, keep_alive: LeaseKeepAliveRequest | None, internal: LeaseInternalRequest | None
    ) -> Message:
        while True:
            try:
                if keep_alive is not None:
                    ttl_s = await self._renew_here(keep_alive.ID)
                    return LeaseKeepAliveResponse(ID=keep_alive.ID, TTL=ttl_s)
                assert internal is not None
                described = await self._describe_here(internal.LeaseTimeToLiveRequest)
                described.header.SetInParent()  # etcd sends an empty one
                return LeaseInternalResponse(LeaseTimeToLiveResponse=described)
            except NotPrimary:
                # Just elected: the lessor follows with the next tick.
                if not self._leadership.is_leader:
                    raise
                await asyncio.sleep(FORWARD_PAUSE_S)
