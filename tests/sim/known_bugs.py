"""Bugs put back for a run, to see that the simulator sees them: `python tests/sim --bug NAME ...`.

Each is a patch of production code that undoes one rule. A new check or fault is not done before
all of them are still found.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sim.known_bugs_raft import RAFT_BUGS
from sim.known_bugs_store import STORE_BUGS
from sim.known_bugs_users import USER_BUGS

from pyetcd.raft import leader, readonly
from pyetcd.server import chores, propose, reads, replica
from pyetcd.store import backend, compact, db, snapshot, wal
from pyetcd.store import watch as watch_module

Patch = tuple[Any, str, Any]


def commit_without_fsync() -> list[Patch]:
    real = db.open_writer

    def open_writer(path: str, **options: Any) -> Any:
        return real(path, **{**options, "full_sync": False})

    return [(db, "open_writer", open_writer)]


def vote_not_persisted() -> list[Patch]:
    real = wal.Wal.stage

    def stage(self: Any, ready: Any) -> Any:
        state = ready.hard_state
        if state is not None:
            ready = dataclasses.replace(ready, hard_state=dataclasses.replace(state, vote=0))
        return real(self, ready)

    return [(wal.Wal, "stage", stage)]


def answers_before_fsync() -> list[Patch]:
    """Promises leave together with what may leave at once."""
    real = replica.Replica.begin

    def begin(self: Any) -> Any:
        found = real(self)
        if self._ready is not None and self._ready.messages_after_append:
            self._send(self._ready.messages_after_append)
            self._ready.messages_after_append = []
        return found

    return [(replica.Replica, "begin", begin)]


def applied_index_outside_transaction() -> list[Patch]:
    """Data is committed at once, how far that is with the next batch."""

    def set_applied(self: Any, index: int, term: int, *, log_crc: int = 0) -> None:
        late = getattr(set_applied, "late", {})
        key = id(self)
        self.applied_index, self.applied_term, self._log_crc = late.get(key, self._persisted)
        late[key] = (index, term, log_crc)
        set_applied.late = late  # type: ignore[attr-defined]

    return [(backend.Backend, "set_applied", set_applied)]


def read_context_reused() -> list[Patch]:
    """A retry has the context of the first try (etcd-io/etcd#20418)."""

    def ask(self: Any) -> None:
        self._context = b"\0" * 8
        self._retry_at_s = self._monotonic_s() + reads.RETRY_S
        self._target.request_read_index(self._context)

    return [(reads.LinearizableReads, "_ask", ask)]


def read_context_of_an_earlier_run() -> list[Patch]:
    """Contexts count from 1 in each run: a leader may still hold a question of the last one."""

    def ask(self: Any) -> None:
        self.counter = getattr(self, "counter", 0) + 1
        self._context = self.counter.to_bytes(8, "big")
        self._retry_at_s = self._monotonic_s() + reads.RETRY_S
        self._target.request_read_index(self._context)

    return [(reads.LinearizableReads, "_ask", ask)]


def read_without_quorum() -> list[Patch]:
    """The leader believes that it still leads."""

    def acknowledge(self: Any, node: int, context: bytes, config: Any) -> Any:
        done = [request for sent in self._sent for request in sent.requests]
        self._sent.clear()
        self._count -= len(done)
        return done

    return [(readonly.ReadOnly, "acknowledge", acknowledge)]


def read_before_first_commit() -> list[Patch]:
    """A new leader answers with a commit index of before its term (etcd-io/etcd#12680)."""
    return [(leader, "read_index", lambda raft, m: raft.reads.add(m, raft.log.committed))]


def read_not_waiting_for_apply() -> list[Patch]:
    def confirmed(self: Any, index: int, context: bytes) -> None:
        if self._round and context == self._context:
            finished, self._round = self._round, []
            for _, done in finished:
                done(None)

    return [(reads.LinearizableReads, "confirmed", confirmed)]


def read_joins_round_under_way() -> list[Patch]:
    real = reads.LinearizableReads.wait

    def wait(self: Any, done: Any) -> None:
        if self._round:
            self._round.append((self._monotonic_s() + self._timeout_s, done))
            return
        real(self, done)

    return [(reads.LinearizableReads, "wait", wait)]


def log_cut_before_checkpoint() -> list[Patch]:
    """The keyspace's checkpoint says that it is done, without having been made."""

    def checkpoint(self: Any) -> int:
        return int(self._persisted[0])

    return [(backend.Backend, "checkpoint", checkpoint)]


def rename_without_directory_fsync() -> list[Patch]:
    return [(db, "fsync_dir", lambda path: None)]


def snapshot_installed_before_log() -> list[Patch]:
    """The keyspace is replaced before the log says so durably."""
    real = replica.Replica.begin

    def begin(self: Any) -> Any:
        found = real(self)
        ready = self._ready
        if ready is not None and ready.snapshot is not None:
            machine_now = self._machine
            machine_now.install(ready.snapshot)
            self._machine = _Installed(machine_now)
        return found

    return [(replica.Replica, "begin", begin)]


class _Installed:
    def __init__(self, machine: Any) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def install(self, snapshot: Any) -> None:
        pass


def watchers_forgotten_at_restore() -> list[Patch]:
    """Watchers stay synced over an installed snapshot (etcd-io/etcd#15271 is its other half)."""
    return [(watch_module.WatchHub, "restore", lambda self, keyspace: None)]


def tombstone_compacted() -> list[Patch]:
    """A tombstone exactly at the compact revision goes (etcd-io/etcd#18089)."""
    real = compact.CompactionJob._find_doomed

    def find(self: Any) -> bool:
        target = self._target
        self._target = target + 1
        try:
            return bool(real(self))
        finally:
            self._target = target

    return [(compact.CompactionJob, "_find_doomed", find)]


def finished_before_compacted() -> list[Patch]:
    """The finished mark is written with the first slice: a crash leaves the rest for ever."""
    real = compact.CompactionJob.step

    def step(self: Any, rows_max: int | None = None) -> bool:
        more = bool(real(self, rows_max))
        if more and self._target != self._finished:
            self._keyspace.backend.meta_put("compact_finished", self._target)
        return more

    return [(compact.CompactionJob, "step", step)]


def old_leader_revokes() -> list[Patch]:
    """A leader that was asleep has its revokes forwarded (etcd-io/etcd#15247)."""

    def propose_as_leader(self: Any, request: Any, done: Any) -> None:
        self.propose(request, done)

    return [
        (propose.Proposer, "propose_as_leader", propose_as_leader),
        (chores, "LEASE_INTERVAL_S", 0.0),
    ]


def lease_not_extended_at_promotion() -> list[Patch]:
    """A new primary goes on with the clock of the last promotion."""
    from pyetcd.store.lease import Lessor

    real = Lessor.promote

    def promote(self: Any, extend_s: float) -> None:
        real(self, -1.5)

    return [(Lessor, "promote", promote)]


def withdrawn_and_proposed() -> list[Patch]:
    """A timed-out proposal is said never to commit although raft has it."""

    def error(self: Any, request_id: int, *rest: Any) -> Any:
        self._target.withdraw(request_id)
        return propose.ContextDeadlineExceeded()

    return [(propose.Proposer, "_timeout_error", error)]


def proposal_retried() -> list[Patch]:
    """A follower proposes again what got no answer."""
    real = propose.Proposer.expire

    def expire(self: Any) -> None:
        real(self)
        submit = getattr(self, "_sent_data", {})
        for request_id in list(self._waiting):
            data = submit.pop(request_id, None)
            if data is not None:
                self._target.submit(request_id, data)

    real_propose = propose.Proposer._propose

    def remember(self: Any, request: Any, done: Any, submit: Any) -> None:
        def both(request_id: int, data: bytes) -> None:
            self.__dict__.setdefault("_sent_data", {})[request_id] = data
            submit(request_id, data)

        real_propose(self, request, done, both)

    return [
        (propose.Proposer, "expire", expire),
        (propose.Proposer, "_propose", remember),
    ]


def compaction_not_in_revision() -> list[Patch]:
    """After a restart the compact revision is the finished one, not the scheduled one."""
    from pyetcd.store.mvcc import Keyspace

    real = Keyspace.reload

    def reload(self: Any) -> None:
        real(self)
        finished = self.backend.meta_get("compact_finished")
        self.compact_revision = finished if isinstance(finished, int) else -1

    return [(Keyspace, "reload", reload)]


def recover_forgotten() -> list[Patch]:
    """An interrupted installation of a snapshot is not finished at start."""
    return [(snapshot, "recover", lambda target, index: False)]


BUGS: dict[str, Callable[[], list[Patch]]] = {
    function.__name__: function
    for function in (
        commit_without_fsync,
        vote_not_persisted,
        answers_before_fsync,
        applied_index_outside_transaction,
        read_context_reused,
        read_context_of_an_earlier_run,
        read_without_quorum,
        read_before_first_commit,
        read_not_waiting_for_apply,
        read_joins_round_under_way,
        log_cut_before_checkpoint,
        rename_without_directory_fsync,
        snapshot_installed_before_log,
        recover_forgotten,
        watchers_forgotten_at_restore,
        tombstone_compacted,
        finished_before_compacted,
        compaction_not_in_revision,
        old_leader_revokes,
        lease_not_extended_at_promotion,
        withdrawn_and_proposed,
        proposal_retried,
        *RAFT_BUGS,
        *STORE_BUGS,
        *USER_BUGS,
    )
}


@contextmanager
def put_back(name: str) -> Iterator[None]:
    """Production code with this bug, until the end of the block."""
    patches = BUGS[name]()
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    for owner, attribute, value in patches:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


__all__ = ["BUGS", "put_back"]
