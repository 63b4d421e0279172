"""class Raft: the state of one node, how it changes role, and how messages leave it.

What a node does with a message is in step.py, follower.py and leader.py, as functions over this
object; the user's side is rawnode.py. Here is only what all of them share.

Rules:
- No clock: time is counted in ticks. No randomness but config.rng. No I/O but config.storage,
  which is only read.
- Messages leave by two doors. `messages` may leave at once, even before anything is stored: the
  leader writes in parallel with its followers (thesis 10.2.1). `messages_after_append` promise
  something that must survive a restart, so they wait until the Ready they come with is stored:
  append and vote responses, and vote requests, which name a term and a last entry. (If a vote
  request left early and the node restarted with a shorter log in the older term, its repeated
  request would collect the votes given to the longer log.)
- What a node tells itself (its own vote, its own append) is a message too, with its term; it
  goes through messages_after_append and takes effect when the Ready is advanced. After a change
  of term it is stale and ignored like any other old message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyetcd.raft.confchange import Configuration, restore, to_state
from pyetcd.raft.log import RaftLog
from pyetcd.raft.progress import Inflights, Progress
from pyetcd.raft.quorum import VoteResult, joint_commit, joint_vote
from pyetcd.raft.readonly import ReadOnly
from pyetcd.raft.storage import Storage
from pyetcd.raft.types import (
    NONE,
    ConfState,
    Entry,
    HardState,
    LogLost,
    Message,
    MsgType,
    ReadState,
    Role,
)

AFTER_APPEND = frozenset({MsgType.APP_RESP, MsgType.VOTE, MsgType.VOTE_RESP, MsgType.PRE_VOTE_RESP})
VOTE_TYPES = frozenset({MsgType.VOTE, MsgType.VOTE_RESP, MsgType.PRE_VOTE, MsgType.PRE_VOTE_RESP})
# Requests of a client keep term 0 on their way to the leader: they belong to no term.
TERMLESS = frozenset({MsgType.PROP, MsgType.READ_INDEX})


class Rng(Protocol):
    def randrange(self, stop: int, /) -> int: ...


@dataclass(slots=True, kw_only=True)
class Config:
    """What a node is started with. validate() names the first field that cannot work."""

    id: int
    storage: Storage
    rng: Rng
    # A follower waits election_ticks to 2 * election_ticks - 1 without hearing from a leader.
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    # The last entry the state machine has; entries up to it are not handed out again.
    applied: int = 0
    # Entries of one append message. Smaller: cheaper loss, more round trips.
    message_bytes_max: int = 512 * 1024
    # Committed entries of one Ready.
    committed_bytes_max: int = 4 * 1024 * 1024
    # Payload the leader holds uncommitted; beyond it proposals are dropped, so that a lost quorum
    # ends in errors for clients and not in a full memory.
    uncommitted_bytes_max: int = 64 * 1024 * 1024
    # Appends on their way to one follower; beyond it entries wait. 0 bytes: only messages count.
    inflight_max: int = 512
    inflight_bytes_max: int = 0
    # Reads waiting for confirmation; beyond it a read is dropped and its caller asks again.
    reads_max: int = 16 * 1024
    # A leader that does not hear from a quorum steps down; followers that hear from a leader
    # refuse to vote (thesis 4.2.3, 6.2). With it off, a removed member can disrupt the rest.
    check_quorum: bool = True
    # Ask whether an election could be won before raising the term (thesis 9.6).
    pre_vote: bool = True
    # A leader that was removed or demoted steps down when it applies the change. With it off it
    # goes on leading without being counted (thesis 4.2.2).
    step_down_on_removal: bool = True
    # Called at each transition that the TLA+ model knows: see trace.py.
    trace: "Callable[[Raft, str, Message | None], None] | None" = None

    def validate(self) -> None:
        """A caller's mistake, so ValueError."""
        rules = (
            ("id", self.id > 0),
            ("heartbeat_ticks", self.heartbeat_ticks > 0),
            ("election_ticks", self.election_ticks > self.heartbeat_ticks),
            ("applied", self.applied >= 0),
            ("message_bytes_max", self.message_bytes_max >= 0),
            ("committed_bytes_max", self.committed_bytes_max >= 0),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max > 0),
            ("inflight_max", self.inflight_max > 0),
            ("reads_max", self.reads_max > 0),
        )
        for field, holds in rules:
            if not holds:
                raise ValueError(f"raft configuration: {field}={getattr(self, field)}")
        if self.inflight_bytes_max and self.inflight_bytes_max < self.message_bytes_max:
            raise ValueError("raft configuration: inflight_bytes_max is below message_bytes_max")


class Raft:
    __slots__ = (
        "check_quorum",
        "conf",
        "config",
        "election_elapsed",
        "election_ticks",
        "heartbeat_elapsed",
        "heartbeat_ticks",
        "id",
        "leader",
        "log",
        "log_lost",
        "message_bytes_max",
        "messages",
        "messages_after_append",
        "pending_conf_index",
        "pre_vote",
        "progress",
        "randomized_election_ticks",
        "read_states",
        "reads",
        "role",
        "term",
        "transferee",
        "uncommitted_bytes",
        "vote",
        "votes",
    )

    def __init__(self, config: Config) -> None:
        config.validate()
        self.config = config
        self.id = config.id
        self.election_ticks = config.election_ticks
        self.heartbeat_ticks = config.heartbeat_ticks
        self.message_bytes_max = config.message_bytes_max
        self.check_quorum = config.check_quorum
        self.pre_vote = config.pre_vote
        hard_state, conf_state = config.storage.initial_state()
        self.log = RaftLog(config.storage, config.committed_bytes_max)
        # Once set, the node takes no further part: see types.LogLost.
        self.log_lost: LogLost | None = None
        self.role = Role.FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader = NONE
        self.transferee = NONE
        self.votes: dict[int, bool] = {}
        self.progress: dict[int, Progress] = {}
        self.conf = Configuration()
        # The index of the last configuration change that may not be applied yet; only one may be
        # on its way (thesis 4.1). Of the leader's term only.
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.election_elapsed = self.heartbeat_elapsed = self.randomized_election_ticks = 0
        self.reads = ReadOnly(config.reads_max)
        self.read_states: list[ReadState] = []
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.trace("InitState")
        self.set_configuration(restore(conf_state))
        self._load(hard_state)
        self.become_follower(self.term, NONE)

    def _load(self, hard_state: HardState) -> None:
        """The stored commit index may lag behind the state machine, because it is written lazily;
        what was applied was committed. Both lie inside the log, or the log lost its end."""
        log, applied = self.log, self.config.applied
        for name, index in (("commit", hard_state.commit), ("applied", applied)):
            if index > log.last_index:
                raise LogLost(f"stored {name} index {index}, but the log ends at {log.last_index}")
        log.committed = max(log.committed, hard_state.commit, applied)
        log.applied_to(max(log.applied, applied))

    def trace(self, event: str, message: Message | None = None) -> None:
        if self.config.trace is not None:
            self.config.trace(self, event, message)

    # Facts.

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def is_learner(self) -> bool:
        return self.id in self.conf.learners

    @property
    def promotable(self) -> bool:
        """May campaign: a voter here, with nothing but its log to start from."""
        return self.id in self.conf.all_voters and self.log.unstable_snapshot is None

    @property
    def in_lease(self) -> bool:
        """Heard from a leader within the shortest election timeout (thesis 4.2.3)."""
        return (
            self.check_quorum
            and self.leader != NONE
            and self.election_elapsed < self.election_ticks
        )

    def committed_in_term(self) -> bool:
        """The leader knows the cluster's commit index only once one of its own term is in it."""
        return self.log.matches(self.log.committed, self.term)

    # Changing role.

    def become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.leader = leader
        self.role = Role.FOLLOWER
        self.trace("BecomeFollower")

    def become_candidate(self) -> None:
        assert self.role != Role.LEADER, "a leader does not campaign"
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = Role.CANDIDATE
        self.trace("BecomeCandidate")

    def become_pre_candidate(self) -> None:
        """Term and vote stay: a pre-candidate has promised nothing (thesis 9.6)."""
        assert self.role != Role.LEADER, "a leader does not campaign"
        self.votes = {}
        self.leader = NONE
        self.role = Role.PRE_CANDIDATE

    def become_leader(self) -> None:
        assert self.role == Role.CANDIDATE, "only a candidate becomes leader"
        self._reset(self.term)
        self.leader = self.id
        self.role = Role.LEADER
        own = self.progress[self.id]
        own.become_replicate()
        own.recent_active = True
        # Whether a change is among the unapplied entries is not worth a scan: wait for them all.
        self.pending_conf_index = self.log.last_index
        self.trace("BecomeLeader")
        # The no-op of the term: until one entry of its own term is committed, a leader may not
        # count older ones (thesis 3.6.2). Empty, so the quota can never refuse it.
        accepted = self.append_proposal([Entry(0, 0)])
        assert accepted

    def _reset(self, term: int) -> None:
        assert term >= self.term, "terms never decrease"
        if term != self.term:
            self.term = term
            self.vote = NONE
        self.leader = NONE
        self.transferee = NONE
        self.votes = {}
        self.election_elapsed = self.heartbeat_elapsed = 0
        # A new timeout for each term keeps two candidates from colliding for ever (thesis 3.4).
        self.randomized_election_ticks = self.election_ticks + self.config.rng.randrange(
            self.election_ticks
        )
        last = self.log.last_index
        for node in self.progress:
            self.progress[node] = self._new_progress(node, last + 1)
        if self.id in self.progress:
            # A node counts what it has stored, not what it is still storing.
            self.progress[self.id].match = min(last, self.log.offset - 1)
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.reads = ReadOnly(self.config.reads_max, last_number=self.reads.last_number)

    def _new_progress(self, node: int, next_: int) -> Progress:
        inflights = Inflights(self.config.inflight_max, self.config.inflight_bytes_max)
        return Progress(next_, inflights, is_learner=node in self.conf.learners)

    # Membership.

    def set_configuration(self, conf: Configuration) -> ConfState:
        """Take a configuration into use; the leader's further steps are in leader.py."""
        self.conf = conf
        self.trace("ApplyConfChange")
        for gone in self.progress.keys() - conf.members:
            del self.progress[gone]
        for node in sorted(conf.members):
            known = self.progress.get(node)
            if known is None:
                known = self.progress[node] = self._new_progress(node, max(self.log.last_index, 1))
                # New members count as active, or the next quorum check might depose the leader
                # before they could say a word.
                known.recent_active = True
            known.is_learner = node in conf.learners
        return to_state(conf)

    # Counting.

    def tally(self, node: int, *, granted: bool) -> VoteResult:
        """Record a vote, the first one of each node, and count."""
        self.votes.setdefault(node, granted)
        return joint_vote(self.conf.voters, self.conf.outgoing, self.votes)

    def quorum_active(self) -> bool:
        """Whether a majority was heard from since the last check; the leader hears itself."""
        active = {node: peer.recent_active for node, peer in self.progress.items()}
        active[self.id] = True
        return joint_vote(self.conf.voters, self.conf.outgoing, active) == VoteResult.WON

    def maybe_commit(self) -> bool:
        """Commit what a majority holds, but only entries of the own term by counting; older ones
        become committed by the Log Matching Property (thesis 3.6.2, figure 3.7)."""
        matched = {node: peer.match for node, peer in self.progress.items()}
        index = joint_commit(self.conf.voters, self.conf.outgoing, matched)
        if index <= self.log.committed or not self.log.matches(index, self.term):
            return False
        self.log.commit_to(index)
        self.trace("Commit")
        return True

    # Appending and sending.

    def append_proposal(self, proposals: Sequence[Entry]) -> bool:
        """The leader gives proposals their term and index. False if the quota is full: it counts
        payload only, so that what is added here is exactly what committing takes off again."""
        payload_bytes = sum([len(proposal.data) for proposal in proposals])
        held = self.uncommitted_bytes
        if held and payload_bytes and held + payload_bytes > self.config.uncommitted_bytes_max:
            return False
        self.uncommitted_bytes = held + payload_bytes
        term, first = self.term, self.log.last_index + 1
        self.log.append(
            [
                Entry(term, index, proposal.type, proposal.data)
                for index, proposal in enumerate(proposals, first)
            ]
        )
        self.trace("Replicate")
        self.send(Message(MsgType.APP_RESP, to=self.id, index=self.log.last_index))
        return True

    def release_quota(self, applied: Sequence[Entry]) -> None:
        """Entries were applied. Those of our own term are exactly the ones that were counted."""
        if self.role == Role.LEADER and self.uncommitted_bytes:
            term = self.term
            self.uncommitted_bytes -= sum([len(e.data) for e in applied if e.term == term])
            assert self.uncommitted_bytes >= 0, "the quota leaks"

    def send(self, message: Message) -> None:
        """Queue a message of our own; the type decides by which door it leaves."""
        if message.from_ == NONE:
            message.from_ = self.id
        if message.type in VOTE_TYPES:
            assert message.term, "a vote names its term, which may not be the current one"
        elif message.type not in TERMLESS:
            assert message.term == 0, "the term is set here"
            message.term = self.term
        self.trace("Send", message)
        if message.type in AFTER_APPEND:
            self.messages_after_append.append(message)
        else:
            assert message.to != self.id, "a message to myself that promises nothing"
            self.messages.append(message)

    def tick(self) -> list[MsgType]:
        """One tick passed: the local messages that are due now, in this order."""
        if self.log_lost is not None:
            return []
        self.election_elapsed += 1
        if self.role != Role.LEADER:
            if self.promotable and self.election_elapsed >= self.randomized_election_ticks:
                self.election_elapsed = 0
                return [MsgType.HUP]
            return []
        due = []
        if self.election_elapsed >= self.election_ticks:
            self.election_elapsed = 0
            # A transfer that took an election timeout has failed; lead on (thesis 3.10).
            self.transferee = NONE
            if self.check_quorum:
                due.append(MsgType.CHECK_QUORUM)
        self.heartbeat_elapsed += 1
        if self.heartbeat_elapsed >= self.heartbeat_ticks:
            self.heartbeat_elapsed = 0
            due.append(MsgType.BEAT)
        return due
