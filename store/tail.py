"""The newest entries of the log in memory, with the chained crc of each.

Strategy. Three lists side by side. `_sums[i]` is the number of bytes of entries[0..i] and of all
that ever stood before them, so any stretch is measured by one subtraction and a read limited by
bytes is a binary search instead of a loop (the leader reads the tail once per follower and turn).

    start 4, entries of 10, 20 and 5 bytes, 100 bytes came before:
    index   4    5    6
    sums   110  130  135      read 4..6 within 30 bytes: base 100, first sum above 130 is at 6

Limits. Beyond ENTRIES_MAX or BYTES_MAX the older half is dropped, except the last entry: those
entries are then read from the file.
"""

from bisect import bisect_right
from typing import Final

from pyetcd.raft.storage import ENTRY_OVERHEAD_BYTES
from pyetcd.raft.types import Entry

# 10,000 is twice what a follower may be behind before etcd sends it a snapshot.
ENTRIES_MAX: Final = 10_000
BYTES_MAX: Final = 32 << 20


class Tail:
    """Entries `start` to `last`; `last` is start - 1 when there is none."""

    __slots__ = ("_crcs", "_entries", "_sums", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self._entries: list[Entry] = []
        self._crcs: list[int] = []
        self._sums: list[int] = []

    @property
    def last(self) -> int:
        return self.start + len(self._entries) - 1

    def term(self, index: int) -> int:
        assert index >= self.start
        return self._entries[index - self.start].term

    def crc(self, index: int) -> int:
        assert index >= self.start
        return self._crcs[index - self.start]

    def read(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries [lo, hi) within max_bytes, at least one."""
        assert self.start <= lo < hi <= self.last + 1, (lo, hi, self.start, self.last)
        start, end = lo - self.start, hi - self.start
        before = self._sums[start] - _bytes(self._entries[start])
        end = max(start + 1, bisect_right(self._sums, before + max_bytes, start, end))
        return self._entries[start:end]

    def replace(self, entries: list[Entry], crcs: list[int]) -> None:
        """Put entries at their index, dropping what lies there and after it."""
        first = entries[0].index
        assert len(entries) == len(crcs) and first <= self.last + 1
        keep = max(0, first - self.start)
        del self._entries[keep:], self._crcs[keep:], self._sums[keep:]
        self.start = min(self.start, first)
        total = self._sums[-1] if self._sums else 0
        for entry in entries:
            total += _bytes(entry)
            self._sums.append(total)
        self._entries += entries
        self._crcs += crcs
        while len(self._entries) > 1 and (
            len(self._entries) > ENTRIES_MAX or self._sums[-1] - self._sums[0] > BYTES_MAX
        ):
            self._drop(len(self._entries) // 2)

    def compact(self, index: int) -> None:
        """Drop the entries up to and including index, which is at most `last`."""
        assert index <= self.last
        if index >= self.start:
            self._drop(index + 1 - self.start)

    def _drop(self, count: int) -> None:
        del self._entries[:count], self._crcs[:count], self._sums[:count]
        self.start += count


def _bytes(entry: Entry) -> int:
    return len(entry.data) + ENTRY_OVERHEAD_BYTES
