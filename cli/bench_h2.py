"""The load generator's HTTP/2 connection: gRPC unary calls with frames made by hand.

grpcio costs some 100 us a call in Python, more than the servers under test. Here a request is one
join of constant bytes: the first on a connection carries its headers as literals that enter the
peer's dynamic table (RFC 7541, 6.2.1), all later ones name table entries in six bytes. Answers are
cut into frames and their header blocks looked up in a cache; only a block that changes the table is
decoded (a block of indexed fields alone never does).

Closed loop: a connection carries a fixed number of clients, each with one request on its way. A
connection that is given no work waits in the load's `idle` until `Load.wake`. Flow control is kept
in both directions; a request for which the peer gives no window waits in a queue that is bounded by
the number of clients.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from hpack import Decoder

from pyetcd.cli.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
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
from pyetcd.cli.h2_headers import literal

TABLE_BYTES = 4096  # of the peer's table for our headers, unless it says otherwise
_PLACE = 62  # of the newest entry of that table
RENEW_BYTES = 1 << 29  # of what was received, before the connection's window is opened again
_clock = time.perf_counter
Metadata = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True)
class Load:
    """What all connections share: the work that is left and what came of the work done."""

    path: str
    message_bytes: int  # every message has this size, so that its frames are constants
    message: Callable[[], bytes]
    total: int
    started: int = 0
    finished: int = 0
    latencies_s: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    allowance: int | None = None  # requests that may leave by now; None: as many as there are
    idle: "deque[Connection]" = field(default_factory=deque)  # who has clients without a request
    on_done: Callable[[], None] = lambda: None
    on_fail: Callable[[str, int], None] = lambda text, count: None
    # A status in words; without a code it is the connection's end.
    describe: Callable[[int | None, str], str] = lambda code, text: (
        text if code is None else f"code {code}: {text}"
    )
    # Whether a refusal means the connection alone: its request is given back and it closes.
    is_stale: Callable[[str, Metadata], bool] = lambda text, metadata: False

    def take(self) -> bool:
        """Whether one more request may start now."""
        if self.started >= self.total:
            return False
        if self.allowance is not None:
            if self.allowance <= 0:
                return False
            self.allowance -= 1
        self.started += 1
        return True

    def fail(self, text: str, count: int = 1) -> None:
        """Counts requests that ended badly."""
        self.errors[text] = self.errors.get(text, 0) + count
        self.on_fail(text, count)
        self.finish(count)

    def give_back(self) -> None:
        """A request that was taken and never looked at: somebody else may take it."""
        self.started -= 1
        if self.allowance is not None:
            self.allowance += 1

    def wake(self) -> None:
        """Hands what may leave to those who wait, the longest waiting first."""
        idle = self.idle
        for _ in range(len(idle)):
            if self.started >= self.total or (self.allowance is not None and self.allowance <= 0):
                return
            connection = idle.popleft()
            connection.is_idle = False
            connection.wake()

    def finish(self, count: int) -> None:
        """Counts requests that ended."""
        self.finished += count
        if self.finished >= self.total:
            self.on_done()


class Connection(asyncio.Protocol):
    """One connection with `clients` requests on their way."""

    def __init__(
        self,
        load: Load,
        authority: str,
        clients: int,
        *,
        is_secure: bool = False,
        metadata: Metadata = (),
    ) -> None:
        self._load = load
        self._clients = clients
        self._metadata = metadata
        self._front = b"\x83\x87" if is_secure else b"\x83\x86"  # :method POST, :scheme
        self._headers = (
            (b":path", load.path.encode()),
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *metadata,
        )
        # The headers' places in the peer's table, once the first request has put them there.
        count = len(self._headers)
        places = bytes(0x80 | _PLACE + place for place in range(count - 1, -1, -1))
        self._block_named = self._front + places
        self._head_named = len(self._block_named).to_bytes(3, "big") + _HEAD
        self._starts: dict[int, float] = {}  # stream -> when its request left
        self._next_id = 1
        self._tail = b""
        self._window, self._stream_window = 65535, 65535  # what the peer takes from us
        self._frame_max = 16384
        self._streams_max = 1 << 31
        self._received = 0
        self._decoder = Decoder()
        self._statuses: dict[bytes, str] = {}
        self._block = b""  # header block of a HEADERS frame that CONTINUATION goes on
        self._block_flags = 0
        self._unsent: deque[tuple[int, bytes]] = deque()  # bodies, or their rests, out of window
        self._body_windows: dict[int, int] = {}  # of the streams in _unsent
        size = sum(len(name) + len(value) + 32 for name, value in self._headers)
        self._literal_only = size > TABLE_BYTES
        self.draining = False
        self.is_idle = False
        self.heard_s = _clock()  # when the peer last said anything
        self._asked_s = 0.0  # when it was last asked whether it lives
        self._transport: asyncio.Transport | None = None
        self.on_lost: Callable[[Connection], None] = lambda connection: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Preface, settings, a wide window; then the first requests."""
        self._transport = cast(asyncio.Transport, transport)
        settings = SETTING.pack(2, 0) + SETTING.pack(INITIAL_WINDOW_SIZE, WINDOW_MAX)
        widened = struct.pack(">I", WINDOW_MAX - 65535)
        self._transport.write(
            PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, widened)
        )
        self.wake()

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._transport is not None

    def wake(self) -> None:
        """Starts requests for the clients that have none, as far as the load allows."""
        if self._transport is None or self.draining:
            return
        out: list[bytes] = []
        now = _clock()
        self._take(out, now)
        if out:
            self._transport.write(b"".join(out))

    def _take(self, out: list[bytes], now: float) -> None:
        room = min(self._clients, self._streams_max)
        while len(self._starts) < room:
            if not self._load.take():
                if not self.is_idle:
                    self.is_idle = True
                    self._load.idle.append(self)
                return
            self._start(out, now)

    def _start(self, out: list[bytes], now: float) -> None:
        stream_id = self._next_id
        first = stream_id == 1
        self._next_id = stream_id + 2
        if self._next_id >= STREAM_ID_MAX:
            self.draining = True
        self._starts[stream_id] = now
        if first or self._literal_only:
            out.append(frame(HEADERS, END_HEADERS, stream_id, self._literal_block()))
            self._send_body(out, stream_id, self._body())
            return
        size = self._load.message_bytes + 5
        named = stream_id.to_bytes(4, "big")
        if size > self._frame_max or size > self._stream_window or size > self._window:
            out.append(self._head_named + named + self._block_named)
            self._send_body(out, stream_id, self._body())
            return
        self._window -= size
        # The hot path: HEADERS and DATA of one request.
        out += (
            self._head_named,
            named,
            self._block_named,
            size.to_bytes(3, "big"),
            b"\x00\x01",
            named,
            b"\x00",
            self._load.message_bytes.to_bytes(4, "big"),
            self._load.message(),
        )

    def _body(self) -> bytes:
        load = self._load
        message = load.message()
        assert len(message) == load.message_bytes
        return b"\x00" + load.message_bytes.to_bytes(4, "big") + message

    def _literal_block(self) -> bytes:
        """The request's headers; they are then the newest entries of the table."""
        prefix = b"\x00" if self._literal_only else b"\x40"
        update = b"\x20" if self._literal_only else b""  # table size 0, RFC 7541 6.3
        entries = (prefix + literal(name) + literal(value) for name, value in self._headers)
        return update + self._front + b"".join(entries)

    def _send_body(self, out: list[bytes], stream_id: int, body: bytes) -> None:
        self._body_windows[stream_id] = self._stream_window
        self._unsent.append((stream_id, body))
        self._flush_bodies(out)

    def _flush_bodies(self, out: list[bytes]) -> None:
        """Sends of the waiting bodies what the windows allow, in their order."""
        blocked: deque[tuple[int, bytes]] = deque()
        while self._unsent and self._window > 0:
            stream_id, body = self._unsent.popleft()
            if stream_id not in self._starts:
                self._body_windows.pop(stream_id, None)
                continue
            room = min(self._window, self._body_windows[stream_id], self._frame_max)
            if room <= 0:
                blocked.append((stream_id, body))
                continue
            part, rest = body[:room], body[room:]
            self._window -= len(part)
            self._body_windows[stream_id] -= len(part)
            out.append(frame(DATA, 0 if rest else END_STREAM, stream_id, part))
            if rest:
                self._unsent.appendleft((stream_id, rest))
            else:
                del self._body_windows[stream_id]
        blocked.extend(self._unsent)
        self._unsent = blocked

    def data_received(self, data: bytes) -> None:
        """Cuts what came into frames; a finished request is followed by the next at once."""
        if self._tail:
            data = self._tail + data
        now = self.heard_s = _clock()
        out: list[bytes] = []
        load, statuses, starts = self._load, self._statuses, self._starts
        at, end = 0, len(data)
        finished = 0
        while end - at >= 9:
            high, low, kind, flags, stream_id = FRAME.unpack_from(data, at)
            after = at + 9 + (high << 8 | low)
            if after > end:
                break
            if kind == HEADERS and flags & 0x2C == END_HEADERS:
                block = data[at + 9 : after]
                status = statuses.get(block)
                if status is None:
                    status = self._decode(block)
                if flags & END_STREAM and stream_id in starts:
                    if status == "OK":
                        load.latencies_s.append(now - starts.pop(stream_id))
                        finished += 1
                    else:
                        self._fail_stream(stream_id, status)
            elif kind == DATA:
                self._received += after - at - 9
                if flags & END_STREAM:
                    self._fail_stream(stream_id, load.describe(None, _NO_TRAILERS))
            else:
                self._control(kind, flags, stream_id, data[at + 9 : after], out)
            at = after
        self._tail = data[at:]
        if self._received > RENEW_BYTES:
            out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        if not self.draining:
            self._take(out, now)
        if out and self._transport is not None:
            self._transport.write(b"".join(out))
        if finished:
            load.finish(finished)
        if self.draining and not starts and self._transport is not None:
            self._transport.close()

    def _decode(self, block: bytes) -> str:
        headers = dict(self._decoder.decode(block, raw=True))
        code = headers.get(b"grpc-status", b"0")
        status = "OK"
        if code != b"0":
            text = headers.get(b"grpc-message", b"").decode("utf-8", "replace")
            status = self._load.describe(int(code), text)
        elif headers.get(b":status", b"200") != b"200":
            text = f"HTTP status {headers[b':status'].decode()}"
            status = self._load.describe(None, text)
        if min(block) >= 0x80 and 0xFF not in block:
            self._statuses[bytes(block)] = status  # indexed fields of one byte each
        else:
            self._statuses.clear()  # the table has moved
        return status

    def _control(
        self, kind: int, flags: int, stream_id: int, payload: bytes, out: list[bytes]
    ) -> None:
        if kind == SETTINGS:
            if not flags & ACK:
                for name, value in SETTING.iter_unpack(payload):
                    self._apply(name, value)
                out.append(frame(SETTINGS, ACK, 0, b""))
                self._flush_bodies(out)
        elif kind == PING:
            if not flags & ACK:
                out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            step = int.from_bytes(payload, "big") & WINDOW_MAX
            if stream_id == 0:
                self._window += step
            elif stream_id in self._body_windows:
                self._body_windows[stream_id] += step
            if self._unsent:
                self._flush_bodies(out)
        elif kind == RST_STREAM:
            code = int.from_bytes(payload, "big")
            text = f"stream reset by the server with code {code}"
            self._fail_stream(stream_id, self._load.describe(None, text))
        elif kind == GOAWAY:
            self._go_away(int.from_bytes(payload[:4], "big") & WINDOW_MAX)
        elif kind in (HEADERS, CONTINUATION):
            self._header_part(kind, flags, stream_id, payload)

    def _apply(self, name: int, value: int) -> None:
        if name == INITIAL_WINDOW_SIZE:
            for stream_id in self._body_windows:
                self._body_windows[stream_id] += value - self._stream_window
            self._stream_window = value
        elif name == MAX_CONCURRENT_STREAMS:
            self._streams_max = value
        elif name == MAX_FRAME_SIZE:
            self._frame_max = value
        elif name == HEADER_TABLE_SIZE and value < 4096:
            self._literal_only = True  # simplest: no table at all

    def _go_away(self, last_id: int) -> None:
        """Streams above `last_id` were not looked at: their requests start again elsewhere."""
        self.draining = True
        for stream_id in [known for known in self._starts if known > last_id]:
            del self._starts[stream_id]
            self._load.give_back()

    def _header_part(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Padded, prioritised or continued header blocks: legal, and rare."""
        if kind == HEADERS:
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & PRIORITY:
                payload = payload[5:]
            self._block, self._block_flags = payload, flags
        else:
            self._block += payload
        if not flags & END_HEADERS:
            return
        status = self._decode(self._block)
        if self._block_flags & END_STREAM and stream_id in self._starts:
            if status != "OK":
                self._fail_stream(stream_id, status)
            else:
                self._load.latencies_s.append(_clock() - self._starts.pop(stream_id))
                self._load.finish(1)

    def _fail_stream(self, stream_id: int, text: str) -> None:
        if self._starts.pop(stream_id, None) is None:
            return
        if self._load.is_stale(text, self._metadata):
            self.draining = True
            self._load.give_back()
        else:
            self._load.fail(text)

    def connection_lost(self, exc: Exception | None) -> None:
        """What was on its way has an unknown outcome: it counts as failed."""
        self._transport = None
        lost = len(self._starts)
        self._starts.clear()
        if lost:
            text = f"connection lost: {exc or 'closed by the server'}"
            self._load.fail(self._load.describe(None, text), lost)
        self.on_lost(self)

    def ask(self, now: float, *, after_s: float, patience_s: float) -> None:
        """Keep-alive: pings a peer that owes an answer and is silent; gives it up in the end."""
        if self._transport is None or not self._starts:
            return
        since_s = max(self.heard_s, min(self._starts.values()))
        if now - since_s >= after_s + patience_s:
            self._transport.abort()
        elif now - since_s >= after_s and self._asked_s < since_s:
            self._asked_s = now
            self._transport.write(frame(PING, 0, 0, bytes(8)))

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()


_HEAD = bytes((HEADERS, END_HEADERS))
_NO_TRAILERS = "stream ended without trailers"
