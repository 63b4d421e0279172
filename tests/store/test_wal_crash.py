"""A killed writer, a cut or flipped -wal, a flipped main file: repaired or refused, never silent.

The child writes entries whose bytes follow from their index, reports each index once it is
published, and is killed somewhere. What it reported must be there.
"""

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyetcd.raft.types import ConfState, Entry, HardState, Ready, SnapshotMeta
from pyetcd.store import db, walscan
from pyetcd.store.wal import LogDamaged, Wal, Watermark

MakeEntry = Callable[..., Entry]

CHILD = """
import sys
from pyetcd.raft.types import ConfState, Entry, EntryType, HardState, Ready, SnapshotMeta
from pyetcd.store import wal
wal.CHECKPOINT_FRAMES = 30
wal.CUT_SLICE = 20
log = wal.Wal.open(sys.argv[1])
last = log.last_index()
log.verify_watermark(last, *[(w.term, w.crc) for w in [log.watermark(last)]][0])
while True:
    count = last % 7 + 1
    entries = [
        Entry(i // 50 + 1, i, EntryType.NORMAL, b"%d" % i * (i % 300))
        for i in range(last + 1, last + 1 + count)
    ]
    log.stage(Ready(entries=entries, hard_state=HardState(entries[-1].term, 1, last)))
    log.commit()
    log.publish()
    last += count
    mark = log.watermark(last)
    print(mark.index, mark.term, mark.crc, flush=True)
    if last % 11 == 0:
        log.save_snapshot_meta(SnapshotMeta(last, mark.term, ConfState(voters=(1,))))
        log.compact(max(0, last - 40))
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_writer_loses_nothing_it_reported(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = str(tmp_path / "wal.db")
    Wal.create(path, cluster_id=1, member_id=2).close()
    previous = 0
    for _ in range(4):
        command = [sys.executable, "-c", CHILD, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(rng.randint(1, 150))]
            child.kill()
            # The last line may be half a line.
            lines += child.stdout.read().split("\n")[:-1]
            assert child.wait() == -signal.SIGKILL
        log = Wal.open(path)
        mark = Watermark(*map(int, lines[-1].split()))
        log.verify_watermark(mark.index, mark.term, mark.crc)
        assert log.last_index() >= mark.index > previous
        for index in range(log.first_index(), log.last_index() + 1):
            (found,) = log.entries(index, index + 1, 0)
            assert found.data == b"%d" % index * (index % 300)
        previous = log.last_index()
        # Before the next child continues, not after: a -wal with a torn end must be survived.
        log.close() if rng.random() < 0.5 else log._connection.close()


COMMITS = 24


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files after COMMITS commits of three entries, all of them in the -wal only."""
    directory = tmp_path_factory.mktemp("written")
    path = directory / "wal.db"
    log = Wal.create(str(path), cluster_id=1, member_id=2)
    for commit in range(COMMITS):
        entries = [
            Entry(1, commit * 3 + i + 1, data=f"{commit}/{i}".encode() * 60) for i in range(3)
        ]
        log.stage(Ready(entries=entries, hard_state=HardState(1, 1, commit * 3)))
        log.commit()
        log.publish()
    files = {name: (directory / name).read_bytes() for name in ("wal.db", "wal.db-wal")}
    log.close()
    files["clean"] = path.read_bytes()
    return files


def reopen(directory: Path, main: bytes, side: bytes) -> Wal | None:
    """The log as it opens, or None if it is refused, in which case no file was changed."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    path = directory / "wal.db"
    path.write_bytes(main)
    (directory / "wal.db-wal").write_bytes(side)
    try:
        return Wal.open(str(path))
    except db.ForeignFile as error:
        assert "\n" not in str(error)
        assert path.read_bytes() == main
        # SQLite may take away an empty one.
        assert not side or (directory / "wal.db-wal").read_bytes() == side
        return None


def require_true_entries(log: Wal) -> None:
    for index in range(1, log.last_index() + 1):
        commit, i = divmod(index - 1, 3)
        (found,) = log.entries(index, index + 1, 0)
        assert found == Entry(1, index, data=f"{commit}/{i}".encode() * 60)


def test_flips_in_the_wal_file(tmp_path: Path, written: dict[str, bytes]) -> None:
    side = written["wal.db-wal"]
    rng = random.Random(1)
    offsets = [*range(0, 56, 5), *rng.sample(range(len(side)), 60), len(side) - 1]
    refused = 0
    for offset in offsets:
        flipped = bytearray(side)
        flipped[offset] ^= 1 << rng.randrange(8)
        log = reopen(tmp_path / "x", written["wal.db"], bytes(flipped))
        refused += log is None
        if log is not None:
            # Only damage in the very last commit looks like a torn write.
            assert log.last_index() >= COMMITS * 3 - 3, offset
            require_true_entries(log)
            log.close()
    assert refused > 50


def test_cuts_of_the_wal_file(tmp_path: Path, written: dict[str, bytes]) -> None:
    side = written["wal.db-wal"]
    rng = random.Random(2)
    marks = {}
    whole = reopen(tmp_path / "x", written["wal.db"], side)
    assert whole is not None and whole.last_index() == COMMITS * 3
    for index in range(1, COMMITS * 3 + 1):
        marks[index] = whole.watermark(index)
    whole.close()
    for size in [0, 1, 31, 32, 33, 56, *rng.sample(range(len(side)), 20), len(side) - 1]:
        log = reopen(tmp_path / "x", written["wal.db"], side[:size])
        assert log is not None  # a cut is what a power failure leaves of unfinished writes
        require_true_entries(log)
        last = log.last_index()
        assert last % 3 == 0  # whole commits only
        # The keyspace tells the difference: what was applied must be there.
        if last:
            log.verify_watermark(last, marks[last].term, marks[last].crc)
        with pytest.raises(LogDamaged, match="but the log ends at"):
            log.verify_watermark(last + 1, 1, marks[last + 1].crc)
        # And the log goes on from there.
        more = [Entry(2, last + 1, data=b"new")]
        log.stage(Ready(entries=more, hard_state=HardState(2, 1, last)))
        log.commit()
        log.publish()
        log._connection.close()
        log = Wal.open(str(tmp_path / "x" / "wal.db"))
        assert log.entries(last + 1, last + 2, 0) == more and log.notes == []
        log.close()


def test_zeroed_tail_of_the_wal_file(tmp_path: Path, written: dict[str, bytes]) -> None:
    """A file whose length was written before its bytes, as after a power failure."""
    side = written["wal.db-wal"]
    for cut in (1, 100, 4000, 4119):
        log = reopen(tmp_path / "x", written["wal.db"], side[:-cut] + bytes(cut))
        assert log is not None and log.last_index() >= COMMITS * 3 - 3
        require_true_entries(log)
        log.close()


def test_flips_in_the_main_file(tmp_path: Path, written: dict[str, bytes]) -> None:
    main = written["clean"]
    rng = random.Random(3)
    refused = 0
    for offset in [16, 24, 60, 68, *rng.sample(range(len(main)), 60)]:
        flipped = bytearray(main)
        flipped[offset] ^= 1 << rng.randrange(8)
        log = reopen(tmp_path / "x", bytes(flipped), b"")
        refused += log is None
        if log is not None:
            assert log.last_index() == COMMITS * 3
            require_true_entries(log)
            log.close()
    assert refused > 20


def test_flips_in_the_header_beside_a_full_wal_file(
    tmp_path: Path, written: dict[str, bytes]
) -> None:
    """SQLite deletes a -wal file if the header says that there is none."""
    for offset in range(100):
        flipped = bytearray(written["wal.db"])
        flipped[offset] ^= 3 if offset in (18, 19) else 1 << offset % 8
        log = reopen(tmp_path / "x", bytes(flipped), written["wal.db-wal"])
        if log is not None:
            assert log.last_index() == COMMITS * 3
            require_true_entries(log)
            log.close()


def test_two_torn_ends_in_a_row_are_not_taken_for_damage(
    tmp_path: Path, written: dict[str, bytes]
) -> None:
    """Frames of a first torn write behind those of a second: open() starts a new generation."""
    side = bytearray(written["wal.db-wal"])
    side[-4000] ^= 1
    log = reopen(tmp_path / "x", written["wal.db"], bytes(side))
    assert log is not None and log.last_index() == COMMITS * 3 - 3
    assert "dropped a torn write" in log.notes[0]
    last = log.last_index()
    log.stage(Ready(entries=[Entry(2, last + 1, data=b"x")], hard_state=HardState(2, 1, 0 + last)))
    log.commit()
    log.publish()
    path = tmp_path / "x" / "wal.db"
    torn = bytearray(path.with_name("wal.db-wal").read_bytes())
    log._connection.close()
    torn[-10] ^= 1
    path.with_name("wal.db-wal").write_bytes(torn)
    log = Wal.open(str(path))
    assert log.last_index() == last
    log.close()


def test_scan_of_old_generations(tmp_path: Path, entry: MakeEntry) -> None:
    """Frames left from before a checkpoint carry other salts and do not count."""
    path = tmp_path / "wal.db"
    log = Wal.create(str(path), cluster_id=1, member_id=2)

    def write(*indexes: int) -> None:
        log.stage(Ready(entries=[entry(i) for i in indexes]))
        log.commit()
        log.publish()

    for index in range(1, 20):
        write(index)
    assert db.checkpoint(log._connection).complete
    write(20)
    write(21)
    found = walscan.scan_file(f"{path}-wal")
    assert (found.frames_committed, found.frames_torn, found.commits_lost) == (2, 0, 0)
    side = bytearray(path.with_name("wal.db-wal").read_bytes())
    side[100] ^= 1  # the first of the two
    found = walscan.scan(lambda offset, length: bytes(side[offset : offset + length]), len(side))
    assert (found.frames_committed, found.commits_lost, found.is_damaged) == (0, 2, True)
    simulated = walscan._scan_simulated(f"{path}-wal", "unix")
    assert simulated == walscan.scan_file(f"{path}-wal")
    assert walscan._scan_simulated(f"{path}-none", "unix") == walscan.WalScan()
    log.close()


def test_snapshot_meta_and_cut_are_durable_together(
    tmp_path: Path, entry: MakeEntry, crash_copy: Callable[[Path], Path]
) -> None:
    """The record of a checkpoint and the cut below it: both after a crash, or neither."""
    log = Wal.create(str(tmp_path / "wal.db"), cluster_id=1, member_id=2)
    entries = [entry(i) for i in range(1, 11)]
    log.stage(Ready(entries=entries, hard_state=HardState(1, 1, 10)))
    log.commit()
    log.publish()
    log.save_snapshot_meta(SnapshotMeta(8, 1, ConfState(voters=(1,))))
    log.compact(6)
    copy = Wal.open(str(crash_copy(tmp_path / "wal.db")))
    assert (copy.first_index(), copy.initial_state()[1]) == (1, ConfState())
    copy.close()
    log.stage(Ready(entries=[entry(11)]))
    log.commit()
    copy = Wal.open(str(crash_copy(tmp_path / "wal.db")))
    assert (copy.first_index(), copy.initial_state()[1]) == (7, ConfState(voters=(1,)))
    copy.close()
    log.publish()
    log.close()
