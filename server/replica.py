"""One member without waiting: raft, its log and its state machine, driven turn by turn.

No asyncio, no clock, no thread. The driver (loop.py in the server, the world in the simulator)
feeds proposals, messages and ticks, and runs each turn in four steps:

    begin()   take a Ready, send what may leave at once, stage the log batch
    wal.commit()   the one fsync of the batch; in its own thread, only when begin() said so
    work()    apply the committed entries of the Ready; may overlap with the commit
    finish()  publish the batch, advance raft, send what promised durability

Rules. One Ready is under way at a time: what arrives meanwhile forms the next batch, so a slow
disk makes larger batches, not longer queues of fsyncs. Committed entries in a Ready are durable
here already (raft hands them out only after an earlier advance), so they may be applied before or
while the new batch is being written. MsgApp leaves before our own commit (thesis 10.2.1): the
leader's own acknowledgement takes effect in advance().
"""

from collections.abc import Sequence
from typing import Protocol

from pyetcd.raft.codec import decode_conf_change, decode_conf_change_v2
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    Message,
    MsgType,
    ProposalDropped,
    ReadState,
    Ready,
    Snapshot,
    SoftState,
)
from pyetcd.store import failpoints
from pyetcd.store.apply import Applied
from pyetcd.store.wal import Wal


class Transport(Protocol):
    """Where messages to other members go; never waits."""

    def send(self, messages: Sequence[Message]) -> None: ...


class Machine(Protocol):
    """The state machine as the replica needs it."""

    def apply(self, entry: Entry) -> Applied: ...

    def apply_conf_change(self, entry: Entry, change: ConfChange) -> tuple[Applied, bool]:
        """The answer, and whether the change is valid; an invalid one must not reach raft."""

    def set_conf_state(self, index: int, conf_state: ConfState) -> None: ...

    def set_applied(self, index: int, term: int) -> None: ...

    def install(self, snapshot: Snapshot) -> None:
        """Replace the keyspace by the received file that belongs to this snapshot."""


class Observer(Protocol):
    """Who wants to know what a turn brought."""

    def applied(self, results: list[Applied], index: int) -> None: ...

    def read_states(self, states: list[ReadState]) -> None: ...

    def soft_state(self, state: SoftState) -> None: ...

    def snapshot_wanted(self, messages: list[Message]) -> None:
        """Raft wants to send snapshots to these followers; the data is made outside."""


class Replica:
    """A raft node with its durable log and its state machine."""

    def __init__(
        self,
        *,
        node: RawNode,
        wal: Wal,
        machine: Machine,
        transport: Transport,
        observer: Observer,
        applied_index: int,
    ) -> None:
        self.node = node
        self.wal = wal
        self.applied_index = applied_index
        self.dropped_proposals_total = 0
        self._machine = machine
        self._transport = transport
        self._observer = observer
        self._ready: Ready | None = None
        self._worked = False
        self._staged = False

    @property
    def busy(self) -> bool:
        """Whether a Ready is under way: no new one before finish()."""
        return self._ready is not None

    def propose(self, datas: Sequence[bytes]) -> bool:
        """Hand a batch to raft; False when there is nobody to take it."""
        try:
            self.node.propose(datas)
        except ProposalDropped:
            self.dropped_proposals_total += len(datas)
            return False
        return True

    def begin(self) -> bool | None:
        """Start a turn. None: nothing to do. Else whether wal.commit() must run before finish()."""
        assert self._ready is None
        if not self.node.has_ready():
            return None
        ready = self._ready = self.node.ready()
        self._worked = False
        if ready.soft_state is not None:
            self._observer.soft_state(ready.soft_state)
        if ready.messages:
            self._send(ready.messages)
        self._staged = False
        if ready.entries or ready.hard_state is not None or ready.snapshot is not None:
            if ready.snapshot is not None:
                failpoints.hit("raftBeforeSaveSnap")
                # The keyspace may be committed as it is, at any time until it is replaced.
                self.wal.hold(self.applied_index)
            failpoints.hit("raftBeforeSave")
            self._staged = self.wal.stage(ready)
        if ready.read_states:
            self._observer.read_states(ready.read_states)
        return self._staged

    def work(self) -> None:
        """Apply the committed entries; a received snapshot waits for the log commit."""
        ready = self._ready
        assert ready is not None and not self._worked
        self._worked = True
        if ready.committed_entries:
            failpoints.hit("beforeApply")
            self._apply(ready.committed_entries)
            failpoints.hit("afterApply")

    def finish(self) -> None:
        """The batch is durable: promises may leave, raft may go on."""
        ready = self._ready
        assert ready is not None and self._worked
        if self._staged:
            self.wal.publish()
            failpoints.hit("raftAfterSave")
        if ready.snapshot is not None:
            # The log says so durably: the received file may now replace the keyspace. A crash in
            # between is repaired at start, where the file is looked for by its index.
            failpoints.hit("raftAfterSaveSnap")
            failpoints.hit("raftBeforeApplySnap")
            self._machine.install(ready.snapshot)
            failpoints.hit("raftAfterApplySnap")
            self.applied_index = ready.snapshot.meta.index
            self._observer.applied([], self.applied_index)
        if ready.messages_after_append:
            self._send(ready.messages_after_append)
        failpoints.hit("raftBeforeAdvance")
        self._ready = None
        self.node.advance(ready)

    def _send(self, messages: list[Message]) -> None:
        failpoints.hit("raftBeforeLeaderSend" if self.node.is_leader else "raftBeforeFollowerSend")
        snapshots = [message for message in messages if message.type is MsgType.SNAP]
        if snapshots:
            self._observer.snapshot_wanted(snapshots)
            messages = [message for message in messages if message.type is not MsgType.SNAP]
        self._transport.send(messages)

    def _apply(self, entries: list[Entry]) -> None:
        machine = self._machine
        results: list[Applied] = []
        apply = machine.apply
        last = self.applied_index
        for entry in entries:
            # Raft starts at the applied index of the keyspace, so nothing is applied twice.
            assert entry.index == last + 1, (entry.index, last)
            last = entry.index
            if entry.type is EntryType.NORMAL:
                results.append(apply(entry))
            else:
                results.append(self._apply_conf_change(entry))
        machine.set_applied(last, entries[-1].term)
        self.applied_index = last
        self._observer.applied(results, last)

    def _apply_conf_change(self, entry: Entry) -> Applied:
        failpoints.hit("beforeApplyOneConfChange")
        change = decode_change(entry)
        applied, valid = self._machine.apply_conf_change(entry, change)
        if not valid:
            # Raft must still see that the pending change is over; node 0 changes nothing.
            change = ConfChange(type=ConfChangeType.ADD_NODE, node_id=0)
        conf_state = self.node.apply_conf_change(change)
        self._machine.set_conf_state(entry.index, conf_state)
        return applied


def decode_change(entry: Entry) -> ConfChange:
    """The change of a configuration entry; etcd 3.5 proposes single changes only."""
    if entry.type is EntryType.CONF_CHANGE:
        return decode_conf_change(entry.data)
    wide = decode_conf_change_v2(entry.data)
    assert len(wide.changes) == 1, "a joint change in the log: no etcd 3.5 proposes one"
    single = wide.changes[0]
    return ConfChange(type=single.type, node_id=single.node_id, context=wide.context)
