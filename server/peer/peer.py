"""One other member as the transport sees it: two writers, two readers, and posts for want of both.

Strategy. `Peer` picks the way for each message as etcd does (rafthttp/peer.go): an append takes
the msgapp stream, everything else the message stream, and what has no stream is POSTed by the
`Pipeline`. A `Remote` is a member that wrote to us and is not in our membership yet: we only post.

Rules. `send` and `flush` never wait. The pipeline holds POSTS_QUEUED_MAX messages (etcd:
pipelineBufSize) besides POSTS_MAX under way; one more is refused, the caller drops it and tells
raft. A failed post is told to raft, too.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pyetcd.raft.codec import encode_message
from pyetcd.raft.types import Message, MsgType
from pyetcd.server.logs import Log
from pyetcd.server.peer.activity import Activity, PeerCounters, UrlPicker
from pyetcd.server.peer.client import HttpClient, Response, Unreachable
from pyetcd.server.peer.codec import EntriesEncoder
from pyetcd.server.peer.handshake import Identity
from pyetcd.server.peer.streams import (
    DEFAULT_TIMEOUTS,
    StreamKind,
    StreamReader,
    StreamWriter,
    Timeouts,
)
from pyetcd.server.wire.http1 import HttpResponder

POSTS_MAX: Final = 4
POSTS_QUEUED_MAX: Final = 64
POST_TIMEOUT_S: Final = 5.0
_APP = MsgType.APP


class RaftHandler(Protocol):
    """Who the transport works for. Every call returns at once; none may raise."""

    def process(self, message: Message) -> None:
        """A message of a peer that is addressed to this member."""

    def is_removed(self, id: int) -> bool:
        """Whether the id was a member and is none any more."""

    def report_unreachable(self, id: int) -> None:
        """A message to this peer was dropped or could not be sent."""

    def report_snapshot(self, id: int, *, ok: bool) -> None:
        """The snapshot sent to this peer has arrived, or has not."""

    def snapshot_received(self, message: Message, path: str) -> None:
        """A keyspace snapshot lies durably at `path`; the file is the handler's now."""

    def local_removed(self) -> None:
        """A peer says that this member was removed from the cluster. Said more than once."""


class MemberRemoved(Unreachable):
    """The peer refuses everything from us, because we are no member any more."""


def check_post(response: Response) -> None:
    """Raise unless the peer has taken what was posted."""
    if response.status == 204:
        return
    if response.status == 403:
        raise MemberRemoved("the member has been permanently removed from the cluster")
    text = response.body[:200].decode(errors="replace").strip()
    raise Unreachable(f"unexpected http status {response.status} ({text})")


class Pipeline:
    """POSTs one message a request."""

    def __init__(
        self,
        peer_id: int,
        *,
        identity: Identity,
        client: HttpClient,
        picker: UrlPicker,
        activity: Activity,
        counters: PeerCounters,
        handler: RaftHandler,
    ) -> None:
        self._peer_id = peer_id
        self._identity = identity
        self._client = client
        self._picker = picker
        self._activity = activity
        self._counters = counters
        self._handler = handler
        self._queue: deque[Message] = deque()
        self._posts: set[asyncio.Task[None]] = set()
        self._stopped = False

    def put(self, message: Message) -> bool:
        """False when the queue is full."""
        if len(self._queue) >= POSTS_QUEUED_MAX:
            return False
        self._queue.append(message)
        if len(self._posts) < POSTS_MAX and not self._stopped:
            task = asyncio.get_running_loop().create_task(self._drain())
            self._posts.add(task)
            task.add_done_callback(self._posts.discard)
            task.add_done_callback(surface)
        return True

    async def stop(self) -> None:
        self._stopped = True
        self._queue.clear()
        await cancel_all(self._posts)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            message = self._queue.popleft()
            body, began_s = encode_message(message), loop.time()
            sent = await self._post(body)
            if message.type is not MsgType.APP:
                continue
            self._counters.appends_sent.add(loop.time(), len(body))
            if sent:
                self._counters.deliveries.add(loop.time() - began_s)
            else:
                self._counters.deliveries.failed += 1

    async def _post(self, body: bytes) -> bool:
        """Whether the peer has it."""
        url = self._picker.pick()
        headers = {"Content-Type": "application/protobuf", **self._identity.request_headers()}
        try:
            response = await self._client.request(
                "POST", url, "/raft", headers=headers, body=body, timeout_s=POST_TIMEOUT_S
            )
            check_post(response)
        except Unreachable as error:
            if isinstance(error, MemberRemoved):
                self._handler.local_removed()
            self._picker.unreachable(url)
            self._activity.deactivate("write", "pipeline", str(error))
            self._counters.sent_failures_total += 1
            self._handler.report_unreachable(self._peer_id)
            return False
        self._activity.activate(asyncio.get_running_loop().time())
        self._counters.sent_bytes_total += len(body)
        return True


class Remote:
    """A member that knows us before we know it. Posts let it answer while we catch up."""

    def __init__(
        self,
        peer_id: int,
        urls: Sequence[str],
        *,
        identity: Identity,
        client: HttpClient,
        counters: PeerCounters,
        handler: RaftHandler,
        log: Log,
    ) -> None:
        self.activity = Activity(peer_id, counters, log)
        self.counters = counters
        self.picker = UrlPicker(urls)
        self.pipeline = Pipeline(
            peer_id,
            identity=identity,
            client=client,
            picker=self.picker,
            activity=self.activity,
            counters=counters,
            handler=handler,
        )

    def send(self, message: Message) -> bool:
        """False: dropped."""
        return self.pipeline.put(message)

    async def stop(self) -> None:
        await self.pipeline.stop()


class Peer(Remote):
    """A member of the cluster."""

    def __init__(
        self,
        peer_id: int,
        urls: Sequence[str],
        *,
        identity: Identity,
        client: HttpClient,
        counters: PeerCounters,
        handler: RaftHandler,
        log: Log,
        entries_encoder: EntriesEncoder,
        receive: Callable[[Message], None],
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        super().__init__(
            peer_id,
            urls,
            identity=identity,
            client=client,
            counters=counters,
            handler=handler,
            log=log,
        )
        loop = asyncio.get_running_loop()
        self._writers = {
            kind: StreamWriter(
                kind,
                loop=loop,
                entries_encoder=entries_encoder,
                counters=counters,
                unreachable=lambda: handler.report_unreachable(peer_id),
                timeout_s=timeouts.write_s,
            )
            for kind in StreamKind
        }
        self._app_writer = self._writers[StreamKind.APP]
        self._message_writer = self._writers[StreamKind.MESSAGE]
        self._readers: set[asyncio.Task[None]] = set()
        for kind in StreamKind:
            reader = StreamReader(
                kind,
                peer_id=peer_id,
                identity=identity,
                client=client,
                picker=self.picker,
                activity=self.activity,
                counters=counters,
                receive=receive,
                removed=handler.local_removed,
                log=log,
                timeout_s=timeouts.read_s,
            )
            task = loop.create_task(reader.run())
            task.add_done_callback(surface)
            self._readers.add(task)

    def send(self, message: Message) -> bool:
        """Queue on the way this message takes; False: dropped. `flush` makes it leave."""
        if message.type is _APP and self._app_writer.is_attached:
            return self._app_writer.put(message)
        if self._message_writer.is_attached:
            return self._message_writer.put(message)
        return self.pipeline.put(message)

    def flush(self) -> None:
        self._app_writer.flush()
        self._message_writer.flush()

    def heartbeat(self) -> None:
        for writer in self._writers.values():
            writer.heartbeat()

    def attach(self, kind: StreamKind, responder: HttpResponder) -> None:
        """The peer has asked for a stream, and its response has begun."""
        self._writers[kind].attach(responder)
        self.activity.activate(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        for writer in self._writers.values():
            writer.detach()
        await cancel_all(self._readers)
        await super().stop()


def surface(task: asyncio.Task[None]) -> None:
    """A task that ended by a bug says so at once, to the loop's exception handler, instead of
    leaving a link that is silently dead."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        message = "a task of the peer transport failed"
        task.get_loop().call_exception_handler(
            {"message": message, "exception": error, "task": task}
        )


async def cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel and wait; a task that failed on its own raises here."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
