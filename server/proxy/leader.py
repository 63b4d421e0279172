"""Whether the cluster has a leader, for streams of clients that want to hear when it has none.

One stream to the cluster with `hasleader`, without a watch on it, for all of them: the cluster ends
it with "no leader". It is there while somebody wants to know.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc.aio

from pyetcd.proto.errors import EtcdError, NoLeader
from pyetcd.server.proxy.upstream import EOF, Upstream
from pyetcd.server.wire.grpc import ServerStream

AGAIN_S: Final = 0.1
LEADER_METADATA: Final = (("hasleader", "true"),)


class LeaderWatch:
    """For all streams of a proxy."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._interested: set[_Interest] = set()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def during(self, stream: ServerStream) -> AsyncIterator[None]:
        """What runs inside ends with NoLeader when there is none, if the client asked for that."""
        if str(stream.metadata.get("hasleader", "")).lower() != "true":
            yield
            return
        task = asyncio.current_task()
        assert task is not None
        interest = _Interest(task)
        self._interested.add(interest)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield
        except asyncio.CancelledError:
            if not interest.is_lost:
                raise
            task.uncancel()
            raise NoLeader() from None
        finally:
            self._interested.discard(interest)
            if not self._interested:
                self.stop()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                peer = await self._upstream.ready()
            except EtcdError:
                continue  # after its wait
            call = self._upstream.stream(peer, "/etcdserverpb.Watch/Watch", LEADER_METADATA)
            try:
                while await call.read() is not EOF:
                    pass
                text = await call.details() or ""
            except grpc.aio.AioRpcError as failure:
                text = failure.details() or ""
            finally:
                call.cancel()
            if text == NoLeader.text:
                for interest in list(self._interested):
                    interest.is_lost = True
                    interest.task.cancel()
            await asyncio.sleep(AGAIN_S)


class _Interest:
    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.is_lost = False
