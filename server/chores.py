"""What a member does by itself, tick by tick: commits, checkpoints, compaction, leases, versions.

Rules. A chore is a slice: it returns to the loop within milliseconds and goes on next time. Lease
expiry and the cluster version are the leader's; a revoke is proposed only as leader and in the
term that found the lease expired, so that a leader that was asleep revokes nothing (etcd#15247).
"""

import asyncio
import math
import os
from collections.abc import Callable, Coroutine
from typing import Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest
from pyetcd.raft.rawnode import RawNode
from pyetcd.server.logs import get
from pyetcd.server.machine import StateMachine
from pyetcd.server.propose import Proposer
from pyetcd.server.reads import LinearizableReads
from pyetcd.store.auth import ROOT
from pyetcd.store.members import CLUSTER_VERSION_MIN, parse_version

LEASE_INTERVAL_S = 0.5  # etcd: the lessor looks twice a second
V2_SYNC_INTERVAL_S = 0.5  # etcd: the same for v2 keys
VERSION_INTERVAL_S = 4.0  # etcd: monitorVersionInterval
CHECKPOINT_LOOK_S = 1.0
# A slice of a compaction, and the pause behind it. 500,000 rows of 1.5 million took 101 s with one
# step of 1 ms and etcd's pause of 10 ms behind each (tests/bench/million.py).
COMPACT_SLICE_S = 0.01
COMPACT_STEPS_MAX = 16
COMPACT_PAUSE_S = 0.01
# Damage is looked for in all of kv.db once a day: 2000 rows a second (store/scrub.py), about 10 ms
# of a thread, from ten seconds after the start.
SCRUB_INTERVAL_S = 1.0
SCRUB_PASS_S = 86_400.0
SCRUB_FIRST_S = 10.0
PROGRESS_INTERVAL_S = 600.0  # etcd: watch progress notification


class Versions(Protocol):
    """Finds out what the other members run."""

    def __call__(self) -> Coroutine[object, object, str]:
        """The version that all members can run; empty while one is unknown."""


class Chores:
    """Called after every raft tick; each chore keeps its own time."""

    def __init__(
        self,
        *,
        node: RawNode,
        machine: StateMachine,
        proposer: Proposer,
        reads: LinearizableReads,
        loop: asyncio.AbstractEventLoop,
        monotonic_s: Callable[[], float],
        election_timeout_s: float,
        versions: Versions,
        kv_path: str,
        compact_rows_max: int | None = None,
        compact_pause_s: float = COMPACT_PAUSE_S,
    ) -> None:
        self._node = node
        self._machine = machine
        self._proposer = proposer
        self._reads = reads
        self._loop = loop
        self._monotonic_s = monotonic_s
        self._election_timeout_s = election_timeout_s
        self._versions = versions
        self._compact_rows_max = compact_rows_max
        self._compact_pause_s = compact_pause_s
        self._wal_path = f"{kv_path}-wal"
        self._leases_at_s = self._versions_at_s = self._checkpoint_at_s = 0.0
        self._v2_at_s = 0.0
        self._scrub_at_s = monotonic_s() + SCRUB_FIRST_S
        self._asking: asyncio.Task[None] | None = None
        self._compacting: asyncio.TimerHandle | None = None
        self._first_index = machine.wal.first_index()
        self._log = get("chores")
        self.lease_expired_total = 0
        # Told how many seconds a slice of a compaction and the whole of it took.
        self.slice_took: Callable[[float], object] = _ignore_seconds
        self.compaction_took: Callable[[float], object] = _ignore_seconds
        self._compacting_since_s = 0.0

    def ticked(self) -> None:
        now_s = self._monotonic_s()
        self._proposer.expire()
        self._reads.expire()
        self._machine.keep_up()
        self._keep_leases(now_s)
        self._sync_v2(now_s)
        if now_s >= self._checkpoint_at_s:
            self._checkpoint_at_s = now_s + CHECKPOINT_LOOK_S
            self._machine.checkpoint_if_due(_size_bytes(self._wal_path))
            self._tell_of_compaction()
        if now_s >= self._scrub_at_s:
            self._scrub_at_s = math.inf  # until the slice is done
            passes = self._machine.scrubber.passes_total
            self._machine.scrub(lambda _: self._scrubbed(passes))
        if self._node.is_leader and now_s >= self._versions_at_s and self._asking is None:
            self._versions_at_s = now_s + VERSION_INTERVAL_S
            self._asking = self._loop.create_task(self._agree_on_version())

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        if self._compacting is not None:
            self._compacting.cancel()

    def _tell_of_compaction(self) -> None:
        first_index = self._machine.wal.first_index()
        if first_index != self._first_index:
            self._first_index = first_index
            self._log.info("compacted Raft logs", compact_index=first_index - 1)

    def _scrubbed(self, passes: int) -> None:
        is_over = self._machine.scrubber.passes_total > passes
        if is_over:
            self._log.info(
                "found no damage in the keyspace", rows=self._machine.scrubber.rows_total
            )
        self._scrub_at_s = self._monotonic_s() + (SCRUB_PASS_S if is_over else SCRUB_INTERVAL_S)

    # Compaction

    def compact_soon(self) -> None:
        """A compaction was applied, or one was left unfinished at the last stop."""
        if self._compacting is None and not self._machine.compaction.is_done:
            self._compacting_since_s = self._monotonic_s()
            self._compacting = self._loop.call_later(0, self._compact)

    def _compact(self) -> None:
        self._compacting = None
        began_s = self._monotonic_s()
        more = self._compact_slice(began_s + COMPACT_SLICE_S)
        ended_s = self._monotonic_s()
        self.slice_took(ended_s - began_s)
        if more:
            self._compacting = self._loop.call_later(self._compact_pause_s, self._compact)
        else:
            self.compaction_took(ended_s - self._compacting_since_s)

    def _compact_slice(self, until_s: float) -> bool:
        left = self._compact_rows_max  # in this slice; None: as many as there is time for
        for _ in range(COMPACT_STEPS_MAX):
            deleted = self._machine.compaction.deleted
            if not self._machine.compact_step(left):
                return False
            if left is not None:
                left -= self._machine.compaction.deleted - deleted
                if left <= 0:
                    break
            if self._monotonic_s() >= until_s:
                break
        return True

    # Leases

    def promote_lessor(self) -> None:
        """Also called when entries were applied, so that a new leader knows the leases at once:
        every entry of earlier terms is applied once one of its own term is (thesis 6.4)."""
        lessor = self._machine.lessor
        if lessor.is_primary or not self._node.is_leader:
            return
        if self._machine.applied_term == self._node.term:
            lessor.promote(self._election_timeout_s)

    def _keep_leases(self, now_s: float) -> None:
        lessor = self._machine.lessor
        if not self._node.is_leader:
            if lessor.is_primary:
                lessor.demote()
            return
        self.promote_lessor()
        if not lessor.is_primary:
            return
        if now_s < self._leases_at_s:
            return
        self._leases_at_s = now_s + LEASE_INTERVAL_S
        auth = self._machine.auth
        for lease_id in lessor.expired():
            self.lease_expired_total += 1
            revoke = InternalRaftRequest(lease_revoke=LeaseRevokeRequest(ID=lease_id))
            if auth.enabled:  # in root's name and without a token, which may run out (etcd#13975)
                revoke.header.username = ROOT
                revoke.header.auth_revision = auth.revision
            self._proposer.propose_as_leader(revoke, _ignore)
        due = lessor.due_checkpoints()
        if due:
            points = [LeaseCheckpoint(ID=id, remaining_TTL=left_s) for id, left_s in due]
            request = LeaseCheckpointRequest(checkpoints=points)
            self._proposer.propose_as_leader(InternalRaftRequest(lease_checkpoint=request), _ignore)

    # v2 keys

    def _sync_v2(self, now_s: float) -> None:
        """What has run out goes by an entry, which says until when: the leader's clock decides."""
        if not self._node.is_leader or now_s < self._v2_at_s:
            return
        self._v2_at_s = now_s + V2_SYNC_INTERVAL_S
        if self._machine.v2.tree.next_expiration_ns is None:
            return
        sync = InternalRaftRequest()
        sync.v2.Method = "SYNC"
        sync.v2.Time = self._machine.v2.now_ns()
        self._proposer.propose_as_leader(sync, _ignore)

    # The cluster version

    async def _agree_on_version(self) -> None:
        """Raise the cluster version to what every member can run; it starts at 3.0.0."""
        try:
            found = await self._versions()
            members = self._machine.members
            now = members.version
            wanted = found or ("" if now else CLUSTER_VERSION_MIN)
            if not wanted or (now and parse_version(wanted) <= parse_version(now)):
                return
            self._log.info("setting cluster version", cluster_version=wanted)
            request = InternalRaftRequest()
            request.cluster_version_set.ver = wanted
            self._proposer.propose_as_leader(request, _ignore)
        finally:
            self._asking = None


def _ignore(answer: Message | EtcdError) -> None:
    """The next round sees whether it worked."""


def _ignore_seconds(seconds: float) -> None:
    return None


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
