"""One HTTP/1.1 exchange: the request as handlers see it, and the responder they answer through.

Rules: `send` at once, or `start`, `write` ..., `end`; after the end, and after the client has gone,
all of them do nothing. `on_close` is called when the client goes before the end of the answer.
A header with a line break in it is a bug of the handler.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
HttpHandler = Callable[["HttpRequest", "HttpResponder"], None]

_STATUS_LINES: Final = {
    int(code): f"HTTP/1.1 {int(code)} {code.phrase}\r\n".encode() for code in HTTPStatus
}
_LAST_CHUNK: Final = b"0\r\n\r\n"
_BODILESS: Final = frozenset((204, 304))


class HttpRequest:
    """`path` is as sent, not decoded; names in `headers` are lower case, repeated values joined."""

    __slots__ = (
        "body",
        "common_name",
        "headers",
        "keep_alive",
        "method",
        "path",
        "peer",
        "pipelined",
        "query",
        "version",
    )

    def __init__(self, method: str, target: str, headers: dict[str, str], peer: str) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.peer = peer
        self.body = b""
        self.version = "1.1"
        self.keep_alive = True
        self.common_name = ""  # of the client's verified TLS certificate
        self.pipelined = False  # parsed while the answer before it was not ended


class BodySink(Protocol):
    """Takes a request body as it comes; `HttpResponder.pause_body` stops the coming."""

    def feed(self, chunk: bytes) -> None: ...
    def end(self) -> None:
        """The body is complete: answer now or later."""

    def abort(self) -> None:
        """The client went away, or the body broke a rule, before its end."""


@dataclass(frozen=True, slots=True)
class HttpService:
    """What lies above HTTP/1.1. `sink` may take over a request before its body is read."""

    handler: HttpHandler
    body_bytes_max: Callable[[str], int] | None = None  # by path; None: the limit for all
    sink: "Callable[[HttpRequest, HttpResponder], BodySink | None] | None" = None


class Output(Protocol):
    """What a responder needs of its connection."""

    date: Callable[[], str]

    @property
    def buffered_bytes(self) -> int: ...
    def put(self, data: bytes) -> None: ...
    def settle_keep_alive(self, request: HttpRequest) -> None: ...
    def answered(self, responder: "HttpResponder") -> None: ...
    def hold_reading(self, *, held: bool) -> None: ...
    def abort(self) -> None: ...


class HttpResponder:
    """The answer to one request: `send` at once, or `start`, `write` ..., `end`."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_ended",
        "_silent",
        "base_headers",
        "on_close",
        "on_drain",
        "request",
    )

    def __init__(self, connection: Output | None, request: HttpRequest) -> None:
        self._connection: Output | None = connection
        self._ended = False
        self._silent = request.method == "HEAD"
        self._chunked: bool | None = None  # None: not started
        self.request = request
        # Go before what the handler sends: a router's CORS headers.
        self.base_headers: tuple[tuple[str, str], ...] = ()
        self.on_close: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None  # the socket takes data again

    @property
    def is_open(self) -> bool:
        """Whether what is written can still reach the client."""
        return not self._ended and self._connection is not None

    @property
    def is_started(self) -> bool:
        return self._chunked is not None

    @property
    def buffered_bytes(self) -> int:
        """Written and not yet taken by the kernel."""
        return 0 if self._connection is None else self._connection.buffered_bytes

    def send(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """The whole answer."""
        if not self.is_open:
            return
        bodiless = status in _BODILESS
        length = [] if bodiless else [("Content-Length", str(len(body)))]
        self._head(status, [*header_pairs(headers), *length])
        self._chunked = False
        if body and not self._silent and not bodiless:
            self._put(body)
        self._finish()

    def start(self, status: int, headers: Headers = ()) -> None:
        """Headers now, the body in pieces: chunked, unless the length is given."""
        if not self.is_open:
            return
        assert self._chunked is None
        pairs = header_pairs(headers)
        sized = any(name.lower() == "content-length" for name, _ in pairs)
        self._chunked = not sized and status not in _BODILESS and self.request.version == "1.1"
        if self._chunked:
            pairs.append(("Transfer-Encoding", "chunked"))
        elif not sized:
            self.request.keep_alive = False  # HTTP/1.0: the end of the connection ends the body
        self._head(status, pairs)

    def write(self, chunk: bytes) -> None:
        if not self.is_open or not chunk or self._silent:
            return
        assert self._chunked is not None
        self._put(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def end(self) -> None:
        if not self.is_open:
            return
        assert self._chunked is not None
        if self._chunked and not self._silent:
            self._put(_LAST_CHUNK)
        self._finish()

    def abort(self) -> None:
        """Break off a started answer so that the client sees it is not complete."""
        if self._connection is not None and not self._ended:
            self._connection.abort()

    def pause_body(self) -> None:
        if self._connection is not None:
            self._connection.hold_reading(held=True)

    def resume_body(self) -> None:
        if self._connection is not None:
            self._connection.hold_reading(held=False)

    def closed(self) -> None:
        """The connection is gone (called by it)."""
        was_open, self._connection = self.is_open, None
        if was_open and self.on_close is not None:
            self.on_close()

    def _head(self, status: int, pairs: list[tuple[str, str]]) -> None:
        assert self._connection is not None
        self._connection.settle_keep_alive(self.request)
        lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()]
        pairs.append(("Date", self._connection.date()))
        if not self.request.keep_alive:
            pairs.append(("Connection", "close"))
        elif self.request.version == "1.0":
            pairs.append(("Connection", "keep-alive"))
        for name, value in (*self.base_headers, *pairs):
            assert "\n" not in value and "\r" not in value and "\n" not in name
            lines.append(f"{name}: {value}\r\n".encode("latin-1", "replace"))
        lines.append(b"\r\n")
        self._put(b"".join(lines))

    def _put(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.put(data)

    def _finish(self) -> None:
        self._ended = True
        if self._connection is not None:
            self._connection.answered(self)


def header_pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)
