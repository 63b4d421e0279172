"""The listener: sockets in, `wire` connections out. Nothing is decided here about requests.

Strategy: one port serves HTTP/2 and HTTP/1.1. A `Sniffer` tells them apart (sniff.py), then the
transport gets the protocol object of that kind. Everything a connection wants to
send in one loop turn leaves as one write: connections with output stand in a list, and one
callback at the end of the turn empties it.

Rules: this file and sniff.py are the only ones of the listener that know asyncio. A bug below (an
exception that is no EtcdError) ends its connection and goes to `on_bug`, by default the loop's
exception handler.

Limits: connections_max; those of sniff.py and handshake.py; a full socket stops the fetching of
output, and more than control_replies_max frames waiting then stop the reading.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from functools import partial
from typing import Final

from pyetcd.server.handshake import Handshakes, Rejections, ServerContext
from pyetcd.server.sniff import Sniffer
from pyetcd.server.tls import Admission, common_name
from pyetcd.server.wire import h2
from pyetcd.server.wire.flow import Budget
from pyetcd.server.wire.grpc import Dispatcher
from pyetcd.server.wire.http1 import HttpConnection, HttpHandler, HttpService
from pyetcd.server.wire.limits import Limits

BugHook = Callable[[BaseException], None]

_TICK_S: Final = 0.05  # how late a grpc-timeout may be noticed
_TICKS_PER_CHECK: Final = 20  # keepalive, idle and stall checks: every second
_WRITE_HIGH_BYTES: Final = 256 * 1024  # of the transport: above it, output waits with us
_LINGER_S: Final = 5.0  # for the peer to read our last words, then the socket is dropped
_BACKLOG: Final = 1024


class Listener:
    """Accepts on any number of addresses, serves them alike, and keeps count."""

    def __init__(
        self,
        dispatcher: Dispatcher | None,
        http: HttpHandler | HttpService | None = None,
        limits: Limits | None = None,
        *,
        tls: ServerContext | None = None,
        admission: Admission | None = None,
        before_handshake: Callable[[], None] | None = None,
        on_bug: BugHook | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.dispatcher = dispatcher
        self.http = http if isinstance(http, HttpService) or http is None else HttpService(http)
        self.connections: set[_Wire] = set()
        self.accepted_total = 0
        self.refused_total = 0
        self.received_bytes_total = 0  # over HTTP/2, of which gRPC is made
        self.sent_bytes_total = 0
        self.sniffing: dict[str, set[Sniffer]] = {}  # host -> connections without a first byte
        self.sniffers: set[asyncio.Transport] = set()  # the same connections
        self.budget = Budget()
        self.stopping = False
        self._tls = tls
        self.admission = admission
        self.before_handshake = before_handshake
        self.handshakes = Handshakes(self.limits.handshakes_per_turn)
        self._on_bug = on_bug
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._dirty: list[_Wire] = []  # connections with output, fetched once a turn
        self._files: list[tuple[str, int]] = []  # of unix sockets: path, inode
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._date_at = 0
        self._date = ""
        self._idle: asyncio.Event = asyncio.Event()
        if dispatcher is not None:
            dispatcher.tasks = self
            dispatcher.http = self.http

    async def start(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        secure: bool = True,
    ) -> int:
        """Listen on an address or a bound socket; may be called again. Returns the port. `secure`:
        with TLS, if there is any."""
        self.loop = asyncio.get_running_loop()
        self.rejections = Rejections(self.loop.time)
        make = partial(Sniffer, self, self._tls if secure else None)
        if sock is not None and sock.family == socket.AF_UNIX:
            server = await self.loop.create_unix_server(make, sock=sock, backlog=_BACKLOG)
            self._note_file(sock)
        elif sock is not None:
            server = await self.loop.create_server(make, sock=sock, backlog=_BACKLOG)
        else:
            server = await self.loop.create_server(make, host, port, backlog=_BACKLOG)
        self._servers.append(server)
        address = server.sockets[0].getsockname()
        return int(address[1]) if isinstance(address, tuple) else 0

    async def stop(self, grace_s: float) -> None:
        """Accept no more, let requests finish for `grace_s`, then end what is left."""
        self.stopping = True
        for server in self._servers:
            server.close()
        self._remove_files()
        for transport in list(self.sniffers):
            transport.abort()  # nothing was asked there
        for sniffing in list(self.sniffing.values()):
            for sniffer in list(sniffing):
                sniffer.transport.abort()
        for wire in list(self.connections):
            wire.shut_down()
        await self._wait_idle(grace_s)
        for wire in list(self.connections):
            wire.end()
        await self._wait_idle(1.0)
        for wire in list(self.connections):
            wire.transport.abort()
        await self._wait_idle(1.0)
        await asyncio.sleep(0)  # connection_lost of what was aborted
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note_file(self, sock: socket.socket) -> None:
        path = os.path.abspath(sock.getsockname())
        self._files.append((path, os.stat(path).st_ino))

    def _remove_files(self) -> None:
        """Those of unix sockets, unless another process listens there by now."""
        for path, number in self._files:
            try:
                if os.stat(path).st_ino == number:
                    os.unlink(path)
            except OSError:
                continue
        self._files.clear()

    async def _wait_idle(self, timeout_s: float) -> None:
        if not self.connections:
            return
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            pass

    def date(self) -> str:
        """For the Date field, made once a second."""
        now = int(time.time())
        if now != self._date_at:
            self._date_at = now
            self._date = formatdate(now, usegmt=True)
        return self._date

    # Tasks, for streams

    def spawn(
        self, work: Coroutine[object, object, None], done: Callable[[], None]
    ) -> asyncio.Task[object]:
        task: asyncio.Task[object] = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_done, done))
        return task

    def waiter(self) -> asyncio.Future[None]:
        return self.loop.create_future()

    def _task_done(self, done: Callable[[], None], task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        done()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bug(error)

    def bug(self, error: BaseException) -> None:
        if self._on_bug is not None:
            self._on_bug(error)
        else:
            context = {"message": "bug in a handler", "exception": error}
            self.loop.call_exception_handler(context)

    # Connections

    def connect_h2(self, transport: asyncio.Transport, peer: str) -> asyncio.Protocol:
        return _Http2(self, transport, peer)

    def connect_http1(self, transport: asyncio.Transport, peer: str) -> asyncio.Protocol:
        return _Http1(self, transport, peer)

    def opened(self, wire: "_Wire") -> None:
        self.connections.add(wire)
        if self._timer is None:
            self._timer = self.loop.call_later(_TICK_S, self._tick)

    def closed(self, wire: "_Wire") -> None:
        self.connections.discard(wire)
        if not self.connections:
            self._idle.set()

    def wake(self, wire: "_Wire") -> None:
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(wire)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for wire in dirty:
            try:
                wire.flush()
            except Exception as error:
                wire.broken(error)

    def _tick(self) -> None:
        """Runs while there are connections; an idle server has no timer."""
        self._ticks += 1
        now_s = self.loop.time()
        check = self._ticks % _TICKS_PER_CHECK == 0
        for wire in list(self.connections):
            try:
                wire.expire(now_s)
                if check:
                    wire.check(now_s)
            except Exception as error:
                wire.broken(error)
        self._timer = self.loop.call_later(_TICK_S, self._tick) if self.connections else None


class _Wire(asyncio.Protocol):
    """What the three kinds of protocol objects of a connection share."""

    def __init__(self, listener: Listener, transport: asyncio.Transport, peer: str) -> None:
        self.listener = listener
        self.transport = transport
        self.peer = peer
        self.ending_since_s: float | None = None
        self.reading_paused = False
        listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.closed(self)

    def flush(self) -> None:
        """Write what is ready."""

    def expire(self, now_s: float) -> None:
        """Twenty times a second."""

    def check(self, now_s: float) -> None:
        """Once a second."""
        if self.ending_since_s is not None and now_s - self.ending_since_s > _LINGER_S:
            self.transport.abort()

    def shut_down(self) -> None:
        """Finish what runs, start nothing new."""
        self.end()

    def end(self) -> None:
        """Close, but let the peer read what was written: an unread byte of it would otherwise
        make the kernel answer with RST and take our last words along."""
        if self.ending_since_s is not None:
            return
        self.ending_since_s = self.listener.loop.time()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()

    def broken(self, error: Exception) -> None:
        self.transport.abort()
        self.listener.bug(error)

    def set_reading(self, *, paused: bool) -> None:
        if paused == self.reading_paused or self.transport.is_closing():
            return
        self.reading_paused = paused
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class _Http2(_Wire):
    """HTTP/2: every answer leaves with the others of its loop turn."""

    def __init__(self, listener: Listener, transport: asyncio.Transport, peer: str) -> None:
        super().__init__(listener, transport, peer)
        assert listener.dispatcher is not None
        self.h2 = h2.Connection(
            listener.dispatcher,
            listener.limits,
            clock=listener.loop.time,
            peer=peer,
            wake=partial(listener.wake, self),
            budget=listener.budget,
        )
        self.h2.common_name = common_name(transport.get_extra_info("ssl_object"))

    def data_received(self, data: bytes) -> None:
        self.listener.received_bytes_total += len(data)
        try:
            self.h2.receive(data)
        except Exception as error:
            self.broken(error)
        if self.h2.write_paused and len(self.h2.out) > self.listener.limits.control_replies_max:
            self.set_reading(paused=True)

    def flush(self) -> None:
        h2 = self.h2
        h2.waking = False
        if h2.write_paused or self.transport.is_closing() or self.ending_since_s is not None:
            return
        data = h2.pump(self.listener.limits.write_bytes_per_turn)
        if data:
            self.listener.sent_bytes_total += len(data)
            self.transport.write(data)
        if h2.closing or (h2.drained and not h2.out):
            self.end()
        elif h2.can_pump or h2.out:
            h2.wake()

    def pause_writing(self) -> None:
        self.h2.write_paused = True

    def resume_writing(self) -> None:
        self.h2.write_paused = False
        self.set_reading(paused=False)
        self.h2.wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.h2.closing = True
        self.h2.drop_streams()

    def expire(self, now_s: float) -> None:
        if self.h2.timed:
            self.h2.expire(now_s)

    def check(self, now_s: float) -> None:
        super().check(now_s)
        self.h2.tick(now_s)
        if self.h2.closing and self.h2.write_paused:
            self.transport.abort()  # it does not even take our GOAWAY

    def shut_down(self) -> None:
        self.h2.shut_down()

    def end(self) -> None:
        if not self.h2.closing:
            self.h2.stop()
            self.h2.write_paused = False
            self.flush()
            return
        super().end()


class _Http1(_Wire):
    """HTTP/1.1."""

    def __init__(self, listener: Listener, transport: asyncio.Transport, peer: str) -> None:
        super().__init__(listener, transport, peer)
        assert listener.http is not None
        self._paused_since_s: float | None = None
        self.http = HttpConnection(
            listener.http,
            listener.limits,
            clock=listener.loop.time,
            date=listener.date,
            peer=peer,
            wake=self._wake,
            socket_bytes=transport.get_write_buffer_size,
        )
        self.http.common_name = common_name(transport.get_extra_info("ssl_object"))
        self._waking = False

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self.listener.wake(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.http.receive(data)
        except Exception as error:
            self.broken(error)
        self.set_reading(paused=self.http.reading_paused)

    def flush(self) -> None:
        self._waking = False
        if self.transport.is_closing() or self.ending_since_s is not None:
            return
        if self.http.aborted:
            self.transport.abort()
            return
        if not self.http.write_paused and (data := self.http.pump()):
            self.transport.write(data)
        if not self.http.write_paused:
            self.http.resume()
        self.set_reading(paused=self.http.reading_paused)
        if self.http.closing and not self.http.out:
            super().end()

    def pause_writing(self) -> None:
        self.http.write_paused = True
        self._paused_since_s = self.listener.loop.time()

    def resume_writing(self) -> None:
        self.http.write_paused = False
        self._paused_since_s = None
        self._wake()

    def eof_received(self) -> bool:
        return self.http.eof()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.http.lost()

    def check(self, now_s: float) -> None:
        super().check(now_s)
        paused_s = self._paused_since_s
        if paused_s is not None and now_s - paused_s > self.listener.limits.blocked_timeout_s:
            self.transport.abort()
            return
        self.http.tick(now_s)

    def shut_down(self) -> None:
        self.http.shut_down()

    def end(self) -> None:
        self.http.abort()
