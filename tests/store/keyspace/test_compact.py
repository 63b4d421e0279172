"""Compaction: logical at once, physical in slices, resumable, invisible from above."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pyetcd.proto import rpc_pb2 as pb
from pyetcd.proto.errors import Compacted, EtcdError, FutureRev
from pyetcd.store import compact as compact_module
from pyetcd.store.backend import SUB_BITS, Backend
from pyetcd.store.compact import CompactionJob, apply_compaction, compact, hash_kv
from pyetcd.store.history import last_of
from pyetcd.store.mvcc import DELETE, PUT, Keyspace
from pyetcd.store.txn import apply_txn
from pyetcd.store.verify import verify


def _fill(keyspace: Keyspace, *, seed: int, writes: int, keys: int = 12) -> None:
    rng = random.Random(seed)
    for _ in range(writes):
        txn = keyspace.begin()
        for _ in range(rng.choice((1, 1, 3))):
            key = b"%02d" % rng.randrange(keys)
            if rng.random() < 0.3:
                txn.delete_range(key)
            else:
                txn.put(key, rng.randbytes(20))
        txn.end()


def _finish(job: CompactionJob) -> None:
    while job.step():
        pass
    assert job.is_done


def _seen(keyspace: Keyspace) -> list[object]:
    """Everything that may be read: each revision from the compacted one on, and its hash."""
    first = max(keyspace.compact_revision, 1)
    seen: list[object] = [keyspace.range(b"\x00", b"\x00").rows]
    for revision in range(first, keyspace.revision + 1):
        seen.append(keyspace.range(b"\x00", b"\x00", revision=revision).rows)
        seen.append(hash_kv(keyspace, revision).hash)
    return seen


def _rows_that_must_stay(keyspace: Keyspace) -> set[int]:
    """The keep rule in plain words, over all rows."""
    at = keyspace.compact_revision
    rows = keyspace.history.since(0, last_of(keyspace.revision), limit=1 << 30)
    newest = {row[1]: row[0] for row in rows if row[0] >> SUB_BITS <= at}
    kept = set()
    for row in rows:
        main = row[0] >> SUB_BITS
        is_newest = newest.get(row[1]) == row[0]
        if main > at or (is_newest and (row[2] is not None or main == at)):
            kept.add(row[0])
    return kept


def test_a_fresh_store_may_be_compacted_at_0_and_1(keyspace: Keyspace) -> None:
    # SURFACE 8.1 item 1, 8.2 item 21.
    assert (keyspace.revision, keyspace.compact_revision) == (1, -1)
    with pytest.raises(Compacted):
        compact(keyspace, -3)
    with pytest.raises(FutureRev):
        compact(keyspace, 2)
    for revision in (0, 1):
        compact(keyspace, revision)
        with pytest.raises(Compacted):
            compact(keyspace, revision)
    assert keyspace.revision == 1


def test_the_answer_has_the_current_revision(keyspace: Keyspace) -> None:
    _fill(keyspace, seed=1, writes=5)
    before = keyspace.revision
    answer = apply_compaction(keyspace, pb.CompactionRequest(revision=2))
    assert answer.header.revision == before == keyspace.revision


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step_rows", [1, 7, 500])
def test_nothing_readable_changes_while_it_runs(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch, seed: int, step_rows: int
) -> None:
    monkeypatch.setattr(compact_module, "STEP_ROWS", step_rows)
    _fill(keyspace, seed=seed, writes=60)
    job = CompactionJob(keyspace)
    for revision in (3, 20, 21, keyspace.revision):
        compact(keyspace, revision)
        seen = _seen(keyspace)
        stay = _rows_that_must_stay(keyspace)
        more = True
        while more:
            more = job.step()
            assert _seen(keyspace) == seen
        kept = keyspace.history.since(0, last_of(keyspace.revision), limit=1 << 30)
        assert {row[0] for row in kept} == stay
    assert verify(keyspace.backend.connection) == []


@pytest.mark.parametrize("crash_after", range(12))
def test_resumed_after_a_crash_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_after: int
) -> None:
    monkeypatch.setattr(compact_module, "STEP_ROWS", 5)
    path = str(tmp_path / "kv.db")
    backend = Backend.open(path, create=True)
    keyspace = Keyspace(backend)
    _fill(keyspace, seed=3, writes=40)
    compact(keyspace, 25)
    backend.commit()
    seen, stay, revision = _seen(keyspace), _rows_that_must_stay(keyspace), keyspace.revision
    job = CompactionJob(keyspace)
    for _ in range(crash_after):
        job.step()
        backend.commit()
    job.step()  # not committed: lost
    backend.close()

    backend = Backend.open(path, create=False)
    keyspace = Keyspace(backend)
    assert (keyspace.revision, keyspace.compact_revision) == (revision, 25)
    assert _seen(keyspace) == seen
    _finish(CompactionJob(keyspace))
    kept = keyspace.history.since(0, last_of(keyspace.revision), limit=1 << 30)
    assert {row[0] for row in kept} == stay
    assert _seen(keyspace) == seen
    backend.close()


def test_a_second_compaction_before_the_first_is_done(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_module, "STEP_ROWS", 3)
    _fill(keyspace, seed=5, writes=40)
    job = CompactionJob(keyspace)
    compact(keyspace, 10)
    assert job.step()
    compact(keyspace, 30)
    stay = _rows_that_must_stay(keyspace)
    _finish(job)
    kept = keyspace.history.since(0, last_of(keyspace.revision), limit=1 << 30)
    assert {row[0] for row in kept} == stay


def test_the_revision_survives_when_every_row_is_gone(tmp_path: Path) -> None:
    # etcd#17780: the revision went back when the newest rows had been compacted away.
    path = str(tmp_path / "kv.db")
    backend = Backend.open(path, create=True)
    keyspace = Keyspace(backend)
    for write in (lambda txn: txn.put(b"a", b""), lambda txn: txn.delete_range(b"a")):
        txn = keyspace.begin()
        write(txn)
        txn.end()
    compact(keyspace, 3)
    _finish(CompactionJob(keyspace))
    # The tombstone exactly at 3 is kept; take even that away.
    backend.execute("DELETE FROM revisions")
    backend.commit()
    backend.close()
    backend = Backend.open(path, create=False)
    assert Keyspace(backend).revision == 3
    backend.close()


def test_a_step_is_bounded_by_bytes(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_module, "STEP_BYTES", 1000)
    for _ in range(6):
        txn = keyspace.begin()
        txn.put(b"a", bytes(600))
        txn.end()
    compact(keyspace, keyspace.revision)
    job = CompactionJob(keyspace)
    deleted = []
    while job.step():
        deleted.append(job.deleted)
    assert deleted == [0, 2, 4, 5]


def test_cost_follows_what_changed_not_what_exists(keyspace: Keyspace) -> None:
    txn = keyspace.begin()
    for number in range(2000):
        txn.put(b"%04d" % number, b"")
    txn.end()
    job = CompactionJob(keyspace)
    compact(keyspace, 2)
    _finish(job)
    txn = keyspace.begin()
    txn.put(b"0000", b"")
    txn.end()
    compact(keyspace, 3)
    assert _steps(job.step) == 2000 // compact_module.STEP_ROWS + 3
    txn = keyspace.begin()
    txn.put(b"0000", b"")
    txn.end()
    compact(keyspace, 4)
    assert _steps(job.step) == 3


@pytest.mark.parametrize("step_rows", [1, 500])
def test_a_watch_from_the_compact_revision_is_told_of_a_delete_there(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch, step_rows: int
) -> None:
    # RELIABILITY 1.6 rows 14 and 15 (etcd#18089, #19179); also with one row per step.
    monkeypatch.setattr(compact_module, "STEP_ROWS", step_rows)
    for key in (b"a", b"b", b"c"):
        txn = keyspace.begin()
        txn.put(key, b"")
        txn.end()
    txn = keyspace.begin()
    txn.delete_range(b"a", b"c")
    at = txn.end()
    txn = keyspace.begin()
    txn.put(b"a", b"")
    txn.end()
    expected = keyspace.changes(at, keyspace.revision, limit=10)
    assert [(change.type, change.key) for change in expected] == [
        (DELETE, b"a"),
        (DELETE, b"b"),
        (PUT, b"a"),
    ]
    compact(keyspace, at)
    job = CompactionJob(keyspace)
    while job.step():
        assert keyspace.changes(at, keyspace.revision, limit=10) == expected
    assert keyspace.changes(at, keyspace.revision, limit=10) == expected


@pytest.mark.parametrize("seed", range(5))
def test_members_agree_however_far_their_jobs_are(tmp_path: Path, seed: int) -> None:
    # RELIABILITY 1.6 row 16 (etcd#18667): a transaction with a range at a compacted revision.
    def member(name: str, *, runs_job: bool, restarts: bool) -> list[object]:
        rng = random.Random(seed)
        path = str(tmp_path / name)
        backend = Backend.open(path, create=True)
        keyspace = Keyspace(backend)
        answers: list[object] = []
        for number in range(150):
            if restarts and number % 10 == 0:
                backend.commit()
                backend.close()
                backend.reopen()
                keyspace.reload()
            request = pb.TxnRequest()
            if rng.random() < 0.6:
                revision = rng.randint(0, keyspace.revision + 1)
                request.success.add().request_range.CopyFrom(
                    pb.RangeRequest(key=b"a", range_end=b"z", revision=revision)
                )
            key = rng.choice((b"a", b"b", b"c"))
            if rng.random() < 0.3:
                request.success.add().request_delete_range.key = key
            else:
                request.success.add().request_put.key = key
            compacts = rng.random() < 0.1
            at = rng.randint(0, keyspace.revision)
            try:
                answers.append(apply_txn(keyspace, NO_LEASES, request))
                if compacts:
                    compact(keyspace, at)
            except EtcdError as error:
                answers.append(error.text)
            if runs_job:
                _finish(CompactionJob(keyspace))
            answers.append(hash_kv(keyspace, 0))
        backend.close()
        return answers

    answers = member("slow.db", runs_job=False, restarts=False)
    assert answers == member("quick.db", runs_job=True, restarts=False)
    assert answers == member("restarted.db", runs_job=False, restarts=True)
    assert sum(isinstance(answer, str) for answer in answers) > 10


class _NoLeases:
    def has(self, id: int) -> bool:
        return False

    def attach(self, id: int, key: bytes) -> None: ...

    def detach(self, id: int, key: bytes) -> None: ...


NO_LEASES = _NoLeases()


def _steps(step: Callable[[], bool]) -> int:
    count = 1
    while step():
        count += 1
    return count
