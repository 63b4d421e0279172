"""What a connection has to send: flow control windows, one queue a stream, taking turns.

Strategy: frames without flow control (HEADERS, RST_STREAM, SETTINGS ...) go into `out` at once.
DATA waits in its stream's queue until both windows allow it (RFC 9113 section 5.2), and streams
with something to send stand in a ring: one quantum, then the next one's turn, so that a range of
2 MB cannot starve a watch (etcd needed a random frame scheduler for that, issue 15402). Small
answers of an idle connection skip the ring (`grpc.py`).

Rules: a stream is in the ring if and only if it has queued bytes or trailers it may send now.
Trailers leave after the last queued byte and end the stream.

Limits: stream_send_bytes_max, send_bytes_max and send_bytes_total_max; whoever queues asks before
(`has_room`).
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from pyetcd.server.wire import frames
from pyetcd.server.wire.limits import Limits


class Stream:
    """One exchange. The layer above derives from it and gets the events as method calls."""

    __slots__ = (
        "body_bytes",
        "closed",
        "connection",
        "consumed",
        "content_bytes_left",
        "ended",
        "id",
        "in_ring",
        "queue",
        "queued",
        "receive_window",
        "send_window",
        "stalled_at_s",
        "trailers",
    )

    def __init__(self, connection: "Sender", stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.closed = False  # both sides are done, or it was reset
        self.ended = True  # the client has sent END_STREAM
        self.send_window = connection.initial_window
        self.queued = 0
        self.trailers = b""  # a whole HEADERS frame, waiting for the queue to drain
        self.in_ring = False
        # The queue itself and the receiving side exist only for streams that need them.
        self.queue: deque[bytes] | None = None
        self.body_bytes = 0  # received and held, counted by the connection
        self.stalled_at_s = 0.0

    def open_receive(self, window: int, content_bytes: int) -> None:
        """The client will send more: its window, and its content-length or -1."""
        self.ended = False
        self.consumed = 0
        self.receive_window = window
        self.content_bytes_left = content_bytes

    def on_begun(self) -> None:
        """It stands in `streams`, and its receiving side is open."""

    def on_data(self, data: bytes, *, ended: bool) -> None:
        """DATA without padding, already within the windows."""
        raise NotImplementedError

    def on_reset(self, code: int) -> None:
        """The stream is gone, by the client, by us or with its connection; nothing can be sent."""
        raise NotImplementedError

    def on_stop(self) -> None:
        """The server stops and will not wait any longer."""
        raise NotImplementedError

    def on_expired(self) -> None:
        """Its deadline (`Sender.timed`) has passed."""
        raise NotImplementedError

    def on_room(self) -> None:
        """It stood in `Connection.deferred`, and the connection's queue has fallen."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """A queue that held more than `stream_send_low_bytes` has fallen to it."""


class Budget:
    """What all connections of a listener hold together."""

    __slots__ = ("held", "queued")

    def __init__(self) -> None:
        self.held = 0  # bytes of requests not yet handed over
        self.queued = 0  # DATA bytes not yet sent


def _nothing() -> None:
    return None


class Sender:
    """The sending half of a connection; `h2.Connection` is the other half."""

    def __init__(self, limits: Limits, budget: Budget | None = None) -> None:
        self.limits = limits
        self.budget = budget or Budget()
        self.out: list[bytes] = []  # whole frames, in order; bounded because reading stops
        self.streams: dict[int, Stream] = {}
        self.timed: dict[int, float] = {}  # stream id -> deadline, swept by the host's timer
        self.send_window = frames.WINDOW_DEFAULT
        self.initial_window = frames.WINDOW_DEFAULT  # the peer's setting, for new streams
        self.ring: deque[Stream] = deque()
        self.queued = 0  # DATA bytes in all queues
        self.write_paused = False  # the socket is full; the host sets it
        self.waking = False
        self.wake_host: Callable[[], None] = _nothing
        self.bytes_progress = 0  # DATA bytes ever framed: stands still when the peer stalls

    def wake(self) -> None:
        """There is output: have the host fetch it once, at the end of this loop turn."""
        if not self.waking:
            self.waking = True
            self.wake_host()

    def has_room(self, size: int) -> bool:
        """Whether a message may be queued. A connection without a queue may always queue one,
        so that a large answer is possible, unless all connections together hold too much."""
        limits = self.limits
        if self.queued and self.queued + size > limits.send_bytes_max:
            return False
        return not self.budget.queued or self.budget.queued + size <= limits.send_bytes_total_max

    def enqueue(self, stream: Stream, data: bytes) -> None:
        assert not stream.closed and not stream.trailers
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.append(data)
        stream.queued += len(data)
        self.queued += len(data)
        self.budget.queued += len(data)
        self._join_ring(stream)
        self.wake()

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """Send the trailers behind whatever is queued."""
        assert not stream.closed and not stream.trailers
        if stream.queued:
            stream.trailers = trailers
        else:
            self.out.append(trailers)
            self.end_of_answer(stream)
        self.wake()

    def forget(self, stream: Stream) -> None:
        """The stream is done: drop its queue and its place. Safe to call once only."""
        assert not stream.closed
        stream.closed = True
        self.queued -= stream.queued
        self.budget.queued -= stream.queued
        stream.queued = 0
        stream.queue = None
        stream.trailers = b""
        if stream.in_ring:
            self.ring.remove(stream)
            stream.in_ring = False
        del self.streams[stream.id]
        if self.timed:
            self.timed.pop(stream.id, None)

    def pump(self, bytes_max: int) -> bytes:
        """Everything that may leave now, about `bytes_max` of DATA at most."""
        ring = self.ring
        while ring and bytes_max > 0:
            if self.send_window <= 0:
                break
            stream = ring.popleft()
            stream.in_ring = False
            bytes_max -= self._send_quantum(stream)
        if not self.out:
            return b""
        joined = b"".join(self.out) if len(self.out) > 1 else self.out[0]
        self.out.clear()
        return joined

    @property
    def can_pump(self) -> bool:
        return bool(self.ring) and self.send_window > 0

    def _join_ring(self, stream: Stream) -> None:
        if not stream.in_ring and stream.send_window > 0:
            stream.in_ring = True
            self.ring.append(stream)

    def _send_quantum(self, stream: Stream) -> int:
        size = min(
            self.limits.send_quantum_bytes, self.send_window, stream.send_window, stream.queued
        )
        if size > 0:
            self._send_data(stream, size)
        if stream.queued:
            self._join_ring(stream)
        elif stream.trailers:
            self.out.append(stream.trailers)
            self.end_of_answer(stream)
        return max(size, 1)

    def end_of_answer(self, stream: Stream) -> None:
        """Overridden: a stream the client has not ended needs a reset as well."""
        self.forget(stream)

    def _send_data(self, stream: Stream, size: int) -> None:
        assert stream.queue is not None
        self.out.append(frames.HEAD.pack(size << 8 | frames.DATA, 0, stream.id))
        left = size
        while left:
            head = stream.queue[0]
            if len(head) <= left:
                self.out.append(stream.queue.popleft())
                left -= len(head)
            else:
                # One copy of the rest a quantum would make a big message quadratic: it is cut
                # into quanta when it is queued (`pieces`), so this rest is small.
                self.out.append(head[:left])
                stream.queue[0] = head[left:]
                left = 0
        low = self.limits.stream_send_low_bytes
        above = stream.queued > low
        stream.queued -= size
        self.queued -= size
        self.budget.queued -= size
        stream.send_window -= size
        stream.stalled_at_s = 0.0
        self.send_window -= size
        self.bytes_progress += size
        if above and stream.queued <= low:
            stream.on_drained()

    def grow_connection_window(self, increment: int) -> bool:
        """False when it would pass 2^31-1 (6.9.1)."""
        self.send_window += increment
        if self.ring:
            self.wake()
        return self.send_window <= frames.WINDOW_MAX

    def grow_stream_window(self, stream: Stream, increment: int) -> bool:
        stream.send_window += increment
        if stream.queued:
            self._join_ring(stream)
            if self.ring:
                self.wake()
        return stream.send_window <= frames.WINDOW_MAX

    def set_initial_window(self, value: int) -> bool:
        """6.9.2: the change applies to all open streams, whose windows may become negative."""
        change = value - self.initial_window
        self.initial_window = value
        return all(self.grow_stream_window(s, change) for s in list(self.streams.values()))


_PIECE_BYTES: Final = 64 * 1024


def pieces(prefix: bytes, message: bytes) -> list[bytes]:
    """A message as queue items small enough that cutting a quantum off one copies little."""
    if len(message) <= _PIECE_BYTES:
        return [prefix + message]
    cut = range(0, len(message), _PIECE_BYTES)
    return [prefix, *(message[at : at + _PIECE_BYTES] for at in cut)]
