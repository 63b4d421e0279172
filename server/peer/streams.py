"""The long-lived half-links to a peer: a writer onto a response it asked for, a reader of one we
asked for.

Strategy. As etcd does it (rafthttp/stream.go), each side GETs a stream from the other and reads
messages from the response; so what we send goes onto a response of our own listener. There are
two streams each way, `msgapp` for appends and `message` for the rest, so that a large append
never delays a heartbeat.

Rules.
- A message is encoded when it is written, in the order of `put`; the msgapp encoding has state,
  and dropping from the queue is only safe before it.
- `flush` gives everything queued to the response as one chunk; the listener joins the chunks of
  a loop turn to one write.
- Never wait for a slow peer. While BUFFERED_BYTES_HIGH are unsent, messages queue; the queue holds
  MESSAGES_MAX (etcd: streamBufSize), and one more is refused: the caller drops it and tells raft.
  A link that takes nothing for the write timeout is closed. What is queued then is dropped, too.
- An idle link carries a heartbeat every HEARTBEAT_S, whatever the timeouts are here: the reader may
  have the shortest. One that hears nothing for its read timeout hangs up and dials again, REDIAL_S
  later.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Final

from pyetcd.raft.types import Message
from pyetcd.server.logs import Log
from pyetcd.server.peer.activity import Activity, PeerCounters, UrlPicker
from pyetcd.server.peer.client import HttpClient, OpenStream, Unreachable
from pyetcd.server.peer.codec import (
    AppDecoder,
    AppEncoder,
    EntriesEncoder,
    MessageDecoder,
    MessageEncoder,
)
from pyetcd.server.peer.handshake import (
    CLUSTER_ID_MISMATCH,
    INCOMPATIBLE_VERSION,
    Identity,
    is_pyetcd,
)
from pyetcd.server.wire.http1 import HttpResponder

MESSAGES_MAX: Final = 4096
BUFFERED_BYTES_HIGH: Final = 4 * 1024 * 1024
IO_TIMEOUT_S: Final = 5.0  # the shortest that can be chosen, and the default
HEARTBEAT_S: Final = IO_TIMEOUT_S / 3
REDIAL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Of the links: --raft-read-timeout and --raft-write-timeout."""

    read_s: float = IO_TIMEOUT_S
    write_s: float = IO_TIMEOUT_S


DEFAULT_TIMEOUTS: Final = Timeouts()


class StreamKind(Enum):
    """The value is the name in the path."""

    MESSAGE = "message"
    APP = "msgapp"

    @property
    def title(self) -> str:
        """As etcd calls it in its logs."""
        return "stream Message" if self is StreamKind.MESSAGE else "stream MsgApp v2"


class StreamWriter:
    """Sends one kind of messages to one peer, while the peer keeps a response open for them."""

    def __init__(
        self,
        kind: StreamKind,
        *,
        loop: asyncio.AbstractEventLoop,
        entries_encoder: EntriesEncoder,
        counters: PeerCounters,
        unreachable: Callable[[], None],
        timeout_s: float = IO_TIMEOUT_S,
    ) -> None:
        self.kind = kind
        self._timeout_s = timeout_s
        self._loop = loop
        self._entries_encoder = entries_encoder
        self._counters = counters
        self._unreachable = unreachable
        self._responder: HttpResponder | None = None
        self._encoder: MessageEncoder | AppEncoder = MessageEncoder()
        self._queue: deque[Message] = deque()
        self._written_bytes = 0
        self._written_at_heartbeat = 0
        self._taken_bytes = 0
        self._taken_s = 0.0

    @property
    def is_attached(self) -> bool:
        return self._responder is not None

    def attach(self, responder: HttpResponder) -> None:
        """A response has been started for us. One that was there before is ended."""
        self.detach()
        self._responder = responder
        self._encoder = (
            AppEncoder(self._entries_encoder) if self.kind is StreamKind.APP else MessageEncoder()
        )
        self._written_bytes = self._written_at_heartbeat = self._taken_bytes = 0
        self._taken_s = self._loop.time()
        responder.on_close = lambda: self._lost(responder)
        responder.on_drain = self.flush

    def detach(self, *, is_stuck: bool = False) -> None:
        """End the response. What is written may still arrive: to a member just removed it says
        so. What waits is lost, and raft hears of it."""
        responder, self._responder = self._responder, None
        if responder is None:
            return
        responder.on_close = responder.on_drain = None
        if is_stuck:
            responder.abort()
        else:
            responder.end()
        self._drop_queue()

    def put(self, message: Message) -> bool:
        """Queue a message for the next flush; False when the queue is full."""
        assert self._responder is not None
        if len(self._queue) >= MESSAGES_MAX:
            return False
        self._queue.append(message)
        return True

    def flush(self) -> None:
        """Write what is queued, in one go, as far as the socket keeps up."""
        responder = self._responder
        queue = self._queue
        if responder is None or not queue:
            return
        room = BUFFERED_BYTES_HIGH - responder.buffered_bytes
        parts: list[bytes] = []
        encode = self._encoder.encode
        began_s = perf_counter()  # the loop's own time stands still within a turn
        while queue and room > 0:
            encoded = encode(queue.popleft())
            parts.append(encoded)
            room -= len(encoded)
        if parts:
            self._write(b"".join(parts))
            if self.kind is StreamKind.APP:
                self._tell(parts, began_s)

    def _tell(self, parts: list[bytes], began_s: float) -> None:
        now_s, took_s = self._loop.time(), perf_counter() - began_s
        for part in parts:
            self._counters.appends_sent.add(now_s, len(part))
            self._counters.deliveries.add(took_s)

    def heartbeat(self) -> None:
        """Called every HEARTBEAT_S: keeps an idle link known to be alive, ends a stuck one."""
        responder = self._responder
        if responder is None:
            return
        now_s = self._loop.time()
        taken_bytes = self._written_bytes - responder.buffered_bytes
        if taken_bytes > self._taken_bytes or responder.buffered_bytes == 0:
            self._taken_bytes = taken_bytes
            self._taken_s = now_s
        elif now_s - self._taken_s > self._timeout_s:
            self.detach(is_stuck=True)
            return
        if self._written_bytes == self._written_at_heartbeat:
            self._write(self._encoder.link_heartbeat)
        self._written_at_heartbeat = self._written_bytes

    def _write(self, data: bytes) -> None:
        assert self._responder is not None
        self._responder.write(data)
        self._written_bytes += len(data)
        self._counters.sent_bytes_total += len(data)

    def _lost(self, responder: HttpResponder) -> None:
        if self._responder is responder:
            self._responder = None
            self._drop_queue()

    def _drop_queue(self) -> None:
        if self._queue:
            self._queue.clear()
            self._unreachable()


class StreamReader:
    """Asks one peer for one kind of stream, again and again, and hands on what it says."""

    def __init__(
        self,
        kind: StreamKind,
        *,
        peer_id: int,
        identity: Identity,
        client: HttpClient,
        picker: UrlPicker,
        activity: Activity,
        counters: PeerCounters,
        receive: Callable[[Message], None],
        removed: Callable[[], None],
        log: Log,
        timeout_s: float = IO_TIMEOUT_S,
    ) -> None:
        self._kind = kind
        self._timeout_s = timeout_s
        self._peer_id = peer_id
        self._identity = identity
        self._client = client
        self._picker = picker
        self._activity = activity
        self._counters = counters
        self._receive = receive
        self._removed = removed
        self._log = log
        self._last_reason = ""

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            url = self._picker.pick()
            try:
                stream = await self._dial(url)
            except Unreachable as error:
                self._picker.unreachable(url)
                self._activity.deactivate("dial", self._kind.title, str(error))
                self._explain_once(url, str(error))
            else:
                self._last_reason = ""
                self._activity.activate(loop.time())
                await self._read(stream)
            await asyncio.sleep(REDIAL_S)

    def _explain_once(self, url: str, reason: str) -> None:
        """A peer that is down is dialled ten times a second; its reason is worth one line."""
        if reason != self._last_reason:
            self._last_reason = reason
            self._log.warn(
                "failed to dial stream of remote peer",
                stream_reader_type=self._kind.title,
                remote_peer_id=f"{self._peer_id:x}",
                address=url,
                error=reason,
            )

    async def _read(self, stream: OpenStream) -> None:
        fields = {"stream_reader_type": self._kind.title, "remote_peer_id": f"{self._peer_id:x}"}
        self._log.info("established TCP streaming connection with remote peer", **fields)
        try:
            await stream.wait_closed(read_timeout_s=self._timeout_s)
        except Unreachable as error:
            self._activity.deactivate("read", self._kind.title, str(error))
            fields["error"] = str(error)
        self._log.warn("lost TCP streaming connection with remote peer", **fields)

    async def _dial(self, url: str) -> OpenStream:
        """An open stream, or Unreachable for whatever else the peer said."""
        decoder = (
            AppDecoder(self._identity.member_id, self._peer_id)
            if self._kind is StreamKind.APP
            else MessageDecoder()
        )

        def on_body(data: bytes) -> None:
            self._counters.received_bytes_total += len(data)
            # The text of a refusal comes here, too; it is no frame, and that closes the connection.
            messages = decoder.feed(data)
            if messages and self._kind is StreamKind.APP:
                now_s = asyncio.get_running_loop().time()
                for _ in messages:
                    self._counters.appends_received.add(now_s, len(data) // len(messages))
            for message in messages:
                self._receive(message)

        stream = await self._client.open(
            url,
            f"/raft/stream/{self._kind.value}/{self._identity.member_id:x}",
            headers=self._identity.request_headers(to=self._peer_id),
            timeout_s=self._timeout_s,
            on_body=on_body,
        )
        self._activity.is_pyetcd = is_pyetcd(stream.headers)
        if stream.status == 200:
            return stream
        stream.close()
        raise Unreachable(self._explain(stream))

    def _explain(self, stream: OpenStream) -> str:
        if stream.status == 410:
            self._removed()
            return "the member has been permanently removed from the cluster"
        if stream.status == 404:
            return f"peer {self._peer_id:x} failed to find local node {self._identity.member_id:x}"
        if stream.status == 412:
            theirs = stream.headers.get("x-etcd-cluster-id", "")
            if theirs != f"{self._identity.cluster_id:x}":
                return f"{CLUSTER_ID_MISMATCH}: the peer is in {theirs}"
            return f"{INCOMPATIBLE_VERSION}, or not the member that was asked for"
        return f"unhandled http status {stream.status}"
