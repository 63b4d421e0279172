"""gRPC over HTTP/2: calls and streams, and the dispatch from path to handler.

Strategy: an unary handler is a plain function that gets the call and the parsed request and
answers through the call, now or later: no task, no future and, on the usual way, no exception.
Stream handlers are coroutines; the host (`listen.py`) runs them as tasks through `Tasks`, so that
this file knows no event loop. A call *is* the HTTP/2 stream: one object a request.

Rules: `reply`, `fail` and `finish` after a cancellation do nothing. A handler answers exactly once
also then, or sets `on_cancel` and stops; until either, it counts against `streams_max`.
The metadata of a call is shared by requests with equal fields: never change it.

Limits: a message longer than request_bytes_max is refused by its prefix, before its body; held
bytes of a connection (received_bytes_max); queued answers (send_bytes_max, stream_send_bytes_max).
"""

from collections.abc import Callable, Mapping
from typing import Final

from google.protobuf.message import Message

from pyetcd.proto.errors import Code
from pyetcd.proto.services import METHODS, Kind, Method
from pyetcd.server.wire import flow, frames, status
from pyetcd.server.wire.call import (
    PREFIX,
    CallHead,
    Counters,
    Tasks,
)
from pyetcd.server.wire.exchange import HttpService
from pyetcd.server.wire.headers import Field, literal
from pyetcd.server.wire.http2 import HttpHead
from pyetcd.server.wire.requests import Receiver
from pyetcd.server.wire.stream import ServerStream, StreamHandler, StreamRoute
from pyetcd.server.wire.timed import TimedServerStream, TimedUnaryCall
from pyetcd.server.wire.unary import UnaryCall, UnaryHandler, UnaryRoute

__all__ = ["Dispatcher", "ServerStream", "StreamHandler", "Tasks", "UnaryCall", "UnaryHandler"]


class Dispatcher:
    """The table of handlers, and the `Application` of every HTTP/2 connection."""

    _HEADS_MAX: Final = 512  # understood field lists; full: all dropped
    _HEAD_BYTES_MAX: Final = 2048  # longer lists are not kept

    def __init__(
        self,
        unary: Mapping[str, tuple[type[Message], UnaryHandler]],
        streams: Mapping[str, tuple[type[Message], StreamHandler]],
        *,
        timer: Callable[[], float] | None = None,
    ) -> None:
        """With a `timer`, seconds of any origin, how long each call takes is written down."""
        self.timer = timer
        self._head_type = RequestHead if timer is None else TimedHead
        self.tasks: Tasks | None = None  # the listener sets both
        self.http: HttpService | None = None  # for requests that are no calls
        self._routes: dict[bytes, UnaryRoute | StreamRoute] = {}
        for path, (request, on_unary) in unary.items():
            method = METHODS.get(path) or Method(path, request, request, Kind.UNARY)
            self._routes[path.encode()] = UnaryRoute(method, request, on_unary)
        for path, (request, on_stream) in streams.items():
            method = METHODS.get(path) or Method(path, request, request, Kind.BIDI)
            self._routes[path.encode()] = StreamRoute(method, request, on_stream)
        self._services = {path.rpartition(b"/")[0] for path in self._routes}
        self._heads: dict[tuple[Field, ...], RequestHead | HttpHead] = {}

    @property
    def counters(self) -> dict[str, Counters]:
        """Of each method, whatever its clients are."""
        found = {}
        for route in self._routes.values():
            found[route.method.path] = total = Counters()
            for counters in route.counters.values():
                total.add(counters)
        return found

    @property
    def calls_by_version(self) -> dict[tuple[str, str], int]:
        """How many were begun, by (unary or stream, version of the client)."""
        found: dict[tuple[str, str], int] = {}
        for route in self._routes.values():
            kind = "unary" if isinstance(route, UnaryRoute) else "stream"
            for version, counters in route.counters.items():
                if counters.started:
                    found[kind, version] = found.get((kind, version), 0) + counters.started
        return found

    def route(self, path: str) -> UnaryRoute | StreamRoute:
        """Of a method that has a handler here."""
        return self._routes[path.encode()]

    def known(self, fields: list[Field]) -> "RequestHead | HttpHead | None":
        """Clients send a new grpc-timeout with every request; the rest is worth keeping.

        Saves 8 us of the 17 such a request took.
        """
        rest, timeout = _part(fields)
        head = self._heads.get(rest)
        return None if head is None else _timed(head, timeout)

    def head(self, fields: list[Field]) -> "RequestHead | HttpHead":
        rest, timeout = _part(fields)
        head = self._understand(rest)
        size = sum(len(name) + len(value) for name, value in rest)
        if size <= self._HEAD_BYTES_MAX and all(name != b"content-length" for name, _ in rest):
            if len(self._heads) >= self._HEADS_MAX:
                self._heads.clear()
            self._heads[rest] = head
        return _timed(head, timeout)

    def _understand(self, fields: tuple[Field, ...]) -> "RequestHead | HttpHead":
        values = dict(reversed(fields))  # the first of equal names wins
        kind = values.get(b"content-type", b"")
        is_grpc = kind.startswith(b"application/grpc") and kind[16:17] in (b"", b"+", b";")
        if not is_grpc and self.http is not None:
            return HttpHead(self.http, fields)
        if values[b":method"] != b"POST":
            return refuse(_NOT_POST, patient=True)
        if not is_grpc:
            return refuse(_NOT_GRPC, patient=True)
        path = values[b":path"]
        route = self._routes.get(path)  # exact: no rewriting, no prefix (CVE-2026-33186)
        if route is None:
            return refuse(status.error_response(Code.UNIMPLEMENTED, self._unknown(path)))
        encoding = values.get(b"grpc-encoding", b"identity").decode("latin-1")
        if encoding not in ("identity", "gzip"):
            text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding}"'
            return refuse(status.error_response(Code.UNIMPLEMENTED, text) + _ACCEPTED)
        found = status.metadata([field for field in fields if field[0][:1] != b":"])
        if found is None:
            return refuse(status.error_response(Code.INTERNAL, "malformed binary metadata"))
        return self._head_type(route, self, found, None, encoding)

    def _unknown(self, path: bytes) -> str:
        """grpc-go's three texts (server.go handleStream)."""
        text = path.decode("utf-8", "replace")
        service, slash, name = text[1:].rpartition("/")
        if not text.startswith("/") or not slash:
            return f'malformed method name: "{text}"'
        if path.rpartition(b"/")[0] not in self._services:
            return f"unknown service {service}"
        return f"unknown method {name} for service {service}"


def _part(fields: list[Field]) -> tuple[tuple[Field, ...], bytes | None]:
    """Everything but the first grpc-timeout, and its value."""
    for at, (name, value) in enumerate(fields):
        if name == b"grpc-timeout":
            return (*fields[:at], *fields[at + 1 :]), value
    return tuple(fields), None


def _timed(head: "RequestHead | HttpHead", timeout: bytes | None) -> "RequestHead | HttpHead":
    if timeout is None or isinstance(head, HttpHead) or head.refusal:
        return head
    limit_s = status.timeout_s(timeout)
    if limit_s is None:
        return refuse(status.error_response(Code.INTERNAL, "malformed grpc-timeout"))
    return head.with_timeout(limit_s)


_ACCEPTED: Final = literal(b"grpc-accept-encoding", b"identity,gzip")
_NOT_POST: Final = status.http_refusal(
    405, Code.INTERNAL, "the :method of a call is POST", literal(b"allow", b"POST")
)
_NOT_GRPC: Final = status.http_refusal(415, Code.UNKNOWN, "content-type is not application/grpc")


class RequestHead(CallHead):
    """`h2.Head` for gRPC: makes the right kind of call."""

    __slots__ = ()

    def with_timeout(self, timeout_s: float) -> "RequestHead":
        return type(self)(self.route, self.lender, self.metadata, timeout_s, self.encoding)

    def unary(self, connection: Receiver, stream_id: int) -> UnaryCall:
        return UnaryCall(connection, stream_id, self)

    def stream(self, connection: Receiver, stream_id: int) -> ServerStream:
        return ServerStream(connection, stream_id, self)

    def on_request(
        self, connection: Receiver, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        call = UnaryCall(connection, stream_id, self)
        connection.streams[stream_id] = call
        if self.timeout_s is not None:
            connection.timed[stream_id] = connection.clock() + self.timeout_s
        if stop - start >= 5:
            flag, size = PREFIX.unpack_from(data, start)
            if flag == 0 and size == stop - start - 5:
                call.run(data[start + 5 : stop])
                return
        call.on_begun()
        call.on_data(data[start:stop], ended=True)

    def on_begin(self, connection: Receiver, stream_id: int) -> flow.Stream:
        if self.refusal:
            return RefusedCall(connection, stream_id, self)
        assert self.route is not None
        if isinstance(self.route, UnaryRoute):
            return self.unary(connection, stream_id)
        return self.stream(connection, stream_id)


class TimedHead(RequestHead):
    """The same for calls that are timed, which nobody pays for who does not ask for it."""

    __slots__ = ()

    def on_request(
        self, connection: Receiver, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        call = TimedUnaryCall(connection, stream_id, self)
        connection.streams[stream_id] = call
        call.on_begun()
        call.on_data(data[start:stop], ended=True)

    def unary(self, connection: Receiver, stream_id: int) -> UnaryCall:
        return TimedUnaryCall(connection, stream_id, self)

    def stream(self, connection: Receiver, stream_id: int) -> ServerStream:
        return TimedServerStream(connection, stream_id, self)


def refuse(block: bytes, *, patient: bool = False) -> RequestHead:
    """`patient`: answer when the request has ended, as an HTTP client expects."""
    head = RequestHead(None, None, {}, None, "identity")
    head.refusal = block
    head.patient = patient
    return head


class RefusedCall(flow.Stream):
    """Answered from its fields alone. A patient one is reset when its body does not end."""

    __slots__ = ("_head",)
    connection: Receiver

    def __init__(self, connection: Receiver, stream_id: int, head: RequestHead) -> None:
        super().__init__(connection, stream_id)
        self._head = head

    def on_begun(self) -> None:
        if not self._head.patient:
            self._answer()
        else:
            connection = self.connection
            now_s = connection.clock()
            connection.timed[self.id] = now_s + connection.limits.request_timeout_s

    def on_data(self, data: bytes, *, ended: bool) -> None:
        if ended:
            self._answer()

    def on_expired(self) -> None:
        self._answer()

    def on_stop(self) -> None:
        self._answer()

    def on_reset(self, code: int) -> None:
        pass

    def _answer(self) -> None:
        frame = frames.headers(self.id, self._head.refusal, end_stream=True)
        self.connection.finish(self, frame)
