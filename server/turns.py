"""What a turn of the replica brings, handed to whoever waits for it.

Applied entries resolve proposals, move the read index on and may start a compaction; a new leader
ends the read rounds under way; a follower that is too far behind gets a copy of the keyspace.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from google.protobuf.message import Message as ProtoMessage

from pyetcd.proto.errors import EtcdError, NoSpace
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import NOSPACE, AlarmRequest
from pyetcd.raft.types import Message, ReadState, Role, Snapshot, SnapshotMeta, SoftState
from pyetcd.server.chores import Chores
from pyetcd.server.logs import get
from pyetcd.server.loop import Driver
from pyetcd.server.machine import StateMachine, read_meta
from pyetcd.server.membership import Membership
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.propose import Proposer
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.space import SpaceWatch
from pyetcd.server.workers import Workers
from pyetcd.store import db, snapshot
from pyetcd.store.apply import Applied
from pyetcd.store.snapshot import Copy, SnapshotFailed

# Between two copies for one follower: over a link that breaks at once, raft asks many times a
# second.
SNAPSHOT_PAUSE_S = 1.0


class Turns:
    """The replica's Observer. `bind` completes it, since the driver needs it to be made first."""

    driver: Driver
    chores: Chores
    space: SpaceWatch | None = None

    def __init__(
        self,
        *,
        member_id: int,
        machine: StateMachine,
        membership: Membership,
        transport: PeerTransport,
        workers: Workers,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.leader_changes_total = 0
        self.leader_since_s = loop.time()
        self.slow_snapshots_total = 0
        self._member_id = member_id
        self._machine = machine
        self._membership = membership
        self._transport = transport
        self._workers = workers
        self._loop = loop
        self._log = get("raft")
        self._leader = 0
        self._role = Role.FOLLOWER
        self._copying = False
        # What was applied last, until somebody has taken it (feeds.py).
        self.batch: list[Applied] = []
        self._alarming = False
        self._snapshot_at_s: dict[int, float] = {}

    def bind(
        self, *, driver: Driver, proposer: Proposer, reads: LinearizableReads, chores: Chores
    ) -> None:
        self.driver = driver
        self.chores = chores
        self._proposer = proposer
        self._reads = reads

    # The replica's Observer

    def applied(self, results: list[Applied], index: int) -> None:
        self.batch = results
        self.chores.promote_lessor()
        resolve = self._proposer.resolve
        for applied in results:
            if applied.over_quota:
                self.alarm_nospace(partial(resolve, applied.request_id, NoSpace()))
            elif (answer := applied.answer) is not None:
                resolve(applied.request_id, answer)
        self._reads.applied(index)
        if self.space is not None:
            self.space.look()
        self._machine.keep_up()
        if self._machine.membership_changed:
            self._machine.membership_changed = False
            self._membership.changed()
        if not self._machine.compaction.is_done:
            self.chores.compact_soon()

    def read_states(self, states: list[ReadState]) -> None:
        for state in states:
            self._reads.confirmed(state.index, state.context)

    def soft_state(self, state: SoftState) -> None:
        if state.role is not self._role:
            self._role = state.role
            self._log.info(
                "raft role changed",
                local_member_id=f"{self._member_id:x}",
                role=state.role.name.lower(),
                term=self.driver.replica.node.term,
            )
            if state.role is Role.LEADER:
                self._proposer.elected_s = self._loop.time()
            elif self._machine.lessor.is_primary:
                self._machine.lessor.demote()
        if state.leader == self._leader:
            return
        old, self._leader = self._leader, state.leader
        self.leader_since_s = self._loop.time()
        if state.leader:
            self.leader_changes_total += 1
            self._reads.leader_changed()
        self._membership.leader_changed(state.leader)
        self._log.info(
            "raft leader changed",
            local_member_id=f"{self._member_id:x}",
            old_leader=f"{old:x}",
            leader=f"{state.leader:x}",
            term=self.driver.replica.node.term,
        )

    def snapshot_wanted(self, messages: list[Message]) -> None:
        now_s = self._loop.time()
        for message in messages:
            rests = now_s < self._snapshot_at_s.get(message.to, 0.0)
            if rests or self._copying or not self._transport.can_send_snapshot:
                # One at a time; raft asks again once it knows that this one did not go out.
                self.driver.replica.node.report_snapshot(message.to, ok=False)
                continue
            self._copying = True
            # Bound: one per member that ever was too far behind.
            self._snapshot_at_s[message.to] = now_s + SNAPSHOT_PAUSE_S
            self._send_snapshot(message)

    def _send_snapshot(self, message: Message) -> None:
        self._machine.commit()
        source = self._machine.backend.path
        target = snapshot.temporary_path(source, f"send-{message.to:x}")

        def copy() -> tuple[Copy, SnapshotMeta] | None:
            _remove(target)  # of a copy that was broken off
            try:
                return snapshot.make(source, target), read_meta(target)
            except SnapshotFailed as error:
                _remove(target)
                self._log.warn("could not copy the keyspace for a follower", error=str(error))
                return None

        def copied(found: tuple[Copy, SnapshotMeta] | EtcdError | None) -> None:
            self._copying = False
            if found is None or isinstance(found, EtcdError):
                self.driver.replica.node.report_snapshot(message.to, ok=False)
                return
            made, meta = found
            # Raft asked for what it knew; the copy is newer, and says itself what it holds.
            newer = replace(message, snapshot=Snapshot(meta))
            self._transport.send_snapshot(newer, made, partial(_remove, made.path))

        self._workers.run(copy, copied)

    # Quota

    def alarm_nospace(self, then: Callable[[], None]) -> None:
        """Raise this member's NOSPACE alarm, then answer who has found the store full."""
        if self._alarming:
            return then()
        self._alarming = True
        request = AlarmRequest(
            action=AlarmRequest.ACTIVATE, memberID=self._member_id, alarm=NOSPACE
        )

        def done(answer: ProtoMessage | EtcdError) -> None:
            self._alarming = False
            then()

        self._log.warn("the keyspace exceeds its quota: raising alarm NOSPACE")
        return self._proposer.propose(InternalRaftRequest(alarm=request), done)


def _remove(path: str) -> None:
    db.remove_if_exists(path)
