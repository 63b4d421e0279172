"""The worked examples of history.py and compact.py, asserted as they stand there."""

import pytest

from pyetcd.proto.errors import Compacted
from pyetcd.store.backend import SUB_BITS, Backend
from pyetcd.store.compact import CompactionJob, compact
from pyetcd.store.history import last_of
from pyetcd.store.mvcc import Keyspace

FOO = b"foo"


@pytest.fixture
def example(keyspace: Keyspace) -> Keyspace:
    """put, put, delete, put, delete: revisions 2 to 6; then revision 7 of another key."""
    for step in ("put", "put", "delete", "put", "delete"):
        txn = keyspace.begin()
        if step == "put":
            txn.put(FOO, b"at %d" % txn.revision)
        else:
            txn.delete_range(FOO)
        txn.end()
    txn = keyspace.begin()
    txn.put(b"other", b"")
    assert txn.end() == 7
    return keyspace


def _kept(keyspace: Keyspace) -> str:
    """The retained revisions of foo, `t` marks a tombstone."""
    rows = keyspace.history.key_history(FOO)
    return " ".join(f"{row[0] >> SUB_BITS}{'t' if row[2] is None else ''}" for row in rows)


def test_what_foo_was_at_each_revision(example: Keyspace) -> None:
    values = {}
    for revision in range(1, 8):
        row = example.history.at(FOO, last_of(revision))
        values[revision] = row[2] if row else None
    assert values == {
        1: None,
        2: b"at 2",
        3: b"at 3",
        4: None,
        5: b"at 5",
        6: None,
        7: None,
    }
    assert example.history.get(FOO) is None
    history = [(c.type, c.mod_revision, c.version) for c in example.key_history(FOO)]
    assert history == [(0, 2, 1), (0, 3, 2), (1, 4, 0), (0, 5, 1), (1, 6, 0)]


EXAMPLE = {
    2: "2 3 4t 5 6t",
    3: "3 4t 5 6t",
    4: "4t 5 6t",
    5: "5 6t",
    6: "6t",
    7: "",
}


@pytest.mark.parametrize("revision", EXAMPLE)
def test_what_one_compaction_keeps(example: Keyspace, revision: int) -> None:
    compact(example, revision)
    _finish(CompactionJob(example))
    assert _kept(example) == EXAMPLE[revision]


def test_what_compactions_in_a_row_keep(example: Keyspace) -> None:
    job = CompactionJob(example)
    for revision, kept in EXAMPLE.items():
        compact(example, revision)
        _finish(job)
        assert _kept(example) == kept


def test_as_of_a_compacted_revision(example: Keyspace) -> None:
    compact(example, 5)
    assert [row[2] for row in example.range(FOO, revision=5).rows] == [b"at 5"]
    with pytest.raises(Compacted):
        example.range(FOO, revision=4)


def test_the_example_of_backend(keyspace: Keyspace, backend: Backend) -> None:
    for value in (b"1", b"2", None):
        txn = keyspace.begin()
        if value is None:
            txn.delete_range(b"a")
        else:
            txn.put(b"a", value)
        txn.end()
    txn = keyspace.begin()
    txn.put(b"b", b"3", 7)
    txn.end()
    columns = "rev >> 23, key, value, create_revision, version, lease"
    assert backend.query(f"SELECT {columns} FROM revisions ORDER BY rev") == [
        (2, b"a", b"1", 2, 1, 0),
        (3, b"a", b"2", 2, 2, 0),
        (4, b"a", None, 0, 0, 0),
        (5, b"b", b"3", 5, 1, 7),
    ]
    columns = "key, rev >> 23, create_revision, version, lease"
    assert backend.query(f"SELECT {columns} FROM current") == [(b"b", 5, 5, 1, 7)]
    assert keyspace.leased_keys() == [(b"b", 7)]


def _finish(job: CompactionJob) -> None:
    while job.step():
        pass
    assert job.is_done
