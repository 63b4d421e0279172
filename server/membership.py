"""This member's dealings with the others: configuration changes, peers, leader transfer.

The membership itself is state (store/members.py). Here it takes effect: the transport follows it, a
removed member stops, and what the API wants changed is checked, proposed and answered.

Bound: `CHANGES_MAX` changes wait for raft; beyond it the answer is "too many requests".
"""

from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message as ProtoMessage

from pyetcd.proto.errors import (
    BadLeaderTransferee,
    Code,
    ContextDeadlineExceeded,
    EtcdError,
    RpcError,
    Stopped,
    TooManyRequests,
    Unhealthy,
)
from pyetcd.raft.types import ConfChange, Message, ProposalDropped
from pyetcd.server.loop import Driver
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.propose import Proposer
from pyetcd.store.members import Health, Members

HEALTH_INTERVAL_S = 5.0  # etcd: HealthInterval, how long a peer must have been connected
TRANSFER_TIMEOUT = RpcError(
    Code.UNKNOWN, "etcdserver: request timed out, leader transfer took too long"
)
CHANGES_MAX = 64


class Clock(Protocol):
    def monotonic_s(self) -> float: ...

    def wall_s(self) -> float: ...


class Membership:
    """Implements the transport's RaftHandler and the cluster API's Configurer."""

    driver: Driver
    proposer: Proposer
    transport: PeerTransport

    def __init__(
        self,
        *,
        member_id: int,
        members: Members,
        clock: Clock,
        timeout_s: float,
        strict_reconfig_check: bool,
        removed: Callable[[], None],
    ) -> None:
        self.strict_reconfig_check = strict_reconfig_check
        self._member_id = member_id
        self._members = members
        self._clock = clock
        self._timeout_s = timeout_s
        self._removed = removed
        self._transfers: list[tuple[int, float, Callable[[EtcdError | None], None]]] = []
        # Changes that raft has not taken yet, by request id, in order of arrival.
        self._changes: dict[int, ConfChange] = {}

    def bind(self, driver: Driver, proposer: Proposer, transport: PeerTransport) -> None:
        """All three need this object to be made first."""
        self.driver = driver
        self.proposer = proposer
        self.transport = transport
        proposer.is_connected_since = self.is_connected_since

    # The transport's RaftHandler

    def process(self, message: Message) -> None:
        self.driver.receive(message)

    def is_removed(self, id: int) -> bool:
        return self._members.is_removed(id)

    def report_unreachable(self, id: int) -> None:
        self.driver.replica.node.report_unreachable(id)

    def report_snapshot(self, id: int, *, ok: bool) -> None:
        self.driver.replica.node.report_snapshot(id, ok=ok)
        self.driver.wake()

    def snapshot_received(self, message: Message, path: str) -> None:
        self.driver.receive(message)

    def local_removed(self) -> None:
        self._removed()

    # The membership has changed

    def changed(self) -> None:
        """Make the transport know the other members. Only an applied removal ends a link: one that
        joins has replayed part of the log so far, and knows of more peers than that part says."""
        if self._members.is_removed(self._member_id):
            return self._removed()
        for id in self.transport.peer_ids:
            if self._members.is_removed(id):
                self.transport.remove_peer(id)
        for member in self._members.all():
            if member.id != self._member_id:
                self.transport.add_peer(member.id, member.peer_urls)
                self.transport.update_peer(member.id, member.peer_urls)
        return None

    # The cluster API's Configurer

    @property
    def is_leader(self) -> bool:
        return self.driver.replica.node.is_leader

    @property
    def health(self) -> Health:
        now_s = self._clock.monotonic_s()
        since = {id: self.transport.active_since(id) for id in self.transport.peer_ids}
        return Health(
            self._member_id,
            active=frozenset(id for id, at_s in since.items() if at_s is not None),
            steady=frozenset(
                id
                for id, at_s in since.items()
                if at_s is not None and now_s - at_s >= HEALTH_INTERVAL_S
            ),
        )

    def is_connected_since(self, since_s: float) -> bool:
        """Whether the link to the leader was up all the time, or a leader's links to a quorum.
        True without a leader: then no link is the reason (etcd cluster_util.go)."""
        leader = self.driver.replica.node.leader
        if leader == 0:
            return True
        since = {id: self.transport.active_since(id) for id in self.transport.peer_ids}
        steady = {id for id, at_s in since.items() if at_s is not None and at_s < since_s}
        if leader == self._member_id:
            return len(steady) + 1 >= len(self._members.all()) // 2 + 1
        return leader in steady

    @property
    def match_by_id(self) -> dict[int, int]:
        progress = self.driver.replica.node.status().progress
        return {id: view.match for id, view in progress.items()}

    def wall_s(self) -> float:
        return self._clock.wall_s()

    def configure(
        self, change: ConfChange, done: Callable[[ProtoMessage | EtcdError], None]
    ) -> None:
        """Raft takes one change at a time and none without a leader: until it takes this one it
        is offered again every tick, for no longer than the request timeout."""
        if len(self._changes) >= CHANGES_MAX:
            return done(TooManyRequests())
        id = self.proposer.next_id()

        def answered(answer: ProtoMessage | EtcdError) -> None:
            if self._changes.pop(id, None) is not None and not isinstance(answer, Stopped):
                answer = ContextDeadlineExceeded()  # raft never took it: it will never commit
            done(answer)

        self._changes[id] = ConfChange(change.type, change.node_id, change.context, id)
        self.proposer.await_id(id, answered)
        return self._propose_changes()

    def _propose_changes(self) -> None:
        while self._changes:
            id = next(iter(self._changes))
            try:
                self.driver.propose_conf_change(self._changes[id])
            except ProposalDropped:
                return
            del self._changes[id]

    # Leader transfer

    def move_leader(self, target: int, done: Callable[[EtcdError | None], None]) -> None:
        """`done(None)` once `target` leads."""
        member = self._members.get(target)
        if member is None or member.is_learner:
            return done(BadLeaderTransferee())
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        self._transfers.append((target, deadline_s, done))
        self.driver.replica.node.transfer_leader(target)
        self.driver.wake()
        return self.leader_changed(self.driver.replica.node.leader)

    def hand_over(self, done: Callable[[EtcdError | None], None]) -> None:
        """Before a stop: give the lead to the voter that has been connected for longest."""
        if not self.is_leader:
            return done(None)
        voters = [m.id for m in self._members.voters() if m.id != self._member_id]
        if not voters:
            return done(None)
        since = {id: self.transport.active_since(id) for id in voters}
        connected = [(at_s, id) for id, at_s in since.items() if at_s is not None]
        if not connected:
            return done(Unhealthy())
        return self.move_leader(min(connected)[1], done)

    def leader_changed(self, leader: int) -> None:
        waiting, self._transfers = self._transfers, []
        for target, deadline_s, done in waiting:
            if target == leader:
                done(None)
            else:
                self._transfers.append((target, deadline_s, done))

    def ticked(self) -> None:
        self._propose_changes()
        now_s = self._clock.monotonic_s()
        waiting, self._transfers = self._transfers, []
        for target, deadline_s, done in waiting:
            if deadline_s <= now_s:
                done(TRANSFER_TIMEOUT)
            else:
                self._transfers.append((target, deadline_s, done))
