"""Unary calls: one message in, one message or an error out.

Strategy: a plain function gets the call and the parsed request and answers through the call. The
usual answer is one `bytes`, made by two structs from constant blocks.

Rules: `reply` and `fail` after a cancellation do nothing. A handler answers exactly once also then,
or sets `on_cancel` and stops; until either, it counts against `streams_max`.

Limits: beyond send_soft_bytes_max a request waits before its handler; beyond send_bytes_max an
answer becomes RESOURCE_EXHAUSTED.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final

from google.protobuf.message import DecodeError, Message

from pyetcd.proto.decode import TooDeep, decode_refused
from pyetcd.proto.errors import Code, EtcdError, RpcError, TooManyOps
from pyetcd.proto.services import Method
from pyetcd.server.wire import flow, frames, status
from pyetcd.server.wire.call import ANSWERED, PREFIX, PREFIX_BYTES, RECEIVING, RUNNING, Call, Route

_HEADERS_WORD: Final = len(status.RESPONSE_BLOCK) << 8 | frames.HEADERS
_OK_WORD: Final = len(status.OK_BLOCK) << 8 | frames.HEADERS
_OK_FLAGS: Final = frames.FLAG_END_HEADERS | frames.FLAG_END_STREAM
# HEADERS frame with the constant block, head of the DATA frame, message prefix; then the message.
_ANSWER_HEAD = Struct(f">IBI{len(status.RESPONSE_BLOCK)}sIBIBI")
_OK_TRAILERS = Struct(f">IBI{len(status.OK_BLOCK)}s")


UnaryHandler = Callable[["UnaryCall", Message], None]


class UnaryRoute(Route):
    __slots__ = ("handler",)

    def __init__(self, method: Method, request: type[Message], handler: UnaryHandler) -> None:
        super().__init__(method, request, one_piece=True)
        self.handler = handler


class UnaryCall(Call):
    """One message in, one message or an error out."""

    __slots__ = ()

    def reply(self, payload: bytes) -> None:
        """Send the serialised response and status OK."""
        if self.closed or self._stage == ANSWERED:
            self._answer_late()
            return
        connection = self.connection
        size = len(payload)
        framed = size + PREFIX_BYTES
        if (
            framed > frames.FRAME_BYTES_MAX
            or framed > connection.send_window
            or framed > self.send_window
            or connection.ring
            or connection.write_paused
            or not self.ended
        ):
            self._reply_queued(payload)
            return
        # The usual answer, in one piece: 1 us.
        stream_id = self.id
        self._stage = ANSWERED
        connection.send_window -= framed
        connection.out.append(
            _ANSWER_HEAD.pack(
                _HEADERS_WORD,
                frames.FLAG_END_HEADERS,
                stream_id,
                status.RESPONSE_BLOCK,
                framed << 8,
                0,
                stream_id,
                0,
                size,
            )
            + payload
            + _OK_TRAILERS.pack(_OK_WORD, _OK_FLAGS, stream_id, status.OK_BLOCK)
        )
        self.closed = True
        del connection.streams[stream_id]
        if self.head.timeout_s is not None:
            del connection.timed[stream_id]
        counters = self.head.counters
        counters.handled[0] += 1
        counters.sent += 1
        if not connection.waking:
            connection.wake()

    def _reply_queued(self, payload: bytes) -> None:
        connection = self.connection
        if not connection.has_room(len(payload)):
            text = "too many unread answers"
            self.fail(Code.RESOURCE_EXHAUSTED, text)
            return
        self._stage = ANSWERED
        counters = self.head.counters
        counters.handled[0] += 1
        counters.sent += 1
        block = status.RESPONSE_BLOCK
        connection.out.append(frames.headers(self.id, block, end_stream=False))
        for piece in flow.pieces(PREFIX.pack(0, len(payload)), payload):
            connection.enqueue(self, piece)
        connection.finish(self, frames.headers(self.id, status.OK_BLOCK, end_stream=True))

    def run(self, message: bytes) -> None:
        """Parse and call the handler; wait before that if the connection's queue is long."""
        if self.connection.queued > self.connection.limits.send_soft_bytes_max:
            self._release()
            if self._hold(message):
                self.connection.deferred.append(self)
            return
        route = self.head.route
        assert isinstance(route, UnaryRoute)
        counters = self.head.counters
        counters.started += 1
        counters.received += 1
        self._stage = RUNNING
        try:
            route.handler(self, route.parse(message))
        except EtcdError as error:
            self.fail(error.code, error.text)
        except DecodeError:
            self._run_refused(route, message)

    def _run_refused(self, route: "UnaryRoute", message: bytes) -> None:
        """The runtime does not take the message: it is wrong, or only deep."""
        try:
            route.handler(self, decode_refused(route.request, message))
        except EtcdError as error:
            self.fail(error.code, error.text)
        except TooDeep:
            # Only transactions nest, and no budget of operations allows that many levels.
            self.fail(TooManyOps.code, TooManyOps.text)
        except DecodeError as error:
            self.fail(Code.INTERNAL, f"grpc: error unmarshalling request: {error}")

    def on_room(self) -> None:
        if not self.closed:
            message = bytes(self._body)
            self._release()
            self.run(message)

    def on_begun(self) -> None:
        self._body = bytearray()
        self._offset = 0
        connection = self.connection
        limit_s = connection.limits.request_timeout_s
        if self.head.timeout_s is not None:
            limit_s = min(limit_s, self.head.timeout_s)
        connection.timed[self.id] = connection.clock() + limit_s

    def on_data(self, data: bytes, *, ended: bool) -> None:
        if self._stage != RECEIVING:
            return
        if ended and not self._body and len(data) >= PREFIX_BYTES:
            flag, size = PREFIX.unpack_from(data)
            if flag == 0 and size == len(data) - PREFIX_BYTES:
                self._settle_deadline()
                self.run(data[PREFIX_BYTES:])
                return
        self._collect(data, ended=ended)

    def _collect(self, data: bytes, *, ended: bool) -> None:
        """The slow way: a request in several frames, compressed, or wrong."""
        if not self._hold(data):
            return
        try:
            size = self._message_bytes()
            if size is not None and len(self._body) > PREFIX_BYTES + size:
                raise RpcError(Code.INTERNAL, "more than one message in an unary request")
            if not ended:
                return
            if size is None or len(self._body) < PREFIX_BYTES + size:
                raise RpcError(Code.INTERNAL, "unexpected EOF")
            message = self._take_message(size)
        except RpcError as error:
            self.fail(error.code, error.text)
            return
        self._release()
        self._settle_deadline()
        self.run(message)

    def _settle_deadline(self) -> None:
        """The request is there: only the client's own deadline counts from here."""
        limit_s = self.head.timeout_s
        if limit_s is None:
            del self.connection.timed[self.id]
        elif limit_s > self.connection.limits.request_timeout_s:
            self.connection.timed[self.id] = self.connection.clock() + limit_s
