"""Watch: one handler per client stream between gRPC and the store's watch hub.

Strategy. The handler's coroutine reads requests; replies never pass through it. The hub's step
calls a stream's sink, and the sink encodes and sends what the connection takes now. Only when the
client is slow is there a second task, which waits for room and ends when the queue is empty. So an
event for ten thousand streams costs ten thousand sends and no task switch.

The hub asks for its steps by `wake`; the first runs in the loop's next turn, after the batch that
made the work. While somebody has to catch up, each further step comes after a pause as long as the
one before took, so that half of the loop is left to others (etcd: syncWatchersLoop); what is new
meanwhile is sent at once.

Bounds. The store's queue per stream (streams.py), behind it what the connection may hold
(`can_send`). While the queue is full no further request is read.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from pyetcd.proto.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchRequest
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.wire.grpc import ServerStream
from pyetcd.store.events import Reply, fragments, varint
from pyetcd.store.streams import WatchStream
from pyetcd.store.watch import WatchHub

PROGRESS_INTERVAL_S: Final = 600.0
PROGRESS_INTERVAL_S_MIN: Final = 0.1
PROGRESS_JITTER: Final = 0.1  # or clients that came back together would be told together
OVERHEAD_BYTES: Final = 512 * 1024  # what etcd adds to --max-request-bytes for a message
SEND_BYTES: Final = 64 * 1024  # taken at once from the queue; then the connection is asked again
# A reply above this waits until nothing else of the stream is queued, for the listener resets a
# stream whose queue grows over its own limit. Looked at again after this long.
LARGE_BYTES: Final = 1 << 20
LARGE_WAIT_S: Final = 0.005


class HeaderSource(Protocol):
    """Who answers, in which term."""

    cluster_id: int
    member_id: int

    @property
    def raft_term(self) -> int: ...


Authorize = Callable[[ServerStream, WatchCreateRequest], str]


def allow_all(stream: ServerStream, request: WatchCreateRequest) -> str:
    """The check of a create request as long as there is no authentication: no refusal text."""
    return ""


class WatchApi:
    """etcdserverpb.Watch/Watch, and what drives the hub."""

    def __init__(
        self,
        hub: WatchHub,
        headers: HeaderSource,
        *,
        guard: LeaderGuard,
        loop: asyncio.AbstractEventLoop,
        fatal: Callable[[BaseException], None],
        request_bytes_max: int,
        progress_interval_s: float = PROGRESS_INTERVAL_S,
        authorize: Authorize = allow_all,
    ) -> None:
        self.hub = hub
        self.loop = loop
        self.authorize = authorize
        self.fragment_bytes = request_bytes_max + OVERHEAD_BYTES
        self.progress_interval_s = max(progress_interval_s, PROGRESS_INTERVAL_S_MIN)
        self._guard = guard
        self._fatal = fatal
        self._headers = headers
        self._header_key = (-1, -1)
        self._header = b""
        self._is_scheduled = False
        self._is_pausing = False  # between two steps of catching up
        hub.wake = self._wake

    async def watch(self, stream: ServerStream) -> None:
        """The stream handler."""
        with self._guard.watch(stream):
            await _Session(self, stream).run()

    def encode(self, replies: list[Reply]) -> list[bytes]:
        """Their messages. Almost all replies of a batch are plain and of one revision."""
        messages: list[bytes] = []
        head, head_revision = b"", -1
        for reply in replies:
            id, revision, events, may_fragment, created, canceled, _, _ = reply
            if revision != head_revision:
                head, head_revision = self._header_field(revision), revision
            if may_fragment or created or canceled:
                messages += self._encode_other(reply, head + _id_field(id))
            elif 0 <= id < len(_ID_FIELDS):
                messages.append(head + _ID_FIELDS[id] + events.joined())
            else:
                messages.append(head + _id_field(id) + events.joined())
        return messages

    def _encode_other(self, reply: Reply, head: bytes) -> Iterator[bytes]:
        if not reply.may_fragment:
            yield head + _flags(reply) + reply.events.joined()
            return
        *pieces, last = fragments(reply.events, self.fragment_bytes, len(head))
        for piece in pieces:
            yield head + b"\x38\x01" + piece.joined()  # fragment = true
        yield head + last.joined()

    def _header_field(self, revision: int) -> bytes:
        """Field 1 of a response; the same bytes for everyone who gets this revision."""
        key = (revision, self._headers.raft_term)
        if key != self._header_key:
            header = ResponseHeader(
                cluster_id=self._headers.cluster_id,
                member_id=self._headers.member_id,
                revision=revision,
                raft_term=key[1],
            ).SerializeToString()
            self._header_key = key
            self._header = b"\x0a" + varint(len(header)) + header
        return self._header

    def _wake(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        try:
            if self._is_pausing:
                self.hub.flush()  # new events do not wait for those who catch up
                return
            started_s = self.loop.time()
            if self.hub.step():
                self._is_pausing = True
                self.loop.call_later(self.loop.time() - started_s, self._resume)
        except Exception as error:  # the disk, or our own bug: either way the member must stop
            self._fatal(error)

    def _resume(self) -> None:
        self._is_pausing = False
        self._turn()


class _Session:
    """One client stream."""

    def __init__(self, api: WatchApi, stream: ServerStream) -> None:
        self._api = api
        self._stream = stream
        self._queue = WatchStream(api.hub, self._flush)
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        try:
            async for request in self._stream:
                assert isinstance(request, WatchRequest)
                self._handle(request)
                while self._queue.is_full:
                    await self._make_room()
            # The client has no more requests; it still wants its events until it goes away.
            if not self._stream.cancelled:
                await self._api.loop.create_future()
        finally:
            self._queue.close()
            if self._writer is not None:
                self._writer.cancel()
            if self._timer is not None:
                self._timer.cancel()

    def _handle(self, request: WatchRequest) -> None:
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            create = request.create_request
            refusal = self._api.authorize(self._stream, create)
            if refusal:
                self._queue.refuse(refusal)
            else:
                self._queue.watch(create)
                if create.progress_notify:
                    self._start_timer()
        elif kind == "cancel_request":
            self._queue.cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._queue.request_progress()

    # -- sending

    def _flush(self) -> None:
        """The queue's sink: send what the connection takes now, leave the rest to a task."""
        if self._writer is not None:
            return  # it will come to it
        if not self._send_some():
            self._writer = self._api.loop.create_task(self._write())

    def _send_some(self) -> bool:
        """Whether everything was sent."""
        queue, stream = self._queue, self._stream
        while queue.has_replies:
            if not stream.can_send or (queue.next_bytes > LARGE_BYTES and stream.queued):
                return stream.cancelled
            stream.send_all(self._api.encode(queue.take(SEND_BYTES)))
        return True

    async def _write(self) -> None:
        try:
            while not self._send_some():
                await self._stream.drain()
                if self._stream.queued and self._queue.next_bytes > LARGE_BYTES:
                    await asyncio.sleep(LARGE_WAIT_S)
        finally:
            self._writer = None

    async def _make_room(self) -> None:
        self._flush()
        if self._writer is not None:
            await asyncio.wait([self._writer])

    # -- progress

    def _start_timer(self) -> None:
        if self._timer is None:
            interval_s = self._api.progress_interval_s
            delay_s = interval_s * (1 + PROGRESS_JITTER * random.random())
            self._timer = self._api.loop.call_later(delay_s, self._notify_progress)

    def _notify_progress(self) -> None:
        self._timer = None
        self._queue.notify_progress()
        self._start_timer()


def _id_field(id: int) -> bytes:
    return b"\x10" + varint(id) if id else b""


_ID_FIELDS: Final = [_id_field(id) for id in range(1024)]


def _flags(reply: Reply) -> bytes:
    """Fields 3 to 6 of a response; none of them in one that carries events."""
    if not (reply.created or reply.canceled):
        return b""
    fields = b"\x18\x01" if reply.created else b""
    if reply.canceled:
        fields += b"\x20\x01"
    if reply.compact_revision:
        fields += b"\x28" + varint(reply.compact_revision)
    if reply.reason:
        reason = reply.reason.encode()
        fields += b"\x32" + varint(len(reason)) + reason
    return fields
