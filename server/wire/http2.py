"""HTTP requests that are no gRPC calls, over HTTP/2: what a browser or curl sends behind TLS.

ALPN lets a client choose HTTP/2 before anybody knows whether it will speak gRPC, so the paths of
HTTP/1.1 are served on it as well: the same handlers, with a responder that writes frames.

Limits: body_bytes_max of the service, http_body_bytes_max; request_timeout_s for the body; what is
written and not taken counts as any stream's, and a full queue ends the stream.
"""

from typing import Final

from pyetcd.server.wire import flow, frames
from pyetcd.server.wire.exchange import (
    Headers,
    HttpRequest,
    HttpResponder,
    HttpService,
    header_pairs,
)
from pyetcd.server.wire.headers import Field, literal
from pyetcd.server.wire.requests import Receiver

_OF_THE_CONNECTION: Final = frozenset(("connection", "transfer-encoding", "keep-alive"))  # 8.2.2
_BODILESS: Final = frozenset((204, 304))


class HttpHead:
    """The fields of a request; shared by equal ones. An `h2.Head`."""

    one_piece = False

    def __init__(self, service: HttpService, fields: tuple[Field, ...]) -> None:
        self.service = service
        pseudo: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in fields:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if name.startswith(":"):
                pseudo.setdefault(name, value)
            elif name in self.headers:
                glue = "; " if name == "cookie" else ", "  # section 8.2.3
                self.headers[name] += glue + value
            else:
                self.headers[name] = value
        self.method = pseudo[":method"]
        self.target = pseudo.get(":path", "*")
        self.headers.setdefault("host", pseudo.get(":authority", ""))

    def on_request(
        self, connection: Receiver, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        raise AssertionError("not in one piece")

    def on_begin(self, connection: Receiver, stream_id: int) -> flow.Stream:
        return HttpStream(connection, stream_id, self)


class HttpStream(flow.Stream):
    """One request and its answer."""

    __slots__ = ("_body", "_head", "_responder")
    connection: Receiver

    def __init__(self, connection: Receiver, stream_id: int, head: HttpHead) -> None:
        super().__init__(connection, stream_id)
        self._head = head
        self._body: list[bytes] = []
        request = HttpRequest(head.method, head.target, dict(head.headers), connection.peer)
        request.version = "2"
        request.common_name = connection.common_name
        self._responder = StreamResponder(self, request)

    def on_begun(self) -> None:
        connection = self.connection
        connection.timed[self.id] = connection.clock() + connection.limits.request_timeout_s

    def on_data(self, data: bytes, *, ended: bool) -> None:
        if self._responder.is_started:
            return None  # answered before its end
        self._body.append(data)
        self.body_bytes += len(data)
        connection = self.connection
        connection.held += len(data)
        connection.budget.held += len(data)
        limits, service = connection.limits, self._head.service
        bytes_max = limits.http_body_bytes_max
        if service.body_bytes_max is not None:
            bytes_max = service.body_bytes_max(self._responder.request.path)
        if self.body_bytes > bytes_max:
            return self._refuse(413, "request body too large")
        if (
            connection.held > limits.received_bytes_max
            or connection.budget.held > limits.received_bytes_total_max
        ):
            return self._refuse(503, "too many unfinished requests")
        connection.credit(self, len(data))
        if not ended:
            return None
        connection.timed.pop(self.id, None)
        request = self._responder.request
        request.body = b"".join(self._body)
        self._release()
        return service.handler(request, self._responder)

    def on_reset(self, code: int) -> None:
        self._release()
        self._responder.closed()

    def on_stop(self) -> None:
        if self._responder.is_started:
            self.connection.cut(self)
        else:
            self._refuse(503, "server stopped")

    def on_expired(self) -> None:
        self._refuse(408, "the request did not end in time")

    def on_drained(self) -> None:
        if self._responder.on_drain is not None:
            self._responder.on_drain()

    def _refuse(self, status: int, text: str) -> None:
        self._release()
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        self._responder.send(status, headers, f"{text}\n".encode())

    def _release(self) -> None:
        self.connection.held -= self.body_bytes
        self.connection.budget.held -= self.body_bytes
        self.body_bytes = 0
        self._body = []


class StreamResponder(HttpResponder):
    """Writes its answer as frames."""

    __slots__ = ("_stream",)

    def __init__(self, stream: HttpStream, request: HttpRequest) -> None:
        super().__init__(None, request)
        self._stream: HttpStream | None = stream

    @property
    def is_open(self) -> bool:
        return not self._ended and self._stream is not None

    @property
    def buffered_bytes(self) -> int:
        return 0 if self._stream is None else self._stream.queued

    def send(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        if not self.is_open:
            return
        length = [] if status in _BODILESS else [("content-length", str(len(body)))]
        silent = self._silent or status in _BODILESS or not body
        self._start(status, [*header_pairs(headers), *length], ended=silent)
        if not silent:
            self._queue(body)
            self._close()

    def start(self, status: int, headers: Headers = ()) -> None:
        if self.is_open:
            self._start(status, header_pairs(headers), ended=False)

    def write(self, chunk: bytes) -> None:
        if self.is_open and chunk and not self._silent:
            self._queue(chunk)

    def end(self) -> None:
        if self.is_open:
            self._close()

    def abort(self) -> None:
        if self._stream is not None and not self._ended:
            self._stream.connection.cut(self._stream)

    def pause_body(self) -> None:
        raise AssertionError("bodies are collected")

    def resume_body(self) -> None:
        raise AssertionError("bodies are collected")

    def closed(self) -> None:
        was_open, self._stream = self.is_open, None
        if was_open and self.on_close is not None:
            self.on_close()

    def _start(self, status: int, pairs: list[tuple[str, str]], *, ended: bool) -> None:
        assert self._stream is not None and self._chunked is None
        self._chunked = False
        stream = self._stream
        block = [b"\x08" + literal(b"", b"%d" % status)[2:]]  # RFC 7541: name by entry 8
        for name, value in (*self.base_headers, *pairs):
            assert "\n" not in value and "\r" not in value and "\n" not in name
            key = name.lower()
            if key not in _OF_THE_CONNECTION:
                block.append(literal(key.encode("latin-1"), value.encode("latin-1", "replace")))
        frame = frames.headers(stream.id, b"".join(block), end_stream=ended)
        if ended:
            self._ended = True
            stream.connection.finish(stream, frame)
            self._stream = None
        else:
            stream.connection.out.append(frame)
            stream.connection.wake()

    def _queue(self, data: bytes) -> None:
        stream = self._stream
        assert stream is not None and self._chunked is not None
        connection = stream.connection
        full = stream.queued and stream.queued + len(data) > connection.limits.http_send_bytes_max
        if full or not connection.has_room(len(data)):
            connection.cut(stream)
            return
        for piece in flow.pieces(b"", data):
            if piece:
                connection.enqueue(stream, piece)

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        self._ended = True
        if stream is not None:
            stream.connection.finish(
                stream, frames.frame(frames.DATA, frames.FLAG_END_STREAM, stream.id)
            )
