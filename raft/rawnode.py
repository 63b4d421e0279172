"""RawNode: the user's side of raft. tick, step and propose in; Ready out; advance when done.

    node.tick() / node.step(message) / node.propose([data, ...])
    if node.has_ready():
        ready = node.ready()
        1. send ready.messages                     at once, also before anything is stored
        2. store ready.snapshot, ready.entries and ready.hard_state, in this order, in ONE commit
           (an entry replaces what lies at its index and after it); sync if ready.must_sync
        3. make them visible to Storage
        4. send ready.messages_after_append        they promise that 2 is durable
        5. apply ready.snapshot, then ready.committed_entries; apply_conf_change for each change.
           Committed entries are durable already: 5 may run before or while 2 runs
        6. node.advance(ready)

Rules:
- One Ready at a time. Between ready and advance the node may be ticked, stepped and proposed to;
  what that causes is in the next Ready.
- Nothing here waits, and nothing happens but by a call.
- A configuration change that the application refuses must still be applied, with node_id 0.
- read_index: the answer is a ReadState with the same context, readable once applied >= its
  index. No answer is a normal case (no leader, a lost message): ask again, with a new context.
- After LogLost every step raises it again and tick does nothing: this node must not take part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyetcd.raft.codec import encode_conf_change, encode_conf_change_v2
from pyetcd.raft.confchange import Configuration, apply_change
from pyetcd.raft.core import Config, Raft
from pyetcd.raft.leader import flush_reads, maybe_leave_joint, switch_configuration
from pyetcd.raft.progress import ProgressState
from pyetcd.raft.step import step
from pyetcd.raft.types import (
    NONE,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MsgType,
    Ready,
    Role,
    SoftState,
    StepLocalMessage,
    StepPeerNotFound,
)

__all__ = ["Config", "ProgressView", "RawNode", "Status"]

LOCAL = frozenset(
    {
        MsgType.HUP,
        MsgType.BEAT,
        MsgType.UNREACHABLE,
        MsgType.SNAP_STATUS,
        MsgType.CHECK_QUORUM,
    }
)
RESPONSES = frozenset(
    {
        MsgType.APP_RESP,
        MsgType.VOTE_RESP,
        MsgType.HEARTBEAT_RESP,
        MsgType.READ_INDEX_RESP,
        MsgType.PRE_VOTE_RESP,
    }
)
# Requests that reach the leader without a term; any other message of a peer has one.
TERMLESS = frozenset({MsgType.PROP, MsgType.READ_INDEX})


@dataclass(slots=True, frozen=True)
class ProgressView:
    match: int
    next: int
    state: ProgressState
    recent_active: bool
    is_learner: bool
    paused: bool
    pending_snapshot: int
    inflight: int
    inflight_bytes: int


@dataclass(slots=True, frozen=True)
class Status:
    """progress is empty but on the leader."""

    id: int
    term: int
    vote: int
    commit: int
    applied: int
    leader: int
    role: Role
    lead_transferee: int
    configuration: Configuration
    progress: dict[int, ProgressView] = field(default_factory=dict)


class RawNode:
    __slots__ = ("_outstanding", "_own_acks", "_previous_hard", "_previous_soft", "raft")

    def __init__(self, config: Config) -> None:
        self.raft = Raft(config)
        self._outstanding: Ready | None = None
        # What the node told itself in the outstanding Ready; true once that is stored.
        self._own_acks: list[Message] = []
        self._previous_soft = self._soft_state()
        self._previous_hard = self.raft.hard_state

    # Input.

    def tick(self) -> None:
        for kind in self.raft.tick():
            step(self.raft, Message(kind, from_=self.raft.id))

    def step(self, message: Message) -> None:
        """A message from a peer. Raises StepLocalMessage and StepPeerNotFound for a peer's
        mistake, ProposalDropped for a forwarded proposal, LogLost when this node must stop."""
        if message.type in LOCAL or (message.term == 0 and message.type not in TERMLESS):
            raise StepLocalMessage(f"{message.type.name} from {message.from_:x}")
        if message.to not in (NONE, self.raft.id):
            raise StepPeerNotFound(f"{message.type.name} is for {message.to:x}, not for this node")
        if message.type in RESPONSES and message.from_ not in self.raft.progress:
            raise StepPeerNotFound(f"{message.type.name} from {message.from_:x}, not a member")
        step(self.raft, message)

    def propose(self, datas: Sequence[bytes]) -> None:
        """All or nothing: ProposalDropped means that none of them was or will be appended, on
        this node. A follower forwards them, and then nothing is known until they commit."""
        entries = [Entry(0, 0, EntryType.NORMAL, data) for data in datas]
        step(self.raft, Message(MsgType.PROP, from_=self.raft.id, entries=entries))

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        if isinstance(change, ConfChange):
            entry = Entry(0, 0, EntryType.CONF_CHANGE, encode_conf_change(change))
        else:
            entry = Entry(0, 0, EntryType.CONF_CHANGE_V2, encode_conf_change_v2(change))
        step(self.raft, Message(MsgType.PROP, from_=self.raft.id, entries=(entry,)))

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """A change was committed and is applied now: changes take effect here and only here.
        Raises ConfChangeInvalid, the same on every member, if no configuration can follow."""
        return switch_configuration(self.raft, apply_change(self.raft.conf, change))

    def campaign(self) -> None:
        step(self.raft, Message(MsgType.HUP, from_=self.raft.id))

    def read_index(self, context: bytes) -> None:
        step(self.raft, Message(MsgType.READ_INDEX, entries=(Entry(0, 0, data=context),)))

    def transfer_leader(self, to: int) -> None:
        """Ask the leader, this node or another, to hand over to the voter `to`."""
        step(self.raft, Message(MsgType.TRANSFER_LEADER, from_=to))

    def report_unreachable(self, node: int) -> None:
        """Messages to this node were lost: a full queue, a broken connection."""
        step(self.raft, Message(MsgType.UNREACHABLE, from_=node))

    def report_snapshot(self, node: int, *, ok: bool) -> None:
        """Must follow every MsgSnap, or the node is never sent anything again."""
        step(self.raft, Message(MsgType.SNAP_STATUS, from_=node, reject=not ok))

    # Output.

    def has_ready(self) -> bool:
        """Whether ready() would return something; False while a Ready is outstanding."""
        if self._outstanding is not None:
            return False
        raft, log = self.raft, self.raft.log
        return bool(
            raft.messages
            or raft.messages_after_append
            or log.unstable
            or log.has_next_committed()
            or raft.read_states
            or raft.reads.has_open_round
            or log.unstable_snapshot is not None
            or self._hard_state_changed()
            or self._soft_state_changed()
        )

    def ready(self) -> Ready:
        assert self._outstanding is None, "the previous Ready was not advanced"
        raft, log = self.raft, self.raft.log
        flush_reads(raft)
        ready = Ready(
            entries=log.next_unstable(),
            snapshot=log.unstable_snapshot,
            committed_entries=log.next_committed(),
            messages=raft.messages,
            read_states=raft.read_states,
        )
        if self._soft_state_changed():
            ready.soft_state = self._previous_soft = self._soft_state()
        previous = self._previous_hard
        if self._hard_state_changed():
            ready.hard_state = self._previous_hard = raft.hard_state
        ready.must_sync = bool(
            ready.entries
            or ready.snapshot
            or raft.term != previous.term
            or raft.vote != previous.vote
        )
        for message in raft.messages_after_append:
            own = message.to == raft.id
            (self._own_acks if own else ready.messages_after_append).append(message)
        raft.messages, raft.messages_after_append, raft.read_states = [], [], []
        if ready.committed_entries:
            log.applying_to(ready.committed_entries[-1].index)
        self._outstanding = ready
        raft.trace("Ready")
        return ready

    def advance(self, ready: Ready) -> None:
        """Everything in the Ready is stored, sent and applied."""
        assert ready is self._outstanding, "advance the Ready that is outstanding"
        raft, log = self.raft, self.raft.log
        self._outstanding = None
        if ready.entries:
            log.stable_to(ready.entries[-1].index, ready.entries[-1].term)
        if ready.snapshot is not None:
            log.stable_snapshot_to(ready.snapshot.meta.index)
            log.applied_to(max(log.applied, ready.snapshot.meta.index))
        if ready.committed_entries:
            # A snapshot that came meanwhile may have moved applied past these.
            log.applied_to(max(log.applied, ready.committed_entries[-1].index))
            raft.release_quota(ready.committed_entries)
        own_acks, self._own_acks = self._own_acks, []
        if raft.log_lost is None:
            for message in own_acks:
                step(raft, message)
            maybe_leave_joint(raft)

    # Facts.

    def status(self) -> Status:
        raft = self.raft
        peers = raft.progress if raft.role == Role.LEADER else {}
        return Status(
            raft.id,
            raft.term,
            raft.vote,
            raft.log.committed,
            raft.log.applied,
            raft.leader,
            raft.role,
            raft.transferee,
            raft.conf,
            {
                node: ProgressView(
                    peer.match,
                    peer.next,
                    peer.state,
                    peer.recent_active,
                    peer.is_learner,
                    peer.paused,
                    peer.pending_snapshot,
                    len(peer.inflights),
                    peer.inflights.bytes,
                )
                for node, peer in sorted(peers.items())
            },
        )

    @property
    def leader(self) -> int:
        return self.raft.leader

    @property
    def role(self) -> Role:
        return self.raft.role

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def commit(self) -> int:
        return self.raft.log.committed

    @property
    def applied(self) -> int:
        return self.raft.log.applied

    @property
    def last_index(self) -> int:
        return self.raft.log.last_index

    @property
    def is_leader(self) -> bool:
        return self.raft.role == Role.LEADER

    @property
    def hard_state(self) -> HardState:
        return self.raft.hard_state

    # Asked once or twice a turn, so without making the objects that are compared.

    def _hard_state_changed(self) -> bool:
        raft, previous = self.raft, self._previous_hard
        return (
            raft.term != previous.term
            or raft.vote != previous.vote
            or raft.log.committed != previous.commit
        )

    def _soft_state_changed(self) -> bool:
        raft, previous = self.raft, self._previous_soft
        return raft.leader != previous.leader or raft.role is not previous.role

    def _soft_state(self) -> SoftState:
        return SoftState(self.raft.leader, self.raft.role)
