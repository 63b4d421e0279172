"""Key-range arithmetic, as etcd's API defines it.

A range is a pair (key, range_end). An empty range_end means the one key; FROM_KEY means every key
from `key` on, without end; otherwise the range is [key, range_end) and may be empty.
"""

FROM_KEY = b"\x00"


def prefix_end(prefix: bytes) -> bytes:
    """The range_end that makes [prefix, range_end) every key with this prefix.

    The last byte below 0xff is incremented and what follows it is cut; a prefix of 0xff bytes only
    (or an empty one) has no such end and reads as "from key".

    >>> prefix_end(b"ab")
    b'ac'
    """
    trimmed = prefix.rstrip(b"\xff")
    if not trimmed:
        return FROM_KEY
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))


def contains(key: bytes, range_end: bytes, probe: bytes) -> bool:
    """Whether the range holds the key `probe`."""
    if not range_end:
        return probe == key
    return key <= probe and (range_end == FROM_KEY or probe < range_end)


def is_empty(key: bytes, range_end: bytes) -> bool:
    """Whether no key at all can lie in the range."""
    return range_end not in (b"", FROM_KEY) and key >= range_end


def covers(outer: tuple[bytes, bytes], inner: tuple[bytes, bytes]) -> bool:
    """Whether every key of the range `inner` lies in the range `outer`."""
    if is_empty(*inner):
        return True
    if not inner[1]:
        return contains(*outer, inner[0])
    if not outer[1]:
        return False  # a proper range has more than one possible key
    if inner[0] < outer[0]:
        return False
    return outer[1] == FROM_KEY or (inner[1] != FROM_KEY and inner[1] <= outer[1])


def overlaps(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> bool:
    """Whether some key can lie in both ranges."""
    if is_empty(*first) or is_empty(*second):
        return False
    return _starts_before_end(first[0], second) and _starts_before_end(second[0], first)


def _starts_before_end(start: bytes, other: tuple[bytes, bytes]) -> bool:
    key, range_end = other
    if not range_end:
        return start <= key
    return range_end == FROM_KEY or start < range_end
