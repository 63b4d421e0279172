"""A cluster in memory: RawNodes, their storages, their state machines and a network to hold still.

Strategy: nothing moves by itself. A test says which node makes a Ready, when that Ready is stored
and which messages arrive, so every interleaving can be written down. After each step the raft
invariants are checked over all nodes; a crashed node counts with what its disk holds.

A node's state machine is the list of payloads it applied; a snapshot is that list.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pyetcd.raft.codec import decode_conf_change, decode_conf_change_v2
from pyetcd.raft.core import Config
from pyetcd.raft.invariants import NodeView, check, view
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.storage import MemoryStorage
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeInvalid,
    ConfState,
    Entry,
    EntryType,
    LogLost,
    Message,
    MsgType,
    ProposalDropped,
    ReadState,
    Ready,
    Snapshot,
    SnapshotMeta,
    StepPeerNotFound,
)


@dataclass
class FixedRng:
    """Randomised election timeouts that a test chooses: election_ticks + value."""

    value: int = 0

    def randrange(self, stop: int, /) -> int:
        return min(self.value, stop - 1)


@dataclass
class Member:
    id: int
    storage: MemoryStorage
    options: dict[str, Any]
    rng: Any
    node: RawNode = field(init=False)
    up: bool = True
    starts: int = 0
    applied: list[bytes] = field(default_factory=list)
    conf_state: ConfState = field(default_factory=ConfState)
    reads: list[ReadState] = field(default_factory=list)
    outstanding: Ready | None = None
    # Cleared for a member whose disk was damaged on purpose: its log breaks the rules.
    trusted: bool = True

    def boot(self) -> None:
        """As after a crash: what was stored is there, what was not is gone. The state machine
        starts from the snapshot and applies the committed log again."""
        self.starts += 1
        self.outstanding = None
        snapshot = self.storage._snapshot
        self.applied = [data for data in snapshot.data.split(b"\n") if data]
        self.conf_state = snapshot.meta.conf_state
        applied = snapshot.meta.index
        config = Config(
            id=self.id, storage=self.storage, rng=self.rng, applied=applied, **self.options
        )
        self.node = RawNode(config)
        self.up = True


class Cluster:
    """check_each: off for runs whose own speed matters."""

    def __init__(self, *, check_each: bool = True) -> None:
        self.members: dict[int, Member] = {}
        self.network: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.check_each = check_each
        self.refuse_change: Callable[[ConfChange], bool] = lambda change: False
        self.events: list[str] = []
        self._views: dict[int, NodeView] = {}

    def add(
        self,
        node: int,
        conf: ConfState,
        *,
        rng: Any = None,
        snapshot: Snapshot | None = None,
        **options: Any,
    ) -> Member:
        storage = MemoryStorage(conf)
        if snapshot is not None:
            storage.apply_snapshot(snapshot)
        options = {"election_ticks": 3} | options
        member = self.members[node] = Member(node, storage, options, rng or FixedRng())
        member.boot()
        self._views[node] = view(member.node.raft, start=member.starts)
        return member

    def __getitem__(self, node: int) -> RawNode:
        return self.members[node].node

    def up(self) -> list[Member]:
        return [member for member in self.members.values() if member.up]

    # The duties of a Ready, in two halves.

    def begin(self, node: int) -> Ready:
        """Make a Ready and send what may leave before it is stored."""
        member = self.members[node]
        assert member.outstanding is None
        ready = member.outstanding = member.node.ready()
        # May be applied at once, so these must be on the disk before this Ready is stored.
        stored = {(e.index, e.term) for e in member.storage._entries}
        assert all((e.index, e.term) in stored for e in ready.committed_entries), "not durable"
        self.verify(node)
        self.send(ready.messages)
        return ready

    def finish(self, node: int) -> Ready:
        """Store, send the rest, apply, advance."""
        member = self.members[node]
        ready = member.outstanding
        assert ready is not None
        self.store(member, ready)
        self.send(ready.messages_after_append)
        self.apply(member, ready)
        member.outstanding = None
        member.node.advance(ready)
        member.reads += ready.read_states
        self.verify(node)
        return ready

    def store(self, member: Member, ready: Ready) -> None:
        if ready.snapshot is not None:
            member.storage.apply_snapshot(ready.snapshot)
        member.storage.append(ready.entries)
        if ready.hard_state is not None:
            member.storage.hard_state = ready.hard_state

    def apply(self, member: Member, ready: Ready) -> None:
        if ready.snapshot is not None:
            member.applied = [data for data in ready.snapshot.data.split(b"\n") if data]
            member.conf_state = ready.snapshot.meta.conf_state
        for entry in ready.committed_entries:
            if entry.type == EntryType.NORMAL:
                if entry.data:
                    member.applied.append(entry.data)
            else:
                self._apply_change(member, entry)

    def _apply_change(self, member: Member, entry: Entry) -> None:
        if entry.type == EntryType.CONF_CHANGE:
            single = decode_conf_change(entry.data)
            if self.refuse_change(single):
                single = replace(single, node_id=0)
            change: Any = single
        else:
            change = decode_conf_change_v2(entry.data)
        try:
            member.conf_state = member.node.apply_conf_change(change)
        except ConfChangeInvalid as error:
            self.events.append(f"{member.id} refuses the change: {error}")

    def ready(self, node: int) -> Ready:
        self.begin(node)
        return self.finish(node)

    # The network.

    def send(self, messages: Iterable[Message]) -> None:
        """In the order of sending; what is cut off is lost at once."""
        for message in messages:
            target = self.members.get(message.to)
            lost = (message.from_, message.to) in self.cut or target is None or not target.up
            if not lost:
                self.network.append(message)

    def deliver(self, message: Message) -> str:
        """Step it into its target. What raft says against it is returned, "" if nothing."""
        member = self.members[message.to]
        if not member.up:
            return ""
        try:
            member.node.step(message)
        except ProposalDropped as error:
            return f"dropped: {error}"
        except StepPeerNotFound as error:
            return f"refused: {error}"
        except LogLost as error:
            return f"LOG LOST: {error}"
        finally:
            self.verify(message.to)
        return ""

    def isolate(self, node: int) -> None:
        for other in self.members:
            self.cut |= {(node, other), (other, node)}
        self.network = [m for m in self.network if node not in (m.from_, m.to)]

    def heal(self) -> None:
        self.cut.clear()

    def run(self, limit: int = 100_000) -> None:
        """Until nothing is left to do."""
        for _ in range(limit):
            if not self.turn():
                return
        raise AssertionError("the cluster does not come to rest")

    def turn(self) -> bool:
        busy = False
        for member in self.up():
            if member.outstanding is not None:
                busy = True
                self.finish(member.id)
            while member.up and member.node.has_ready():
                busy = True
                self.ready(member.id)
        messages, self.network = self.network, []
        for message in messages:
            self.deliver(message)
        return busy or bool(messages)

    def tick(self, node: int, count: int = 1) -> None:
        for _ in range(count):
            self.members[node].node.tick()
            self.verify(node)

    # Faults and storage.

    def crash(self, node: int) -> None:
        """The process ends. It counts on with what its disk holds."""
        member = self.members[node]
        member.up = False
        member.outstanding = None
        self.network = [message for message in self.network if message.to != node]
        if not member.trusted:
            return
        ghost = Member(node, member.storage, member.options, FixedRng(), starts=member.starts)
        ghost.boot()
        self._views[node] = view(ghost.node.raft, start=-member.starts - 1)

    def restart(self, node: int) -> None:
        self.members[node].boot()
        # Applied begins again at the snapshot; compare with the past from here on.
        self._views.pop(node, None)
        self.verify(node)

    def snapshot(self, node: int) -> None:
        """Take a snapshot of all that is applied."""
        member = self.members[node]
        data = b"\n".join(member.applied)
        member.storage.create_snapshot(member.node.applied, member.conf_state, data)

    # Checks.

    def verify(self, node: int) -> None:
        """The invariants over all nodes after a step of this one."""
        member = self.members[node]
        if not self.check_each or not member.trusted:
            self._views.pop(node, None)
            return
        before = dict(self._views)
        self._views[node] = view(member.node.raft, start=member.starts)
        check(self._views, before)


def snapshot_of(index: int, term: int, conf: ConfState, *applied: bytes) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term, conf), b"\n".join(applied))


def three(**options: Any) -> Cluster:
    """Nodes 1 2 3, all followers of term 0."""
    cluster = Cluster()
    for node in (1, 2, 3):
        cluster.add(node, ConfState(voters=(1, 2, 3)), **options)
    return cluster


def hup(cluster: Cluster, node: int) -> None:
    """Campaign and let the cluster come to rest."""
    cluster[node].campaign()
    cluster.run()


__all__ = ["Cluster", "FixedRng", "Member", "MsgType", "hup", "snapshot_of", "three"]
