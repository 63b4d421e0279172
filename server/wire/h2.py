"""One HTTP/2 server connection (RFC 9113): bytes in, requests out as method calls, frames in `out`.

Strategy: `receive` parses all frames of one read in one loop. The usual request of an RPC client,
HEADERS with a known block followed by one DATA with END_STREAM, goes straight to the application
without a call per frame; every other frame goes through `_frame`. Three classes, one object:
`Sender` (flow.py) has windows and queues, `Receiver` (requests.py) header blocks and streams, and
`Connection` the connection's own frames, its health and its end.

Rules: a fault of the connection is a `ConnectionFault`, raised anywhere below `receive` and turned
into GOAWAY there; a fault of a stream is `reset`. After a fault nothing more is read.

Limits: all from `Limits`; floods are counted in token buckets (pulse.py).
"""

from collections.abc import Callable
from typing import Final

from pyetcd.server.wire import frames
from pyetcd.server.wire.flow import Budget
from pyetcd.server.wire.frames import ConnectionFault
from pyetcd.server.wire.limits import Limits
from pyetcd.server.wire.pulse import Bucket, Pulse, Verdict
from pyetcd.server.wire.requests import Application, Receiver

_PING_SHUTDOWN: Final = b"shutdown"
_PING_KEEPALIVE: Final = b"are-u-ok"


class Connection(Receiver):
    """Frames in and out; `Receiver` knows requests, `Sender` knows windows."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        *,
        clock: Callable[[], float],
        peer: str = "",
        wake: Callable[[], None] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(application, limits, clock, budget)
        self.peer = peer
        if wake is not None:
            self.wake_host = wake
        self.closing = False  # a GOAWAY with an error is in `out`: write it and close
        self._rest = b""
        self._preface = frames.PREFACE
        self._settled = False  # the client's first SETTINGS was there
        now_s = clock()
        self._oddities = Bucket(limits.oddities_burst, limits.oddities_per_s, now_s)
        self._pulse = Pulse(limits, now_s)
        self.shutting_down = False
        self._open()

    def _open(self) -> None:
        limits = self.limits
        self.out.append(
            frames.settings(
                (
                    (frames.MAX_CONCURRENT_STREAMS, limits.streams_max),
                    (frames.INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
                    (frames.MAX_FRAME_SIZE, frames.FRAME_BYTES_MAX),
                    (frames.MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max),
                )
            )
        )
        grow = limits.connection_window_bytes - frames.WINDOW_DEFAULT
        if grow > 0:
            self.out.append(frames.window_update(0, grow))
        self.wake()

    # Input

    def receive(self, data: bytes) -> None:
        """Take what the socket had. Never raises for what the peer did."""
        if self.closing:
            return
        self._pulse.heard = True
        try:
            if self._rest:
                data = self._rest + data
                self._rest = b""
            if self._preface:
                data = self._match_preface(data)
            self._receive(data)
        except ConnectionFault as fault:
            self._fail(fault)
        if self._unacked >= self.limits.connection_window_bytes >> 2 and not self.closing:
            self.out.append(frames.window_update(0, self._unacked))
            self._unacked = 0
            self.wake()

    def _match_preface(self, data: bytes) -> bytes:
        """Section 3.4. What is left of the preface is in `_preface`."""
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "bad connection preface")
        self._preface = self._preface[size:]
        return data[size:]

    def _receive(self, data: bytes) -> None:
        # Measured hot loop: one known HEADERS and its DATA cost 1.5 us here without a call,
        # against 5 us through _frame.
        pos, end = 0, len(data)
        unpack = frames.HEAD.unpack_from
        blocks = self._blocks
        while end - pos >= 9:
            word, flags, stream_id = unpack(data, pos)
            stop = pos + 9 + (word >> 8)
            if stop > end:
                break
            if (
                word & 0xFF == frames.HEADERS
                and flags == frames.FLAG_END_HEADERS
                and self._block is None
                and end - stop >= 9
                and (head := blocks.get(data[pos + 9 : stop])) is not None
            ):
                word2, flags2, stream_id2 = unpack(data, stop)
                stop2 = stop + 9 + (word2 >> 8)
                if (
                    word2 & 0xFF == frames.DATA
                    and flags2 == frames.FLAG_END_STREAM
                    and stream_id2 == stream_id == self.last_id + 2
                    and stop2 <= end
                    and word2 >> 8 <= frames.FRAME_BYTES_MAX
                    and stream_id <= self._accept_max
                    and head.one_piece
                    and len(self.streams) + self.zombies < self.limits.streams_max
                ):
                    self.last_id = stream_id
                    self._unacked += word2 >> 8
                    self.requests += 1
                    head.on_request(self, stream_id, data, stop + 9, stop2)
                    pos = stop2
                    continue
            self._frame(word & 0xFF, flags, stream_id & 0x7FFFFFFF, data[pos + 9 : stop])
            pos = stop
        if end - pos >= 9 and unpack(data, pos)[0] >> 8 > frames.FRAME_BYTES_MAX:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "frame too large")
        self._rest = data[pos:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) > frames.FRAME_BYTES_MAX:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "frame too large")
        if not self._settled and (kind != frames.SETTINGS or flags & frames.FLAG_ACK):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "header block interrupted")
        if kind == frames.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(stream_id, payload)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == frames.PRIORITY:
            self._on_priority(stream_id, payload)
        elif kind == frames.GOAWAY:
            if stream_id != 0 or len(payload) < 8:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "bad GOAWAY")
            self._oddities.take(self.clock(), "GOAWAY frames")
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "clients cannot push")
        else:  # section 4.1: unknown types are ignored, but not for ever
            self._oddities.take(self.clock(), "unknown frames")

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE is four octets")
        increment = frames.read_word(payload)
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if not self.grow_connection_window(increment):
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "window too large")
            return
        self._must_not_be_idle(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            return  # closed: allowed to arrive late (5.1)
        if increment == 0:
            self.reset(stream, frames.PROTOCOL_ERROR)
        elif not self.grow_stream_window(stream, increment):
            self.reset(stream, frames.FLOW_CONTROL_ERROR)

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "RST_STREAM is four octets")
        self._must_not_be_idle(stream_id)
        self._resets.take(self.clock(), "stream resets")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.forget(stream)
            stream.on_reset(int.from_bytes(payload, "big"))

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        """Read for its errors only; there is no tree (CVE-2019-9513)."""
        if stream_id == 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._oddities.take(self.clock(), "PRIORITY frames")
        if len(payload) == 5 and frames.read_word(payload) != stream_id:
            return
        code = frames.PROTOCOL_ERROR if len(payload) == 5 else frames.FRAME_SIZE_ERROR
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.reset(stream, code)
        elif stream_id <= self.last_id:
            self._abort(stream_id, code)
        else:  # RST_STREAM on an idle stream would be a fault of ours (6.4)
            raise ConnectionFault(code, "bad PRIORITY")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.FLAG_ACK:
            if payload:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "SETTINGS acknowledgement")
            self._oddities.take(self.clock(), "SETTINGS frames")
            return
        if len(payload) % 6:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "SETTINGS entries are six octets")
        if len(payload) // 6 > self.limits.settings_entries_max:  # CVE-2020-11080
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many settings")
        self._oddities.take(self.clock(), "SETTINGS frames")
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_MAX or not self.set_initial_window(value):
                    raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "initial window too large")
            elif key == frames.MAX_FRAME_SIZE:
                if not frames.FRAME_BYTES_MAX <= value < 1 << 24:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, "frame size out of range")
            elif key == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        self._settled = True
        self.out.append(frames.SETTINGS_ACK)
        self.wake()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "PING is eight octets")
        if not flags & frames.FLAG_ACK:
            self._pulse.on_ping(
                self.clock(),
                # Answers in one piece are not counted in bytes: each ends a stream.
                progress=self.bytes_progress + 2 * self.requests - len(self.streams),
                has_streams=bool(self.streams),
            )
            self.out.append(frames.ping(payload, ack=True))
            self.wake()
        elif payload == _PING_SHUTDOWN and self.shutting_down:
            self._end_shutdown()
        elif payload == _PING_KEEPALIVE:
            self._pulse.on_pong()
        else:
            self._oddities.take(self.clock(), "PING acknowledgements")

    def _must_not_be_idle(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id > self.last_id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "frame on an idle stream")

    # Ends

    def _fail(self, fault: ConnectionFault) -> None:
        self.closing = True
        self.drop_streams()
        self.out.append(
            frames.goaway(min(self.last_id, self._accept_max), fault.code, fault.text.encode())
        )
        self._rest = b""
        self._block = None
        self.wake()

    def drop_streams(self) -> None:
        """The connection is gone or about to be: every stream hears of it."""
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.on_reset(frames.CANCEL)
        self.deferred.clear()

    def shut_down(self) -> None:
        """Graceful: GOAWAY(2^31-1), a PING, and when it returns GOAWAY(last id); then drain.

        The round trip lets requests under way arrive (6.8; grpc-go http2_server.go).
        """
        if self.shutting_down or self.closing:
            return
        self.shutting_down = True
        self.out.append(frames.goaway(frames.STREAM_ID_MAX, frames.NO_ERROR, b"graceful_stop"))
        self.out.append(frames.ping(_PING_SHUTDOWN, ack=False))
        self.wake()

    def _end_shutdown(self) -> None:
        if self._accept_max == frames.STREAM_ID_MAX:
            self._accept_max = self.last_id
            self.out.append(frames.goaway(self.last_id, frames.NO_ERROR, b"graceful_stop"))
            self.wake()

    def stop(self) -> None:
        """The end of waiting: every stream is ended, and the connection with its last GOAWAY."""
        if self.closing:
            return
        for stream in list(self.streams.values()):
            stream.on_stop()
        self._fail(ConnectionFault(frames.NO_ERROR, "server stopped"))

    @property
    def drained(self) -> bool:
        """A shutdown that has nothing left to wait for."""
        return self.shutting_down and self._accept_max <= self.last_id and not self.streams

    # Time

    def expire(self, now_s: float) -> None:
        """Deadlines that have passed. The host calls it often while `timed` has entries."""
        late = [stream_id for stream_id, at_s in self.timed.items() if at_s <= now_s]
        for stream_id in late:
            del self.timed[stream_id]
            stream = self.streams.get(stream_id)
            if stream is not None:
                stream.on_expired()

    def tick(self, now_s: float) -> None:
        """About once a second: keepalive and what stands still."""
        if self.closing:
            return
        waiting = self.write_paused or self.queued > 0
        verdict = self._pulse.tick(now_s, progress=self.bytes_progress, waiting=waiting)
        if verdict is Verdict.DEAD:
            self._fail(ConnectionFault(frames.ENHANCE_YOUR_CALM, "peer does not read or answer"))
        elif verdict is Verdict.PING:
            self.out.append(frames.ping(_PING_KEEPALIVE, ack=False))
            self.wake()
        elif self.queued:
            self._cut_stalled(now_s)

    def _cut_stalled(self, now_s: float) -> None:
        """Streams whose own window has been shut for too long, while others may go on."""
        for stream in list(self.streams.values()):
            if not stream.queued or stream.send_window > 0:
                continue
            if not stream.stalled_at_s:
                stream.stalled_at_s = now_s
            elif now_s - stream.stalled_at_s > self.limits.blocked_timeout_s:
                self.cut(stream)

    # Requests held

    def pump(self, bytes_max: int) -> bytes:
        data = super().pump(bytes_max)
        while self.deferred and self.queued <= self.limits.send_soft_bytes_max:
            self.deferred.popleft().on_room()
        return data
