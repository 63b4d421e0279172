"""One HTTP/2 connection for unary gRPC calls over a blocking socket: what a short command needs.

Importing grpc costs more than everything else of a `ctl get` together (35 of 78 ms), and a call
through it some 300 us against 100 here; so a command whose connection opens at once talks over this
one, over TLS as well, and grpc is loaded only for streams and when something goes wrong.

Rules. Nothing is asked before the peer's SETTINGS have come, as grpc-go waits for them: until then,
and whenever the peer says that it has not looked at a call, NotReady is raised and the call may go
another way. After that a call ends with its answer, with Failed, Overdue or Lost, and is never sent
again here. One call at a time. We tell the peer to use no dynamic table, so that its header blocks
need no state; of them only the fields that a unary call reads are looked at.

Sources: RFC 9113, RFC 7541, gRPC over HTTP/2; grpc-go's http_util.go for the status of a reset or
of a failed HTTP request.
"""

import socket
import struct
import time
from typing import TYPE_CHECKING

from pyetcd.cli.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTING,
    SETTINGS,
    STREAM_ID_MAX,
    WINDOW_MAX,
    WINDOW_UPDATE,
    frame,
)
from pyetcd.cli.h2_headers import literal, read_block

if TYPE_CHECKING:
    import ssl

OPEN_S = 0.25  # for TCP, TLS and SETTINGS; who is slower or absent is grpc's to wait for
FRAME_BYTES_MAX = 16384  # what we accept, the default of HTTP/2
HEADER_BYTES_MAX = 16 << 20  # of one answer, as grpc-go
RECEIVE_BYTES = 1 << 18
RENEW_BYTES = 1 << 30  # of what was received, before the connection's window is opened again
_HEADER_TABLE_SIZE, _ENABLE_PUSH = 1, 2
_REFUSED_STREAM, _CANCEL = 7, 8
_TIMEOUT_MS_MAX = 99_999_999  # grpc-timeout has eight digits

CANCELLED, UNKNOWN, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 1, 2, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 12, 13, 14, 16
_RESET_CODES = {_REFUSED_STREAM: UNAVAILABLE, _CANCEL: CANCELLED, 3: INTERNAL}
_RESET_CODES |= {11: RESOURCE_EXHAUSTED, 12: PERMISSION_DENIED}
_HTTP_CODES = {400: INTERNAL, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: UNIMPLEMENTED}
_HTTP_CODES |= dict.fromkeys((429, 502, 503, 504), UNAVAILABLE)


class NotReady(Exception):
    """No connection, or one whose peer has not looked at the call."""


class Lost(Exception):
    """The connection broke after the call had left: its outcome is unknown."""


class Overdue(Exception):
    """The call's time is over."""


class Failed(Exception):
    """The call's status, which is not OK; `code` is gRPC's number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


Address = tuple[str, int] | str  # a str is the path of a unix socket


class Direct:
    """An open connection. Not for two threads at once."""

    def __init__(
        self,
        connection: socket.socket,
        authority: str,
        *,
        keepalive_s: float,
        patience_s: float,
        is_secure: bool = False,
    ) -> None:
        """`keepalive_s` without a byte while a call waits sends a ping; `patience_s` after it
        without one the connection counts as lost."""
        self._socket = connection
        self._authority = authority.encode()
        self._front = b"\x83\x87" if is_secure else b"\x83\x86"  # :method POST, :scheme
        self._keepalive_s, self._patience_s = keepalive_s, patience_s
        self._buffer = bytearray()
        self._next_id = 1
        self._window, self._stream_window = 65535, 65535  # what the peer takes from us
        self._sent_frame_max = 16384
        self._received = 0
        self._is_leaving = False  # the peer takes no new call

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def call(
        self,
        path: str,
        message: bytes,
        metadata: tuple[tuple[str, str | bytes], ...],
        *,
        timeout_s: float | None,
        receive_bytes_max: int,
    ) -> bytes:
        """The answer's message; raises what this module declares. `receive_bytes_max` below zero is
        no limit."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._look_at_news()
        stream_id, self._next_id = self._next_id, self._next_id + 2
        call = _Call(self, stream_id, deadline_s)
        try:
            call.send(self._head(path, metadata, timeout_s), message)
            raw = call.answer()
        except TimeoutError:
            raise Lost("keepalive ping failed to receive ACK within timeout") from None
        except OSError as failure:
            raise Lost(str(failure)) from None
        if 0 <= receive_bytes_max < len(raw):
            size = f"({len(raw)} vs. {receive_bytes_max})"
            raise Failed(RESOURCE_EXHAUSTED, f"grpc: received message larger than max {size}")
        return raw

    def start(self, deadline_s: float) -> None:
        """Exchanges SETTINGS; raises NotReady."""
        values = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW_MAX))
        settings = b"".join(SETTING.pack(*value) for value in values)
        widened = struct.pack(">I", WINDOW_MAX - 65535)
        try:
            self._socket.sendall(
                PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, widened)
            )
            kind, flags, stream_id, payload = self._read(deadline_s)
        except (OSError, Overdue, Lost):
            raise NotReady from None
        if kind != SETTINGS or flags & ACK or stream_id:
            raise NotReady
        self._apply(payload)

    def _look_at_news(self) -> None:
        """What came between the calls: a peer that leaves says so, or hangs up."""
        self._socket.setblocking(False)
        try:
            while True:
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise NotReady
                self._buffer += data
        except BlockingIOError:
            pass
        except OSError as failure:
            if type(failure).__name__ != "SSLWantReadError":  # TLS has its own BlockingIOError
                raise NotReady from None
        try:
            while (found := self._cut()) is not None:
                self.control(*found)
        except (OSError, Lost):
            raise NotReady from None
        if self._is_leaving or self._next_id > STREAM_ID_MAX:
            raise NotReady

    def _head(
        self, path: str, metadata: tuple[tuple[str, str | bytes], ...], timeout_s: float | None
    ) -> bytes:
        fields = [
            (b":path", path.encode()),
            (b":authority", self._authority),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        if timeout_s is not None:
            fields.append((b"grpc-timeout", _timeout(timeout_s)))
        for name, value in metadata:
            fields.append((name.encode(), value if isinstance(value, bytes) else value.encode()))
        written = (b"\x00" + literal(name) + literal(value) for name, value in fields)
        return self._front + b"".join(written)

    # What a call uses.

    def send(self, data: bytes) -> None:
        """Raises OSError and, after `patience_s`, TimeoutError."""
        self._socket.settimeout(self._keepalive_s + self._patience_s)
        self._socket.sendall(data)

    def next_frame(self, deadline_s: float | None) -> tuple[int, int, int, bytes]:
        """The next frame; asks a silent peer whether it lives. Raises Overdue, Lost, OSError."""
        try:
            return self._read(_sooner(deadline_s, time.monotonic() + self._keepalive_s))
        except Overdue:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise
        self.send(frame(PING, 0, 0, bytes(8)))
        limit_s = time.monotonic() + self._patience_s
        try:
            return self._read(_sooner(deadline_s, limit_s))
        except Overdue:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise
            raise Lost("keepalive ping failed to receive ACK within timeout") from None

    def room(self, used: int) -> int:
        """How many bytes of a stream that has used so many may leave now."""
        return min(self._window, self._stream_window - used, self._sent_frame_max)

    def use(self, size: int) -> None:
        """Takes from the connection's window."""
        self._window -= size

    def control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A frame that is about no answer."""
        if kind == SETTINGS and not flags & ACK:
            self._apply(payload)
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream_id == 0:
            self._window += int.from_bytes(payload, "big") & WINDOW_MAX
        elif kind == GOAWAY:
            self._is_leaving = True
        elif kind == DATA:
            self.count(len(payload))

    def count(self, size: int) -> None:
        """Counts what came; the peer's window is opened again in time."""
        self._received += size
        if self._received >= RENEW_BYTES:
            self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    def _apply(self, settings: bytes) -> None:
        for name, value in SETTING.iter_unpack(settings[: len(settings) // 6 * 6]):
            if name == INITIAL_WINDOW_SIZE:
                self._stream_window = value
            elif name == MAX_FRAME_SIZE:
                self._sent_frame_max = value
        self.send(frame(SETTINGS, ACK, 0, b""))

    def _read(self, deadline_s: float | None) -> tuple[int, int, int, bytes]:
        while (found := self._cut()) is None:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise Overdue
            self._socket.settimeout(left_s)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                raise Overdue from None
            if not data:
                raise Lost("EOF")
            self._buffer += data
        return found

    def _cut(self) -> tuple[int, int, int, bytes] | None:
        """One frame off the buffer, if a whole one is there."""
        buffer = self._buffer
        if len(buffer) < 9:
            return None
        high, low, kind, flags, stream_id = FRAME.unpack_from(buffer)
        length = high << 8 | low
        if length > FRAME_BYTES_MAX:
            raise Lost("frame too large")
        if len(buffer) < 9 + length:
            return None
        payload = bytes(buffer[9 : 9 + length])
        del buffer[: 9 + length]
        return kind, flags, stream_id & WINDOW_MAX, payload


class _Call:
    """One call on its way."""

    def __init__(self, direct: Direct, stream_id: int, deadline_s: float | None) -> None:
        self._direct = direct
        self._id = stream_id
        self._deadline_s = deadline_s
        self._stream_window = 0  # what the peer added to the stream's window
        self._block = b""
        self._block_flags = 0
        self._body: list[bytes] = []
        self._fields: dict[bytes, bytes] = {}
        self._is_over = False

    def send(self, head: bytes, message: bytes) -> None:
        """The whole request; an answer that comes before its end ends it."""
        direct = self._direct
        out = [frame(HEADERS, END_HEADERS, self._id, head)]
        body = b"\x00" + len(message).to_bytes(4, "big") + message
        sent = 0
        while not self._is_over:
            size = min(direct.room(sent - self._stream_window), len(body) - sent)
            if size > 0:
                last = sent + size == len(body)
                part = body[sent : sent + size]
                out.append(frame(DATA, END_STREAM if last else 0, self._id, part))
                direct.use(size)
                sent += size
            if out:
                direct.send(b"".join(out))
                out.clear()
            if sent == len(body):
                return
            if size <= 0:
                self._take_frame()

    def answer(self) -> bytes:
        """Waits for the end of the stream; raises Failed, NotReady, Overdue, Lost, OSError."""
        while not self._is_over:
            self._take_frame()
        fields = self._fields
        status = fields.get(b"grpc-status")
        if status is None:
            http = fields.get(b":status", b"200")
            if http != b"200":
                shown = http.decode("ascii", "replace")
                text = f"unexpected HTTP status code received from server: {shown}"
                raise Failed(_HTTP_CODES.get(int(http) if http.isdigit() else 0, UNKNOWN), text)
            raise Failed(INTERNAL, "server closed the stream without sending trailers")
        if status != b"0":
            code = int(status) if status.isdigit() else UNKNOWN
            raise Failed(code, _message(fields.get(b"grpc-message", b"")))
        return self._one_message()

    def _one_message(self) -> bytes:
        raw = b"".join(self._body)
        if len(raw) < 5:
            raise Failed(INTERNAL, "cardinality violation: received no response message")
        if raw[0]:
            raise Failed(INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        length = int.from_bytes(raw[1:5], "big")
        if length != len(raw) - 5:
            raise Failed(INTERNAL, "unexpected EOF")
        return raw[5:]

    def _take_frame(self) -> None:
        direct = self._direct
        try:
            kind, flags, stream_id, payload = direct.next_frame(self._deadline_s)
        except Overdue:
            direct.send(frame(RST_STREAM, 0, self._id, struct.pack(">I", _CANCEL)))
            raise
        if stream_id != self._id:
            if kind == GOAWAY and int.from_bytes(payload[:4], "big") & WINDOW_MAX < self._id:
                raise NotReady
            direct.control(kind, flags, stream_id, payload)
        elif kind == DATA:
            direct.count(len(payload))
            self._body.append(_unpadded(payload) if flags & PADDED else payload)
            self._is_over = bool(flags & END_STREAM)
        elif kind in (HEADERS, CONTINUATION):
            self._take_block(kind, flags, payload)
        elif kind == WINDOW_UPDATE:
            self._stream_window += int.from_bytes(payload, "big") & WINDOW_MAX
        elif kind == RST_STREAM:
            self._take_reset(int.from_bytes(payload, "big"))

    def _take_block(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == HEADERS:
            if flags & PADDED:
                payload = _unpadded(payload)
            if flags & PRIORITY:
                payload = payload[5:]
            self._block, self._block_flags = payload, flags
        else:
            self._block += payload
        if len(self._block) > HEADER_BYTES_MAX:
            raise Lost("header list too large")
        if flags & END_HEADERS:
            try:
                self._fields |= read_block(self._block)
            except ValueError as failure:
                raise Lost(str(failure)) from None
            self._is_over = bool(self._block_flags & END_STREAM)

    def _take_reset(self, code: int) -> None:
        if code == _REFUSED_STREAM:
            raise NotReady
        if code == 0 and b"grpc-status" in self._fields:
            self._is_over = True
            return
        text = f"stream terminated by RST_STREAM with error code: {code}"
        raise Failed(_RESET_CODES.get(code, INTERNAL), text)


def _message(raw: bytes) -> str:
    if b"%" in raw:
        from urllib.parse import unquote_to_bytes

        raw = unquote_to_bytes(raw)
    return raw.decode("utf-8", "replace")


def _unpadded(payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]]


def _timeout(timeout_s: float) -> bytes:
    millis = max(1, int(timeout_s * 1000))
    return b"%dm" % millis if millis <= _TIMEOUT_MS_MAX else b"%dS" % int(timeout_s)


def _sooner(deadline_s: float | None, other_s: float) -> float:
    return other_s if deadline_s is None else min(deadline_s, other_s)


def connect(
    address: Address,
    authority: str,
    *,
    keepalive_s: float,
    patience_s: float,
    trust: "tuple[ssl.SSLContext, str] | None" = None,
) -> Direct | None:
    """A connection, if one opens at once. `trust`: TLS, and the name that is expected there."""
    limit_s = time.monotonic() + OPEN_S
    try:
        connection = _open(address, OPEN_S)
        if trust is not None:
            context, name = trust
            connection = context.wrap_socket(connection, server_hostname=name)
            if connection.selected_alpn_protocol() != "h2":
                connection.close()
                return None
    except OSError:  # a wrapped socket that fails is closed
        return None
    direct = Direct(
        connection,
        authority,
        keepalive_s=keepalive_s,
        patience_s=patience_s,
        is_secure=trust is not None,
    )
    try:
        direct.start(limit_s)
    except NotReady:
        direct.close()
        return None
    return direct


def _open(address: Address, timeout_s: float) -> socket.socket:
    if isinstance(address, tuple):
        connection = socket.create_connection(address, timeout=timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
