"""Events of a watch as bytes: encoded once, shared by every watcher that gets the same ones.

A change of a key becomes a chunk: field 11 of a WatchResponse, with its tag and length. A response
is a few bytes of its own (header, watch id) followed by chunks, so what a thousand watchers of one
key receive differs in those few bytes only.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pyetcd.proto.kv_pb2 import Event, KeyValue
from pyetcd.store.mvcc import DELETE, Change

_EVENTS_TAG: Final = b"\x5a"  # WatchResponse.events = 11, length-delimited


class EventSet:
    """The events of one response, in order of change."""

    __slots__ = ("_joined", "chunks", "size_bytes")

    def __init__(self, chunks: tuple[bytes, ...]) -> None:
        self.chunks = chunks
        self.size_bytes = sum(map(len, chunks))
        self._joined: bytes | None = chunks[0] if len(chunks) == 1 else None

    def joined(self) -> bytes:
        if self._joined is None:
            self._joined = b"".join(self.chunks)
        return self._joined


NO_EVENTS: Final = EventSet(())


class Reply(NamedTuple):
    """One response of a stream, still without the header that only the server can make."""

    watch_id: int
    revision: int
    events: EventSet = NO_EVENTS
    may_fragment: bool = False
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    reason: str = ""


def encode_event(change: Change, previous: Change | None = None) -> bytes:
    """The chunk of one change; a delete's has nothing but key and revision. `previous` is what
    prev_kv shows, if it was asked for and is still known."""
    if change.type == DELETE:
        if previous is None:
            return _encode_delete(change.key, change.mod_revision)
        gone = KeyValue(key=change.key, mod_revision=change.mod_revision)
        event = Event(type=Event.DELETE, kv=gone)
    else:
        event = Event(type=Event.PUT, kv=_key_value(change))
    if previous is not None:
        event.prev_kv.CopyFrom(_key_value(previous))
    body = event.SerializeToString()
    return _EVENTS_TAG + varint(len(body)) + body


def fragments(events: EventSet, limit_bytes: int, overhead_bytes: int) -> Iterator[EventSet]:
    """The pieces in which a watcher that asked for fragments gets them: each as many events as
    stay below the limit together with the response's own bytes, and one at least."""
    if events.size_bytes + overhead_bytes < limit_bytes or len(events.chunks) < 2:
        yield events
        return
    piece: list[bytes] = []
    size_bytes = overhead_bytes
    for chunk in events.chunks:
        if piece and size_bytes + len(chunk) >= limit_bytes:
            yield EventSet(tuple(piece))
            piece, size_bytes = [], overhead_bytes
        piece.append(chunk)
        size_bytes += len(chunk)
    yield EventSet(tuple(piece))


def varint(value: int) -> bytes:
    """Protobuf's base-128 integer; negative ones as the 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SMALL: Final[Sequence[bytes]] = [bytes((n,)) for n in range(0x80)]


def _encode_delete(key: bytes, revision: int) -> bytes:
    """By hand: one request may delete a hundred thousand keys, and protobuf takes 3 us for each
    where this takes 1 (measured)."""
    kv = b"\x0a" + varint(len(key)) + key + b"\x18" + varint(revision)
    body = b"\x08\x01\x12" + varint(len(kv)) + kv
    return _EVENTS_TAG + varint(len(body)) + body


def _key_value(change: Change) -> KeyValue:
    return KeyValue(
        key=change.key,
        value=change.value,
        create_revision=change.create_revision,
        mod_revision=change.mod_revision,
        version=change.version,
        lease=change.lease,
    )
