"""What every gRPC exchange has: its head, what it has received, how it fails and is cancelled.

Strategy: the call *is* the HTTP/2 stream, one object each; `unary.py` and `stream.py` derive from
`Call`. Received bytes are kept raw until a whole message is wanted.

Rules: a call's stage only grows: receiving, running, answered; or running, zombie: its stream is
gone but its handler still has to answer. Answers of a zombie go nowhere.

Limits: request_bytes_max by the prefix of a message; received_bytes_max of a connection.
"""

import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Generator, Mapping
from operator import add
from struct import Struct
from typing import Final, Protocol

from google.protobuf.message import DecodeError, Message

from pyetcd.proto.decode import decode_refused, parser_of
from pyetcd.proto.errors import Code, RpcError
from pyetcd.proto.services import Method
from pyetcd.server.metrics_tables import GRPC_BUCKETS
from pyetcd.server.wire import flow, frames, status
from pyetcd.server.wire.requests import Receiver

CancelHook = Callable[[], None]

PREFIX = Struct(">BI")  # compressed flag, length
PREFIX_BYTES: Final = 5

CLIENT_VERSION: Final = "client-api-version"  # metadata of etcd's clients

RECEIVING, RUNNING, ANSWERED, ZOMBIE = range(4)


class Waiter(Protocol):
    """The part of a future that is used here."""

    def set_result(self, result: None, /) -> None: ...
    def done(self) -> bool: ...
    def __await__(self) -> Generator[object, None, None]: ...


class Handle(Protocol):
    def cancel(self) -> object: ...


class Tasks(Protocol):
    """What the host lends to streams."""

    def spawn(self, work: Coroutine[object, object, None], done: Callable[[], None]) -> Handle: ...
    def waiter(self) -> Waiter: ...


class Counters:
    """Of one method and one version of clients, in the words of grpc_server_*_total. Plain
    integers; /metrics reads them."""

    __slots__ = (
        "broken_receives",
        "broken_sends",
        "handled",
        "handling",
        "handling_s",
        "received",
        "sent",
        "started",
    )

    def __init__(self) -> None:
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = [0] * 17  # by code
        # Streams that ended because a message could not be read, or not be sent in time.
        self.broken_receives = self.broken_sends = 0
        # How long calls took, by bucket and in sum; only timed calls are written down.
        self.handling = [0] * (len(GRPC_BUCKETS) + 1)
        self.handling_s = 0.0

    def took(self, seconds: float) -> None:
        self.handling[bisect_left(GRPC_BUCKETS, seconds)] += 1
        self.handling_s += seconds

    def add(self, other: "Counters") -> None:
        for name in ("started", "received", "sent", "broken_receives", "broken_sends"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("handled", "handling"):
            setattr(self, name, list(map(add, getattr(self, name), getattr(other, name))))
        self.handling_s += other.handling_s


NO_VERSION: Final = "unknown"  # etcd's word for clients that do not say it
VERSIONS_MAX: Final = 16  # of clients, that are told apart; one more counts as unknown
_VERSION: Final = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?")


class Route:
    """One row of the dispatch table; `UnaryRoute` and `StreamRoute` add the handler."""

    __slots__ = ("counters", "method", "one_piece", "parse", "request")

    def __init__(self, method: Method, request: type[Message], *, one_piece: bool) -> None:
        self.method = method
        self.request = request
        self.parse: Callable[[bytes], Message] = parser_of(request)
        self.one_piece = one_piece
        self.counters = {NO_VERSION: Counters()}  # by the version that the client says it is

    def counters_of(self, version: object) -> Counters:
        """Looked up once for each head, so that counting by version costs nothing per call."""
        counters = self.counters
        if not isinstance(version, str) or _VERSION.fullmatch(version) is None:
            return counters[NO_VERSION]
        if version not in counters and len(counters) > VERSIONS_MAX:
            return counters[NO_VERSION]
        return counters.setdefault(version, Counters())


class TaskLender(Protocol):
    @property
    def tasks(self) -> Tasks | None: ...

    @property
    def timer(self) -> Callable[[], float] | None: ...


class CallHead:
    """A request's fields, understood; shared by requests with equal fields, so immutable."""

    __slots__ = (
        "counters",
        "encoding",
        "lender",
        "metadata",
        "one_piece",
        "patient",
        "refusal",
        "route",
        "timeout_s",
    )

    def __init__(
        self,
        route: Route | None,
        lender: "TaskLender | None",
        metadata: Mapping[str, str | bytes],
        timeout_s: float | None,
        encoding: str,
    ) -> None:
        self.route = route
        self.lender = lender
        self.metadata = metadata
        self.timeout_s = timeout_s
        self.encoding = encoding
        self.counters = (
            Counters() if route is None else route.counters_of(metadata.get(CLIENT_VERSION))
        )
        # Whether requests may be served in one piece, see requests.Head.
        self.one_piece = route is not None and route.one_piece
        self.refusal = b""
        self.patient = False


class Call(flow.Stream):
    """What unary calls and streams have in common."""

    __slots__ = ("_body", "_offset", "_stage", "head", "on_cancel")
    connection: Receiver

    def __init__(self, connection: Receiver, stream_id: int, head: CallHead) -> None:
        super().__init__(connection, stream_id)
        self.head = head
        self.on_cancel: CancelHook | None = None
        self._stage = RECEIVING

    @property
    def method(self) -> Method:
        return self._route.method

    @property
    def metadata(self) -> Mapping[str, str | bytes]:
        return self.head.metadata

    @property
    def deadline_s(self) -> float | None:
        """Relative to the arrival of the call."""
        return self.head.timeout_s

    @property
    def peer(self) -> str:
        return self.connection.peer

    @property
    def common_name(self) -> str:
        """Of the client's verified TLS certificate; empty without one."""
        return self.connection.common_name

    @property
    def cancelled(self) -> bool:
        return self.closed or self._stage == ZOMBIE

    def fail(self, code: int, text: str) -> None:
        """End the call with an error."""
        if self.closed or self._stage == ANSWERED:
            self._answer_late()
            return
        self._stage = ANSWERED
        self._release()
        self.head.counters.handled[code] += 1
        block = self._error_block(code, text)
        self.connection.finish(self, frames.headers(self.id, block, end_stream=True))

    def on_reset(self, code: int) -> None:
        self._release()
        stage, self._stage = self._stage, max(self._stage, ANSWERED)
        if stage == ANSWERED:
            return
        self.head.counters.handled[Code.CANCELLED] += 1
        if stage == RUNNING:
            self._stop_handler()

    def on_stop(self) -> None:
        running = self._stage == RUNNING
        if self._stage != ANSWERED:
            self.fail(Code.UNAVAILABLE, "etcdserver: server stopped")
        if running:
            self._stop_handler()

    def on_expired(self) -> None:
        """The client's deadline, which it enforces as well; or a request that never ended."""
        if self._stage == ANSWERED:
            return  # the answer waits for the client's window
        running = self._stage == RUNNING
        self.fail(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        if running:
            self._stop_handler()

    # Receiving

    def _hold(self, data: bytes) -> bool:
        """Keep received bytes; False when the connection holds too many already."""
        self._body += data
        self.body_bytes += len(data)
        connection, limits = self.connection, self.connection.limits
        connection.held += len(data)
        connection.budget.held += len(data)
        if (
            connection.held > limits.received_bytes_max
            or connection.budget.held > limits.received_bytes_total_max
        ):
            text = "too many unfinished requests"
            self.fail(Code.RESOURCE_EXHAUSTED, text)
            return False
        return True

    def _release(self) -> None:
        self.connection.held -= self.body_bytes
        self.connection.budget.held -= self.body_bytes
        self.body_bytes = 0
        self._body = bytearray()
        self._offset = 0

    def _message_bytes(self) -> int | None:
        """Length of the next message by its prefix, None before the prefix is there.

        Raises RpcError for a prefix that cannot be accepted: a message that is too large is
        refused before its body (gRPC protocol; texts of grpc-go rpc_util.go).
        """
        if len(self._body) - self._offset < PREFIX_BYTES:
            return None
        flag, size = PREFIX.unpack_from(self._body, self._offset)
        limit = self.connection.limits.request_bytes_max
        if flag > 1:
            raise RpcError(Code.INTERNAL, f"grpc: received unexpected payload format {flag}")
        if flag == 1 and self.head.encoding == "identity":
            text = "grpc: compressed flag set with identity or empty encoding"
            raise RpcError(Code.INTERNAL, text)
        if size > limit:
            text = f"grpc: received message larger than max ({size} vs. {limit})"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        return int(size)

    def _take_message(self, size: int) -> bytes:
        """The next message, which is there in full, decompressed."""
        start = self._offset + PREFIX_BYTES
        compressed = self._body[self._offset]
        with memoryview(self._body) as view:
            message = bytes(view[start : start + size])
        self._offset = start + size
        return self._decompress(message) if compressed else message

    def _decompress(self, data: bytes) -> bytes:
        """Never makes more than one octet beyond the limit."""
        limit = self.connection.limits.request_bytes_max
        stream = zlib.decompressobj(wbits=31)
        try:
            message = stream.decompress(data, limit + 1)
        except zlib.error as error:
            text = f"grpc: failed to decompress the received message: {error}"
            raise RpcError(Code.INTERNAL, text) from None
        if len(message) > limit:
            text = f"grpc: received message after decompression larger than max ({limit})"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        if not stream.eof:
            text = "grpc: failed to decompress the received message: unexpected EOF"
            raise RpcError(Code.INTERNAL, text)
        return message

    def _parse(self, message: bytes) -> Message:
        try:
            return self._route.parse(message)
        except DecodeError:
            pass
        try:
            return decode_refused(self._route.request, message)
        except DecodeError as error:
            text = f"grpc: failed to unmarshal the received message {error}"
            raise RpcError(Code.INTERNAL, text) from None

    # Helpers

    @property
    def _route(self) -> Route:
        assert self.head.route is not None
        return self.head.route

    def _error_block(self, code: int, text: str) -> bytes:
        return status.error_response(code, text)

    def _answer_late(self) -> None:
        if self._stage == ZOMBIE:
            self._stage = ANSWERED
            self.connection.zombies -= 1

    def _stop_handler(self) -> None:
        """Tell the handler, or count it until it answers (CVE-2023-44487)."""
        if self.on_cancel is not None:
            self.on_cancel()
        else:
            self._stage = ZOMBIE
            self.connection.zombies += 1
