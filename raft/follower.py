"""What a follower and a candidate do: follow, vote, campaign.

Each function takes the Raft object; step_follower and step_candidate are the entries, called by
step.py for a message of the current term or a local one. answer_vote serves every role.

Rules:
- A response to an append or a vote leaves only after what it promises is stored (thesis 3.8):
  core.Raft.send sees to that.
- A follower never overwrites a committed entry and never cuts its log for an old message.
- Requests of clients are forwarded to the leader, or dropped if there is none.
"""

from pyetcd.raft.confchange import restore
from pyetcd.raft.core import Raft
from pyetcd.raft.leader import broadcast_append
from pyetcd.raft.quorum import VoteResult
from pyetcd.raft.types import (
    NONE,
    EntryType,
    Message,
    MsgType,
    ProposalDropped,
    ReadState,
    Role,
    Snapshot,
)

# The context of a vote request that the leader itself asked for: it is answered even by nodes
# that hear from a leader, as that leader wants to go. The word is etcd's.
TRANSFER = b"CampaignTransfer"


def step_follower(raft: Raft, message: Message) -> None:
    match message.type:
        case MsgType.APP | MsgType.HEARTBEAT | MsgType.SNAP:
            raft.election_elapsed = 0
            raft.leader = message.from_
            _follow(raft, message)
        case MsgType.PROP:
            if raft.leader == NONE:
                raise ProposalDropped("no leader")
            _forward(raft, message)
        case MsgType.READ_INDEX | MsgType.TRANSFER_LEADER:
            if raft.leader != NONE:
                _forward(raft, message)
        case MsgType.READ_INDEX_RESP:
            if len(message.entries) == 1:
                raft.read_states.append(ReadState(message.index, message.entries[0].data))
        case MsgType.TIMEOUT_NOW:
            # The leader hands over: no pre-vote, we do not come back from a partition.
            campaign(raft, transfer=True)
        case _:
            pass  # late responses to a candidacy or a leadership that is over


def step_candidate(raft: Raft, message: Message) -> None:
    """Also for a pre-candidate, which counts the other kind of response."""
    match message.type:
        case MsgType.APP | MsgType.HEARTBEAT | MsgType.SNAP:
            # Someone else won this term (thesis 3.4).
            raft.become_follower(message.term, message.from_)
            _follow(raft, message)
        case MsgType.VOTE_RESP if raft.role == Role.CANDIDATE:
            _count_vote(raft, message)
        case MsgType.PRE_VOTE_RESP if raft.role == Role.PRE_CANDIDATE:
            # A grant carries the term we asked about, a refusal the other's term. A grant for
            # another term answers an earlier candidacy.
            if message.reject or message.term == raft.term + 1:
                _count_vote(raft, message)
        case MsgType.PROP:
            raise ProposalDropped("no leader")
        case _:
            pass


def _forward(raft: Raft, message: Message) -> None:
    """A new message, as the one we were given belongs to its sender. A transfer request keeps
    its from: it names the node that shall lead."""
    raft.send(
        Message(
            message.type,
            raft.leader,
            from_=message.from_,
            entries=message.entries,
            context=message.context,
        )
    )


# Following.


def _follow(raft: Raft, message: Message) -> None:
    if message.type == MsgType.APP:
        _handle_append(raft, message)
    elif message.type == MsgType.HEARTBEAT:
        # The commit index may prove that our log lost its end: no response then.
        raft.log.commit_to(message.commit)
        raft.send(Message(MsgType.HEARTBEAT_RESP, message.from_, context=message.context))
    else:
        _handle_snapshot(raft, message)


def _handle_append(raft: Raft, message: Message) -> None:
    log, prev = raft.log, message.index
    response = Message(MsgType.APP_RESP, message.from_)
    if prev < log.committed:
        # Old: all up to our commit index matches already.
        response.index = log.committed
    elif log.maybe_append(prev, message.log_term, message.entries, message.commit):
        response.index = prev + len(message.entries)
    else:
        response.index = prev
        response.reject = True
        response.reject_hint, response.log_term = log.find_conflict_by_term(
            min(prev, log.last_index), message.log_term
        )
    raft.send(response)


def _handle_snapshot(raft: Raft, message: Message) -> None:
    snapshot = message.snapshot or Snapshot()
    index = raft.log.last_index if _restore(raft, snapshot) else raft.log.committed
    raft.send(Message(MsgType.APP_RESP, message.from_, index=index))


def _restore(raft: Raft, snapshot: Snapshot) -> bool:
    """Take a snapshot in place of the log. False if it tells nothing new."""
    meta, log = snapshot.meta, raft.log
    assert raft.role == Role.FOLLOWER
    if meta.index <= log.committed:
        return False
    conf = restore(meta.conf_state)
    if raft.id not in conf.members:
        return False  # a snapshot of a cluster without us: it was not meant for this node
    if log.matches(meta.index, meta.term):
        # We have the entry: what follows it in our log may be committed, so keep it (thesis 5.1).
        log.commit_to(meta.index)
        return False
    log.restore(snapshot)
    raft.progress.clear()
    raft.set_configuration(conf)
    return True


# Voting and campaigning.


def answer_vote(raft: Raft, message: Message) -> None:
    """VOTE of the current term, or PRE_VOTE of any term not older (thesis 3.6.1, 9.6).

    Learners vote as well: one that was promoted may not know it yet, and the cluster may need
    its vote to find out.
    """
    pre = message.type == MsgType.PRE_VOTE
    kind = MsgType.PRE_VOTE_RESP if pre else MsgType.VOTE_RESP
    free = (
        raft.vote == message.from_
        or (raft.vote == NONE and raft.leader == NONE)
        or (pre and message.term > raft.term)
    )
    if not free or not raft.log.is_up_to_date(message.index, message.log_term):
        raft.send(Message(kind, message.from_, term=raft.term, reject=True))
        return
    if pre and raft.role == Role.PRE_CANDIDATE and _yields(raft, message):
        raft.become_follower(raft.term, NONE)
    # A pre-vote is granted in the term it asks about: the sender would ignore an older one.
    raft.send(Message(kind, message.from_, term=message.term))
    if not pre:
        raft.election_elapsed = 0
        raft.vote = message.from_


def _yields(raft: Raft, message: Message) -> bool:
    """Two pre-candidates of one term would both be granted, both go on, and split the votes for
    a whole election timeout. A pre-vote promises nothing, so the worse log, or between equals the
    smaller id, may give way at once. Not in the thesis and not in etcd, which waits: with timeouts
    of 10 to 19 ticks in step, 5 of 100 failovers took more than two timeouts; now none of 1000."""
    own = (raft.log.last_term, raft.log.last_index, raft.id)
    other = (message.log_term, message.index, message.from_)
    return message.term == raft.term + 1 and other > own


def campaign(raft: Raft, *, transfer: bool = False) -> None:
    """Start an election, with a pre-vote first if configured. Not while a configuration change
    is committed but not applied: we might count by the wrong majority (raft issue 7625 of etcd)."""
    if raft.role == Role.LEADER or not raft.promotable or _has_unapplied_change(raft):
        return
    if raft.pre_vote and not transfer:
        raft.become_pre_candidate()
        _request_votes(raft, MsgType.PRE_VOTE, raft.term + 1, b"")
    else:
        raft.become_candidate()
        _request_votes(raft, MsgType.VOTE, raft.term, TRANSFER if transfer else b"")


def _has_unapplied_change(raft: Raft) -> bool:
    log = raft.log
    # What is compacted was applied, even if the Ready with it is still out.
    first = max(log.applied + 1, log.first_index)
    if first > log.committed:
        return False
    unapplied = log.scan(first, log.committed + 1, log.committed_bytes_max)
    return any(entry.type != EntryType.NORMAL for entry in unapplied)


def _request_votes(raft: Raft, kind: MsgType, term: int, context: bytes) -> None:
    index, log_term = raft.log.last_index, raft.log.last_term
    for node in sorted(raft.conf.all_voters):
        if node == raft.id:
            # Our own vote counts once it is stored, like anyone else's.
            own = MsgType.PRE_VOTE_RESP if kind == MsgType.PRE_VOTE else MsgType.VOTE_RESP
            raft.send(Message(own, node, term=term))
            continue
        raft.send(Message(kind, node, term=term, log_term=log_term, index=index, context=context))


def _count_vote(raft: Raft, message: Message) -> None:
    result = raft.tally(message.from_, granted=not message.reject)
    if result == VoteResult.LOST:
        raft.become_follower(raft.term, NONE)
    elif result == VoteResult.WON:
        if raft.role == Role.PRE_CANDIDATE:
            raft.become_candidate()
            _request_votes(raft, MsgType.VOTE, raft.term, b"")
        else:
            raft.become_leader()
            broadcast_append(raft)
