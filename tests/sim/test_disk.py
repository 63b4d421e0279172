"""A start after a failed fsync, on a disk that forgets what the fsync should have kept."""

import random
from pathlib import Path

import apsw
import pytest
from sim.disk import Disk, PowerLost, close_all, installed

from pyetcd.store import db, walscan

SCHEMA = db.Schema(application_id=7, version=1, sql="CREATE TABLE t (k INTEGER, v BLOB)")


def test_a_power_cut_in_the_first_checkpoint_after_a_failed_fsync(tmp_path: Path) -> None:
    with installed() as disks:
        for seed in range(60):
            folder = tmp_path / str(seed)
            one_life(disks.add(folder), str(folder / "a.db"), random.Random(seed))


def one_life(disk: Disk, path: str, rng: random.Random) -> None:
    writer = db.open_writer(path, schema=SCHEMA, full_sync=True)
    for number in range(3):
        writer.execute("INSERT INTO t VALUES (?, zeroblob(9000))", (number,))
    db.checkpoint(writer, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    disk.fail_in("sync", 2, rng)  # the first is of the new -wal file's header
    with pytest.raises(apsw.IOError):
        writer.execute("INSERT INTO t VALUES (3, zeroblob(30000))")
    close_all(str(disk.folder))
    disk.restore_power(None)
    disk.blow_in(rng.randint(1, 60))
    try:
        writer = db.open_writer(path, schema=SCHEMA, full_sync=True)
        db.checkpoint(writer, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except (PowerLost, db.StorageFailure):
        pass
    close_all(str(disk.folder))
    disk.restore_power(rng)
    walscan.require_undamaged(path)
    writer = db.open_writer(path, schema=SCHEMA, full_sync=True)
    db.quick_check(writer)
    kept = [key for (key,) in writer.execute("SELECT k FROM t ORDER BY k")]
    assert kept in ([0, 1, 2], [0, 1, 2, 3])
    writer.close()
