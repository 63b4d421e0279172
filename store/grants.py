"""What one user may read and write: the ranges of all its roles, merged.

Strategy. Each permission becomes an interval [start, end): a single key is [key, key + "\\0"),
"from key" has no end (None). Sorted and merged, they answer a request by one bisection: it is
covered if one merged interval holds it whole, even when no single permission does.

    read  [a, c)   read  [b, e)   read  k          merged:  [a, e)  [k, k\\0)
    a request for [b, d) is covered, [b, f) is not, the key k is

Rules, as in etcd. A range that holds no key is judged by its start. A permission whose range is
empty (etcd before 3.5.8 stored such) grants nothing, and neither does an unknown type.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from pyetcd.proto.auth_pb2 import Permission
from pyetcd.proto.keys import FROM_KEY

READ: Final = Permission.READ
WRITE: Final = Permission.WRITE

Interval = tuple[bytes, bytes | None]


class Ranges:
    """Merged intervals."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, intervals: Iterable[Interval]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        for start, end in sorted(intervals, key=_start):
            if not self._starts:
                self._append(start, end)
                continue
            last = self._ends[-1]
            if last is None:
                return  # everything from here on is covered
            if start > last:
                self._append(start, end)
            elif end is None or end > last:
                self._ends[-1] = end

    def _append(self, start: bytes, end: bytes | None) -> None:
        self._starts.append(start)
        self._ends.append(end)

    def covers(self, key: bytes, range_end: bytes) -> bool:
        """Whether a request for (key, range_end) stays within.

        >>> Ranges([(b"a", b"c"), (b"b", b"e")]).covers(b"b", b"d")
        True
        """
        index = bisect_right(self._starts, key) - 1
        if index < 0:
            return False
        end = self._ends[index]
        if end is None:
            return True
        if range_end == FROM_KEY:
            return False
        return key < end and (not range_end or range_end <= end or range_end <= key)


class Grants:
    """One user's rights."""

    __slots__ = ("is_root", "read", "write")

    def __init__(self, permissions: Iterable[Permission], *, is_root: bool) -> None:
        self.is_root = is_root
        read: list[Interval] = []
        write: list[Interval] = []
        for permission in permissions:
            if not is_permission_range(permission.key, permission.range_end):
                continue
            interval = _interval(permission)
            if permission.permType in (READ, Permission.READWRITE):
                read.append(interval)
            if permission.permType in (WRITE, Permission.READWRITE):
                write.append(interval)
        self.read = Ranges(read)
        self.write = Ranges(write)


def is_permission_range(key: bytes, range_end: bytes) -> bool:
    """Whether a permission for it makes sense: some key can lie in it (3.5.8)."""
    return bool(key) and (range_end in (b"", FROM_KEY) or key < range_end)


def _interval(permission: Permission) -> Interval:
    if not permission.range_end:
        return permission.key, permission.key + b"\x00"
    if permission.range_end == FROM_KEY:
        return permission.key, None
    return permission.key, permission.range_end


def _start(interval: Interval) -> bytes:
    return interval[0]
