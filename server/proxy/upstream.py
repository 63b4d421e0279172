"""The cluster behind the proxy: connections to its endpoints, calls and streams over them.

Strategy. Two grpc.aio channels for each endpoint, one for unary calls and one for streams, so that
neither waits for the other's place; a task for each endpoint watches whether it is connected, and
calls go round robin over those that are. grpc connects again by itself.

Rules, those of etcd's client. A call waits for a connection until WAIT_S or its own time is over,
except those that etcd's proxy sends down an open connection only. A read that fails because a
server was not available is sent again, up to RETRIES times; a write never is, once it has left,
since its outcome is unknown. Failures leave as EtcdError with the cluster's own words, or with
those of etcd's client where there was no answer.

--insecure-skip-tls-verify: grpc cannot leave a certificate unchecked, so the one that the server
shows is fetched first and trusted; after a failed connection it is fetched again.

Limits: send_bytes_max of a request (ResourceExhausted); grpc's own windows of what is unread.
"""

import asyncio
import contextlib
import os
import random
import ssl
from collections.abc import Sequence
from typing import Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the C core would write on our stderr

import grpc
import grpc.aio

from pyetcd.proto.errors import Code, EtcdError, RpcError, from_status
from pyetcd.server.logs import get
from pyetcd.server.proxy.dial import Place, fetched_certificate, place_of, reason_of
from pyetcd.server.proxy.settings import Settings

WAIT_S: Final = 5.0  # for a connection: etcd's DialTimeout
RETRIES: Final = 100  # clientv3: defaultUnaryMaxRetries
RETRY_PAUSE_S, RETRY_JITTER = 0.025, 0.10
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 30_000, 10_000
BACKOFF_MS_MIN, BACKOFF_MS_MAX = 100, 2000
# What grpc's core says when there was no answer, not the server.
_NO_ANSWER: Final = (
    *("failed to connect", "Socket closed", "Connection reset", "GOAWAY", "Stream removed"),
    *("recvmsg", "sendmsg", "keepalive", "Broken pipe", "ead failed", "Transport closed"),
    *("unavailable", "ipv4:", "ipv6:", "unix:", "Channel closed", "Cancelling all calls"),
    *("DNS resolution", "Endpoint", "empty address list"),
)

Metadata = tuple[tuple[str, str | bytes], ...]
_aio: Any = grpc.aio  # its stubs miss what has a default
EOF: Final = _aio.EOF
Bidi = Any  # grpc.aio.StreamStreamCall of bytes


class Peer:
    """One endpoint."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.is_ready = False
        self.has_failed = False
        self.unary: Any = None  # a grpc.aio.Channel, or None while it is opened
        self.streams: Any = None
        self.reason = ""  # why it took no connection, and when that was asked
        self.reason_at_s = float("-inf")


class Upstream:
    """All endpoints."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._peers = [Peer(place_of(one)) for one in settings.endpoints]
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = 0
        self._changed = asyncio.Event()
        self._log = get("client")

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._settings.endpoints

    @property
    def retries_order(self) -> int:
        """How many answers in the wrong order are asked again (clientv3: ordering)."""
        return 5 * len(self._peers)

    async def start(self) -> None:
        for peer in self._peers:
            self._tasks.append(asyncio.create_task(self._watch(peer)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers:
            await _close(peer)

    async def unary(
        self,
        path: str,
        payload: bytes,
        metadata: Metadata,
        *,
        timeout_s: float | None = None,
        is_repeatable: bool = False,
        waits: bool = True,
    ) -> bytes:
        """One call; raises EtcdError."""
        self._check_size(payload)
        loop = asyncio.get_running_loop()
        end_s = None if timeout_s is None else loop.time() + timeout_s
        quorum = len(self._peers) // 2 + 1
        for attempt in range(RETRIES):
            if attempt and attempt % quorum == 0:
                pause_s = RETRY_PAUSE_S * random.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER)
                await asyncio.sleep(pause_s)
            left_s = None if end_s is None else max(0.0, end_s - loop.time())
            peer = await self.ready(left_s, waits=waits)
            try:
                return await self._call(peer, path, payload, metadata, end_s)
            except EtcdError as failure:
                if not is_repeatable or failure.code != Code.UNAVAILABLE:
                    raise
                last = failure
        raise last

    async def ready(self, timeout_s: float | None = None, *, waits: bool = True) -> Peer:
        """A connected endpoint, each in its turn; raises EtcdError."""
        peer = self._next()
        if peer is not None:
            return peer
        limit_s = WAIT_S if timeout_s is None else min(timeout_s, WAIT_S)
        try:
            async with asyncio.timeout(limit_s):
                while waits or not all(one.has_failed for one in self._peers):
                    self._changed.clear()
                    await self._changed.wait()
                    if (peer := self._next()) is not None:
                        return peer
        except TimeoutError:
            if timeout_s is not None and timeout_s <= WAIT_S:
                raise RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded") from None
        raise await self._not_connected()

    def stream(self, peer: Peer, path: str, metadata: Metadata) -> Bidi:
        """Opens a stream of bytes in both directions."""
        assert peer.streams is not None
        return peer.streams.stream_stream(path)(metadata=metadata)

    def server_stream(
        self, peer: Peer, path: str, payload: bytes, metadata: Metadata, timeout_s: float | None
    ) -> Any:
        """Opens a stream of bytes that answers one request."""
        self._check_size(payload)
        assert peer.streams is not None
        return peer.streams.unary_stream(path)(payload, metadata=metadata, timeout=timeout_s)

    async def translate(self, failure: grpc.aio.AioRpcError, peer: Peer) -> EtcdError:
        """What grpc raised, as the client is to see it."""
        code, text = int(failure.code().value[0]), failure.details() or ""
        if code == Code.DEADLINE_EXCEEDED:
            return RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        if code == Code.UNAVAILABLE and any(word in text for word in _NO_ANSWER):
            if "failed to connect" in text:
                return await self._not_connected(peer)
            return RpcError(Code.UNAVAILABLE, "transport is closing")
        return from_status(code, text)

    # Calls

    async def _call(
        self, peer: Peer, path: str, payload: bytes, metadata: Metadata, end_s: float | None
    ) -> bytes:
        channel = peer.unary
        if channel is None:  # being opened again
            raise RpcError(Code.UNAVAILABLE, "transport is closing")
        timeout_s = None
        if end_s is not None:
            timeout_s = max(0.0, end_s - asyncio.get_running_loop().time())
        try:
            answer = await channel.unary_unary(path)(payload, metadata=metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as failure:
            raise await self.translate(failure, peer) from None
        assert isinstance(answer, bytes)
        return answer

    def _check_size(self, payload: bytes) -> None:
        largest = self._settings.send_bytes_max
        if 0 < largest < len(payload):
            text = f"trying to send message larger than max ({len(payload)} vs. {largest})"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)

    def _next(self) -> Peer | None:
        for _ in self._peers:
            self._turn = (self._turn + 1) % len(self._peers)
            if self._peers[self._turn].is_ready:
                return self._peers[self._turn]
        return None

    async def _not_connected(self, peer: Peer | None = None) -> EtcdError:
        peer = peer or self._peers[-1]
        loop = asyncio.get_running_loop()
        if loop.time() - peer.reason_at_s > 1.0:
            peer.reason_at_s = loop.time()
            peer.reason = await reason_of(peer.place)
        error = "connection closed"  # by who is no etcd, or wants TLS
        if peer.reason:
            error = f'connection error: desc = "transport: {peer.reason}"'
        return RpcError(Code.UNAVAILABLE, f"last connection error: {error}")

    # Connections

    async def _watch(self, peer: Peer) -> None:
        while True:
            await self._open(peer)
            assert peer.unary is not None
            while True:
                state = peer.unary.get_state(try_to_connect=True)
                is_ready = state == grpc.ChannelConnectivity.READY
                if is_ready != peer.is_ready:
                    word = "connected to" if is_ready else "lost the connection to"
                    self._log.info(f"{word} an endpoint", endpoint=peer.place.address)
                peer.is_ready = is_ready
                failed = state == grpc.ChannelConnectivity.TRANSIENT_FAILURE
                peer.has_failed = failed or (peer.has_failed and not is_ready)
                self._changed.set()
                if failed and self._settings.skips_verify:
                    break  # with the certificate it shows now
                await peer.unary.wait_for_state_change(state)
            await asyncio.sleep(BACKOFF_MS_MAX / 1000)

    async def _open(self, peer: Peer) -> None:
        await _close(peer)
        place = peer.place
        options: list[tuple[str, Any]] = [
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", self._settings.receive_bytes_max),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", BACKOFF_MS_MIN),
            ("grpc.min_reconnect_backoff_ms", BACKOFF_MS_MIN),
            ("grpc.max_reconnect_backoff_ms", BACKOFF_MS_MAX),
        ]
        credentials = None
        if place.is_secure(self._settings):
            settings = self._settings
            roots, name = _content(settings.ca_file), ""
            if settings.skips_verify:
                with contextlib.suppress(OSError, ssl.SSLError, ValueError):
                    roots, name = await asyncio.to_thread(fetched_certificate, place, settings)
            key, cert = _content(settings.key_file), _content(settings.cert_file)
            credentials = grpc.ssl_channel_credentials(roots, key, cert)
            if name:
                options.append(("grpc.ssl_target_name_override", name))
        peer.unary = _channel(place.target, credentials, options)
        peer.streams = _channel(place.target, credentials, options)


def _channel(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
) -> Any:
    if credentials is None:
        return _aio.insecure_channel(target, options)
    return _aio.secure_channel(target, credentials, options)


async def _close(peer: Peer) -> None:
    channels, peer.unary, peer.streams = (peer.unary, peer.streams), None, None
    peer.is_ready = False
    for channel in channels:
        if channel is not None:
            await channel.close()


def _content(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
