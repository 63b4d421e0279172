"""The TCP gateway: each connection is forwarded to one endpoint, byte by byte.

Strategy. Two asyncio protocols back to back. Nothing is read from a client before its endpoint has
taken the connection; whoever writes slower than the other side sends stops the reading there, so a
connection holds at most one socket buffer and what the transport keeps above it in each direction.
The end of one direction is passed on, and the pair is over when both have ended or either breaks.

Rules. An endpoint that takes no connection within DIAL_S is not asked again until it has taken one,
which is tried each `retry_delay_s`; meanwhile the client's connection goes to the next one. When no
endpoint is left the client's connection is closed at once: etcd's clients try again by themselves.

Limits: CONNECTIONS_MAX at once; one more is closed.
"""

import asyncio
import os
import socket
from typing import Final, cast

from pyetcd.server.logs import Log, get
from pyetcd.server.proxy.picker import Endpoint, Picker

CONNECTIONS_MAX: Final = 10_000
DIAL_S: Final = 5.0
BACKLOG: Final = 1024


class Gateway:
    """Accepts on one socket and forwards."""

    def __init__(self, picker: Picker, *, retry_delay_s: float, log: Log | None = None) -> None:
        self._picker = picker
        self._retry_delay_s = retry_delay_s
        self._log = log or get("gateway")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.clients: set[_Side] = set()
        self.accepted_total = 0
        self.refused_total = 0

    async def start(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), sock=listener, backlog=BACKLOG)
        self._spawn(self._monitor())
        endpoints = [one.address for one in self._picker.endpoints]
        self._log.info("ready to proxy client requests", endpoints=endpoints)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for side in list(self.clients):
            side.drop()
        await asyncio.sleep(0)  # for connection_lost of what was dropped
        await self._server.wait_closed()

    def accepted(self, side: "_Side") -> None:
        """A client is there; its reading is paused."""
        self.accepted_total += 1
        if len(self.clients) >= CONNECTIONS_MAX:
            self.refused_total += 1
            side.drop()
            return
        self.clients.add(side)
        self._spawn(self._serve(side))

    def _spawn(self, work: "asyncio.Future[None] | object") -> None:
        task = asyncio.ensure_future(cast("asyncio.Future[None]", work))
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, side: "_Side") -> None:
        while side.is_open and (endpoint := self._picker.pick()) is not None:
            try:
                other = await self._dial(endpoint)
            except OSError as failure:
                endpoint.is_active = False
                self._log.warn(
                    "deactivated endpoint",
                    address=endpoint.address,
                    interval=self._retry_delay_s,
                    error=_reason(endpoint, failure),
                )
                continue
            side.join(other)
            return
        side.drop()

    async def _dial(self, endpoint: Endpoint) -> "_Side":
        """Raises OSError; a TimeoutError is one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DIAL_S):
            _, side = await loop.create_connection(
                lambda: _Side(None), endpoint.host, endpoint.port
            )
        return side

    async def _monitor(self) -> None:
        while True:
            await asyncio.sleep(self._retry_delay_s)
            await asyncio.gather(*(self._try_again(one) for one in self._picker.inactive()))

    async def _try_again(self, endpoint: Endpoint) -> None:
        try:
            side = await self._dial(endpoint)
        except OSError as failure:
            self._log.warn(
                "failed to activate endpoint (stay inactive for another interval)",
                address=endpoint.address,
                interval=self._retry_delay_s,
                error=_reason(endpoint, failure),
            )
            return
        side.drop()
        endpoint.is_active = True
        self._log.info("activated", address=endpoint.address)


class _Side(asyncio.Protocol):
    """One end of a pair. `gateway` is set on the client's end."""

    def __init__(self, gateway: Gateway | None) -> None:
        self._gateway = gateway
        self._transport: asyncio.Transport | None = None
        self._other: _Side | None = None
        self._early = b""  # read before the pair was made
        self._has_ended = False  # said all it had to say
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        made: socket.socket = self._transport.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.pause_reading()
        if self._gateway is not None:
            self._gateway.accepted(self)

    def join(self, other: "_Side") -> None:
        """Forward from here on; either may be gone by now."""
        self._other, other._other = other, self
        for side in (self, other):
            if not side.is_open:
                self.drop()
                other.drop()
                return
        for side, opposite in ((self, other), (other, self)):
            assert side._transport is not None and opposite._transport is not None
            if side._early:
                opposite._transport.write(side._early)
                side._early = b""
            if side._has_ended:
                opposite._transport.write_eof()
            else:
                side._transport.resume_reading()

    def drop(self) -> None:
        if self._transport is not None and self.is_open:
            self.is_open = False
            self._transport.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            assert self._transport is not None
            self._early += data
            self._transport.pause_reading()  # again: uvloop forgets a pause in connection_made
        elif self._other.is_open and self._other._transport is not None:
            self._other._transport.write(data)

    def eof_received(self) -> bool:
        """Whether the other direction goes on."""
        self._has_ended = True
        other = self._other
        if other is None:
            return True  # passed on once there is somebody to pass it on to
        if not other.is_open or other._transport is None:
            return False
        other._transport.write_eof()
        return not other._has_ended

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._gateway is not None:
            self._gateway.clients.discard(self)
        if self._other is not None:
            self._other.drop()

    def pause_writing(self) -> None:
        if self._other is not None and self._other.is_open:
            assert self._other._transport is not None
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other.is_open:
            assert self._other._transport is not None
            self._other._transport.resume_reading()


def _reason(endpoint: Endpoint, failure: OSError) -> str:
    if isinstance(failure, TimeoutError):
        return f"dial tcp {endpoint.address}: i/o timeout"
    if isinstance(failure, socket.gaierror):
        return f"dial tcp: lookup {endpoint.host}: no such host"
    reason = os.strerror(failure.errno).lower() if failure.errno else str(failure)
    return f"dial tcp {endpoint.address}: connect: {reason}"
