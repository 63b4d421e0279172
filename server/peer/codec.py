"""The two stream encodings between members: `message` and `msgapp` (etcd's version 2).

Strategy. Pure: an encoder turns messages into bytes to append to the stream, a decoder is fed
whatever arrived, split anywhere, and returns the messages that became complete. Both streams
carry a link heartbeat, a message of type HEARTBEAT from 0 to 0, which the decoders swallow; that
bytes arrived at all is what it says.

- `message`: 8 bytes big-endian length, raftpb.Message.
- `msgapp` starts each item with one byte:
      0  link heartbeat, nothing follows
      1  entries that continue where the item before ended: count, then length + Entry for each,
         then the commit index; numbers are 8 bytes big-endian
      2  length + raftpb.Message; it sets the term and index that items of kind 1 go on from

Worked example. After kind 2 with term 3 and entries 7, 8 both sides stand at (term 3, index 8).
A message of term 3 for entry 9 says (log term 3, index 8), so it is kind 1: `01`, count 1, the
entry, commit. A probe that says index 5 does not continue and is kind 2 again.

Limits. A frame, and the entries of one item together, are at most FRAME_BYTES_MAX; a count is at
most ENTRIES_MAX. Beyond that the decoder raises CodecError and the link is closed. Memory grows
with bytes received, never with a length announced. etcd allows 512 MiB a frame, but sends none
above its request limit plus 512 KiB.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from pyetcd.raft import codec as raft_codec
from pyetcd.raft.codec import decode_entry, decode_message, encode_entry, encode_message
from pyetcd.raft.types import NONE, Entry, Message, MsgType

FRAME_BYTES_MAX: Final = 128 * 1024 * 1024
ENTRIES_MAX: Final = 1024 * 1024

_LINK_HEARTBEAT, _ENTRIES, _MESSAGE = 0, 1, 2
_U64 = Struct(">Q")
_KIND_U64 = Struct(">BQ")
_APP = MsgType.APP


class CodecError(Exception):
    """The peer sent bytes that are no stream of this kind; the link cannot go on."""


def is_link_heartbeat(message: Message) -> bool:
    return message.type is MsgType.HEARTBEAT and message.from_ == NONE and message.to == NONE


def encode_frame(message: Message) -> bytes:
    """Length and message: one item of the `message` stream, and the head of a snapshot body."""
    payload = encode_message(message)
    return _U64.pack(len(payload)) + payload


LINK_HEARTBEAT_FRAME: Final = encode_frame(Message(MsgType.HEARTBEAT))
LINK_HEARTBEAT_APP: Final = bytes([_LINK_HEARTBEAT])


class EntriesEncoder:
    """Remembers the last encoded run of entries: a leader sends the same run to each follower."""

    __slots__ = ("_encoded", "_entries")

    def __init__(self) -> None:
        self._entries: Sequence[Entry] = ()
        self._encoded = b""

    def encode(self, entries: Sequence[Entry]) -> bytes:
        """Length and entry, for each. Entries never change, so equal lists encode equally; list
        equality looks at identity first, which is what makes asking cheap."""
        if entries is self._entries or (entries and entries == self._entries):
            return self._encoded
        parts: list[bytes] = []
        pack = _U64.pack
        for entry in entries:
            encoded = encode_entry(entry)
            parts.append(pack(len(encoded)))
            parts.append(encoded)
        self._entries = entries
        self._encoded = b"".join(parts)
        return self._encoded


class MessageEncoder:
    """The `message` stream has no state."""

    link_heartbeat: Final = LINK_HEARTBEAT_FRAME

    def encode(self, message: Message) -> bytes:
        return encode_frame(message)


class AppEncoder:
    """The writing side of one `msgapp` stream. Takes APP messages only."""

    link_heartbeat: Final = LINK_HEARTBEAT_APP

    def __init__(self, entries_encoder: EntriesEncoder) -> None:
        self._entries_encoder = entries_encoder
        self._term = 0
        self._index = 0

    def encode(self, message: Message) -> bytes:
        assert message.type is _APP, message.type
        entries = message.entries
        term = message.term
        if message.index == self._index and message.log_term == self._term == term:
            self._index += len(entries)
            return b"".join(
                (
                    _KIND_U64.pack(_ENTRIES, len(entries)),
                    self._entries_encoder.encode(entries),
                    _U64.pack(message.commit),
                )
            )
        payload = encode_message(message)
        self._term = term
        self._index = entries[-1].index if entries else message.index
        return _KIND_U64.pack(_MESSAGE, len(payload)) + payload


class _Input:
    """Bytes that did not make a whole item yet. They are joined only when enough have come, so
    that a large frame that arrives in small pieces costs its size, not its square."""

    __slots__ = ("_chunks", "_have_bytes", "_need_bytes")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._have_bytes = 0
        self._need_bytes = 0

    def add(self, data: bytes) -> bytes | None:
        """All bytes so far, or None while the item cannot be complete."""
        if not self._chunks:
            return data
        self._chunks.append(data)
        self._have_bytes += len(data)
        if self._have_bytes < self._need_bytes:
            return None
        joined = b"".join(self._chunks)
        self._chunks.clear()
        return joined

    def keep(self, rest: bytes, need_bytes: int) -> None:
        """`rest` waits until there are `need_bytes`."""
        if rest:
            self._chunks.append(rest)
            self._have_bytes = len(rest)
            self._need_bytes = need_bytes


class MessageDecoder:
    """The reading side of one `message` stream."""

    def __init__(self, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._input = _Input()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, without link heartbeats."""
        buffer = self._input.add(data)
        if buffer is None:
            return []
        messages: list[Message] = []
        end = len(buffer)
        at = 0
        need = 8
        while end - at >= 8:
            size = _checked(_U64.unpack_from(buffer, at)[0], self._frame_bytes_max, "frame")
            need = 8 + size
            if end - at < need:
                break
            message = _message(buffer[at + 8 : at + need])
            at += need
            need = 8
            if not is_link_heartbeat(message):
                messages.append(message)
        self._input.keep(buffer[at:], need)
        return messages


class AppDecoder:
    """The reading side of one `msgapp` stream, which goes from `remote_id` to `local_id`."""

    def __init__(
        self, local_id: int, remote_id: int, *, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> None:
        self._local_id = local_id
        self._remote_id = remote_id
        self._frame_bytes_max = frame_bytes_max
        self._input = _Input()
        self._term = 0
        self._index = 0
        # An item of kind 1 under way: what is decoded, how many are missing, bytes so far.
        self._entries: list[Entry] | None = None
        self._entries_missing = 0
        self._entries_bytes = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, without link heartbeats."""
        buffer = self._input.add(data)
        if buffer is None:
            return []
        messages: list[Message] = []
        end = len(buffer)
        at = 0
        need = 1
        while end - at >= need:
            if self._entries is not None:
                used, need = self._continue_entries(buffer, at, messages)
            elif buffer[at] == _LINK_HEARTBEAT:
                used, need = 1, 1
            elif buffer[at] in (_ENTRIES, _MESSAGE):
                used, need = self._begin_item(buffer, at, messages)
            else:
                raise CodecError(f"item of kind {buffer[at]} in a msgapp stream")
            at += used
        self._input.keep(buffer[at:], need)
        return messages

    # Both return (bytes used, bytes needed to go on from there). Either some bytes were used, or
    # more are needed than there are: that is why feed() ends.

    def _begin_item(self, buffer: bytes, at: int, messages: list[Message]) -> tuple[int, int]:
        available = len(buffer) - at
        if available < 9:
            return 0, 9
        number = _U64.unpack_from(buffer, at + 1)[0]
        if buffer[at] == _ENTRIES:
            self._entries = []
            self._entries_missing = _checked(number, ENTRIES_MAX, "number of entries")
            self._entries_bytes = 0
            return 9, 8
        need = 9 + _checked(number, self._frame_bytes_max, "frame")
        if available < need:
            return 0, need
        message = _message(buffer[at + 9 : at + need])
        self._term = message.term
        self._index = message.entries[-1].index if message.entries else message.index
        messages.append(message)
        return need, 1

    def _continue_entries(self, buffer: bytes, at: int, messages: list[Message]) -> tuple[int, int]:
        entries = self._entries
        assert entries is not None
        start, end = at, len(buffer)
        try:
            while self._entries_missing and end - at >= 8:
                size = _U64.unpack_from(buffer, at)[0]
                _checked(self._entries_bytes + size, self._frame_bytes_max, "run of entries")
                if end - at < 8 + size:
                    return at - start, 8 + size
                entries.append(decode_entry(buffer[at + 8 : at + 8 + size]))
                at += 8 + size
                self._entries_bytes += size
                self._entries_missing -= 1
        except raft_codec.CodecError as error:
            raise CodecError(str(error)) from error
        if self._entries_missing or end - at < 8:
            return at - start, 8
        messages.append(
            Message(
                _APP,
                to=self._local_id,
                from_=self._remote_id,
                term=self._term,
                log_term=self._term,
                index=self._index,
                entries=entries,
                commit=_U64.unpack_from(buffer, at)[0],
            )
        )
        self._index += len(entries)
        self._entries = None
        return at + 8 - start, 1


def _message(payload: bytes) -> Message:
    try:
        return decode_message(payload)
    except raft_codec.CodecError as error:
        raise CodecError(str(error)) from error


def _checked(number: int, number_max: int, what: str) -> int:
    if number > number_max:
        raise CodecError(f"{what} of {number} is above the limit of {number_max}")
    return number
