"""The JSON gateway: POST /v3/... with a JSON body is a call of the gRPC method of that path.

etcd puts grpc-gateway v1 in front of its own gRPC port. Here a request goes straight to the same
handler that serves the call over HTTP/2, behind the same checks, counted as the same method. What
the request may do is decided by its Authorization header alone: the certificate of a connection
names nobody here, since gateways call for others (CVE-2018-16886).

A method that streams answers with one `{"result": ...}` a line. What it is asked stands in the
body, one JSON value after the other; the answers begin when the body has been read.

Rules. A page in a browser must say that it sends JSON: a body of another kind is let through by
browsers without asking --cors first (CVE-2018-1098). Programs may send any kind, as to etcd.

Limits. A body: that of the listener for this path, then --max-request-bytes as for any call. One
call at a time on a connection. A stream's answers wait in the connection: above SEND_LOW_BYTES
`can_send` says no, as for a gRPC stream, and the watch hub keeps what follows.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from google.protobuf.message import DecodeError, Message

from pyetcd.proto.decode import decode as decode_message
from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.proto.gotext import json_string
from pyetcd.proto.services import METHODS, Kind
from pyetcd.server.http import jsonpb
from pyetcd.server.http.router import TEXT_HEADERS, Router
from pyetcd.server.wire.call import CancelHook
from pyetcd.server.wire.grpc import Dispatcher
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder
from pyetcd.server.wire.limits import Limits
from pyetcd.server.wire.stream import StreamRoute
from pyetcd.server.wire.unary import UnaryRoute

SEND_LOW_BYTES: Final = 64 * 1024
# Base64 makes three bytes four, and the names of the fields come on top.
BODY_OVERHEAD: Final = 2

_JSON: Final = (("Content-Type", "application/json"),)
_ANSWER: Final = (*_JSON, ("Grpc-Metadata-Content-Type", "application/grpc"))
_HTTP_STATUS: Final = {
    Code.CANCELLED: 408,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_PHRASES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_TIMEOUT: Final = re.compile(r"([0-9]+)([HMSmun])\Z")
_UNIT_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT_S_MAX: Final = 1e9
_METADATA: Final = "grpc-metadata-"

Handler = Callable[..., Any]


class Gateway:
    """The handler of everything below /v3/."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        loop: asyncio.AbstractEventLoop,
        request_bytes_max: int,
    ) -> None:
        self.loop = loop
        self.request_bytes_max = request_bytes_max
        self._routes: dict[str, UnaryRoute | StreamRoute] = {}
        for path, method in METHODS.items():
            for place in method.gateway:
                self._routes[place] = dispatcher.route(path)
        # Bound: one for each stream under way, and a connection has one at a time.
        self._tasks: set[asyncio.Task[None]] = set()

    def add_to(self, router: Router) -> None:
        router.prefix("/v3/", self.handle)

    def body_bytes_max(self, path: str) -> int:
        """For the listener, which refuses a longer one with 413."""
        ours = path.startswith("/v3")
        return BODY_OVERHEAD * self.request_bytes_max if ours else Limits().http_body_bytes_max

    def handle(self, request: HttpRequest, responder: HttpResponder) -> None:
        route = self._routes.get(unquote(request.path))
        if route is None:
            return responder.send(404, TEXT_HEADERS, b"Not Found\n")
        if request.method != "POST" or _overrides(request):
            return responder.send(405, TEXT_HEADERS, b"Method Not Allowed\n")
        if "origin" in request.headers and not _is_json(request):
            return responder.send(415, TEXT_HEADERS, b"Unsupported Media Type\n")
        kind = GatewayCall if route.method.kind is Kind.UNARY else GatewayStream
        call = kind(self, route, request, responder)
        timeout = request.headers.get("grpc-timeout", "")
        if timeout and not call.limit(timeout):
            return call.fail(Code.INVALID_ARGUMENT, f"invalid grpc-timeout: {timeout}")
        return call.begin(route.handler)

    def spawn(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_json(request: HttpRequest) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "application/json"


def _overrides(request: HttpRequest) -> bool:
    """No method of ours is a GET; grpc-gateway takes the header from HTML forms only."""
    method = request.headers.get("x-http-method-override", "POST")
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind == "application/x-www-form-urlencoded" and method.upper() != "POST"


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What the handlers may see of the request (grpc-gateway: DefaultHeaderMatcher)."""
    found = {"grpcgateway-accept": headers.get("accept", "")}
    for name, value in headers.items():
        if name.startswith(_METADATA):
            found[name[len(_METADATA) :]] = value
        elif name == "authorization":
            found[name] = value
    return found


def error_body(code: int, text: str) -> bytes:
    said = json_string(text)
    return f'{{"error":{said},"code":{int(code)},"message":{said}}}'.encode()


def http_status(code: int) -> int:
    return _HTTP_STATUS.get(Code(code), 500)


class GatewayCall:
    """An UnaryCall that is answered as JSON."""

    def __init__(
        self,
        gateway: Gateway,
        route: UnaryRoute | StreamRoute,
        request: HttpRequest,
        responder: HttpResponder,
    ) -> None:
        self.method = route.method
        self.metadata: Mapping[str, str | bytes] = metadata_of(request.headers)
        self.peer = request.peer
        self.common_name = ""
        self.deadline_s: float | None = None
        self.on_cancel: CancelHook | None = None
        self._gateway = gateway
        self._counters = route.counters_of(None)
        self._body = request.body
        self._responder = responder
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._counters.started += 1

    @property
    def cancelled(self) -> bool:
        return self._ended

    def limit(self, timeout: str) -> bool:
        """The caller's deadline, in gRPC's own form; False for what is none."""
        match = _TIMEOUT.match(timeout)
        if match is None:
            return False
        self.deadline_s = min(float(match[1]) * _UNIT_S[match[2]], _TIMEOUT_S_MAX)
        self._timer = self._gateway.loop.call_later(self.deadline_s, self._expired)
        return True

    def begin(self, handler: Handler) -> None:
        try:
            request = self.checked(jsonpb.decode(self.method.request, self._body))
        except jsonpb.Refused as refused:
            return self.fail(Code.INVALID_ARGUMENT, str(refused))
        except EtcdError as error:
            return self.fail(error.code, error.text)
        self._responder.on_close = self._left
        self._counters.received += 1
        handler(self, request)
        return None

    def checked(self, request: Message) -> Message:
        """What the same request meets that comes over gRPC: its size and its depth."""
        payload = request.SerializeToString()
        limit = self._gateway.request_bytes_max
        if len(payload) > limit:
            text = f"grpc: received message larger than max ({len(payload)} vs. {limit})"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        try:
            return decode_message(type(request), payload)
        except DecodeError as error:
            text = f"grpc: failed to unmarshal the received message {error}"
            raise RpcError(Code.INTERNAL, text) from None

    def reply(self, payload: bytes) -> None:
        if self._end(Code.OK):
            answer = jsonpb.encode(self.method.response.FromString(payload))
            self._counters.sent += 1
            self._responder.send(200, _ANSWER, answer.encode())

    def fail(self, code: int, text: str) -> None:
        if self._end(code):
            self._responder.send(http_status(code), _JSON, error_body(code, text))

    def _end(self, code: int) -> bool:
        """Whether it had not ended."""
        if self._ended:
            return False
        self._ended = True
        self._counters.handled[code] += 1
        if self._timer is not None:
            self._timer.cancel()
        return True

    def _expired(self) -> None:
        self.fail(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        self._stop_handler()

    def _left(self) -> None:
        """The client has gone."""
        if self._end(Code.CANCELLED):
            self._stop_handler()

    def _stop_handler(self) -> None:
        if self.on_cancel is not None:
            self.on_cancel()


class GatewayStream(GatewayCall):
    """A ServerStream whose requests stand in the body, and whose answers are lines."""

    _task: "asyncio.Task[None] | None" = None
    _started = False

    def begin(self, handler: Handler) -> None:
        self._requests = jsonpb.decode_all(self.method.request, self._body)
        self._room = asyncio.Event()
        self._first: Message | None = None
        try:
            if self.method.kind is Kind.SERVER_STREAM:
                self._first = self.checked(jsonpb.decode(self.method.request, self._body))
            else:
                self._first = self._next()
        except jsonpb.Refused as refused:
            one = self.method.kind is Kind.SERVER_STREAM
            return self.fail(Code.INVALID_ARGUMENT if one else Code.UNKNOWN, str(refused))
        except EtcdError as error:
            return self.fail(error.code, error.text)
        self._responder.on_close = self._left
        self._responder.on_drain = self._room.set
        self._task = self._gateway.spawn(self._serve(handler))
        return None

    async def _serve(self, handler: Handler) -> None:
        try:
            await handler(self)
        except EtcdError as error:
            self.fail(error.code, error.text)
        else:
            self.finish()

    def _next(self) -> Message | None:
        request = next(self._requests, None)
        return None if request is None else self.checked(request)

    # The handler's side (wire/stream.py: ServerStream)

    def __aiter__(self) -> "GatewayStream":
        return self

    async def __anext__(self) -> Message:
        request, self._first = self._first, None
        if request is None:
            try:
                request = self._next()
            except jsonpb.Refused:
                request = None  # as etcd: the client has no more to say
        if request is None:
            raise StopAsyncIteration
        self._counters.received += 1
        return request

    async def request(self) -> Message:
        async for request in self:
            return request
        raise RpcError(Code.INTERNAL, "unexpected EOF")

    @property
    def closed(self) -> bool:
        return self._ended

    @property
    def queued(self) -> int:
        """Bytes that the client has not taken."""
        return self._responder.buffered_bytes

    @property
    def can_send(self) -> bool:
        return not self._ended and self.queued <= SEND_LOW_BYTES

    def start(self) -> None:
        """Headers come with the first answer, as from etcd."""

    def send(self, payload: bytes) -> None:
        if self._ended:
            return
        if not self._started:
            self._started = True
            self._responder.start(200, _ANSWER)
        self._counters.sent += 1
        answer = jsonpb.encode(self.method.response.FromString(payload))
        self._responder.write(f'{{"result":{answer}}}\n'.encode())

    def send_all(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self.send(payload)

    async def drain(self) -> None:
        while not self._ended and not self.can_send:
            self._room.clear()
            await self._room.wait()

    async def wait_closed(self) -> None:
        while not self._ended:
            self._room.clear()
            await self._room.wait()

    def finish(self) -> None:
        if self._end(Code.OK):
            if not self._started:
                self._responder.start(200, _JSON)
            self._responder.end()

    def fail(self, code: int, text: str) -> None:
        if self._task is None:  # the request itself was refused
            return super().fail(code, text)
        if not self._end(code):
            return None
        status = http_status(code)
        if not self._started:
            self._responder.start(status, _JSON)
        self._responder.write(
            f'{{"error":{{"grpc_code":{int(code)},"http_code":{status},"message":{json_string(text)},'
            f'"http_status":"{_PHRASES[status]}"}}}}'.encode()
        )
        self._responder.end()
        return None

    def _stop_handler(self) -> None:
        super()._stop_handler()
        self._room.set()
        if self._task is not None:
            self._task.cancel()
