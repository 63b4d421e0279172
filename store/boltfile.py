"""Reading the database file of etcd: a bbolt file, as its snapshots and its snap/db are.

Strategy. A bbolt file is a B+ tree of pages, whose root the newer of two meta pages names; etcd
keeps each of its tables in a bucket below it. The file is mapped and walked in order, read-only: no
lock, no freelist. Each page and each offset is looked at before it is used, so a damaged file is
one line and never a traceback; what the pages hold has no checksum in bbolt.

Layout (bbolt page.go, bucket.go). A page: id, flags, count, overflow, then its elements; a branch
element: pos, ksize, pgid; a leaf element: flags, pos, ksize, vsize; `pos` counts from its start. A
leaf element of flag 1 is a bucket: root page and sequence, and with root 0 a page inline.

Limits. Files of a machine of the same byte order, little endian, as etcd supports nothing else.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from struct import error as StructError
from typing import Final

from google_crc32c import extend

from pyetcd.store.backend import SUB_BITS
from pyetcd.store.snapfile import Contents, go_reason
from pyetcd.store.snapshot import SnapshotFailed

_MAGIC: Final = 0xED0CDAED
_META: Final = Struct(
    "<IIIIQQQQQQ"
)  # magic version page_bytes flags root seq freelist end txid sum
_PAGE: Final = Struct("<QHHI")
_BRANCH: Final = Struct("<IIQ")
_LEAF: Final = Struct("<IIII")
_BUCKET: Final = Struct("<QQ")
_IS_BRANCH, _IS_LEAF, _IS_BUCKET = 1, 2, 1
_DEPTH_MAX: Final = 64
_REVISION: Final = Struct(">QcQ")

Pair = tuple[bytes, bytes]


class BoltFile:
    """An open file; `open_bolt` makes one."""

    def __init__(self, path: str, view: mmap.mmap) -> None:
        self.path = path
        self._view = view
        self._page_bytes, self._root, self._end = self._newest_meta()
        self.size_bytes = self._end * self._page_bytes  # what bbolt calls the size of a transaction
        if self.size_bytes > len(view):
            raise self._damaged(f"it is cut short: {len(view)} of {self.size_bytes} bytes")

    def buckets(self) -> Iterator[tuple[bytes, Iterator[Pair]]]:
        """The top-level buckets with their pairs, all in order."""
        for name, value, is_bucket in self._walk_page(self._root, 0):
            if not is_bucket:
                raise self._damaged(f"{name!r} is no bucket")
            yield name, self._pairs(value)

    def bucket(self, wanted: bytes) -> Iterator[Pair]:
        """The pairs of one bucket; none if it is not there."""
        for name, pairs in self.buckets():
            if name == wanted:
                yield from pairs

    def _pairs(self, header: bytes) -> Iterator[Pair]:
        try:
            root, _ = _BUCKET.unpack_from(header)
            walk = self._walk_page(root, 0) if root else self._walk(header, _BUCKET.size, 0)
            for key, value, is_bucket in walk:
                if is_bucket:
                    raise self._damaged("a bucket within a bucket")
                yield key, value
        except StructError as error:
            raise self._damaged("a bucket's header is cut short") from error

    def _newest_meta(self) -> tuple[int, int, int]:
        found: list[tuple[int, tuple[int, int, int]]] = []
        # The second one begins with the second page, whose size only a meta page knows.
        for offset in (0, *(1 << bits for bits in range(12, 17))):
            raw = self._view[offset + _PAGE.size : offset + _PAGE.size + _META.size]
            if len(raw) < _META.size:
                continue
            magic, version, page_bytes, _, root, _, _, end, txid, checksum = _META.unpack(raw)
            if (magic, version) == (_MAGIC, 2) and checksum == _fnv64(raw[:-8]):
                found.append((txid, (page_bytes, root, end)))
        if not found:
            raise self._damaged("neither of its meta pages is whole")
        return max(found)[1]

    def _walk_page(self, id: int, depth: int) -> Iterator[tuple[bytes, bytes, bool]]:
        if not 2 <= id < self._end:
            raise self._damaged(f"page {id} is not in the file")
        at = id * self._page_bytes
        found, _, _, overflow = _PAGE.unpack_from(self._view, at)
        if found != id or id + overflow >= self._end:
            raise self._damaged(f"page {id} is not what it should be")
        yield from self._walk(self._view[at : at + (overflow + 1) * self._page_bytes], 0, depth)

    def _walk(self, page: bytes, start: int, depth: int) -> Iterator[tuple[bytes, bytes, bool]]:
        """The elements below a page whose bytes begin at `start`."""
        if depth > _DEPTH_MAX:
            raise self._damaged("its pages form a circle")
        try:
            id, flags, count, _ = _PAGE.unpack_from(page, start)
            first = start + _PAGE.size
            if flags & _IS_LEAF:
                for at in range(first, first + count * _LEAF.size, _LEAF.size):
                    kind, pos, key_bytes, value_bytes = _LEAF.unpack_from(page, at)
                    key_at, end = at + pos, at + pos + key_bytes + value_bytes
                    if end > len(page):
                        raise self._damaged(f"page {id} points beyond its end")
                    middle = key_at + key_bytes
                    yield page[key_at:middle], page[middle:end], bool(kind & _IS_BUCKET)
            elif flags & _IS_BRANCH:
                for at in range(first, first + count * _BRANCH.size, _BRANCH.size):
                    yield from self._walk_page(_BRANCH.unpack_from(page, at)[2], depth + 1)
            else:
                raise self._damaged(f"page {id} is neither branch nor leaf")
        except StructError as error:
            raise self._damaged("a page is cut short") from error

    def _damaged(self, reason: str) -> SnapshotFailed:
        return SnapshotFailed(f"invalid database: {self.path} is a damaged bbolt file: {reason}")


def _fnv64(raw: bytes) -> int:
    found = 0xCBF29CE484222325
    for byte in raw:
        found = ((found ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return found


@contextmanager
def open_bolt(path: str) -> Iterator[BoltFile]:
    """Raises SnapshotFailed."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise SnapshotFailed(f"invalid database: {path} is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                yield BoltFile(path, view)
    except OSError as error:
        raise SnapshotFailed(f"open {path}: {go_reason(error)}") from error


def status(path: str) -> Contents:
    """What etcdutl says of it: a CRC-32C over all buckets, the last revision, all keys."""
    crc = revision = keys = 0
    with open_bolt(path) as bolt:
        for name, pairs in bolt.buckets():
            crc = extend(crc, name)
            for key, value in pairs:
                crc = extend(extend(crc, key), value)
                keys += 1
                if name == b"key":
                    revision = packed_revision(key, path) >> SUB_BITS
        return Contents(crc, revision, keys, bolt.size_bytes)


def packed_revision(key: bytes, path: str) -> int:
    """main << SUB_BITS | sub of a key of the bucket `key`."""
    try:
        main, _, sub = _REVISION.unpack_from(key)
    except StructError as error:
        raise SnapshotFailed(f"invalid database: {path}: {key!r} is no revision") from error
    if main >= 1 << (63 - SUB_BITS) or sub >= 1 << SUB_BITS:
        raise SnapshotFailed(f"{path}: revision {main}.{sub} is more than a store of pyetcd holds")
    return int(main) << SUB_BITS | int(sub)
