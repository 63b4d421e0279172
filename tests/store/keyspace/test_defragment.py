"""Giving free pages back: slices that a crash, a failure or a change of options may not spoil.

RELIABILITY 1.6 rows 3 and 5: etcd's defragmentation copies the file, and so could move the
revision, lose its options and leave the copy behind. Ours moves pages inside one file.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, compact, hash_kv
from pyetcd.store.db import StorageFailure
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.verify import verify

PRAGMAS = (
    "application_id",
    "auto_vacuum",
    "cache_size",
    "journal_mode",
    "journal_size_limit",
    "mmap_size",
    "page_size",
    "secure_delete",
    "synchronous",
    "user_version",
    "wal_autocheckpoint",
)


def _sparse(backend: Backend) -> Keyspace:
    """Two thirds of the file are free pages, spread over it."""
    keyspace = Keyspace(backend)
    for number in range(150):
        txn = keyspace.begin()
        txn.put(b"%d" % (number % 50), bytes(5000))
        txn.end()
    compact(keyspace, keyspace.revision)
    job = CompactionJob(keyspace)
    while job.step():
        pass
    backend.set_applied(150, 1)
    backend.commit()
    assert backend.size_bytes > 2 * backend.in_use_bytes
    return keyspace


def _options(backend: Backend) -> dict[str, Any]:
    return {name: backend.query(f"PRAGMA {name}") for name in PRAGMAS}


def test_row_3_a_crash_after_each_slice(tmp_path: Path) -> None:
    """etcd#14685: killed between copy and rename, the revision was another one."""
    path = str(tmp_path / "kv.db")
    backend = Backend.open(path, create=True)
    keyspace = _sparse(backend)
    expected = (keyspace.revision, hash_kv(keyspace, 0), 150)
    copies = 0
    more = True
    while more:
        more = backend.vacuum_step(20)
        copies += 1
        left = tmp_path / f"crash{copies}"
        left.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(path + suffix, left / f"kv.db{suffix}")
        if copies == 3:
            backend.checkpoint()
        reopened = Backend.open(str(left / "kv.db"), create=False)
        found = Keyspace(reopened)
        assert (found.revision, hash_kv(found, 0), reopened.applied_index) == expected
        assert verify(reopened.connection) == []
        reopened.close()
        shutil.rmtree(left)
    assert copies > 3
    assert (keyspace.revision, hash_kv(keyspace, 0), backend.applied_index) == expected
    assert backend.size_bytes == backend.in_use_bytes
    backend.close()


def test_row_5_options_stay_and_nothing_is_left_behind(tmp_path: Path, backend: Backend) -> None:
    """etcd PR 13701 (options reset), PR 18854 (temporary files left after a failure)."""
    _sparse(backend)
    options, files = _options(backend), sorted(os.listdir(tmp_path))
    while backend.vacuum_step(20):
        pass
    assert _options(backend) == options
    assert sorted(os.listdir(tmp_path)) == files


def test_row_5_a_failed_slice_changes_nothing(tmp_path: Path, faulty_disk: Any) -> None:
    path = str(tmp_path / "kv.db")
    backend = Backend.open(path, create=True, vfs="faulty")
    keyspace = _sparse(backend)
    expected = (keyspace.revision, hash_kv(keyspace, 0))
    assert backend.vacuum_step(20)
    files = sorted(os.listdir(tmp_path))
    faulty_disk.fail = "write"
    with pytest.raises(StorageFailure):
        while backend.vacuum_step(20):
            pass
    faulty_disk.fail = ""
    assert sorted(os.listdir(tmp_path)) == files
    backend.close()
    backend.reopen()
    keyspace.reload()
    assert (keyspace.revision, hash_kv(keyspace, 0)) == expected
    assert verify(backend.connection) == []
    backend.close()
