"""The words of raft: entries, messages, configurations, Ready, and the errors a caller may meet.

Strategy: plain slotted values of ints and bytes. Protobuf stays in codec.py, because reading a
protobuf field costs ten times an attribute (28 ns against 3, measured) and because a protobuf
message may be changed behind our back.

Rules:
- A value that was handed to raft, or that raft handed out, is never changed again. Entry and
  Message are not frozen only because freezing makes construction three times slower; lists of
  entries are shared between the log, messages and Ready, never copied.
- Ids, terms and indexes are non-negative; 0 means "none" for all three.
- Numbers of the enums are those of raftpb, so that codec.py needs no tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

NONE = 0  # no node: no leader, no vote, no transferee


class EntryType(IntEnum):
    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class MsgType(IntEnum):
    """Local types (HUP, BEAT, UNREACHABLE, SNAP_STATUS, CHECK_QUORUM) never cross the network."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18


class Role(IntEnum):
    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class ConfChangeType(IntEnum):
    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """AUTO: simple if one voter changes, else joint and left by raft itself."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


@dataclass(slots=True)
class Entry:
    """A log entry. A proposal has term and index 0; the leader makes a new Entry with both set."""

    term: int
    index: int
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


@dataclass(slots=True, frozen=True)
class ConfState:
    """Who votes and who only listens. voters_outgoing is non-empty only in a joint configuration;
    learners_next are outgoing voters that become learners when the joint configuration is left."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@dataclass(slots=True, frozen=True)
class SnapshotMeta:
    """The state machine up to and including index; term is the term of that entry."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = field(default_factory=ConfState)


@dataclass(slots=True, frozen=True)
class Snapshot:
    meta: SnapshotMeta = field(default_factory=SnapshotMeta)
    data: bytes = b""


@dataclass(slots=True)
class Message:
    """One message between members. Which fields count depends on type, as in raftpb.

    context: of a heartbeat, the read index batch it confirms; of a vote request, TRANSFER when
    the leader itself asked for the election.
    """

    type: MsgType
    to: int = 0
    from_: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: Sequence[Entry] = ()
    commit: int = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""


@dataclass(slots=True, frozen=True)
class HardState:
    """What must be durable before any answer that depends on it leaves (thesis 3.8)."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(slots=True, frozen=True)
class SoftState:
    """Worth knowing, not worth storing."""

    leader: int
    role: Role


@dataclass(slots=True, frozen=True)
class ReadState:
    """The answer to read_index(context): readable once applied >= index."""

    index: int
    context: bytes


@dataclass(slots=True, frozen=True)
class ConfChangeSingle:
    type: ConfChangeType
    node_id: int


@dataclass(slots=True, frozen=True)
class ConfChange:
    """The first form: one change, an id of the proposer, a context that raft does not read."""

    type: ConfChangeType
    node_id: int
    context: bytes = b""
    id: int = 0


@dataclass(slots=True, frozen=True)
class ConfChangeV2:
    """The second form: many changes at once. No change at all means: leave the joint state."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""


@dataclass(slots=True)
class Ready:
    """What the caller must do now; the order of the duties is in rawnode.py.

    must_sync is False when nothing but the commit index changed: that may be written lazily,
    because a commit index is found again by any new leader.
    """

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    committed_entries: list[Entry] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    messages_after_append: list[Message] = field(default_factory=list)
    read_states: list[ReadState] = field(default_factory=list)
    must_sync: bool = False


class RaftError(Exception):
    """A caller's or a peer's fault, or a loss of data. Our own bugs are assertions."""


class ProposalDropped(RaftError):
    """The proposal was not appended and never will be: no leader, a transfer is going on, the
    node is not a member, or the uncommitted quota is full. The proposer may fail at once."""


class LogCompacted(RaftError):
    """Storage.entries or term was asked for an index below its first one."""


class LogUnavailable(RaftError):
    """Storage.entries or term was asked for an index beyond its last one."""


class SnapshotTemporarilyUnavailable(RaftError):
    """Storage.snapshot has none to give yet; raft asks again at the next heartbeat response."""


class StepLocalMessage(RaftError):
    """A peer sent a message type that only the node itself may produce."""


class StepPeerNotFound(RaftError):
    """A response came from a node outside the configuration, for instance one just removed; or
    a message is meant for another node."""


class ConfChangeInvalid(RaftError):
    """A configuration change that no configuration could follow, such as removing every voter."""


class LogLost(RaftError):
    """This node once acknowledged entries that its log does not hold any more.

    The leader proves it: its commit index for us lies beyond our last index. The node must not
    vote or acknowledge again under this id, or committed entries may vanish from the cluster;
    the caller stops the member and lets it rejoin as a learner.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
