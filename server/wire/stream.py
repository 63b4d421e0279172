"""Streaming calls, each run by a coroutine.

Strategy: what the client sends is kept as raw bytes and parsed when the handler asks for the next
message, so a slow handler costs a window, not a queue of objects. The window is given back as
messages are taken. The event loop is behind `Tasks`.

Limits: above stream_send_low_bytes `drain` waits and `can_send` says no; at stream_send_bytes_max
and send_bytes_max the stream is reset, because dropping a message silently would be worse.
"""

from collections.abc import Awaitable, Callable, Sequence
from struct import Struct
from typing import Final

from google.protobuf.message import Message

from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.proto.services import Method
from pyetcd.server.wire import flow, frames, status
from pyetcd.server.wire.call import (
    ANSWERED,
    PREFIX,
    PREFIX_BYTES,
    RUNNING,
    ZOMBIE,
    Call,
    CallHead,
    Handle,
    Route,
    Tasks,
    Waiter,
)
from pyetcd.server.wire.requests import Receiver

_MESSAGE_HEAD = Struct(">IBIBI")  # head of a DATA frame and the message prefix
_COMPACT_BYTES: Final = 64 * 1024


StreamHandler = Callable[["ServerStream"], Awaitable[None]]


class StreamRoute(Route):
    __slots__ = ("handler",)

    def __init__(self, method: Method, request: type[Message], handler: StreamHandler) -> None:
        super().__init__(method, request, one_piece=False)
        self.handler = handler


class ServerStream(Call):
    """A call with a stream on either side, run by a coroutine.

    `async for request in stream` ends when the client has no more to say; `send` queues; `drain`
    waits until the client has taken most of it. The task is cancelled with the stream.
    """

    __slots__ = ("_handle", "_reader", "_started", "_writer")

    def __init__(self, connection: Receiver, stream_id: int, head: CallHead) -> None:
        super().__init__(connection, stream_id, head)
        self._started = False
        self._reader: Waiter | None = None
        self._writer: Waiter | None = None
        self._handle: Handle | None = None

    def __aiter__(self) -> "ServerStream":
        return self

    async def __anext__(self) -> Message:
        while True:
            size = self._message_bytes()
            if size is not None and len(self._body) - self._offset >= PREFIX_BYTES + size:
                return self._next_message(size)
            if self.ended or self.closed:
                if len(self._body) > self._offset:
                    raise RpcError(Code.INTERNAL, "unexpected EOF")
                raise StopAsyncIteration
            self._reader = self._tasks.waiter()
            await self._reader

    async def request(self) -> Message:
        """The only request, for methods whose client does not stream."""
        async for message in self:
            return message
        raise RpcError(Code.INTERNAL, "unexpected EOF")

    @property
    def can_send(self) -> bool:
        """Whether the client keeps up; what is sent in spite of a False is queued, to a limit."""
        return not self.closed and self.queued <= self.connection.limits.stream_send_low_bytes

    def start(self) -> None:
        """Send the response headers now instead of with the first message."""
        if not self._started and not self.closed and self._stage != ANSWERED:
            self._started = True
            block = status.RESPONSE_BLOCK
            self.connection.out.append(frames.headers(self.id, block, end_stream=False))
            self.connection.wake()

    def send(self, payload: bytes) -> None:
        """Queue one message. A client that lets the queue grow to the limit loses the stream."""
        if self.closed or self._stage == ANSWERED:
            return
        connection = self.connection
        framed = len(payload) + PREFIX_BYTES
        if (
            self._started
            and framed <= frames.FRAME_BYTES_MAX
            and framed <= connection.send_window
            and framed <= self.send_window
            and not self.queued
            and not connection.ring
            and not connection.write_paused
        ):
            self._send_at_once(payload, framed)
            return
        full = self.queued and self.queued + framed > connection.limits.stream_send_bytes_max
        if full or not connection.has_room(framed):
            self.head.counters.broken_sends += 1
            connection.cut(self)
            return
        self.start()
        self.head.counters.sent += 1
        for piece in flow.pieces(PREFIX.pack(0, len(payload)), payload):
            connection.enqueue(self, piece)

    def send_all(self, payloads: Sequence[bytes]) -> None:
        """Queue messages. Past the queues like `send`, but the windows are looked at once: 0.2 us
        each instead of 0.6."""
        connection = self.connection
        done = 0
        if (
            self._started
            and not self.closed
            and self._stage != ANSWERED
            and not self.queued
            and not connection.ring
            and not connection.write_paused
        ):
            room = min(connection.send_window, self.send_window)
            left, id, out, pack = room, self.id, connection.out, _MESSAGE_HEAD.pack
            for payload in payloads:
                framed = len(payload) + PREFIX_BYTES
                if framed > frames.FRAME_BYTES_MAX or framed > left:
                    break
                left -= framed
                done += 1
                out.append(pack(framed << 8, 0, id, 0, framed - PREFIX_BYTES) + payload)
            self.send_window -= room - left
            connection.send_window -= room - left
            connection.bytes_progress += room - left
            self.head.counters.sent += done
            if done and not connection.waking:
                connection.wake()
        for payload in payloads[done:]:
            self.send(payload)

    def _send_at_once(self, payload: bytes, framed: int) -> None:
        """One frame past the queues: 0.6 us instead of 1.2, which counts when a key has many
        watchers."""
        connection = self.connection
        self.send_window -= framed
        connection.send_window -= framed
        connection.bytes_progress += framed
        connection.out.append(
            _MESSAGE_HEAD.pack(framed << 8, 0, self.id, 0, len(payload)) + payload
        )
        self.head.counters.sent += 1
        if not connection.waking:
            connection.wake()

    async def wait_closed(self) -> None:
        """For handlers that only wait for the client to leave; usually ends by cancellation."""
        while not self.closed:
            self._reader = self._tasks.waiter()
            await self._reader

    async def drain(self) -> None:
        while not self.closed and not self.can_send:
            self._writer = self._tasks.waiter()
            await self._writer

    def finish(self) -> None:
        """End the call with status OK, behind all that was sent."""
        if self.closed or self._stage == ANSWERED:
            self._answer_late()
            return
        self.start()
        self._stage = ANSWERED
        self._release()
        self.head.counters.handled[0] += 1
        frame = frames.headers(self.id, status.OK_BLOCK, end_stream=True)
        self.connection.finish(self, frame)

    # Events

    def on_begun(self) -> None:
        self._body = bytearray()
        self._offset = 0
        if self.head.timeout_s is not None:
            connection = self.connection
            connection.timed[self.id] = connection.clock() + self.head.timeout_s
        self.head.counters.started += 1
        self._stage = RUNNING
        self._handle = self._tasks.spawn(self._serve(), self._answer_late)

    def on_data(self, data: bytes, *, ended: bool) -> None:
        if self._stage != RUNNING or not self._hold(data):
            return
        try:
            self._message_bytes()
        except RpcError as error:
            self.head.counters.broken_receives += 1
            self.fail(error.code, error.text)
            self._stop_handler()
            return
        _wake(self._reader)

    def on_drained(self) -> None:
        _wake(self._writer)

    async def _serve(self) -> None:
        route = self._route
        assert isinstance(route, StreamRoute)
        try:
            await route.handler(self)
            self.finish()
        except EtcdError as error:
            self.fail(error.code, error.text)

    def _next_message(self, size: int) -> Message:
        held = PREFIX_BYTES + size
        message = self._take_message(size)
        if self._offset >= _COMPACT_BYTES or self._offset == len(self._body):
            del self._body[: self._offset]
            self._offset = 0
        self.body_bytes -= held
        self.connection.held -= held
        self.connection.budget.held -= held
        self.connection.credit(self, held)
        self.head.counters.received += 1
        try:
            return self._parse(message)
        except EtcdError:
            self.head.counters.broken_receives += 1
            raise

    def _stop_handler(self) -> None:
        """The task counts until it has ended; it may have cleaning up to do."""
        self._stage = ZOMBIE
        self.connection.zombies += 1
        if self.on_cancel is not None:
            self.on_cancel()
        if self._handle is not None:
            self._handle.cancel()

    def _error_block(self, code: int, text: str) -> bytes:
        if self._started:
            return status.error_trailers(code, text)
        return status.error_response(code, text)

    @property
    def _tasks(self) -> Tasks:
        assert self.head.lender is not None and self.head.lender.tasks is not None
        return self.head.lender.tasks


def _wake(waiter: Waiter | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
