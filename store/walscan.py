"""Tell a torn tail from a damaged middle in a SQLite -wal file, before SQLite opens it.

Strategy. SQLite recovers a -wal file up to the first frame whose checksum is wrong and silently
forgets the rest. After a power cut that is right: the rest is the one transaction that was being
written. After a flipped bit it is wrong: acknowledged entries follow, and forgetting them is
amnesia. The two look different. Every commit of a `synchronous=FULL` file is on the disk before
the next one begins, so at or behind the first bad frame a torn tail holds at most ONE frame that
carries a commit mark and the salts of this generation. Two or more prove that durable commits
stand behind the bad frame, and the file must not be opened.

Rules. Only for files written with FULL: with NORMAL, several commits may be in flight. The writer
must restart the -wal (checkpoint TRUNCATE) right after each open, before its first commit; else
the remains of one torn transaction would be counted together with the next.

Limits. Damage inside the very last transaction cannot be told from a torn write; the keyspace's
watermark (wal.py) catches it as soon as the entry was applied. The checksums are Python: about
50 us a frame alone, 8 us in a long file, where those of many frames are computed side by side.
Format: sqlite.org/fileformat2.html section 4.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal

import apsw

from pyetcd.store import db

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
_MASK: Final = 0xFFFFFFFF
_MAGIC_LITTLE: Final = 0x377F0682  # checksums over little-endian words
_MAGIC_BIG: Final = 0x377F0683
_FRAME: Final = struct.Struct(">IIIIII")  # page, size after commit, salt1, salt2, sum1, sum2
_PAGE_BYTES_DEFAULT: Final = 4096
_FRAMES_AT_ONCE: Final = 256  # 1 MiB
_CONTENT_BYTES: Final = _PAGE_BYTES_DEFAULT - db.PAGE_CHECKSUM_BYTES
# sqlite.org/fileformat2.html section 1.8: 5 bytes a page, of what the checksum leaves of a page.
_POINTER_MAP_EVERY: Final = _CONTENT_BYTES // 5 + 1

_REMEDY: Final = (
    "do not run this member on: remove it from the cluster, empty its data directory "
    "and add it again as a learner"
)

ReadAt = Callable[[int, int], bytes]


class LogDamaged(db.ForeignFile):
    """The log has forgotten something that it once promised. Nothing was changed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason, _REMEDY)


@dataclass(frozen=True, slots=True)
class WalScan:
    """What stands in a -wal file. All counts are in frames but `commits_lost`."""

    frames_committed: int = 0  # what SQLite will recover
    frames_torn: int = 0  # of this generation, behind the last good commit: SQLite drops them
    commits_lost: int = 0  # commit marks of this generation at or behind the first bad frame
    bad_offset: int = 0  # where the first bad frame begins, 0 if it is the file's header

    @property
    def is_damaged(self) -> bool:
        # The header is in one sector and fsynced before the first frame: it does not tear.
        header_is_bad = self.commits_lost > 0 and self.bad_offset == 0
        return self.commits_lost >= 2 or header_is_bad


def require_undamaged(path: str, vfs: str | None = None) -> list[str]:
    """Refuse the database at `path` if its -wal is damaged; a note for each thing SQLite will
    drop rightly."""
    found = scan_file(path + "-wal") if vfs is None else _scan_simulated(path + "-wal", vfs)
    if found.is_damaged:
        reason = (
            f"its -wal file is damaged at byte {found.bad_offset}, "
            f"{found.commits_lost} durable commits stand behind"
        )
        raise LogDamaged(path, reason)
    if found.frames_torn:
        return [f"dropped a torn write of {found.frames_torn} pages from {path}-wal"]
    return []


def scan_file(path: str) -> WalScan:
    """Scan `path`; a missing or empty file is a clean one."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return WalScan()
    except OSError as error:
        remedy = "check the data directory and its owner"
        raise db.ForeignFile(path, f"cannot be read: {error.strerror}", remedy) from error
    try:
        size = os.fstat(descriptor).st_size
        return scan(lambda offset, length: os.pread(descriptor, length, offset), size)
    except OSError as error:
        raise db.StorageFailure(f"{path}: read failed: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _scan_simulated(path: str, vfs: str) -> WalScan:
    try:
        file = apsw.VFSFile(vfs, path, [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_WAL, 0])
    except apsw.CantOpenError:
        return WalScan()
    try:
        return scan(lambda offset, length: file.xRead(length, offset), file.xFileSize())
    finally:
        file.xClose()


def scan(read_at: ReadAt, size: int) -> WalScan:
    """Scan a -wal file of `size` bytes through `read_at(offset, length)`."""
    if size < HEADER_BYTES + FRAME_HEADER_BYTES:
        return WalScan()
    header = read_at(0, HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return WalScan()
    magic, _, page_bytes, _, salt1, salt2, sum1, sum2 = struct.unpack(">8I", header)
    order = ">" if magic == _MAGIC_BIG else "<"
    if not _is_header_good(header):
        # SQLite would forget the whole file. Take the generation from the frames themselves.
        page_bytes = _PAGE_BYTES_DEFAULT
        first = read_at(HEADER_BYTES, FRAME_HEADER_BYTES)
        if len(first) < FRAME_HEADER_BYTES:
            return WalScan()
        salt1, salt2 = struct.unpack(">II", first[8:16])
        found = _count_behind(read_at, size, page_bytes, (salt1, salt2), 0, 0)
        return replace(found, bad_offset=0)
    return _scan_frames(read_at, size, page_bytes, order, (salt1, salt2), (sum1, sum2))


def _is_header_good(header: bytes) -> bool:
    magic, _, page_bytes, _, _, _, sum1, sum2 = struct.unpack(">8I", header)
    order = ">" if magic == _MAGIC_BIG else "<"
    return (
        magic in (_MAGIC_LITTLE, _MAGIC_BIG)
        and 512 <= page_bytes <= 65536
        and page_bytes & (page_bytes - 1) == 0
        and _checksum(order, header[:24], 0, 0) == (sum1, sum2)
    )


def _scan_frames(
    read_at: ReadAt,
    size: int,
    page_bytes: int,
    order: str,
    salts: tuple[int, int],
    sums: tuple[int, int],
) -> WalScan:
    stride = FRAME_HEADER_BYTES + page_bytes
    total = (size - HEADER_BYTES) // stride
    committed = number = 0
    while number < total:
        wanted = min(_FRAMES_AT_ONCE, total - number)
        frames = read_at(HEADER_BYTES + number * stride, wanted * stride)
        count = len(frames) // stride
        parts = _checksums(order, frames[: count * stride], stride) if count > 7 else []
        for position in range(count):
            start = position * stride
            page, size_after, salt1, salt2, sum1, sum2 = _FRAME.unpack_from(frames, start)
            if (salt1, salt2) != salts or page == 0:
                return _count_behind(read_at, size, page_bytes, salts, number, committed)
            if parts:
                sums = _append_sums(sums, parts[position], stride)
            else:
                sums = _checksum(order, frames[start : start + 8], *sums)
                data = frames[start + FRAME_HEADER_BYTES : start + stride]
                sums = _checksum(order, data, *sums)
            if sums != (sum1, sum2):
                return _count_behind(read_at, size, page_bytes, salts, number, committed)
            number += 1
            if size_after:
                committed = number
        if count < wanted:
            break
    return _count_behind(read_at, size, page_bytes, salts, number, committed)


def _count_behind(
    read_at: ReadAt,
    size: int,
    page_bytes: int,
    salts: tuple[int, int],
    bad: int,
    committed: int,
) -> WalScan:
    """Count this generation's frames and commit marks from frame `bad` on."""
    stride = FRAME_HEADER_BYTES + page_bytes
    torn, commits = bad - committed, 0
    # A frame header may be there although the file ends inside its page: +page_bytes rounds up.
    for number in range(bad, (size - HEADER_BYTES + page_bytes) // stride):
        head = read_at(HEADER_BYTES + number * stride, FRAME_HEADER_BYTES)
        if len(head) < FRAME_HEADER_BYTES:
            break
        _, size_after, salt1, salt2, _, _ = _FRAME.unpack(head)
        if (salt1, salt2) == salts:
            torn += 1
            commits += size_after != 0
    return WalScan(
        frames_committed=committed,
        frames_torn=torn,
        commits_lost=commits,
        bad_offset=HEADER_BYTES + bad * stride,
    )


def has_good_header(path: str) -> bool:
    """Whether the -wal file at `path` begins as SQLite wants it; False if it is missing or short,
    or cannot be read: a scan then says why."""
    try:
        with open(path, "rb") as side:
            header = side.read(HEADER_BYTES)
    except OSError:
        return False
    return len(header) == HEADER_BYTES and _is_header_good(header)


def is_main_ahead(path: str, *, header_only: bool = False) -> bool:
    """Whether frames that SQLite will drop were checkpointed: the main file at `path` has their
    pages. SQLite would then lay older pages over newer ones. A torn tail is never there, for a
    checkpoint fsyncs the -wal first. So this holds for NORMAL, too; but a page may be written as
    it was, so only who never does that may ask beyond a damaged header (`header_only`)."""
    if header_only and has_good_header(path + "-wal"):
        return False  # without a look at the frames: 200 MB of them took 0.6 s of each start
    found = scan_file(path + "-wal")
    if not found.frames_torn:
        return False
    stride = FRAME_HEADER_BYTES + _PAGE_BYTES_DEFAULT
    with open(path + "-wal", "rb") as side, open(path, "rb") as main:
        salts_at = 16 if found.bad_offset else HEADER_BYTES + 8  # a bad header has none to offer
        salts = os.pread(side.fileno(), 8, salts_at)
        for number in range(found.frames_committed, os.fstat(side.fileno()).st_size // stride):
            frame = os.pread(side.fileno(), stride, HEADER_BYTES + number * stride)
            page = int.from_bytes(frame[:4], "big")
            # The first page and those that map pointers may come back to what they were.
            if page <= 1 or (page - 2) % _POINTER_MAP_EVERY == 0 or frame[8:16] != salts:
                continue
            offset = (page - 1) * _PAGE_BYTES_DEFAULT
            # Without the checksum: it is made when the page is written to the main file.
            there = os.pread(main.fileno(), _CONTENT_BYTES, offset)
            if there == frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + _CONTENT_BYTES]:
                return True
    return False


def _checksum(order: str, data: bytes, sum1: int, sum2: int) -> tuple[int, int]:
    """SQLite's frame checksum: two running sums over pairs of 32-bit words."""
    assert len(data) % 8 == 0, len(data)
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        sum1 = (sum1 + even + sum2) & _MASK
        sum2 = (sum2 + odd + sum1) & _MASK
    return sum1, sum2


def _checksums(order: str, frames: bytes, stride: int) -> list[tuple[int, int]]:
    """The checksum of each frame by itself, beginning from zero.

    Side by side: word i of all frames is one large int with 64 bits for each frame, of which a
    sum needs 34, so an addition adds for all of them and nothing is carried over.
    """
    count = len(frames) // stride
    width = stride // 8
    endian: Literal["little", "big"] = "big" if order == ">" else "little"
    low = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * count, "little")
    pairs = memoryview(frames).cast("Q")
    sum1 = sum2 = 0
    # Of a frame's header the first 8 bytes count.
    for at in (0, *range(FRAME_HEADER_BYTES // 8, width)):
        both = int.from_bytes(pairs[at::width].tobytes(), endian)
        first, second = both & low, (both >> 32) & low
        even, odd = (second, first) if order == ">" else (first, second)
        sum1 = (sum1 + even + sum2) & low
        sum2 = (sum2 + odd + sum1) & low
    found = [
        struct.unpack(f"<{count * 2}I", number.to_bytes(count * 8, "little"))[::2]
        for number in (sum1, sum2)
    ]
    if order == ">":  # the first frame is in the highest bits
        found = [each[::-1] for each in found]
    return list(zip(*found, strict=True))


def _append_sums(sums: tuple[int, int], part: tuple[int, int], stride: int) -> tuple[int, int]:
    """The checksum of what `sums` is of, followed by a frame whose own one is `part`. A step of
    the loop above is linear: without words it makes (s1 + s2, s1 + 2 * s2) of (s1, s2)."""
    a, b, c, d = _steps((stride - FRAME_HEADER_BYTES) // 8 + 1)
    sum1, sum2 = sums
    return (
        (a * sum1 + b * sum2 + part[0]) & _MASK,
        (c * sum1 + d * sum2 + part[1]) & _MASK,
    )


@cache
def _steps(count: int) -> tuple[int, int, int, int]:
    """The matrix ((1, 1), (1, 2)) to this power, modulo 2 ** 32."""
    a, b, c, d = 1, 0, 0, 1
    for _ in range(count):
        a, b, c, d = a + c, b + d, a + 2 * c, b + 2 * d
    return a & _MASK, b & _MASK, c & _MASK, d & _MASK
