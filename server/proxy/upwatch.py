"""The cluster's side of watches: broadcasts over gRPC streams, begun again after a break.

Strategy. Broadcasts that follow what is new share one stream for each token; the cluster answers
the creates of a stream in order, so one create is under way at a time (a refusal has no id). A
broadcast from a past revision has a stream of its own, which is read no faster than its watchers
take it; when its watchers have moved to another broadcast, the stream is given up.

Rules. A stream that breaks is opened again, on an endpoint that is there, after a pause, and every
broadcast goes on behind the last revision that it has given away. Its watchers hear nothing of
that. Only what the cluster refuses for good ends them.

Limits: OWN_STREAMS_MAX streams for past revisions of one token, more share the common one. Events
wait in grpc's window and with each client's connection (stream_send_bytes_max, then that client's
stream is reset).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import grpc.aio

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import Code, EtcdError
from pyetcd.server.proxy.broadcast import Broadcast, Hub, Watcher
from pyetcd.server.proxy.namespace import Namespace
from pyetcd.server.proxy.upstream import EOF, Bidi, Metadata, Upstream
from pyetcd.server.wire.grpc import ServerStream

WATCH: Final = "/etcdserverpb.Watch/Watch"
OWN_STREAMS_MAX: Final = 256
AGAIN_S: Final = 0.1
PART_BYTES: Final = 1 << 20
PROGRESS_ID: Final = -1  # of the answer to a request for progress
PROGRESS_S, PROGRESS_TRIES = 5.0, 3
Progress = asyncio.Future[rpc.ResponseHeader]
TAKE_S: Final = 5.0  # for a client that reads slowly; then others on its broadcast go on
_PASSING: Final = (Code.UNAVAILABLE, Code.INTERNAL, Code.CANCELLED, Code.DEADLINE_EXCEEDED)


class StreamWatcher(Watcher):
    """A watcher whose client has a connection; others take everything at once."""

    __slots__ = ("stream",)
    stream: ServerStream


class UpWatch:
    """All streams to the cluster; the host of the hub."""

    def __init__(self, upstream: Upstream, namespace: Namespace) -> None:
        self.upstream = upstream
        self.namespace = namespace
        self.hub = Hub(self._open, self._close)
        self._shared: dict[str, _Stream] = {}
        self._own: dict[str, int] = {}
        self._streams: set[_Stream] = set()

    async def stop(self) -> None:
        streams = list(self._streams)
        for stream in streams:
            stream.task.cancel()
        await asyncio.gather(*(stream.task for stream in streams), return_exceptions=True)

    async def progress(
        self, watchers: Callable[[], Iterable[Watcher]]
    ) -> rpc.ResponseHeader | None:
        """A header whose revision all of these have heard of; None when the cluster does not say.

        Each stream is asked. A watcher that has moved to another one meanwhile asks again there.
        The answer is as good as the cluster's: before 3.5.8 etcd answers for watches that are still
        catching up, too.
        """
        for _ in range(PROGRESS_TRIES):
            riders = {one: one.broadcast for one in watchers() if one.broadcast is not None}
            streams = {one.upstream for one in riders.values()}
            if not streams:
                return None
            asked = [one.ask_progress() for one in streams if isinstance(one, _Stream)]
            try:
                async with asyncio.timeout(PROGRESS_S):
                    headers = await asyncio.gather(*asked)
            except TimeoutError:
                return None
            if all(one.broadcast is rides_on for one, rides_on in riders.items()):
                return min(headers, key=lambda header: header.revision)
        return None

    def _open(self, broadcast: Broadcast) -> None:
        token = broadcast.owner.token
        is_own = bool(broadcast.start_revision) and self._own.get(token, 0) < OWN_STREAMS_MAX
        stream = None if is_own else self._shared.get(token)
        if stream is None:
            stream = _Stream(self, token, is_own=is_own)
            self._streams.add(stream)
            if is_own:
                self._own[token] = self._own.get(token, 0) + 1
            else:
                self._shared[token] = stream
        stream.add(broadcast)

    def _close(self, broadcast: Broadcast) -> None:
        stream = broadcast.upstream
        assert isinstance(stream, _Stream)
        stream.remove(broadcast)
        if stream.is_empty:
            self._drop(stream)

    def _drop(self, stream: "_Stream") -> None:
        if stream not in self._streams:
            return
        self._streams.discard(stream)
        if stream.is_own:
            self._own[stream.token] -= 1
            if not self._own[stream.token]:
                del self._own[stream.token]
        else:
            del self._shared[stream.token]
        # Later: it may be this very task that has found out.
        asyncio.get_running_loop().call_soon(stream.task.cancel)


class _Stream:
    """One gRPC stream, or what is left of it until it is opened again."""

    def __init__(self, host: UpWatch, token: str, *, is_own: bool) -> None:
        self.token = token
        self.is_own = is_own
        self._host = host
        self._waiting: deque[Broadcast] = deque()
        self._creating: Broadcast | None = None
        self._is_given_up = False  # what is being created
        self._by_id: dict[int, Broadcast] = {}
        self._ids: dict[Broadcast, int] = {}
        self._cancels: deque[int] = deque()
        self._to_ask: list[Progress] = []  # of who wants to know the progress
        self._asked: deque[list[Progress]] = deque()  # a request each
        self._wake = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_empty(self) -> bool:
        creating = self._creating is not None and not self._is_given_up
        return not (self._waiting or self._ids or creating)

    def add(self, broadcast: Broadcast) -> None:
        broadcast.upstream = self
        self._waiting.append(broadcast)
        self._wake.set()

    def remove(self, broadcast: Broadcast) -> None:
        if broadcast is self._creating:
            self._is_given_up = True
        elif (id := self._ids.pop(broadcast, None)) is not None:
            del self._by_id[id]
            self._cancels.append(id)
            self._wake.set()
        elif broadcast in self._waiting:
            self._waiting.remove(broadcast)

    def ask_progress(self) -> "Progress":
        """What the cluster says for this stream; cancelled when the stream breaks."""
        answer: Progress = asyncio.get_running_loop().create_future()
        self._to_ask.append(answer)
        self._wake.set()
        return answer

    # The stream

    async def _run(self) -> None:
        while True:
            failure = await self._serve()
            broadcasts = self._interrupted()
            if failure is not None and failure.code not in _PASSING:
                broadcasts += self._waiting
                self._waiting.clear()
                for broadcast in broadcasts:
                    self._host.hub.refused(broadcast, failure.text)
            else:
                self._waiting.extend(broadcasts)
            await asyncio.sleep(AGAIN_S)

    def _interrupted(self) -> list[Broadcast]:
        """What the stream that broke had carried, to be asked for again."""
        broadcasts = list(self._ids)
        if self._creating is not None and not self._is_given_up:
            broadcasts.append(self._creating)
        self._creating, self._is_given_up = None, False
        self._by_id.clear()
        self._ids.clear()
        self._cancels.clear()
        for answer in (*self._to_ask, *(one for batch in self._asked for one in batch)):
            answer.cancel()
        self._to_ask.clear()
        self._asked.clear()
        return broadcasts

    async def _serve(self) -> EtcdError | None:
        """Until the stream breaks."""
        upstream = self._host.upstream
        try:
            peer = await upstream.ready()
        except EtcdError as failure:
            return failure
        metadata: Metadata = (("token", self.token),) if self.token else ()
        call = upstream.stream(peer, WATCH, metadata)
        writer = asyncio.get_running_loop().create_task(self._write(call))
        try:
            while (raw := await call.read()) is not EOF:
                await self._received(rpc.WatchResponse.FromString(raw))
            return None
        except grpc.aio.AioRpcError as failure:
            return await upstream.translate(failure, peer)
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call: Bidi) -> None:
        """Cancels, and one create at a time."""
        try:
            while True:
                self._wake.clear()
                while self._cancels:
                    cancel = rpc.WatchCancelRequest(watch_id=self._cancels.popleft())
                    request = rpc.WatchRequest(cancel_request=cancel)
                    await call.write(request.SerializeToString())
                if self._to_ask and self._creating is None and not self._waiting:
                    self._asked.append(self._to_ask)
                    self._to_ask = []
                    asked = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
                    await call.write(asked.SerializeToString())
                if self._waiting and self._creating is None:
                    self._creating = self._waiting.popleft()
                    await call.write(self._create_request(self._creating))
                    continue
                await self._wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the reader is told why

    def _create_request(self, broadcast: Broadcast) -> bytes:
        key, range_end = broadcast.range
        create = rpc.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=broadcast.start_revision,
            progress_notify=True,
            prev_kv=True,
        )
        request = rpc.WatchRequest(create_request=self._host.namespace.into(create))
        return request.SerializeToString()

    async def _received(self, response: rpc.WatchResponse) -> None:
        hub = self._host.hub
        if response.created:
            broadcast, is_given_up = self._creating, self._is_given_up
            self._creating, self._is_given_up = None, False
            self._wake.set()
            if broadcast is None:
                return
            if is_given_up:
                if not response.canceled:
                    self._cancels.append(response.watch_id)
                return
            if not response.canceled:
                self._by_id[response.watch_id] = broadcast
                self._ids[broadcast] = response.watch_id
        else:
            found = self._by_id.get(response.watch_id)
            if found is None:
                if response.watch_id == PROGRESS_ID and not response.canceled:
                    self._answer_progress(response.header)
                return  # or given up meanwhile
            broadcast = found
            if response.canceled:
                del self._by_id[response.watch_id], self._ids[broadcast]
        self._host.namespace.strip_events(response)
        for part in parts(response):
            hub.received(broadcast, part)
            if self.is_own:
                await self._wait_for_clients(broadcast)
            if broadcast not in self._ids:
                return  # its watchers have moved on, or are gone

    def _answer_progress(self, header: rpc.ResponseHeader) -> None:
        """The cluster answers in order, but may leave a request without an answer."""
        while self._asked:
            waiting = [one for one in self._asked.popleft() if not one.done()]
            for answer in waiting:
                answer.set_result(header)
            if waiting:
                return

    async def _wait_for_clients(self, broadcast: Broadcast) -> None:
        for watcher in list(broadcast.watchers):
            if isinstance(watcher, StreamWatcher) and not watcher.stream.can_send:
                try:
                    async with asyncio.timeout(TAKE_S if len(broadcast.watchers) > 1 else None):
                        await watcher.stream.drain()
                except TimeoutError:
                    pass


def parts(response: rpc.WatchResponse) -> Iterator[rpc.WatchResponse]:
    """A long answer in several, between revisions: one message of a watch that catches up may hold
    a thousand of them, more than a client's connection may."""
    if len(response.events) < 2 or response.ByteSize() <= PART_BYTES:
        yield response
        return
    part = rpc.WatchResponse(header=response.header)
    size, revision = 0, 0
    for event in response.events:
        if size > PART_BYTES and event.kv.mod_revision != revision:
            yield part
            part = rpc.WatchResponse(header=response.header)
            size = 0
        part.events.append(event)
        size += event.ByteSize()
        revision = event.kv.mod_revision
    yield part
