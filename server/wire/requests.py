"""Requests of one HTTP/2 connection: header blocks, new streams, their data and their end.

Strategy: header blocks are looked up by their bytes while the dynamic table stands still, so a
repeated block is neither decoded nor understood again. Streams of the client are the only ones: we
never push. A stream that is not in `streams` is idle above `last_id` and closed below.

Rules: a block is decoded whatever happens to its stream, because the table is shared. No handler
starts for a stream that is refused or malformed.

Limits: open streams and zombies, handlers that run on after their stream was reset, together
against streams_max (CVE-2023-44487); resets, also those we send because of the peer, in a bucket
(CVE-2025-8671); CONTINUATION frames and block size (CVE-2023-45288); empty frames (CVE-2019-9518).
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from pyetcd.server.wire import frames
from pyetcd.server.wire.flow import Budget, Sender, Stream
from pyetcd.server.wire.frames import ConnectionFault
from pyetcd.server.wire.headers import (
    Field,
    HeaderDecoder,
    content_length,
    request_fault,
    trailer_fault,
)
from pyetcd.server.wire.limits import Limits
from pyetcd.server.wire.pulse import Bucket

_BLOCKS_MAX: Final = 128  # cached header blocks of a connection; full: all dropped
_BLOCK_BYTES_MAX: Final = 1024  # larger ones are not cached
_ABORTED_MAX: Final = 1024  # streams we reset lately, whose late frames are forgiven; oldest out
_SKIPPED_MAX: Final = 16  # remembered jumps in stream ids; only the error code depends on them


class Head(Protocol):
    """What the application made of the fields of a request; shared by requests, so immutable."""

    @property
    def one_piece(self) -> bool:
        """Whether `on_request` may be used at all (one message, one answer)."""

    def on_request(
        self, connection: "Receiver", stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        """A request that is there in one piece: its body is data[start:stop]."""

    def on_begin(self, connection: "Receiver", stream_id: int) -> Stream:
        """A request whose body is to come, or empty; the stream gets `on_data`."""


class Application(Protocol):
    """What lies above HTTP/2."""

    def known(self, fields: list[Field]) -> Head | None:
        """The head of fields that are known to be well formed, without a content-length."""

    def head(self, fields: list[Field]) -> Head:
        """Understand a request's fields. May be called once for many requests."""


class Receiver(Sender):
    """The receiving half of a connection."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        clock: Callable[[], float],
        budget: Budget | None,
    ) -> None:
        super().__init__(limits, budget)
        self.clock = clock
        self.peer = ""  # address of the other end, for handlers and logs
        self.common_name = ""  # of its verified TLS certificate
        self.last_id = 0
        self.zombies = 0  # handlers that run on though their stream is gone
        self.held = 0  # bytes of requests received and not yet handed over
        self.deferred: deque[Stream] = deque()  # requests that wait for `queued` to fall
        self.requests = 0
        self.streams_stalled = 0  # reset because their window stayed shut
        self._application = application
        self._decoder = HeaderDecoder(limits)
        self._blocks: dict[bytes, Head] = {}
        self._blocks_changes = 0
        self._block: bytearray | None = None  # a header block without its END_HEADERS yet
        self._block_id = self._block_flags = self._block_frames = 0
        self._unacked = 0  # connection window to give back
        self._accept_max = frames.STREAM_ID_MAX
        self._aborted: dict[int, None] = {}
        self._skipped: deque[tuple[int, int]] = deque(maxlen=_SKIPPED_MAX)
        now_s = clock()
        self._resets = Bucket(limits.resets_burst, limits.resets_per_s, now_s)
        self._empties = Bucket(limits.empty_frames_burst, limits.empty_frames_per_s, now_s)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0 or stream_id > self.last_id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA on an idle stream")
        ended = bool(flags & frames.FLAG_END_STREAM)
        self._unacked += len(payload)  # padding counts as well (6.1)
        body = _unpad(payload) if flags & frames.FLAG_PADDED else payload
        if not body and not ended:
            self._empties.take(self.clock(), "empty frames")
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id not in self._aborted:
                self._abort(stream_id, frames.STREAM_CLOSED)
            return
        if stream.ended:
            self.reset(stream, frames.STREAM_CLOSED)
            return
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            self.reset(stream, frames.FLOW_CONTROL_ERROR)
            return
        if stream.content_bytes_left >= 0:
            stream.content_bytes_left -= len(body)
            if stream.content_bytes_left < 0 or (ended and stream.content_bytes_left):
                self.reset(stream, frames.PROTOCOL_ERROR)  # 8.1.1
                return
        stream.ended = ended
        stream.on_data(body, ended=ended)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "HEADERS on an illegal stream")
        if flags & frames.FLAG_PADDED:
            payload = _unpad(payload)
        self._block_flags = flags & frames.FLAG_END_STREAM
        if flags & frames.FLAG_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "HEADERS too short")
            if frames.read_word(payload) == stream_id:
                self._block_flags |= frames.FLAG_PRIORITY  # depends on itself: see _end_block
            payload = payload[5:]
        self._block_id = stream_id
        if flags & frames.FLAG_END_HEADERS:
            self._end_block(payload)
            return
        if not payload:
            self._empties.take(self.clock(), "empty frames")
        self._block = bytearray(payload)
        self._block_frames = 0

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block_frames += 1
        self._block += payload
        if (
            self._block_frames > self.limits.continuations_max
            or len(self._block) > self.limits.header_block_bytes_max
        ):  # CVE-2023-45288
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.FLAG_END_HEADERS:
            block, self._block = bytes(self._block), None
            self._end_block(block)
        elif not payload:
            self._empties.take(self.clock(), "empty frames")

    def _end_block(self, block: bytes) -> None:
        """A whole header block: of a new request, or the trailers of one."""
        stream_id = self._block_id
        ended = bool(self._block_flags & frames.FLAG_END_STREAM)
        if stream_id <= self.last_id:
            self._end_trailers(stream_id, self._decoder.decode(block), ended=ended)
            return
        if stream_id != self.last_id + 2 and self.last_id:
            self._skipped.append((self.last_id + 2, stream_id - 2))
        self.last_id = stream_id
        head = self._blocks.get(block)
        length: int | None = None
        if head is None:
            # The block must be decoded whatever happens to the stream: the table is shared.
            fields = self._decoder.decode(block)
            if stream_id > self._accept_max:
                self.remember_aborted(stream_id)
                return  # after our last GOAWAY (6.8): the client repeats it elsewhere
            head = self._application.known(fields)
            if head is None:
                length = content_length(fields)
                if length == -1 or request_fault(fields):
                    self._abort(stream_id, frames.PROTOCOL_ERROR)
                    return
                head = self._application.head(fields)
            if length is None:
                self._keep_block(block, head)
        elif stream_id > self._accept_max:
            self.remember_aborted(stream_id)
            return
        if self._block_flags & frames.FLAG_PRIORITY:
            self._abort(stream_id, frames.PROTOCOL_ERROR)
        elif len(self.streams) + self.zombies >= self.limits.streams_max:
            self._abort(stream_id, frames.REFUSED_STREAM)
        elif ended and length:
            self._abort(stream_id, frames.PROTOCOL_ERROR)
        else:
            self._begin(head, stream_id, -1 if length is None else length, ended=ended)

    def _begin(self, head: Head, stream_id: int, length: int, *, ended: bool) -> None:
        self.requests += 1
        stream = head.on_begin(self, stream_id)
        self.streams[stream_id] = stream
        stream.open_receive(self.limits.stream_window_bytes, length)
        stream.ended = ended
        stream.on_begun()
        if ended and not stream.closed:
            stream.on_data(b"", ended=True)

    def _keep_block(self, block: bytes, head: Head) -> None:
        """Only while the table stands still do equal bytes mean equal fields."""
        if self._blocks_changes != self._decoder.changes or len(self._blocks) >= _BLOCKS_MAX:
            self._blocks.clear()
        changes_before, self._blocks_changes = self._blocks_changes, self._decoder.changes
        if changes_before == self._decoder.changes and len(block) <= _BLOCK_BYTES_MAX:
            self._blocks[block] = head

    def _end_trailers(self, stream_id: int, fields: list[Field], *, ended: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id in self._aborted:
                return
            if any(low <= stream_id <= high for low, high in self._skipped):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "stream ids must increase")  # 5.1.1
            raise ConnectionFault(frames.STREAM_CLOSED, "HEADERS on a closed stream")
        if stream.ended:
            self.reset(stream, frames.STREAM_CLOSED)
        elif not ended or trailer_fault(fields) or stream.content_bytes_left > 0:
            self.reset(stream, frames.PROTOCOL_ERROR)
        else:
            stream.ended = True
            stream.on_data(b"", ended=True)

    # Ends

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream because of the peer, or because nobody can serve it any more."""
        self.forget(stream)
        self._abort(stream.id, code)
        stream.on_reset(code)

    def _abort(self, stream_id: int, code: int) -> None:
        self.remember_aborted(stream_id)
        self.out.append(frames.rst_stream(stream_id, code))
        self.wake()
        self._resets.take(self.clock(), "stream resets")

    def remember_aborted(self, stream_id: int) -> None:
        self._aborted[stream_id] = None
        if len(self._aborted) > _ABORTED_MAX:
            del self._aborted[next(iter(self._aborted))]

    def end_of_answer(self, stream: Stream) -> None:
        """An answer before the end of the request: tell the client to stop sending (8.1)."""
        self.forget(stream)
        if not stream.ended:
            self.remember_aborted(stream.id)
            self.out.append(frames.rst_stream(stream.id, frames.NO_ERROR))

    def cut(self, stream: Stream) -> None:
        """End a stream because its client does not read: our decision, outside `receive`."""
        self.streams_stalled += 1
        self.forget(stream)
        self.remember_aborted(stream.id)
        self.out.append(frames.rst_stream(stream.id, frames.CANCEL))
        self.wake()
        stream.on_reset(frames.CANCEL)

    def credit(self, stream: Stream, size: int) -> None:
        """`size` bytes of a stream were used: let the client send more, in steps of a quarter."""
        stream.consumed += size
        if stream.consumed >= self.limits.stream_window_bytes >> 2 and not stream.ended:
            stream.receive_window += stream.consumed
            self.out.append(frames.window_update(stream.id, stream.consumed))
            stream.consumed = 0
            self.wake()


def _unpad(payload: bytes) -> bytes:
    """Section 6.1: the first octet counts the padding at the end."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(frames.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]
