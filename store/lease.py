"""Leases: granted and revoked by the log, expired by the leader's clock.

Strategy. Which leases exist, their TTL, their checkpointed remaining TTL and their keys are state
of the applied log, the same on every member and in the table `leases` (keys: the lease column of
`current`). When a lease runs out is not: only the primary, the leader's lessor, knows an expiry,
by a monotonic clock that is handed in. It reports what has run out; somebody else proposes the
revoke, and the entry that comes back does the deleting.

Rules.
- A lease lives at least its TTL. A new primary starts every lease anew, with its TTL or the last
  checkpoint of what remained, plus one election timeout for what its predecessor promised.
- A checkpoint is a log entry and persists, so leader changes and restarts cannot stretch a long
  lease for ever (etcd#9395, #17132).
- A key has at most one lease. Revoking deletes the keys in sorted order in one revision, in the
  transaction that deletes the lease, or members would come to different hashes.
- Each lease has one entry per heap at most: a renewal only moves `expiry_s`, the entry is put back
  when it comes up too early. So the heaps are bounded by the number of leases.

Limits. Memory is one set of keys per lease. What a member reports at once is bounded by the
caller's `limit`; the rest stays in the heap and comes up next time.
"""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from math import ceil, inf
from typing import Any, Final

from pyetcd.proto import errors
from pyetcd.store.backend import Backend
from pyetcd.store.mvcc import Keyspace

TTL_S_MAX: Final = 9_000_000_000  # etcd: MaxLeaseTTL
CHECKPOINT_INTERVAL_S: Final = 300.0
CHECKPOINTS_MAX: Final = 1000  # in one log entry; the others go into the next
EXPIRED_MAX: Final = 500  # reported at once; with two reports a second, 1000 leases a second
# A lease that was reported and still exists is reported again: the revoke was not committed.
REVOKE_RETRY_S: Final = 3.0
# Leases of a new primary come due at most this densely, or a fail-over of many equal leases would
# be one burst of revokes (etcd: three quarters of its revoke rate).
PILE_UP_LEASES: Final = 1000
PILE_UP_RATE: Final = 750


class NotPrimary(Exception):
    """Renewals and remaining times are the leader's business: ask there."""


class Expiring(Exception):
    """The lease has run out and its revoke is under way: whether it still exists is known when
    `when_settled` calls back."""


class Lease:
    """One lease. `expiry_s` is inf wherever the lessor is not primary."""

    __slots__ = ("checkpointing", "expiry_s", "id", "keys", "remaining_ttl_s", "ttl_s")

    def __init__(self, id: int, ttl_s: int, remaining_ttl_s: int = 0) -> None:
        self.id = id
        self.ttl_s = ttl_s
        self.remaining_ttl_s = remaining_ttl_s  # the last checkpoint, 0 if there is none
        self.expiry_s = inf
        self.keys: set[bytes] = set()
        self.checkpointing = False  # has an entry in the checkpoint heap

    @property
    def start_ttl_s(self) -> int:
        """What a new primary gives it."""
        return self.remaining_ttl_s if self.remaining_ttl_s > 0 else self.ttl_s


def ttl_min_s(*, election_ticks: int, tick_ms: int) -> int:
    """The shortest lease: one and a half election timeouts, or every election would end it.
    Rounded as in etcd (server.go: minTTL), because members must grant the same."""
    return ceil((3 * election_ticks) // 2 * tick_ms / 1000)


class Lessor:
    """All leases of a member. Methods named in the docstring of `mvcc.Leases` are for the
    keyspace; grant, revoke and checkpoint are for applied entries; the rest is for the leader."""

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float],
        *,
        ttl_min_s: int = 2,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    ) -> None:
        self._clock = clock
        self._ttl_min_s = ttl_min_s
        self._checkpoint_interval_s = checkpoint_interval_s  # 0: no checkpoints
        self._leases: dict[int, Lease] = {}
        self._expiries: list[tuple[float, int]] = []
        self._checkpoints: list[tuple[float, int]] = []
        self._waiting: dict[int, list[Callable[[], None]]] = {}
        self.is_primary = False
        # Plain counters for metrics.
        self.granted_total = 0
        self.on_grant: Callable[[int], object] = _ignore  # told the TTL, in seconds
        self.revoked_total = 0
        self.renewed_total = 0
        self.reload(backend)

    def reload(self, backend: Backend) -> None:
        """Take what the backend holds: at start, and after a snapshot was installed."""
        self.demote()
        self._backend = backend
        self._leases = {}
        # Any: the columns are declared INTEGER NOT NULL, and BLOB for the key.
        leases: list[Any] = backend.query("SELECT id, ttl, remaining_ttl FROM leases ORDER BY id")
        for id, ttl_s, remaining_ttl_s in leases:
            self._leases[id] = Lease(id, max(ttl_s, self._ttl_min_s), remaining_ttl_s)
        attached: list[Any] = backend.query("SELECT key, lease FROM current WHERE lease <> 0")
        for key, id in attached:
            lease = self._leases.get(id)
            # A key may outlive its lease: real etcd logs it and goes on, and so does the key.
            if lease is not None:
                lease.keys.add(key)

    # -- for the keyspace

    def has(self, id: int) -> bool:
        return id in self._leases

    def attach(self, id: int, key: bytes) -> None:
        self._leases[id].keys.add(key)

    def detach(self, id: int, key: bytes) -> None:
        lease = self._leases.get(id)
        if lease is not None:
            lease.keys.discard(key)

    # -- for applied entries

    def grant(self, id: int, ttl_s: int) -> Lease:
        if id == 0:
            raise errors.LeaseNotFound
        if ttl_s > TTL_S_MAX:
            raise errors.LeaseTTLTooLarge
        if id in self._leases:
            raise errors.LeaseExist
        lease = Lease(id, max(ttl_s, self._ttl_min_s))
        self._leases[id] = lease
        self._persist(lease)
        self.granted_total += 1
        self.on_grant(lease.ttl_s)
        if self.is_primary:
            self._start(lease, self._clock() + lease.ttl_s)
        return lease

    def revoke(self, id: int, keyspace: Keyspace) -> None:
        lease = self._leases.get(id)
        if lease is None:
            raise errors.LeaseNotFound
        if lease.keys:
            before = keyspace.tally.operations
            txn = keyspace.begin(self)
            for key in sorted(lease.keys):
                txn.delete_range(key)
            txn.end()
            keyspace.tally.end(before)
        del self._leases[id]
        self._backend.execute("DELETE FROM leases WHERE id = ?", (id,))
        self.revoked_total += 1
        self._settle(id)

    def checkpoint(self, id: int, remaining_ttl_s: int) -> None:
        """Remember what remains, for the next primary; 0 forgets it. Running expiries stay."""
        lease = self._leases.get(id)
        if lease is None or lease.remaining_ttl_s == remaining_ttl_s:
            return
        lease.remaining_ttl_s = remaining_ttl_s
        self._persist(lease)
        if self.is_primary:
            self._schedule_checkpoint(lease)

    # -- for everybody

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, id: int) -> Lease | None:
        return self._leases.get(id)

    def keys(self, id: int) -> list[bytes]:
        lease = self._leases.get(id)
        return sorted(lease.keys) if lease is not None else []

    def ids(self) -> list[int]:
        """In the order in which they run out, as far as this member knows it."""
        return [lease.id for lease in sorted(self._leases.values(), key=_by_expiry)]

    def remaining_s(self, lease: Lease) -> float:
        return lease.expiry_s - self._clock()

    # -- for the leader

    def promote(self, extend_s: float) -> None:
        """Become primary: this member leads and has applied everything of earlier terms."""
        self.is_primary = True
        self._expiries.clear()
        self._checkpoints.clear()
        now = self._clock()
        for lease in self._leases.values():
            lease.expiry_s = now + extend_s + lease.start_ttl_s
            lease.checkpointing = False
        if len(self._leases) >= PILE_UP_LEASES:
            _spread(sorted(self._leases.values(), key=_by_expiry))
        for lease in self._leases.values():
            self._expiries.append((lease.expiry_s, lease.id))
            self._schedule_checkpoint(lease)
        heapify(self._expiries)

    def demote(self) -> None:
        """Stop expiring. Whoever waits for a revoke has to ask the next leader."""
        self.is_primary = False
        self._expiries.clear()
        self._checkpoints.clear()
        for lease in self._leases.values():
            lease.expiry_s = inf
            lease.checkpointing = False
        for id in list(self._waiting):
            self._settle(id)

    def renew(self, id: int) -> int:
        """Start the TTL anew and return it; raises NotPrimary, LeaseNotFound or Expiring.

        The caller has made sure that this member still leads, and if `must_forget_checkpoint`,
        that the checkpoint of 0 was applied: else the next primary would start from it.
        """
        if not self.is_primary:
            raise NotPrimary
        lease = self._leases.get(id)
        if lease is None:
            raise errors.LeaseNotFound
        now = self._clock()
        if lease.expiry_s <= now:
            raise Expiring
        lease.expiry_s = max(lease.expiry_s, now + lease.ttl_s)
        self.renewed_total += 1
        return lease.ttl_s

    def must_forget_checkpoint(self, id: int) -> bool:
        lease = self._leases.get(id)
        return lease is not None and lease.remaining_ttl_s > 0

    def when_settled(self, id: int, call: Callable[[], None]) -> None:
        """Call once, when the lease was revoked or this lessor stopped being primary."""
        self._waiting.setdefault(id, []).append(call)

    def forget_waiter(self, id: int, call: Callable[[], None]) -> None:
        """The caller of when_settled went away."""
        calls = self._waiting.get(id, [])
        if call in calls:
            calls.remove(call)
        if not calls:
            self._waiting.pop(id, None)

    def expired(self, limit: int = EXPIRED_MAX) -> list[int]:
        """Ids whose time is over, earliest first; each again after REVOKE_RETRY_S if it still
        exists then. Nothing unless primary."""
        found: list[int] = []
        now = self._clock()
        heap = self._expiries
        while heap and heap[0][0] <= now and len(found) < limit:
            lease = self._leases.get(heap[0][1])
            if lease is None:
                heappop(heap)
            elif lease.expiry_s > now:
                heapreplace(heap, (lease.expiry_s, lease.id))
            else:
                found.append(lease.id)
                heapreplace(heap, (now + REVOKE_RETRY_S, lease.id))
        return found

    def due_checkpoints(self, limit: int = CHECKPOINTS_MAX) -> list[tuple[int, int]]:
        """(id, remaining seconds) to propose as one LeaseCheckpointRequest; nothing unless
        primary. A checkpoint that gets lost is made again after the next interval."""
        found: list[tuple[int, int]] = []
        now = self._clock()
        heap = self._checkpoints
        while heap and heap[0][0] <= now and len(found) < limit:
            lease = self._leases.get(heappop(heap)[1])
            if lease is None:
                continue
            lease.checkpointing = False
            remaining_s = ceil(lease.expiry_s - now)
            if 0 < remaining_s < lease.ttl_s:
                found.append((lease.id, remaining_s))
            if remaining_s > self._checkpoint_interval_s:
                self._push_checkpoint(lease)
        return found

    # -- within

    def _start(self, lease: Lease, expiry_s: float) -> None:
        lease.expiry_s = expiry_s
        heappush(self._expiries, (expiry_s, lease.id))
        self._schedule_checkpoint(lease)

    def _schedule_checkpoint(self, lease: Lease) -> None:
        interval_s = self._checkpoint_interval_s
        if interval_s > 0 and not lease.checkpointing and lease.start_ttl_s > interval_s:
            self._push_checkpoint(lease)

    def _push_checkpoint(self, lease: Lease) -> None:
        lease.checkpointing = True
        heappush(self._checkpoints, (self._clock() + self._checkpoint_interval_s, lease.id))

    def _persist(self, lease: Lease) -> None:
        self._backend.execute(
            "INSERT OR REPLACE INTO leases (id, ttl, remaining_ttl) VALUES (?, ?, ?)",
            (lease.id, lease.ttl_s, lease.remaining_ttl_s),
        )

    def _settle(self, id: int) -> None:
        for call in self._waiting.pop(id, ()):
            call()

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())


def _ignore(ttl_s: int) -> None:
    return None


def _by_expiry(lease: Lease) -> tuple[float, int]:
    return lease.expiry_s, lease.id


def _spread(leases: list[Lease]) -> None:
    """Give sorted leases expiries at least 1 / PILE_UP_RATE apart; only ever later.

    >>> first, second = Lease(1, 2), Lease(2, 2)
    >>> first.expiry_s = second.expiry_s = 7.5
    >>> _spread([first, second]); second.expiry_s - first.expiry_s == 1 / PILE_UP_RATE
    True
    """
    earliest = -inf
    for lease in leases:
        lease.expiry_s = max(lease.expiry_s, earliest)
        earliest = lease.expiry_s + 1 / PILE_UP_RATE
