"""The keyspace against a dumb twin: one dict of all keys per revision, and no cleverness."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pyetcd.proto.errors import Compacted, FutureRev
from pyetcd.proto.keys import contains
from pyetcd.store import compact as compact_module
from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, compact, hash_kv
from pyetcd.store.history import Row
from pyetcd.store.mvcc import Change, Keyspace, change_of
from pyetcd.store.verify import verify

KEYS = st.sampled_from([b"a", b"aa", b"b", b"b\x00", b"c", b"\xff"])
ENDS = st.sampled_from([b"", b"\x00", b"b", b"c", b"\xff"])
VALUES = st.binary(max_size=3)

Twin = dict[bytes, Change]


class Machine(RuleBasedStateMachine):
    """`at[revision]` is the whole keyspace then; `log[revision]` what was changed."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = str(Path(self.directory.name) / "kv.db")
        self.backend = Backend.open(self.path, create=True)
        self.at: dict[int, Twin] = {1: {}}
        self.log: dict[int, list[Change]] = {}
        self.committed = 1
        self.compacted = self.compacted_committed = -1
        self.load()

    def load(self) -> None:
        self.keyspace = Keyspace(self.backend)
        self.job = CompactionJob(self.keyspace)
        self.keyspace.listener = self
        self.heard: list[tuple[int, list[Change]]] = []

    wanted = True

    def on_write(self, revision: int, changes: list[Change]) -> None:
        self.heard.append((revision, changes))

    @property
    def revision(self) -> int:
        return max(self.at)

    @rule(
        ops=st.lists(
            st.one_of(
                st.tuples(st.just("put"), KEYS, VALUES, st.sampled_from([0, 0, 5])),
                st.tuples(st.just("delete"), KEYS, ENDS, st.just(0)),
            ),
            max_size=4,
        )
    )
    def write(self, ops: list[tuple[str, bytes, bytes, int]]) -> None:
        txn = self.keyspace.begin()
        now, revision, changes = dict(self.at[self.revision]), self.revision + 1, []
        for kind, key, other, lease in ops:
            if kind == "put":
                txn.put(key, other, lease)
                old = now.get(key)
                created, version = (old.create_revision, old.version) if old else (revision, 0)
                now[key] = Change(0, key, other, created, revision, version + 1, lease)
                changes.append(now[key])
            else:
                gone = sorted(each for each in now if contains(key, other, each))
                assert txn.delete_range(key, other) == len(gone)
                for each in gone:
                    del now[each]
                    changes.append(Change(1, each, b"", 0, revision, 0, 0))
            seen = [change_of(row) for row in txn.range(b"\x00", b"\x00").rows]
            assert seen == [now[each] for each in sorted(now)]
        if changes:
            self.at[revision] = now
            self.log[revision] = changes
        assert txn.end() == self.revision
        assert self.heard == ([(revision, changes)] if changes else [])
        self.heard.clear()

    @rule(
        key=KEYS,
        end=ENDS,
        back=st.integers(-1, 8),
        limit=st.integers(0, 3),
    )
    def read(self, key: bytes, end: bytes, back: int, limit: int) -> None:
        revision = self.revision - back
        if revision > self.revision:
            with pytest.raises(FutureRev):
                self.keyspace.range(key, end, revision=revision)
            return
        if 0 < revision < self.compacted:
            with pytest.raises(Compacted):
                self.keyspace.range(key, end, revision=revision)
            return
        twin = self.at[revision if revision > 0 else self.revision]
        expected = [twin[each] for each in sorted(twin) if contains(key, end, each)]
        result = self.keyspace.range(key, end, revision=revision, limit=limit)
        assert result.revision == self.revision
        assert result.count == len(expected)
        rows: list[Row] = result.rows
        assert [change_of(row) for row in rows] == (expected[:limit] if limit else expected)

    @rule(back=st.integers(0, 6))
    def compact(self, back: int) -> None:
        revision = self.revision - back
        if revision <= self.compacted:
            with pytest.raises(Compacted):
                compact(self.keyspace, revision)
            return
        compact(self.keyspace, revision)
        self.compacted = revision

    @rule(steps=st.integers(1, 4))
    def compact_some(self, steps: int) -> None:
        before = hash_kv(self.keyspace, 0)
        for _ in range(steps):
            self.job.step()
        assert hash_kv(self.keyspace, 0) == before

    @rule()
    def commit(self) -> None:
        self.backend.set_applied(self.revision, 1)
        self.backend.commit()
        self.committed, self.compacted_committed = self.revision, self.compacted

    @rule()
    def restart(self) -> None:
        """As after a crash: what was not committed is gone, and only that."""
        self.backend.close()
        self.backend = Backend.open(self.path, create=False)
        for revision in [each for each in self.at if each > self.committed]:
            del self.at[revision]
            del self.log[revision]
        self.compacted = self.compacted_committed
        assert self.backend.applied_index in (0, self.committed)
        self.load()

    @rule(key=KEYS)
    def key_history(self, key: bytes) -> None:
        """Above the compacted revision nothing is missing."""
        changes = [each for revision in sorted(self.log) for each in self.log[revision]]
        mine = [each for each in changes if each.key == key]
        found = self.keyspace.key_history(key)
        above = [each for each in mine if each.mod_revision > self.compacted]
        assert found[len(found) - len(above) :] == above
        assert set(found) <= set(mine)

    @rule(first=st.integers(1, 30), limit=st.integers(1, 5))
    def changes(self, first: int, limit: int) -> None:
        first = max(first, self.compacted + 1)
        found = self.keyspace.changes(first, self.revision, limit=limit)
        expected = []
        for revision in sorted(self.log):
            if revision >= first and len(expected) < limit:
                expected += self.log[revision]
        assert found == expected

    @invariant()
    def numbers(self) -> None:
        assert self.keyspace.revision == self.revision
        assert self.keyspace.compact_revision == self.compacted

    def teardown(self) -> None:
        if not hasattr(self, "backend"):
            return
        assert verify(self.backend.connection) == []
        self.backend.close()
        self.directory.cleanup()


@pytest.mark.parametrize("step_rows", [2, 500])
def test_against_a_dumb_twin(monkeypatch: pytest.MonkeyPatch, step_rows: int) -> None:
    monkeypatch.setattr(compact_module, "STEP_ROWS", step_rows)
    machine_settings = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    run_state_machine_as_test(Machine, settings=machine_settings)
