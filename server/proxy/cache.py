"""Answers to serializable reads, kept until a write that goes through the proxy may change them.

Strategy, as etcd's proxy has it: an answer to a read (a linearizable one, too) is kept under the
serializable form of its request. Reads of a past revision never change, so only a compaction or the
lack of room ends them. Writes that do not go through this proxy are not seen: a serializable read
may be as old as the last one that was asked of the cluster.

Rules beyond etcd's. An answer is given only to who shows the token it was made for: the cluster has
checked that one's rights. A read that was under way when a write to its keys began or ended is not
kept, so that who writes through the proxy reads what it wrote.

Limits: ENTRIES_MAX and BYTES_MAX of answers, the longest unused go first; an answer larger than
ANSWER_BYTES_MAX is not kept.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import Compacted
from pyetcd.proto.keys import overlaps

ENTRIES_MAX: Final = 2048  # etcd: cache.DefaultMaxEntries
BYTES_MAX: Final = 64 << 20
ANSWER_BYTES_MAX: Final = 1 << 20

Interval = tuple[bytes, bytes]
_Key = tuple[str, bytes]  # whose answer, the request


class _Entry(NamedTuple):
    interval: Interval | None  # None: of a past revision
    answer: bytes


class Pending:
    """A read under way."""

    __slots__ = ("interval", "is_overtaken", "key", "revision")

    def __init__(self, key: _Key, interval: Interval, revision: int) -> None:
        self.key = key
        self.interval = interval
        self.revision = revision
        self.is_overtaken = False


class Cache:
    """The answers of one proxy."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._by_interval: dict[Interval, set[_Key]] = {}
        self._pending: set[Pending] = set()
        self._compact_revision = -1
        self.size_bytes = 0
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str, request: rpc.RangeRequest) -> bytes | None:
        """A serialised answer, if there is one. Raises Compacted."""
        key = _key(token, request)
        if 0 < request.revision < self._compact_revision:
            self._drop(key)
            self.hits += 1
            raise Compacted()
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry.answer

    def begin(self, token: str, request: rpc.RangeRequest) -> Pending:
        """A read leaves for the cluster; `end` must follow."""
        interval = request.key, request.range_end
        pending = Pending(_key(token, request), interval, request.revision)
        self._pending.add(pending)
        return pending

    def end(self, pending: Pending, answer: bytes | None) -> None:
        """It is back, or has failed."""
        self._pending.discard(pending)
        if answer is not None and not pending.is_overtaken:
            self._add(pending, answer)

    def invalidate(self, key: bytes, range_end: bytes) -> None:
        """Before a write to these keys leaves, and when its answer is there."""
        written = key, range_end
        for pending in self._pending:
            if overlaps(pending.interval, written):
                pending.is_overtaken = True
        point = key, b""
        if range_end or point not in self._by_interval:
            touched = [one for one in self._by_interval if overlaps(one, written)]
        else:
            touched = [one for one in self._by_interval if one[1] and overlaps(one, written)]
            touched.append(point)
        for interval in touched:
            for entry_key in list(self._by_interval.get(interval, ())):
                self._drop(entry_key)

    def compact(self, revision: int) -> None:
        """What is older goes when it is asked for."""
        self._compact_revision = max(self._compact_revision, revision)

    def clear(self) -> None:
        """After a change of users or rights."""
        for pending in self._pending:
            pending.is_overtaken = True
        self._entries.clear()
        self._by_interval.clear()
        self.size_bytes = 0

    def _add(self, pending: Pending, answer: bytes) -> None:
        if len(answer) > min(ANSWER_BYTES_MAX, self._bytes_max):
            return
        if 0 < pending.revision < self._compact_revision:
            return
        self._drop(pending.key)
        interval = None if pending.revision else pending.interval
        self._entries[pending.key] = _Entry(interval, answer)
        self.size_bytes += len(answer)
        if interval is not None:
            self._by_interval.setdefault(interval, set()).add(pending.key)
        while len(self._entries) > self._entries_max or self.size_bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.size_bytes -= len(entry.answer)
        if entry.interval is not None:
            keys = self._by_interval[entry.interval]
            keys.discard(key)
            if not keys:
                del self._by_interval[entry.interval]


def _key(token: str, request: rpc.RangeRequest) -> _Key:
    if request.serializable:
        return token, request.SerializeToString(deterministic=True)
    copy = rpc.RangeRequest()
    copy.CopyFrom(request)
    copy.serializable = True
    return token, copy.SerializeToString(deterministic=True)
