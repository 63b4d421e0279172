"""A small HTTP/1.1 client for talking to peers: one exchange at a time on a connection.

Strategy. asyncio protocol plus httptools. Three uses, three calls: `request` (small body there,
small body back), `upload` (a body too large for memory) and `open` (a response that does not end,
given away piece by piece). Idle connections are kept for `request` only.

Rules.
- Every call has a time limit, and every failure is `Unreachable` with a one-line reason: refused,
  timed out, closed half-way, not HTTP. An answer with any status is no failure.
- A request that finds its kept connection closed by the other side is sent once more on a new one.
- No redirects, no proxies, no compression: peers do none of these.

Limits. IDLE_PER_HOST_MAX connections are kept for a host, one more is closed; response heads are
bounded by HEADER_BYTES_MAX and bodies by the caller; beyond either the connection is closed.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from pyetcd.server.tls import Admission

IDLE_PER_HOST_MAX: Final = 2
HEADER_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 4 * 1024 * 1024


class Unreachable(Exception):
    """No answer came: the reason is one line for a log."""


@dataclass(slots=True, frozen=True)
class Response:
    """Header names are lower-case. `body` is empty for an opened stream."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class _Exchange:
    """One request and what has come back for it."""

    head: asyncio.Future[Response]
    done: asyncio.Future[None]
    on_body: Callable[[bytes], None]
    headers: dict[str, str] = field(default_factory=dict)
    header_bytes: int = 0


class _Connection(asyncio.Protocol):
    """Reads the response of the exchange under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = True
        self.last_data_s = loop.time()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: _Exchange | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def begin(self, head: bytes, on_body: Callable[[bytes], None]) -> _Exchange:
        """Send a request head (and a small body with it)."""
        assert self._exchange is None and self._transport is not None
        if not self.is_open:  # uvloop would raise a RuntimeError
            raise Unreachable("connection closed by the other side")
        exchange = _Exchange(self._loop.create_future(), self._loop.create_future(), on_body)
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(head)
        return exchange

    async def write(self, data: bytes) -> None:
        """More of a request body; waits while the other side reads slowly. On a connection that
        is closed it does nothing: the exchange knows why."""
        assert self._transport is not None
        if not self.is_open:
            return
        self._transport.write(data)
        await self._writable.wait()

    @property
    def tls(self) -> ssl.SSLObject:
        """Of a connection that has it."""
        assert self._transport is not None
        return cast(ssl.SSLObject, self._transport.get_extra_info("ssl_object"))

    def close(self) -> None:
        if self._transport is not None and self.is_open:
            self.is_open = False
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.last_data_s = self._loop.time()
        if self._exchange is None:
            self._fail("bytes without a request")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._fail(str(cause) if cause is not None else f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._writable.set()
        self._fail(f"connection lost: {exc}" if exc else "connection closed by the other side")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _fail(self, reason: str) -> None:
        self.close()
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        for future in (exchange.head, exchange.done):
            if not future.done():
                future.set_exception(Unreachable(reason))
                future.exception()  # whoever waits only for the other must not be warned

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        exchange.header_bytes += len(name) + len(value)
        if exchange.header_bytes > HEADER_BYTES_MAX:
            raise Unreachable("response head too large")
        exchange.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        status = self._parser.get_status_code()
        if status < 200:
            exchange.headers.clear()  # informational; the answer follows
        elif not exchange.head.done():
            exchange.head.set_result(Response(status, exchange.headers))

    def on_body(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        exchange.on_body(data)

    def on_message_complete(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        if not exchange.head.done():
            return
        self._exchange = None
        if not self._parser.should_keep_alive():
            self.close()
        if not exchange.done.done():
            exchange.done.set_result(None)


class OpenStream:
    """A response whose body goes to `on_body` as it arrives."""

    def __init__(self, connection: _Connection, exchange: _Exchange, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self._connection = connection
        self._exchange = exchange

    async def wait_closed(self, *, read_timeout_s: float) -> None:
        """Returns when the body ended; Unreachable when it broke or was silent for too long."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        try:
            while True:
                wait_s = connection.last_data_s + read_timeout_s - loop.time()
                if wait_s <= 0:
                    raise Unreachable(f"nothing received for {read_timeout_s:g} s")
                done, _ = await asyncio.wait([self._exchange.done], timeout=wait_s)
                if done:
                    return self._exchange.done.result()
        finally:
            connection.close()

    def close(self) -> None:
        self._connection.close()


class HttpClient:
    """Connections to peers. `dial_timeout_s` is etcd's: 1 s plus the election timeout."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        admission: Admission | None = None,
        dial_timeout_s: float = 2.0,
    ) -> None:
        self._ssl_context = ssl_context
        self._admission = admission
        self._dial_timeout_s = dial_timeout_s
        self._idle: dict[str, list[_Connection]] = {}
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        body: bytes = b"",
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> Response:
        """One request and its whole answer."""
        head = _head(method, url, path, headers, len(body)) + body
        while True:
            connection = self._take_idle(url)
            is_reused = connection is not None
            try:
                async with asyncio.timeout(timeout_s):
                    if connection is None:
                        connection = await self._dial(url)
                    return await self._exchange(connection, url, head, body_bytes_max)
            except TimeoutError:
                raise Unreachable(f"no answer within {timeout_s:g} s") from None
            except _Stale:
                if not is_reused:
                    raise
            finally:
                if connection is not None and connection not in self._idle.get(url, ()):
                    connection.close()

    async def upload(
        self,
        url: str,
        path: str,
        *,
        headers: Mapping[str, str],
        length: int,
        chunks: AsyncIterator[bytes],
        answer_timeout_s: float,
        progress_timeout_s: float,
    ) -> Response:
        """POST `length` bytes. Each chunk must be taken within `progress_timeout_s`. An answer
        that comes before the end of the body ends the upload."""
        connection = await self._dial(url)
        body = _Body(BODY_BYTES_MAX)
        try:
            exchange = connection.begin(_head("POST", url, path, headers, length), body.add)
            async for chunk in chunks:
                async with asyncio.timeout(progress_timeout_s):
                    await connection.write(chunk)
                if exchange.done.done() or not connection.is_open:
                    break
            async with asyncio.timeout(answer_timeout_s):
                await exchange.done
            response = exchange.head.result()
            return Response(response.status, response.headers, body.join())
        except TimeoutError:
            raise Unreachable("the other side stopped reading or did not answer") from None
        finally:
            connection.close()

    async def open(
        self,
        url: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        on_body: Callable[[bytes], None],
    ) -> OpenStream:
        """GET a body without end. What `on_body` raises closes the connection, as the reason."""
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._dial(url)
                try:
                    exchange = connection.begin(_head("GET", url, path, headers, 0), on_body)
                    return OpenStream(connection, exchange, await exchange.head)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout_s:g} s") from None

    def close(self) -> None:
        """Closes the kept connections; those in use close with their exchange."""
        self._closed = True
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _exchange(
        self, connection: _Connection, url: str, head: bytes, body_bytes_max: int
    ) -> Response:
        body = _Body(body_bytes_max)
        try:
            exchange = connection.begin(head, body.add)
            await exchange.done
        except Unreachable as error:
            raise _Stale(*error.args) from None
        response = exchange.head.result()
        idle = self._idle.setdefault(url, [])
        if connection.is_open and not self._closed and len(idle) < IDLE_PER_HOST_MAX:
            idle.append(connection)
        return Response(response.status, response.headers, body.join())

    def _take_idle(self, url: str) -> _Connection | None:
        idle = self._idle.get(url, [])
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _dial(self, url: str) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 0
        except ValueError as error:
            raise Unreachable(f"dial {url}: {error}") from error
        context = self._ssl_context if parts.scheme in ("https", "unixs") else None
        if parts.scheme in ("https", "unixs") and context is None:
            raise Unreachable(f"no TLS configured for {url}")
        try:
            async with asyncio.timeout(self._dial_timeout_s):
                if parts.scheme in ("unix", "unixs"):
                    # etcd takes host:port of the URL as the name of the socket file.
                    _, connection = await loop.create_unix_connection(
                        lambda: _Connection(loop),
                        parts.netloc,
                        ssl=context,
                        server_hostname=host if context else None,
                    )
                else:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(loop), host, port, ssl=context
                    )
        except TimeoutError:
            raise Unreachable(f"dial {parts.netloc}: timeout") from None
        except (OSError, ValueError) as error:
            raise Unreachable(f"dial {parts.netloc}: {error}") from error
        if context is not None and self._admission is not None:
            refusal = self._admission.refusal(connection.tls)
            if refusal:
                connection.close()
                raise Unreachable(f"dial {parts.netloc}: {refusal}")
        return connection


class _Stale(Unreachable):
    """The connection broke before an answer; on a kept one that only says that it was old."""


class _Body:
    """A response body, bounded."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._chunks: list[bytes] = []

    def add(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise Unreachable("response body too large")
        self._chunks.append(data)

    def join(self) -> bytes:
        return b"".join(self._chunks)


def _head(method: str, url: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {url.partition('://')[2]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length or method == "POST":
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
