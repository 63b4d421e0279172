"""Known bugs of the store and the state machine, put back: see known_bugs.py."""

from typing import Any

from pyetcd.proto import errors
from pyetcd.server import propose
from pyetcd.server.api.lease import LeaseApi
from pyetcd.server.machine import StateMachine
from pyetcd.store import alarms, apply, db, lease, members, mvcc, txn, walscan, watch
from pyetcd.store.history import SUB_BITS

Patch = tuple[Any, str, Any]


def defragmentation_commits_without_index() -> list[Patch]:
    """A slice commits what was applied, and not how far that is (docs/bugs.md)."""

    def defragment_step(self: Any, pages: int) -> bool:
        backend = self.backend
        if backend.pending:
            backend.connection.execute("COMMIT")
            backend.pending = 0
        return bool(backend.vacuum_step(pages))

    return [(StateMachine, "defragment_step", defragment_step)]


def revision_falls_after_compaction() -> list[Patch]:
    """The revision at start is that of the newest row, which may be compacted (etcd#17780)."""
    real = mvcc.Keyspace.reload

    def reload(self: Any) -> None:
        real(self)
        self.revision = max(1, self.history.last_rev() >> SUB_BITS)

    return [(mvcc.Keyspace, "reload", reload)]


def transaction_applied_in_part() -> list[Patch]:
    """An operation that fails ends a transaction whose first half stays (etcd PR 18799)."""
    real_attach, real_apply = lease.Lessor.attach, apply.apply_txn

    def attach(self: Any, id: int, key: bytes) -> None:
        if id not in self._leases:
            raise errors.LeaseNotFound
        real_attach(self, id, key)

    def apply_txn(keyspace: Any, leases: Any, request: Any) -> Any:
        try:
            return real_apply(keyspace, leases, request)
        except errors.EtcdError:
            if keyspace._txn.is_open:
                keyspace._txn.end()
            raise

    return [
        (txn, "_check_puts", lambda *rest: None),
        (lease.Lessor, "attach", attach),
        (apply, "apply_txn", apply_txn),
    ]


def keys_of_a_lease_forgotten() -> list[Patch]:
    """After a restart a lease has no keys: they outlive it (etcd#10686)."""
    real = lease.Lessor.reload

    def reload(self: Any, backend: Any) -> None:
        real(self, backend)
        for each in self:
            each.keys.clear()

    return [(lease.Lessor, "reload", reload)]


def key_stays_with_its_old_lease() -> list[Patch]:
    return [(lease.Lessor, "detach", lambda self, id, key: None)]


def lessor_not_demoted() -> list[Patch]:
    """Who led once keeps its expiries, and goes on with them when it leads again."""
    return [(lease.Lessor, "demote", lambda self: None)]


def keep_alive_not_confirmed() -> list[Patch]:
    """A leader that is none any more answers keep-alives (etcd PR 20615)."""

    async def confirm(self: Any) -> None:
        if not self._leadership.is_leader:
            from pyetcd.store.lease import NotPrimary

            raise NotPrimary

    return [(LeaseApi, "_confirm", confirm)]


def alarm_forgotten_at_start() -> list[Patch]:
    def reload(self: Any, backend: Any) -> None:
        self._backend = backend
        self._set = set()
        self._recompute()

    return [(alarms.Alarms, "reload", reload)]


def promotion_not_persisted() -> list[Patch]:
    """A promoted learner is one again after a restart (etcd#19557)."""
    real = members.Members._save

    def save(self: Any, member: Any) -> None:
        before = self._members.get(member.id)
        if before is not None and before.is_learner and not member.is_learner:
            self._members[member.id] = member
            return
        real(self, member)

    return [(members.Members, "_save", save)]


def progress_ahead_of_events() -> list[Patch]:
    """A progress answer although events wait (etcd#15220)."""
    return [(watch.WatchHub, "has_caught_up", lambda self, watcher: True)]


def events_before_the_start() -> list[Patch]:
    """A watch of a future revision is told of earlier ones (etcd#20221)."""
    from pyetcd.store.streams import Watcher

    def wants(self: Any, change: Any) -> bool:
        return not (self.without_puts if change.type == mvcc.PUT else self.without_deletes)

    return [(Watcher, "wants", wants)]


def events_dropped_when_slow() -> list[Patch]:
    """What a full stream cannot take is lost (etcd#17529)."""
    from pyetcd.store.streams import WatchStream

    real = WatchStream.offer

    def offer(self: Any, watcher: Any, revision: int, events: Any) -> bool:
        return self.is_full or real(self, watcher, revision, events)

    return [(WatchStream, "offer", offer)]


def damaged_log_cut_off() -> list[Patch]:
    """What SQLite drops silently from a damaged -wal file is taken for a torn end."""
    return [(walscan, "require_undamaged", lambda path, vfs: [])]


def received_file_not_synced() -> list[Patch]:
    """A received file is not on the disk when the log before it is gone (etcd PR 11888)."""
    return [(db, "fsync_file", lambda path: None)]


def ids_begin_anew() -> list[Patch]:
    """Request ids are the same in every run of a member."""
    real = propose.RequestIds.__init__

    def begin(self: Any, member_id: int, wall_s: float, *, salt: int = 0) -> None:
        real(self, member_id, 0.0)

    return [(propose.RequestIds, "__init__", begin)]


STORE_BUGS = (
    defragmentation_commits_without_index,
    revision_falls_after_compaction,
    transaction_applied_in_part,
    keys_of_a_lease_forgotten,
    key_stays_with_its_old_lease,
    lessor_not_demoted,
    keep_alive_not_confirmed,
    alarm_forgotten_at_start,
    promotion_not_persisted,
    progress_ahead_of_events,
    events_before_the_start,
    events_dropped_when_slow,
    damaged_log_cut_off,
    received_file_not_synced,
    ids_begin_anew,
)

__all__ = ["STORE_BUGS"]
