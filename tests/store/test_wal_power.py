"""Power cuts: unsynced writes of the log vanish sector by sector, in any order.

One run of the log over a recording disk gives the list of every write, truncation and fsync. A cut
at any place of that list leaves what was synced, and of the rest any subset of 512-byte sectors.
Whatever was reported before the cut must be there, and the torn rest must not be taken for damage.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from pyetcd.raft.types import ConfState, Entry, HardState, Ready, SnapshotMeta
from pyetcd.store import wal
from pyetcd.store.wal import Wal, Watermark

SECTOR_BYTES = 512
Operation = tuple[str, str, int, bytes]  # file, kind, offset, data


class RecordingDisk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("recording", "unix")
        self.operations: list[Operation] = []

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return RecordingFile(self, name, flags)


class RecordingFile(apsw.VFSFile):
    def __init__(
        self, disk: RecordingDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.name = Path(path or "temporary").name
        self.operations = disk.operations
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.operations.append((self.name, "write", offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self.operations.append((self.name, "truncate", newsize, b""))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self.operations.append((self.name, "sync", 0, b""))


@pytest.fixture
def disk() -> Iterator[RecordingDisk]:
    disk = RecordingDisk()
    yield disk
    disk.unregister()


def perform(content: bytearray, operation: Operation, rng: random.Random | None) -> None:
    """Do it, or with rng, what a power cut leaves of it."""
    _, kind, offset, data = operation
    if kind == "truncate":
        if rng is None or rng.random() < 0.5:
            del content[offset:]
        return
    for start in range(0, len(data), SECTOR_BYTES):
        if rng is None or rng.random() < 0.6:
            end = min(start + SECTOR_BYTES, len(data))
            content.extend(bytes(max(0, offset + end - len(content))))
            content[offset + start : offset + end] = data[start:end]


def files_after(operations: list[Operation], rng: random.Random) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    # Only the creation has a -journal, and it was deleted again.
    for name in ("wal.db", "wal.db-wal"):
        mine = [operation for operation in operations if operation[0] == name]
        synced = max((i for i, o in enumerate(mine) if o[1] == "sync"), default=-1)
        content = bytearray()
        for operation in mine[: synced + 1]:
            perform(content, operation, None)
        for operation in mine[synced + 1 :]:
            perform(content, operation, rng)
        found[name] = bytes(content)
    return found


def run(path: str, rng: random.Random, operations: list[Operation]) -> list[tuple[int, Watermark]]:
    """Write, replace, cut; where in `operations` each commit was reported, and the mark then."""
    log = Wal.create(path, cluster_id=1, member_id=2, vfs="recording")
    # The file's creation by rename is not on this disk: it begins with a sound, synced file.
    acknowledged = [(len(operations), Watermark(0, 0, 0))]
    term = 1
    for _ in range(60):
        last = log.last_index()
        low = max(log.hard_state.commit, log.first_index() - 1)
        first = last + 1
        if rng.random() < 0.2 and low < last:
            first = rng.randint(low + 1, last)
            term += 1
        entries = [
            Entry(term, index, data=b"%d/%d" % (index, term) * rng.randint(0, 200))
            for index in range(first, first + rng.randint(1, 9))
        ]
        commit = rng.randint(low, first - 1)
        log.stage(Ready(entries=entries, hard_state=HardState(term, 1, commit)))
        log.commit()
        log.publish()
        acknowledged.append((len(operations), log.watermark(log.last_index())))
        if rng.random() < 0.3 and commit > log.first_index():
            log.save_snapshot_meta(SnapshotMeta(commit, log.term(commit), ConfState((1,))))
            log.compact(rng.randint(log.first_index() - 1, commit))
    log._connection.close()
    return acknowledged


@pytest.mark.parametrize("seed", range(3))
def test_power_cuts(
    tmp_path: Path, disk: RecordingDisk, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CHECKPOINT_FRAMES", 40)
    monkeypatch.setattr(wal, "CUT_SLICE", 7)
    rng = random.Random(seed)
    (tmp_path / "run").mkdir()
    acknowledged = run(str(tmp_path / "run" / "wal.db"), rng, disk.operations)
    repaired = 0
    for number in range(60):
        cut = rng.randint(acknowledged[0][0], len(disk.operations))
        directory = tmp_path / str(number)
        directory.mkdir()
        for name, content in files_after(disk.operations[:cut], rng).items():
            (directory / name).write_bytes(content)
        log = Wal.open(str(directory / "wal.db"), vfs="unix")
        mark = [mark for position, mark in acknowledged if position <= cut][-1]
        following = [mark for position, mark in acknowledged if position > cut][:1]
        # Either the last reported batch, or the one under way when the power went.
        found = log.watermark(log.last_index())
        assert found == mark or [found] == following, (cut, found, mark, following)
        for index in range(log.first_index(), log.last_index() + 1):
            (entry,) = log.entries(index, index + 1, 0)
            assert entry.index == index
        repaired += bool(log.notes)
        log.close()
    assert repaired > 0
