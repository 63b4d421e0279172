"""log.py and storage.py by values: matching, appending, paging, the unstable tail."""

import pytest

from pyetcd.raft.log import RaftLog
from pyetcd.raft.storage import ENTRY_OVERHEAD_BYTES, MemoryStorage, limit_bytes
from pyetcd.raft.types import (
    ConfState,
    Entry,
    LogCompacted,
    LogLost,
    LogUnavailable,
    Snapshot,
    SnapshotMeta,
    SnapshotTemporarilyUnavailable,
)

NO_LIMIT = 2**40


def run(*terms: int, start: int = 1) -> list[Entry]:
    return [Entry(term, index, data=b"x") for index, term in enumerate(terms, start)]


def log_of(*terms: int, stored: int = 0, committed: int = 0, compacted: int = 0) -> RaftLog:
    """The first `stored` entries in storage, the others unstable."""
    storage = MemoryStorage()
    entries = run(*terms)
    storage.append(entries[:stored])
    if compacted:
        storage.compact(compacted)
    log = RaftLog(storage, NO_LIMIT)
    log.append(entries[stored:])
    log.committed = max(log.committed, committed)
    return log


def terms_of(log: RaftLog) -> list[int]:
    return [e.term for e in log.slice(log.first_index, log.last_index + 1, NO_LIMIT)]


def test_the_example_of_the_docstring() -> None:
    log = log_of(*[1] * 10, stored=7, compacted=4)
    assert (log.first_index, log.offset, log.last_index) == (5, 8, 10)
    assert [entry.index for entry in log.next_unstable()] == [8, 9, 10]
    assert log.term(4) == 1
    with pytest.raises(LogCompacted):
        log.term(3)
    with pytest.raises(LogUnavailable):
        log.term(11)
    with pytest.raises(LogCompacted):
        log.slice(4, 6, NO_LIMIT)


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        *[(index, 4, True) for index in (1, 3, 9)],
        *[(index, 2, False) for index in (1, 3, 9)],
        *[(2, 3, False), (3, 3, True), (4, 3, True)],
    ],
)
def test_up_to_date(index: int, term: int, expected: bool) -> None:
    assert log_of(1, 2, 3).is_up_to_date(index, term) is expected


@pytest.mark.parametrize("stored", [0, 2, 3])
@pytest.mark.parametrize(
    ("prev", "entries", "after"),
    [
        ((3, 3), run(4, start=4), [1, 2, 3, 4]),
        ((3, 3), [], [1, 2, 3]),
        ((1, 1), run(2, start=2), [1, 2, 3]),  # an old message cuts nothing off
        ((1, 1), run(2, 3, 4, start=2), [1, 2, 3, 4]),
        ((2, 2), run(4, 4, start=3), [1, 2, 4, 4]),
        ((1, 1), run(4, start=2), [1, 4]),
        ((0, 0), run(4, 4, start=1), [4, 4]),
        ((3, 2), run(4, start=4), None),
        ((4, 3), run(4, start=5), None),
    ],
)
def test_maybe_append(
    stored: int, prev: tuple[int, int], entries: list[Entry], after: list[int] | None
) -> None:
    log = log_of(1, 2, 3, stored=stored)
    assert log.maybe_append(prev[0], prev[1], entries, commit=0) is (after is not None)
    assert terms_of(log) == ([1, 2, 3] if after is None else after)


def test_commit_follows_the_leader_but_not_beyond_what_was_sent() -> None:
    log = log_of(1, 1, 1)
    assert log.maybe_append(1, 1, run(1, start=2), commit=9)
    assert log.committed == 2
    log.commit_to(1)
    assert log.committed == 2
    with pytest.raises(LogLost, match="entries up to 4, but its log ends at 3"):
        log.commit_to(4)


def test_committed_entries_are_never_overwritten() -> None:
    log = log_of(1, 1, 1, committed=2)
    with pytest.raises(AssertionError):
        log.maybe_append(0, 0, run(2), commit=0)
    with pytest.raises(AssertionError):
        log.append(run(2, start=2))
    with pytest.raises(AssertionError):
        log.append(run(2, start=9))


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        ((6), 2, (1, 1)),  # the example of find_conflict_by_term: the leader's log
        ((9), 9, (9, 5)),
        ((9), 3, (4, 3)),
        ((9), 0, (0, 0)),
        ((99), 1, (99, 0)),  # unknown: a possible match
    ],
)
def test_find_conflict_by_term(index: int, term: int, expected: tuple[int, int]) -> None:
    assert log_of(1, 3, 3, 3, 5, 5, 5, 5, 5).find_conflict_by_term(index, term) == expected


def test_find_conflict_by_term_ends_where_the_log_is_compacted() -> None:
    log = log_of(5, 5, 5, 5, stored=4, compacted=2)
    assert log.find_conflict_by_term(4, 1) == (1, 0)


def test_pages_of_storage_and_tail_respect_the_limit_together() -> None:
    log = log_of(*[1] * 6, stored=3)
    each = 1 + ENTRY_OVERHEAD_BYTES
    for limit, count in [(0, 1), (each, 1), (2 * each, 2), (4 * each, 4), (5 * each - 1, 4)]:
        assert len(log.entries(1, limit)) == count
    assert len(log.entries(4, 2 * each)) == 2
    assert log.entries(7, NO_LIMIT) == []
    assert [entry.index for entry in log.scan(2, 6, each)] == [2, 3, 4, 5]


def test_limit_bytes() -> None:
    entries = run(1, 1, 1)
    assert limit_bytes(entries, 0, 0) == 1
    assert limit_bytes(entries, 2, 0) == 3
    assert limit_bytes(entries, 0, NO_LIMIT) == 3
    assert limit_bytes([], 0, 0) == 0


def test_only_durable_entries_are_handed_out_and_a_page_at_a_time() -> None:
    log = log_of(*[1] * 5, stored=3, committed=5)
    log.committed_bytes_max = 2 * (1 + ENTRY_OVERHEAD_BYTES)
    assert [entry.index for entry in log.next_committed()] == [1, 2]
    log.applying_to(2)
    assert [entry.index for entry in log.next_committed()] == [3]
    log.applying_to(3)
    log.applied_to(3)
    assert not log.has_next_committed() and log.next_committed() == []
    log.storage.append(log.next_unstable())  # type: ignore[attr-defined]
    log.stable_to(5, 1)
    assert [entry.index for entry in log.next_committed()] == [4, 5]


def test_stable_to_tells_old_entries_from_new_ones() -> None:
    log = log_of(1, 1, 1)
    ready = log.next_unstable()
    log.append(run(2, 2, start=2))
    log.stable_to(ready[-1].index, ready[-1].term)
    assert (log.offset, len(log.unstable)) == (1, 3)
    log.stable_to(1, 1)
    assert (log.offset, terms_of_tail(log)) == (2, [2, 2])
    log.stable_to(9, 2)
    log.stable_to(1, 1)
    assert log.offset == 2


def terms_of_tail(log: RaftLog) -> list[int]:
    return [entry.term for entry in log.unstable]


def test_a_ready_keeps_its_list_when_the_tail_is_cut() -> None:
    log = log_of(1, 1, 1)
    handed_out, sent = log.next_unstable(), log.entries(2, NO_LIMIT)
    log.append(run(2, start=2))
    log.append(run(2, 2, start=3))
    assert [e.term for e in handed_out] == [1, 1, 1] and [e.term for e in sent] == [1, 1]


def test_a_snapshot_replaces_everything() -> None:
    log = log_of(1, 1, stored=1)
    snapshot = Snapshot(SnapshotMeta(7, 3, ConfState((1,))))
    log.restore(snapshot)
    assert (log.first_index, log.last_index, log.committed, log.last_term) == (8, 7, 7, 3)
    assert not log.has_next_committed()
    with pytest.raises(LogCompacted):
        log.term(6)
    log.append(run(3, start=8))
    log.stable_snapshot_to(5)
    assert log.unstable_snapshot is snapshot
    log.stable_snapshot_to(7)
    assert log.unstable_snapshot is None


class TestMemoryStorage:
    def test_window(self) -> None:
        storage = MemoryStorage()
        assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
        storage.append(run(1, 2, 3))
        storage.compact(2)
        assert (storage.first_index(), storage.last_index(), storage.term(2)) == (3, 3, 2)
        for call in (lambda: storage.term(1), lambda: storage.entries(2, 3, 0)):
            with pytest.raises(LogCompacted):
                call()
        for call in (lambda: storage.term(4), lambda: storage.entries(3, 5, 0)):
            with pytest.raises(LogUnavailable):
                call()

    def test_append_replaces_the_tail(self) -> None:
        storage = MemoryStorage()
        storage.append(run(1, 1, 1))
        storage.append(run(2, start=2))
        assert [e.term for e in storage.entries(1, 3, NO_LIMIT)] == [1, 2]
        storage.compact(1)
        storage.append(run(1, 3, start=1))
        assert [e.term for e in storage.entries(2, 3, NO_LIMIT)] == [3]
        storage.append([])
        with pytest.raises(AssertionError):
            storage.append(run(1, start=9))

    def test_snapshots(self) -> None:
        storage = MemoryStorage()
        storage.append(run(1, 1))
        snapshot = storage.create_snapshot(2, ConfState((1,)), b"data")
        assert storage.snapshot() == snapshot and snapshot.meta.term == 1
        storage.snapshot_ready = False
        with pytest.raises(SnapshotTemporarilyUnavailable):
            storage.snapshot()
        storage.apply_snapshot(Snapshot(SnapshotMeta(9, 4, ConfState((2,)))))
        assert (storage.first_index(), storage.last_index(), storage.term(9)) == (10, 9, 4)
        assert storage.initial_state()[1] == ConfState((2,))
