"""What must hold for all nodes of a cluster at any moment, and between two moments.

Strategy: a NodeView is a copy of what one node has; the checks are pure functions over views, so
a simulator, a test or a fuzzer can call them after each step. The eight checks of the present
state are those of the TLA+ model of etcd's raft, under its names; the checks of a step compare a
node with its own past, which no single state can show.

Rules:
- Give all nodes that ever were members, crashed ones as they would come back from their disk: a
  quorum that exists only on disk still counts.
- A log is a window, its beginning may be compacted. Windows are compared where they overlap; what
  is compacted was committed, and was compared while it was there.

Cost: a check walks logs from their ends and stops at the first agreement, so it is cheap while
all is well. Entries that are one object in two logs are not compared field by field.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.core import Raft
from pyetcd.raft.quorum import VoteResult, joint_vote
from pyetcd.raft.types import NONE, Entry, EntryType, Role

NO_LIMIT = 2**62


class InvariantBroken(AssertionError):
    """A safety property of raft does not hold: always a bug of ours, or a disk that lied."""


@dataclass(slots=True)
class NodeView:
    """log[0] has index first; prev_term is the term of index first - 1. durable is the last index
    that is stored. start counts restarts: a step across a restart is judged mildly. A view is never
    changed; it is not frozen only because so many are made."""

    id: int
    term: int
    vote: int
    role: Role
    commit: int
    applied: int
    first: int
    prev_term: int
    log: Sequence[Entry]
    durable: int
    conf: Configuration
    start: int = 0

    @property
    def last(self) -> int:
        return self.first + len(self.log) - 1

    @property
    def last_term(self) -> int:
        return self.log[-1].term if self.log else self.prev_term

    def term_at(self, index: int) -> int:
        """In [first - 1, last]."""
        return self.prev_term if index == self.first - 1 else self.log[index - self.first].term


def view(raft: Raft, *, start: int = 0) -> NodeView:
    log = raft.log
    first = log.first_index
    return NodeView(
        raft.id,
        raft.term,
        raft.vote,
        raft.role,
        log.committed,
        log.applied,
        first,
        log.term(first - 1),
        log.slice(first, log.last_index + 1, NO_LIMIT),
        log.offset - 1,
        raft.conf,
        start,
    )


def check(nodes: Mapping[int, NodeView], before: Mapping[int, NodeView] | None = None) -> None:
    """Everything; raises InvariantBroken with the name of the check and what it saw."""
    views = list(nodes.values())
    for present in PRESENT:
        _report(present.__name__, present(views))
    for node, now in nodes.items():
        then = (before or {}).get(node)
        if then is not None and then is not now:
            for step in STEPS:
                _report(step.__name__, step(then, now))


def _report(name: str, faults: Iterable[str]) -> None:
    for fault in faults:
        raise InvariantBroken(f"{name}: {fault}")


# The present state.


def log_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """State Machine Safety: no two nodes committed different entries at one index."""
    for a, b in combinations(nodes, 2):
        upto = min(a.commit, b.commit)
        if not _same(a, b, upto):
            yield f"{a.id} and {b.id} committed different entries up to {upto}"


def more_than_one_leader_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    leaders: dict[int, int] = {}
    for node in nodes:
        if node.role == Role.LEADER and leaders.setdefault(node.term, node.id) != node.id:
            yield f"{leaders[node.term]} and {node.id} lead term {node.term}"


def election_safety_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """Nobody has an entry of a leader's term that the leader does not have."""
    for leader in nodes:
        if leader.role == Role.LEADER:
            own = _last_of_term(leader, leader.term)
            for node in nodes:
                if _last_of_term(node, leader.term) > own:
                    yield f"{node.id} has more of term {leader.term} than its leader {leader.id}"


def log_matching_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """Two logs with one (index, term) in common are equal up to there."""
    for a, b in combinations(nodes, 2):
        index = min(a.last, b.last)
        lowest = max(a.first, b.first)
        while index >= lowest and a.term_at(index) != b.term_at(index):
            index -= 1
        if index >= lowest and not _same(a, b, index):
            yield f"{a.id} and {b.id} agree on the term at {index} but not before"


def quorum_log_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """Each quorum has a member that holds every committed entry, so none can be lost. Judged by the
    newest configuration, unless a newer one is committed that nobody has applied yet: members
    that lag know of entries that others have committed under it."""
    newest = max(nodes, key=lambda node: node.applied)
    for node in nodes:
        changes = node.log[max(0, newest.applied + 1 - node.first) : node.commit + 1 - node.first]
        if node.conf != newest.conf or any(e.type is not EntryType.NORMAL for e in changes):
            continue
        holds = {other.id: _holds(other, node, durable=False) for other in nodes}
        if node.commit and not _in_every_quorum(node.conf, holds):
            yield f"what {node.id} committed up to {node.commit} is missing from a quorum"


def more_up_to_date_correct_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """Who would get a vote has everything that the voter committed."""
    for candidate in nodes:
        for voter in nodes:
            wins = (candidate.last_term, candidate.last) >= (voter.last_term, voter.last)
            if wins and not _holds(candidate, voter, durable=False):
                yield f"{candidate.id} could win {voter.id}'s vote but lacks its committed entries"


def leader_completeness_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """A leader has all entries that were committed in earlier terms."""
    for leader in nodes:
        if leader.role != Role.LEADER:
            continue
        for node in nodes:
            upto = node.commit
            while upto >= node.first and node.term_at(upto) >= leader.term:
                upto -= 1
            if upto >= node.first and (leader.last < upto or not _same(leader, node, upto)):
                yield f"leader {leader.id} lacks what {node.id} committed up to {upto}"


def committed_is_durable_inv(nodes: Sequence[NodeView]) -> Iterable[str]:
    """What a leader committed is stored by a member of each quorum, and what anyone applied is
    stored by itself."""
    for node in nodes:
        if node.applied > node.durable:
            yield f"{node.id} applied {node.applied} but stored only {node.durable}"
        if node.role == Role.LEADER:
            holds = {other.id: _holds(other, node, durable=True) for other in nodes}
            if not _in_every_quorum(node.conf, holds):
                yield f"what leader {node.id} committed up to {node.commit} is not durable"


PRESENT: tuple[Callable[[Sequence[NodeView]], Iterable[str]], ...] = (
    log_inv,
    more_than_one_leader_inv,
    election_safety_inv,
    log_matching_inv,
    quorum_log_inv,
    more_up_to_date_correct_inv,
    leader_completeness_inv,
    committed_is_durable_inv,
)


def _same(a: NodeView, b: NodeView, upto: int) -> bool:
    """Equal from where both have entries up to and including upto, which both reach."""
    lowest = max(a.first, b.first)
    if upto < lowest - 1:
        return True
    if a.term_at(lowest - 1) != b.term_at(lowest - 1):
        return False
    end = upto + 1
    return a.log[lowest - a.first : end - a.first] == b.log[lowest - b.first : end - b.first]


def _holds(holder: NodeView, node: NodeView, *, durable: bool) -> bool:
    """Whether holder has all that node committed."""
    last = holder.durable if durable else holder.last
    return last >= node.commit and _same(holder, node, node.commit)


def _in_every_quorum(conf: Configuration, holds: Mapping[int, bool]) -> bool:
    """The others may not be able to form a quorum without any of the holders."""
    if not conf.voters:
        return True
    without = {voter: not holds.get(voter, False) for voter in conf.all_voters}
    return joint_vote(conf.voters, conf.outgoing, without) != VoteResult.WON


def _last_of_term(node: NodeView, term: int) -> int:
    """The last index with this term, 0 if none: terms only grow along a log."""
    index = node.last
    while index >= node.first - 1:
        if node.term_at(index) <= term:
            return index if node.term_at(index) == term else 0
        index -= 1
    return 0


# A step of one node.


def term_grows(then: NodeView, now: NodeView) -> Iterable[str]:
    if now.term < then.term:
        yield f"{now.id} went from term {then.term} back to {now.term}"


def vote_sticks(then: NodeView, now: NodeView) -> Iterable[str]:
    """One vote a term (thesis 3.6.3)."""
    if now.term == then.term and then.vote != NONE and now.vote != then.vote:
        yield f"{now.id} voted for {then.vote} and then {now.vote} in term {now.term}"


def commit_grows(then: NodeView, now: NodeView) -> Iterable[str]:
    """A restart may forget how much is committed, not what is applied."""
    if now.commit < (then.commit if now.start == then.start else then.applied):
        yield f"{now.id} went from commit index {then.commit} back to {now.commit}"
    if now.applied < then.applied:
        yield f"{now.id} applied {then.applied} and then {now.applied}"
    if not now.applied <= now.commit <= now.last:
        yield f"{now.id} has applied {now.applied}, commit {now.commit}, last {now.last}"


def committed_stays(then: NodeView, now: NodeView) -> Iterable[str]:
    if now.last < then.commit and now.start == then.start:
        yield f"{now.id} lost entries it had committed"
    elif not _same(then, now, min(then.commit, now.last)):
        yield f"{now.id} changed an entry it had committed"


def leader_appends_only(then: NodeView, now: NodeView) -> Iterable[str]:
    """A leader never overwrites its log (thesis 3.5)."""
    same_leadership = then.term == now.term and then.role == now.role == Role.LEADER
    if same_leadership and (now.last < then.last or not _same(then, now, then.last)):
        yield f"leader {now.id} changed its log in term {now.term}"


def role_follows_term(then: NodeView, now: NodeView) -> Iterable[str]:
    """Who stopped leading a term does not lead it again, and only candidates begin to."""
    began = now.role == Role.LEADER and then.role != Role.LEADER
    if began and now.term == then.term and then.role == Role.FOLLOWER:
        yield f"{now.id} went from follower to leader of term {now.term} in one step"


STEPS: tuple[Callable[[NodeView, NodeView], Iterable[str]], ...] = (
    term_grows,
    vote_sticks,
    commit_grows,
    committed_stays,
    leader_appends_only,
    role_follows_term,
)
