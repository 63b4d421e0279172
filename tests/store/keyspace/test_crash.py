"""kill -9 of a process that applies entries: after a replay the keyspace is the one without it.

RELIABILITY 1.6 row 1. The child prints what it has applied, so the kill comes at a known moment
of its work and no test waits for a time.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, compact, hash_kv
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.verify import verify

ENTRIES = 3000


def replay(path: str, *, says: bool) -> Keyspace:
    """Applies every entry that the file has not seen; entry N is always the same."""
    backend = Backend.open(path, create=not Path(path).exists())
    keyspace = Keyspace(backend)
    job = CompactionJob(keyspace)
    for index in range(backend.applied_index + 1, ENTRIES + 1):
        rng = random.Random(index)
        if index % 200 == 0:
            compact(keyspace, keyspace.revision - 50)
        txn = keyspace.begin()
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.3:
                txn.delete_range(b"%d" % rng.randrange(40), b"%d" % rng.randrange(40))
            txn.put(b"%d" % rng.randrange(40), rng.randbytes(100))
        txn.end()
        job.step()
        backend.set_applied(index, 1)
        if rng.random() < 0.05:
            backend.commit()
        if rng.random() < 0.02:
            backend.checkpoint()
        if says:
            print(index, flush=True)
    backend.commit()
    return keyspace


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> int:
    keyspace = replay(str(tmp_path_factory.mktemp("whole") / "kv.db"), says=False)
    found = hash_kv(keyspace, 0).hash
    keyspace.backend.close()
    return found


@pytest.mark.parametrize("kills", [(150, 900, 901), (2000,), (777, 778, 2900)])
def test_killed_and_replayed(tmp_path: Path, expected: int, kills: tuple[int, ...]) -> None:
    path = str(tmp_path / "kv.db")
    for kill_at in kills:
        child = subprocess.Popen(
            [sys.executable, __file__, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= kill_at:
                break
        child.kill()
        child.stdout.close()
        child.wait()
        backend = Backend.open(path, create=False)
        assert verify(backend.connection) == []
        assert Keyspace(backend).revision >= 1
        backend.close()
    keyspace = replay(path, says=False)
    assert hash_kv(keyspace, 0).hash == expected
    assert keyspace.revision == ENTRIES + 1
    assert verify(keyspace.backend.connection) == []
    keyspace.backend.close()


if __name__ == "__main__":
    replay(sys.argv[1], says=True)
