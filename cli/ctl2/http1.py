"""HTTP/1.1 as a client speaks it: a request's bytes, and the answer read from a socket.

In the place of http.client, whose imports take longer than a command. Failures have the words of
Go's net/http. Limits: a head of HEAD_BYTES_MAX, a body of BODY_BYTES_MAX.
"""

import binascii
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyetcd.cli.ctl2.failure import Failure
from pyetcd.cli.gotext import quote
from pyetcd.cli.gourl import URL, escaped_path, unescaped

OK, CREATED, NO_CONTENT, NOT_MODIFIED = 200, 201, 204, 304
NOT_FOUND, CONFLICT, GONE = 404, 409, 410
INTERNAL_ERROR, UNAVAILABLE = 500, 503

HEAD_BYTES_MAX: Final = 10 << 20  # net/http: MaxResponseHeaderBytes
BODY_BYTES_MAX: Final = 1 << 30
_CHUNK_BYTES: Final = 1 << 16
BROKEN: Final = "net/http: HTTP/1.x transport connection broken"
_SHORT: Final = "unexpected EOF"
_SHORT_CHUNK: Final = "http: unexpected EOF reading trailer"


class HungUp(Exception):
    """The server ended the connection without a word."""


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to a server, whichever it is."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None = None

    def raw(self, proxy: URL | None) -> bytes:
        """The bytes on the connection, which is closed after the answer; for a proxy, the whole URL
        is in them."""
        target = escaped_path(self.url.path) or "/"
        target += f"?{self.url.query}" if self.url.query else ""
        if proxy is not None:
            target = f"{self.url.scheme}://{self.url.host}{target}"
        headers = {"Host": self.url.host, "User-Agent": "Go-http-client/1.1", **self.headers}
        headers |= {} if proxy is None else _for_proxy(proxy)
        if self.body is not None:
            headers["Content-Length"] = str(len(self.body))
        lines = [f"{self.method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (*headers.items(), ("Connection", "close"))]
        head = "\r\n".join(lines) + "\r\n\r\n"
        return head.encode("utf-8", "surrogateescape") + (self.body or b"")


def connect_request(place: str, proxy: URL) -> bytes:
    """Asks a proxy for a connection to a place."""
    headers = {"Host": place, "User-Agent": "Go-http-client/1.1", **_for_proxy(proxy)}
    lines = [f"CONNECT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _for_proxy(proxy: URL) -> dict[str, str]:
    return {"Proxy-Authorization": basic(unescaped(proxy.user))} if proxy.user else {}


def basic(both: str) -> str:
    """The header's value for `user:password`."""
    raw = both.encode("utf-8", "surrogateescape")
    return "Basic " + binascii.b2a_base64(raw, newline=False).decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Reader:
    """Reads one answer: first `head`, then `body`. Raises HungUp, Failure and OSError."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = bytearray()
        self.phrase = ""  # what stands behind the status

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the answer that is not about its being continued."""
        while True:
            status, headers = self._head()
            if status // 100 != 1:
                return status, headers

    def _head(self) -> tuple[int, dict[str, str]]:
        first = self._line()
        if first is None:
            if not self._buffer:
                raise HungUp
            first = self._buffer.decode("utf-8", "replace")  # of which there is no more
            self._buffer.clear()
        status = _status(first)
        self.phrase = first.partition(" ")[2].lstrip(" ").partition(" ")[2]
        headers: dict[str, str] = {}
        while True:
            line = self._line()
            if line is None:
                raise Failure(f"{BROKEN}: {_SHORT}")
            if not line:
                return status, headers
            name, colon, value = line.partition(":")
            if not colon:
                shown = quote(line.encode())
                raise Failure(f"{BROKEN}: malformed MIME header: missing colon: {shown}")
            if not name or name.endswith(" "):
                raise Failure(f"{BROKEN}: malformed MIME header line: {line}")
            headers.setdefault(name.lower(), value.strip())

    def body(self, status: int, headers: Mapping[str, str]) -> bytes:
        """All of the body."""
        if status in (NO_CONTENT, NOT_MODIFIED):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = headers.get("content-length")
        if length is None:
            while self._receive():
                pass
            return bytes(self._buffer)
        if not re.fullmatch("[0-9]{1,18}", length):
            raise Failure(f"{BROKEN}: bad Content-Length {quote(length.encode())}")
        body = self._exactly(int(length))
        if body is None:
            raise Failure(_SHORT)
        return body

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = self._line()
            if line is None:
                raise Failure(_SHORT)
            size = line.partition(";")[0].strip()
            if not re.fullmatch("[0-9a-fA-F]{1,16}", size):
                raise Failure("invalid byte in chunk length")
            chunk = self._exactly(int(size, 16))
            if chunk is None:
                raise Failure(_SHORT_CHUNK)
            if not chunk:
                break
            body += chunk
            if self._exactly(2) != b"\r\n":
                raise Failure("malformed chunked encoding")
        while (line := self._line()) != "":
            if line is None:
                raise Failure(_SHORT_CHUNK)
        return bytes(body)

    def _line(self) -> str | None:
        """A line without its end; None when it has none."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                limit = "net/http: server response headers exceeded"
                raise Failure(f"{limit} {HEAD_BYTES_MAX} bytes; aborted")
            if not self._receive():
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r").decode("utf-8", "replace")

    def _exactly(self, size: int) -> bytes | None:
        """None when there is less."""
        while len(self._buffer) < size:
            if not self._receive():
                return None
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def _receive(self) -> bool:
        if len(self._buffer) > BODY_BYTES_MAX:
            raise Failure("the answer is too large")
        chunk = self._channel.recv(_CHUNK_BYTES)
        self._buffer += chunk
        return bool(chunk)


def _status(line: str) -> int:
    protocol, space, rest = line.partition(" ")
    if not space:
        raise Failure(f"{BROKEN}: malformed HTTP response {quote(line.encode())}")
    code = rest.lstrip(" ").partition(" ")[0]
    if not re.fullmatch("[0-9]{3}", code):
        raise Failure(f"{BROKEN}: malformed HTTP status code {quote(code.encode())}")
    if not re.fullmatch(r"HTTP/[0-9]\.[0-9]", protocol):
        raise Failure(f"{BROKEN}: malformed HTTP version {quote(protocol.encode())}")
    return int(code)
