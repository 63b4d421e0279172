"""LeaseKeepAlive: the streams of all clients over one stream to the cluster for each token.

Strategy. A client's request goes to the cluster unless one for the same lease is on its way; then
it waits for that one's answer. So a lease that hundreds of clients keep alive together costs the
cluster one request at a time. (etcd's proxy keeps a lease alive on a timer of its own, up to a TTL
longer than its clients do; here a lease lives as long as somebody asks.)

Rules. When the cluster's stream breaks, what waited for an answer is asked TRIES times on another
one; then the streams of those clients end as they would at a member.

Limits: LEASES_MAX leases waited for on one stream of a client: then it is not read on.
"""

import asyncio
from collections import deque
from typing import Final

import grpc.aio

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.server.proxy.calls import token_of
from pyetcd.server.proxy.leader import LeaderWatch
from pyetcd.server.proxy.upstream import EOF, Bidi, Upstream
from pyetcd.server.wire.grpc import ServerStream

KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
LEASES_MAX: Final = 1000
TRIES, AGAIN_S = 3, 0.1
Answer = asyncio.Future[bytes]


class KeepAlives:
    """For all clients of a proxy."""

    def __init__(self, upstream: Upstream, leader: LeaderWatch) -> None:
        self._upstream = upstream
        self._leader = leader
        self._streams: dict[str, _Stream] = {}

    async def stop(self) -> None:
        for stream in list(self._streams.values()):
            stream.task.cancel()
        tasks = [stream.task for stream in self._streams.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def keep_alive(self, stream: ServerStream) -> None:
        """The stream handler."""
        token = token_of(stream)
        try:
            async with self._leader.during(stream), asyncio.TaskGroup() as group:
                await self._read(stream, token, group)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _read(self, stream: ServerStream, token: str, group: asyncio.TaskGroup) -> None:
        room = asyncio.Semaphore(LEASES_MAX)
        async for request in stream:
            assert isinstance(request, rpc.LeaseKeepAliveRequest)
            await room.acquire()
            task = group.create_task(self._forward(stream, token, request.ID))
            task.add_done_callback(lambda _: room.release())
            await stream.drain()

    async def _forward(self, stream: ServerStream, token: str, id: int) -> None:
        stream.send(await self.once(token, id))

    async def once(self, token: str, id: int) -> bytes:
        """One answer for a lease, over another stream if one breaks; raises EtcdError."""
        for attempt in range(TRIES):
            up = self._streams.get(token)
            if up is None:
                up = self._streams[token] = _Stream(self, self._upstream, token)
            try:
                return await asyncio.shield(up.ask(id))
            except EtcdError as failure:
                if failure.code != Code.UNAVAILABLE or attempt == TRIES - 1:
                    raise
            await asyncio.sleep(AGAIN_S)
        raise AssertionError("no try is left")

    def gone(self, stream: "_Stream") -> None:
        if self._streams.get(stream.token) is stream:
            del self._streams[stream.token]


class _Stream:
    """One stream to the cluster; it ends after IDLE_S without a question."""

    IDLE_S: Final = 60.0

    def __init__(self, host: KeepAlives, upstream: Upstream, token: str) -> None:
        self.token = token
        self._host = host
        self._upstream = upstream
        self._asked: dict[int, Answer] = {}
        self._questions: deque[int] = deque()
        self._wake = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def ask(self, id: int) -> Answer:
        """The answer to come: that of a question under way, or of a new one."""
        answer = self._asked.get(id)
        if answer is None:
            answer = self._asked[id] = asyncio.get_running_loop().create_future()
            # Nobody may wait for it any more when it fails.
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._questions.append(id)
            self._wake.set()
        return answer

    async def _run(self) -> None:
        failure: EtcdError | None = None
        try:
            failure = await self._serve()
        finally:
            self._host.gone(self)
            for answer in self._asked.values():
                if answer.done():
                    continue
                if failure is None:
                    answer.cancel()
                else:
                    answer.set_exception(failure)

    async def _serve(self) -> EtcdError | None:
        lost = RpcError(Code.UNAVAILABLE, "transport is closing")
        try:
            peer = await self._upstream.ready()
        except EtcdError as failure:
            return failure
        metadata = (("token", self.token),) if self.token else ()
        call = self._upstream.stream(peer, KEEP_ALIVE, metadata)
        writer = asyncio.create_task(self._write(call))
        try:
            while True:
                try:
                    async with asyncio.timeout(None if self._asked else self.IDLE_S):
                        raw = await call.read()
                except TimeoutError:
                    if self._asked:
                        return lost  # asked while the time ran out
                    return None
                if raw is EOF:
                    return lost
                id = rpc.LeaseKeepAliveResponse.FromString(raw).ID
                answer = self._asked.pop(id, None)
                if answer is not None and not answer.done():
                    answer.set_result(raw)
        except grpc.aio.AioRpcError as failure:
            return await self._upstream.translate(failure, peer)
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call: Bidi) -> None:
        try:
            while True:
                self._wake.clear()
                while self._questions:
                    request = rpc.LeaseKeepAliveRequest(ID=self._questions.popleft())
                    await call.write(request.SerializeToString())
                await self._wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the reader is told why
