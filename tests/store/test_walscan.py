"""The checksums of many frames side by side are those of SQLite, one after another."""

import random
import sqlite3
from pathlib import Path

import pytest

from pyetcd.store import db, walscan
from pyetcd.store.backend import Backend


def one_by_one(order: str, frame: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    sums = walscan._checksum(order, frame[:8], *sums)
    return walscan._checksum(order, frame[walscan.FRAME_HEADER_BYTES :], *sums)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("page_bytes", [512, 4096])
@pytest.mark.parametrize("count", [1, 2, 9, 70])
def test_side_by_side_is_one_by_one(order: str, page_bytes: int, count: int) -> None:
    rng = random.Random(count)
    stride = walscan.FRAME_HEADER_BYTES + page_bytes
    frames = b"\xff" * stride + rng.randbytes(stride * (count - 1))
    each = [frames[at : at + stride] for at in range(0, len(frames), stride)]
    parts = walscan._checksums(order, frames, stride)
    assert parts == [one_by_one(order, frame, (0, 0)) for frame in each]
    sums = chained = (0xFFFFFFFF, 7)
    for frame, part in zip(each, parts, strict=True):
        sums = one_by_one(order, frame, sums)
        chained = walscan._append_sums(chained, part, stride)
        assert chained == sums


@pytest.mark.parametrize("frames", [3, 8, 300, 600])
def test_every_frame_is_seen_and_the_first_bad_one(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "file.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t(x)")
    side = tmp_path / "file.db-wal"
    while (found := walscan.scan_file(str(side))).frames_committed < frames:
        connection.execute("INSERT INTO t VALUES (randomblob(9000))")
    content = bytearray(side.read_bytes())
    connection.close()
    total = (len(content) - walscan.HEADER_BYTES) // (walscan.FRAME_HEADER_BYTES + 4096)
    assert found.frames_committed == total and not found.is_damaged
    rng = random.Random(frames)
    for bad in (0, rng.randrange(total - 1), total - 1):
        start = walscan.HEADER_BYTES + bad * (walscan.FRAME_HEADER_BYTES + 4096)
        flipped = start + rng.choice((0, 16, 20, 24, 4000))
        content[flipped] ^= 1
        side.write_bytes(content)
        found = walscan.scan_file(str(side))
        assert found.frames_committed <= bad and found.bad_offset == start
        content[flipped] ^= 1


def test_a_main_file_that_has_what_a_damaged_wal_lost(tmp_path: Path) -> None:
    """Checkpointed frames behind a flipped bit: SQLite would lay the old meta row over new keys."""
    path = tmp_path / "kv.db"
    backend = Backend.open(str(path), create=True)
    for number in range(1, 5):
        backend.meta_put(f"key{number}", b"x" * 50)
        backend.execute("INSERT INTO alarms (member_id, alarm) VALUES (?, 1)", (number,))
        backend.set_applied(number, 1)
        backend.commit()
    before = tmp_path / "before"
    before.mkdir()
    for file in (path, Path(f"{path}-wal")):
        (before / file.name).write_bytes(file.read_bytes())
    assert backend.checkpoint() == 4
    for directory, is_ahead in ((tmp_path, True), (before, False)):
        side = directory / "kv.db-wal"
        content = bytearray(side.read_bytes())
        assert not walscan.is_main_ahead(str(directory / "kv.db"))
        content[walscan.HEADER_BYTES + 2 * (walscan.FRAME_HEADER_BYTES + db.PAGE_BYTES) + 99] ^= 1
        side.write_bytes(content)
        assert walscan.is_main_ahead(str(directory / "kv.db")) is is_ahead
    backend.close()


def test_a_good_header_spares_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with a large -wal file of the keyspace must not read all of it."""
    path = tmp_path / "kv.db"
    backend = Backend.open(str(path), create=True)
    backend.meta_put("key", b"x")
    backend.commit()
    side = Path(f"{path}-wal")
    content = bytearray(side.read_bytes())
    assert backend.checkpoint() is not None
    assert walscan.has_good_header(str(side))
    scans: list[str] = []
    scan_file = walscan.scan_file
    monkeypatch.setattr(walscan, "scan_file", lambda path: (scans.append(path), scan_file(path))[1])
    assert not walscan.is_main_ahead(str(path), header_only=True) and not scans
    content[5] ^= 1
    side.write_bytes(content)
    assert not walscan.has_good_header(str(side))
    assert walscan.is_main_ahead(str(path), header_only=True) and scans
    assert not walscan.has_good_header(str(tmp_path / "missing"))
    backend.close()
