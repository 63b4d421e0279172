"""Connections that have not shown yet what they speak: TLS, then HTTP/2 or HTTP/1.1.

Strategy: a `Sniffer` is the first protocol object of each connection. Behind TLS it waits for the
first record, takes its turn among the handshakes, lets the loop do the rest, and asks `Admission`
about who came. Then ALPN or the first bytes decide, and the connection's own object takes over.

Limits: connections_max with those that sniff; sniffing_per_host_max of one host; sniff_timeout_s
for the handshake and once more for the first bytes. Beyond a limit, a connection is dropped.
"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Set
from enum import Enum, auto
from typing import Final, Protocol

from pyetcd.server.handshake import Attempt, Handshakes, Rejections, ServerContext
from pyetcd.server.tls import Admission, alternatives
from pyetcd.server.wire import frames
from pyetcd.server.wire.limits import Limits

_WRITE_HIGH_BYTES: Final = 256 * 1024  # of the transport: above it, output waits with us
_CLOSE_S: Final = 1.0  # for the two close_notify of TLS


class _Stage(Enum):
    HELLO = auto()  # a first TLS record
    HANDSHAKE = auto()  # under way, or waiting for its turn
    ADMISSION = auto()  # the certificate's names are looked up
    FIRST_BYTES = auto()
    OVER = auto()


class Host(Protocol):
    """The listener: what its sniffers share, and where a connection goes that has shown itself."""

    loop: asyncio.AbstractEventLoop
    limits: Limits
    accepted_total: int
    refused_total: int
    handshakes: Handshakes
    rejections: Rejections
    admission: Admission | None
    before_handshake: Callable[[], None] | None
    sniffing: "dict[str, set[Sniffer]]"
    sniffers: set[asyncio.Transport]
    stopping: bool

    @property
    def connections(self) -> Set[object]: ...

    @property
    def dispatcher(self) -> object | None: ...

    @property
    def http(self) -> object | None: ...

    def spawn(self, work: Coroutine[object, object, None], done: Callable[[], None]) -> object: ...

    def connect_h2(self, transport: asyncio.Transport, peer: str) -> asyncio.Protocol: ...

    def connect_http1(self, transport: asyncio.Transport, peer: str) -> asyncio.Protocol: ...


class Sniffer(asyncio.Protocol):
    """One such connection."""

    def __init__(self, listener: Host, context: ServerContext | None) -> None:
        self.listener = listener
        self._context = context
        self._stage = _Stage.FIRST_BYTES if context is None else _Stage.HELLO
        self._seen = b""
        self._host = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._socket = self.transport  # below TLS
        listener = self.listener
        listener.accepted_total += 1
        address = transport.get_extra_info("peername")
        self._host = str(address[0]) if isinstance(address, tuple) else ""
        self._peer = _peer_text(address)
        sniffing = listener.sniffing.setdefault(self._host, set())
        sniffing.add(self)
        listener.sniffers.add(self._socket)
        self._set_timer()
        open_count = len(listener.connections) + len(listener.sniffers) - 1
        full = open_count >= listener.limits.connections_max
        if full or len(sniffing) > listener.limits.sniffing_per_host_max or listener.stopping:
            listener.refused_total += 1
            self._stage = _Stage.OVER
            self.transport.abort()
            return
        admission = listener.admission
        self._attempt = Attempt(admission.handshake_refusal if admission is not None else None)
        if self._context is None:
            self.transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    def _set_timer(self) -> None:
        listener = self.listener
        self._timer = listener.loop.call_later(listener.limits.sniff_timeout_s, self._too_late)

    def _too_late(self) -> None:
        if self._stage in (_Stage.HELLO, _Stage.HANDSHAKE):
            self._reject(f"read tcp {self._local}->{self._peer}: i/o timeout")
        else:
            self.transport.abort()

    @property
    def _local(self) -> str:
        return _peer_text(self._socket.get_extra_info("sockname"))

    def data_received(self, data: bytes) -> None:
        if self._stage is _Stage.HELLO:
            self._hear(data)
            return
        self._seen += data
        if self._stage is _Stage.FIRST_BYTES:
            self._sniff()

    # TLS

    def _hear(self, data: bytes) -> None:
        listener = self.listener
        if self._attempt.hear(data):
            self._stage = _Stage.HANDSHAKE
            self.transport.pause_reading()
            listener.handshakes.add(self._begin, listener.loop.call_soon)
        elif self._attempt.failure:
            self._reject(self._attempt.failure)

    def _begin(self) -> None:
        if self._stage is _Stage.HANDSHAKE and not self._socket.is_closing():
            if self.listener.before_handshake is not None:
                self.listener.before_handshake()
            self.listener.spawn(self._shake_hands(), _nothing)

    async def _shake_hands(self) -> None:
        listener, attempt = self.listener, self._attempt
        assert self._context is not None
        attempt.failed = lambda: listener.loop.call_soon(self._socket.close)
        reason = ""
        try:
            made = await listener.loop.start_tls(
                self._socket,
                self,
                self._context.of_attempt(attempt),
                server_side=True,
                ssl_handshake_timeout=listener.limits.sniff_timeout_s + 5,  # ours ends it first
                ssl_shutdown_timeout=_CLOSE_S,
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: closed before it began
            made = None
            reason = _lost_words(error, self._local, self._peer)
        if self._stage is not _Stage.HANDSHAKE:
            return
        if made is None or not attempt.is_done:
            self._reject(attempt.failure or reason or attempt.cut_off)
            return
        self.transport = made
        tls: ssl.SSLObject = made.get_extra_info("ssl_object")
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._timer.cancel()
        self._set_timer()
        self._stage = _Stage.ADMISSION
        refusal = ""
        admission = listener.admission
        if admission is not None:
            if admission.checks_address:
                self.transport.pause_reading()
                refusal = await admission.address_refusal(tls, self._host)
            refusal = refusal or admission.revocation(tls)
        if refusal:
            self._reject(refusal, tls)
        elif not self.transport.is_closing():
            self.transport.resume_reading()
            self._stage = _Stage.FIRST_BYTES
            if tls.selected_alpn_protocol() == "h2" and listener.dispatcher is not None:
                self._become(listener.connect_h2(self.transport, self._peer))
            elif self._seen:
                self._sniff()

    def _reject(self, reason: str, tls: ssl.SSLObject | None = None) -> None:
        self._stage = _Stage.OVER
        fields: dict[str, object] = {"server_name": self._attempt.server_name}
        if tls is not None and (certificate := tls.getpeercert()):
            fields["ip_addresses"], fields["dns_names"] = alternatives(certificate)
        self.listener.refused_total += 1
        self.listener.rejections.say(remote_addr=self._peer, **fields, error=reason)
        self._forget()
        self.transport.close()

    # What it speaks

    def _sniff(self) -> None:
        listener = self.listener
        speaks_h2 = listener.dispatcher is not None
        short = len(self._seen) < len(frames.PREFACE)
        if speaks_h2 and short and frames.PREFACE.startswith(self._seen):
            return
        if speaks_h2 and self._seen.startswith(frames.PREFACE):
            self._become(listener.connect_h2(self.transport, self._peer))
        elif listener.http is not None and self._seen[0] not in _NOT_HTTP:
            self._become(listener.connect_http1(self.transport, self._peer))
        else:
            self.transport.close()

    def _become(self, wire: asyncio.Protocol) -> None:
        self._stage = _Stage.OVER
        self._forget()
        self.transport.set_protocol(wire)
        if self._seen:
            wire.data_received(self._seen)

    def _forget(self) -> None:
        self._timer.cancel()
        self.listener.sniffers.discard(self._socket)
        sniffing = self.listener.sniffing.get(self._host)
        if sniffing is not None:
            sniffing.discard(self)
            if not sniffing:
                del self.listener.sniffing[self._host]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stage is _Stage.HELLO and not self.listener.stopping:
            reason = _lost_words(exc, self._local, self._peer) if exc is not None else ""
            self._reject(reason or self._attempt.cut_off)
        elif self._stage is not _Stage.HANDSHAKE:  # else its task speaks
            self._stage = _Stage.OVER
            self._forget()


_NOT_HTTP: Final = bytes((21, 22, 128))  # first bytes of TLS records: etcd says nothing to those


def _lost_words(error: BaseException, local: str, peer: str) -> str:
    """Go's words for a connection that broke; none for one that was closed."""
    if isinstance(error, ConnectionResetError) and error.errno:
        return f"read tcp {local}->{peer}: read: connection reset by peer"
    return ""


def _nothing() -> None:
    return None


def _peer_text(address: object) -> str:
    if not isinstance(address, tuple):
        return "@"  # a Unix socket
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
