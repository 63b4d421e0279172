"""Watch, towards the clients: one handler for each stream, on top of the hub.

Rules, as etcd's proxy: whether the client may read the keys is asked of the cluster, in the
client's name, before its watch rides on another's; a refusal is an answer with the id -1. Beyond
it: ids that the client chooses, as a member takes them, and answers to requests for progress, once
every stream to the cluster that feeds the client has answered.
"""

import asyncio
from typing import Final

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import EtcdError
from pyetcd.proto.keys import FROM_KEY
from pyetcd.server.proxy.broadcast import Watcher
from pyetcd.server.proxy.calls import metadata_of, token_of
from pyetcd.server.proxy.leader import LeaderWatch
from pyetcd.server.proxy.upwatch import PROGRESS_ID, StreamWatcher, UpWatch
from pyetcd.server.wire.grpc import ServerStream

WATCHERS_MAX: Final = 10_000  # of one client stream; one more is refused
DUPLICATE: Final = "mvcc: duplicate watch ID provided on the WatchStream"


class WatchFront:
    """etcdserverpb.Watch/Watch."""

    def __init__(self, upwatch: UpWatch, leader: LeaderWatch) -> None:
        self._upwatch = upwatch
        self._leader = leader

    async def watch(self, stream: ServerStream) -> None:
        session = _Session(self._upwatch, stream)
        try:
            async with self._leader.during(stream):
                async for request in stream:
                    assert isinstance(request, rpc.WatchRequest)
                    await session.take(request)
        finally:
            session.close()


class _Session:
    """The watches of one client stream."""

    def __init__(self, upwatch: UpWatch, stream: ServerStream) -> None:
        self._upwatch = upwatch
        self._stream = stream
        self._token = token_of(stream)
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self._progress: asyncio.Task[None] | None = None

    async def take(self, request: rpc.WatchRequest) -> None:
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            await self._create(request.create_request)
        elif kind == "cancel_request":
            self._cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._ask_progress()
        await self._stream.drain()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.cancel()
        for watcher in self._watchers.values():
            self._upwatch.hub.remove(watcher)
        self._watchers.clear()

    async def _create(self, request: rpc.WatchCreateRequest) -> None:
        try:
            await self._check_permission(request.key, request.range_end)
        except EtcdError as refusal:
            header = rpc.ResponseHeader()
            self._refuse(rpc.WatchResponse(header=header, cancel_reason=refusal.text))
            return
        end = request.range_end
        if end and end != FROM_KEY and end <= request.key:
            self._refuse(rpc.WatchResponse())
            return
        if request.watch_id in self._watchers and request.watch_id:
            self._refuse(rpc.WatchResponse(cancel_reason=DUPLICATE))
            return
        if len(self._watchers) >= WATCHERS_MAX:
            self._refuse(rpc.WatchResponse(cancel_reason="etcdserver: too many requests"))
            return
        watcher = StreamWatcher(
            request.watch_id or self._new_id(),
            request,
            send=self._stream.send,
            token=self._token,
            ended=self._ended,
        )
        watcher.stream = self._stream
        self._watchers[watcher.id] = watcher
        self._upwatch.hub.add(watcher)

    def _ask_progress(self) -> None:
        """One question at a time; who asks again meanwhile has the same answer."""
        if self._progress is None or self._progress.done():
            self._progress = asyncio.get_running_loop().create_task(self._tell_progress())

    async def _tell_progress(self) -> None:
        header = await self._upwatch.progress(lambda: list(self._watchers.values()))
        if header is not None:
            response = rpc.WatchResponse(header=header, watch_id=PROGRESS_ID)
            self._stream.send(response.SerializeToString())

    def _new_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    async def _check_permission(self, key: bytes, range_end: bytes) -> None:
        if not key:
            key = range_end = FROM_KEY
        request = rpc.RangeRequest(
            key=key, range_end=range_end, serializable=True, count_only=True, limit=1
        )
        await self._upwatch.upstream.unary(
            "/etcdserverpb.KV/Range",
            self._upwatch.namespace.into(request).SerializeToString(),
            metadata_of(self._stream),
            is_repeatable=True,
        )

    def _refuse(self, response: rpc.WatchResponse) -> None:
        response.watch_id = -1
        response.created = response.canceled = True
        self._stream.send(response.SerializeToString())

    def _cancel(self, id: int) -> None:
        watcher = self._watchers.pop(id, None)
        if watcher is not None:
            self._upwatch.hub.remove(watcher)
            watcher.say(rpc.WatchResponse(header=watcher.header, canceled=True))

    def _ended(self, watcher: Watcher) -> None:
        for id, one in list(self._watchers.items()):  # its id may be -1 by now
            if one is watcher:
                del self._watchers[id]
