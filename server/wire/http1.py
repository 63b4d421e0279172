"""One HTTP/1.1 server connection: bytes in, requests out, responses in order.

Strategy: `httptools` parses; its callbacks build one request at a time. Answers are written in the
order of the requests: one responder is active, requests parsed ahead of it wait, and input is fed
in small pieces and not at all while something waits, so pipelining is bounded by one piece.
A body is collected, or goes to a `BodySink` chunk by chunk when the service wants that.

Rules: every request gets exactly one responder; `on_close` is called when the client is gone
before the answer ended. An answer before the end of the request body closes the connection.
Errors of the client's HTTP are answered here, with text and `Connection: close`.

Limits: head bytes and fields (431), body (413), time for a head and a standing body (408), idle
time, unread output (closed). Upgrade requests are answered as if they had not asked.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import httptools

from pyetcd.server.wire.exchange import (
    BodySink,
    HttpHandler,
    HttpRequest,
    HttpResponder,
    HttpService,
)
from pyetcd.server.wire.limits import Limits

__all__ = [
    "BodySink",
    "HttpConnection",
    "HttpHandler",
    "HttpRequest",
    "HttpResponder",
    "HttpService",
]

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection:
    """The connection: what is being parsed, what waits, what is being answered."""

    def __init__(
        self,
        service: HttpService,
        limits: Limits,
        *,
        clock: Callable[[], float],
        date: Callable[[], str],
        peer: str = "",
        wake: Callable[[], None],
        socket_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.date = date
        self.peer = peer
        self.common_name = ""
        self.out: list[bytes] = []
        self.closing = False  # write what is in `out`, then close
        self.aborted = False  # drop the socket
        self.write_paused = False  # the socket is full; the host sets it
        self.requests = 0
        self._service = service
        self._wake = wake
        self._socket_bytes = socket_bytes
        self._out_bytes = 0
        self._parser = httptools.HttpRequestParser(self)
        self._unfed = b""
        self._held = False  # a sink asked for a pause
        self._active: HttpResponder | None = None
        self._waiting: deque[HttpRequest] = deque()  # at most what one piece can hold
        self._advancing = False
        self._fault: tuple[int, str] | None = None  # answered behind what waits, then closed
        # The request being parsed:
        self._target = b""
        self._fields: dict[str, str] = {}
        self._field_count = 0
        self._head_bytes = 0
        self._in_head = False
        self._request: HttpRequest | None = None  # its body is being read
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_max = 0
        self._sink: BodySink | None = None
        self._since_s = clock()  # the present wait for the client began

    # Input

    @property
    def reading_paused(self) -> bool:
        """The host stops reading while something is parsed ahead, or nobody takes our output."""
        return bool(self._unfed or self._waiting) or self._held or self.write_paused

    def receive(self, data: bytes) -> None:
        if self.closing or self._fault is not None:
            return
        if not self._in_head:
            self._since_s = self.clock()
        self._unfed = self._unfed + data if self._unfed else data
        self._feed()

    def _feed(self) -> None:
        """Piece by piece, until something waits behind an unfinished answer."""
        size = self.limits.http_pipeline_bytes
        while self._unfed and not self._waiting and not self._held and self._has_room:
            if (self._active is not None and self._sink is None) or self._fault is not None:
                break
            piece, self._unfed = self._unfed[:size], self._unfed[size:]
            self._feed_piece(piece)
        if self._fault is not None:
            self._unfed = b""

    def _feed_piece(self, piece: bytes) -> None:
        if self._request is None:
            self._in_head = True
            self._head_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :]
            self._parser = httptools.HttpRequestParser(self)
            self._unfed = rest + self._unfed
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a bug of ours, in a sink
        except httptools.HttpParserError:
            self._refuse(400, "malformed HTTP request")
        if self._in_head and self._head_bytes > self.limits.http_header_bytes_max:
            self._refuse(431, "request header fields too large")
        self._advance()  # handlers never run inside a callback of the parser

    def _refuse(self, status: int, text: str) -> None:
        if self._fault is None:
            self._fault = (status, text)
            self._in_head = False
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.abort()
                if self._active is not None:  # the sink's responder: its request ends here
                    self._fail_active(status, text)
            self._request = None

    # Callbacks of httptools; after a fault they do nothing.

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target = b""
        self._fields = {}
        self._field_count = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_count += 1
        if self._field_count > self.limits.http_header_fields_max:
            self._refuse(431, "too many request header fields")
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if key == "host" and key in self._fields:
            self._refuse(400, "repeated Host header")
        self._fields[key] = f"{self._fields[key]}, {text}" if key in self._fields else text

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._fault is not None:
            return
        method = self._parser.get_method().decode("latin-1")
        target = _origin_form(self._target.decode("latin-1"))
        request = HttpRequest(method, target, self._fields, self.peer)
        request.common_name = self.common_name
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        if request.version == "1.1" and "host" not in self._fields:
            self._refuse(400, "missing Host header")
            return
        bound = self._service.body_bytes_max
        self._body_max = bound(request.path) if bound else self.limits.http_body_bytes_max
        self._body, self._body_bytes = [], 0
        self._request = request
        self._since_s = self.clock()
        length = self._fields.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > self._body_max):
            self._refuse(413, "request body too large")
            return
        first = self._active is None and not self._waiting
        request.pipelined = not first
        if not first:  # no sink yet, so what may be held is the ordinary bound
            self._body_max = min(self._body_max, self.limits.http_body_bytes_max)
        if first and self._service.sink is not None:
            responder = HttpResponder(self, request)
            self._sink = self._service.sink(request, responder)
            if self._sink is not None:
                self._active = responder
        if first and self._fields.get("expect", "").lower() == "100-continue":
            self.put(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._request is None:
            return
        self._since_s = self.clock()
        self._body_bytes += len(body)
        if self._body_bytes > self._body_max:
            self._refuse(413, "request body too large")
        elif self._sink is not None:
            self._sink.feed(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        self.requests += 1
        self._since_s = self.clock()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end()
            return
        request.body = b"".join(self._body)
        self._body = []
        self._waiting.append(request)

    # Answers

    def settle_keep_alive(self, request: HttpRequest) -> None:
        """An answer that comes before the whole request, or with a fault, is the last one."""
        if self._request is request:
            request.keep_alive = False

    def put(self, data: bytes) -> None:
        self.out.append(data)
        self._out_bytes += len(data)
        self._wake()
        if self.buffered_bytes > self.limits.http_send_bytes_max + len(data):
            self.abort()

    @property
    def buffered_bytes(self) -> int:
        return self._out_bytes + self._socket_bytes()

    def pump(self) -> bytes:
        data = b"".join(self.out)
        self.out.clear()
        self._out_bytes = 0
        return data

    def resume(self) -> None:
        """Output was taken: answer and parse what waited for that."""
        if self.closing or not self._has_room:
            return
        self._advance()
        self._feed()
        if self._active is not None and self._active.on_drain is not None:
            self._active.on_drain()

    def answered(self, responder: HttpResponder) -> None:
        assert responder is self._active
        self._active = None
        if not responder.request.keep_alive:
            self._close()
            return
        self._since_s = self.clock()
        self._advance()
        if not self._advancing:
            self._feed()
            self._wake()  # the host may read again

    def _advance(self) -> None:
        """The next request that waits, unless one is being answered; then a fault."""
        if self._advancing:
            return
        self._advancing = True
        while self._active is None and self._waiting and self._has_room and not self.closing:
            request = self._waiting.popleft()
            self._active = HttpResponder(self, request)
            self._start(request, self._active)
        self._advancing = False
        idle = self._active is None and not self._waiting
        if self._fault is not None and not self.closing and idle:
            status, text = self._fault
            request = HttpRequest("GET", "/", {}, self.peer)
            request.keep_alive = False
            self._active = HttpResponder(self, request)
            self._fail_active(status, text)

    def _start(self, request: HttpRequest, responder: HttpResponder) -> None:
        """Run the handler, or hand a body that had to be collected to its sink."""
        make = self._service.sink
        sink = make(request, responder) if make is not None and request.pipelined else None
        if sink is None:
            self._service.handler(request, responder)
            return
        if request.body:
            sink.feed(request.body)
        sink.end()

    @property
    def _has_room(self) -> bool:
        """Nothing more is parsed or answered while this much output waits for the client."""
        return self.buffered_bytes <= self.limits.http_send_low_bytes

    def _fail_active(self, status: int, text: str) -> None:
        assert self._active is not None
        self._active.request.keep_alive = False
        if self._active.is_started:
            self.abort()
        else:
            body = text.encode() + b"\n"
            self._active.send(status, {"Content-Type": "text/plain; charset=utf-8"}, body)

    def hold_reading(self, *, held: bool) -> None:
        self._held = held
        if not held and not self._advancing:
            self._feed()
        self._wake()

    # Ends

    def _close(self) -> None:
        self.closing = True
        self._unfed = b""
        self._waiting.clear()
        if self._sink is not None:
            sink, self._sink = self._sink, None
            sink.abort()
        self._request = None
        self._wake()

    def eof(self) -> bool:
        """The client has closed its side. True: an answer is still owed, so keep the socket.

        A started stream ends here, since a client that is gone looks the same (net/http as well).
        """
        if self._active is None or self._active.is_started or self._request is not None:
            return False
        self.shut_down()
        return True

    def abort(self) -> None:
        self.aborted = True
        self.out.clear()
        self._out_bytes = 0
        self._close()

    def lost(self) -> None:
        """The socket is gone."""
        self._close()
        responder, self._active = self._active, None
        if responder is not None:
            responder.closed()

    def shut_down(self) -> None:
        """Finish the answer under way, then close."""
        if self._active is None and not self._waiting:
            self._close()
        else:
            for request in (*self._waiting, *([self._active.request] if self._active else ())):
                request.keep_alive = False

    def tick(self, now_s: float) -> None:
        """About once a second: what the client is late with."""
        waited_s = now_s - self._since_s
        if self.closing or self._fault is not None:
            return
        if self._request is not None:
            if waited_s > self.limits.http_body_timeout_s and not self._held:
                self._refuse(408, "request body timeout")
                self._advance()
        elif self._in_head:
            if waited_s > self.limits.http_header_timeout_s:
                self._refuse(408, "request header timeout")
                self._advance()
        elif self._active is None and waited_s > self.limits.http_idle_timeout_s:
            self._close()


def _origin_form(target: str) -> str:
    """`http://host/path` as sent to proxies is read as `/path` (RFC 9112 section 3.2.2)."""
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            _, slash, rest = target[len(scheme) :].partition("/")
            return slash + rest or "/"
    return target
