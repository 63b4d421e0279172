"""The entry of every message: the rules of terms, then dispatch by type and role.

Terms come first because they decide whether the rest of a message means anything (thesis 3.3):
a newer term makes us a follower of it, an older one is answered only where silence would leave
the sender stuck.
"""

from pyetcd.raft.core import Raft
from pyetcd.raft.follower import (
    TRANSFER,
    answer_vote,
    campaign,
    step_candidate,
    step_follower,
)
from pyetcd.raft.leader import step_leader
from pyetcd.raft.types import NONE, LogLost, Message, MsgType, Role

FROM_LEADER = frozenset({MsgType.APP, MsgType.HEARTBEAT, MsgType.SNAP})
VOTE_REQUESTS = frozenset({MsgType.VOTE, MsgType.PRE_VOTE})

STEP_BY_ROLE = {
    Role.FOLLOWER: step_follower,
    Role.CANDIDATE: step_candidate,
    Role.PRE_CANDIDATE: step_candidate,
    Role.LEADER: step_leader,
}


def step(raft: Raft, message: Message) -> None:
    """Raises ProposalDropped for a proposal, LogLost for good once the log proved to be lost."""
    if raft.log_lost is not None:
        raise raft.log_lost
    raft.trace("Receive", message)
    if message.term and message.term != raft.term and not _enter_term(raft, message):
        return
    if message.type == MsgType.HUP:
        campaign(raft)
    elif message.type in VOTE_REQUESTS:
        answer_vote(raft, message)
    else:
        try:
            STEP_BY_ROLE[raft.role](raft, message)
        except LogLost as lost:
            raft.log_lost = lost
            raise


def _enter_term(raft: Raft, message: Message) -> bool:
    """Follow a newer term or turn away an older one. False if the message is done with."""
    if message.term < raft.term:
        _answer_old_term(raft, message)
        return False
    kind = message.type
    if kind in VOTE_REQUESTS and message.context != TRANSFER and raft.in_lease:
        # Who hears from a leader does not help to depose it (thesis 4.2.3), unless it asked to.
        return False
    if kind == MsgType.PRE_VOTE or (kind == MsgType.PRE_VOTE_RESP and not message.reject):
        # Both speak about a term that may never begin. A refused pre-vote carries a real one.
        return True
    raft.become_follower(message.term, message.from_ if kind in FROM_LEADER else NONE)
    return True


def _answer_old_term(raft: Raft, message: Message) -> None:
    """Mostly silence. Three senders must learn our term, or they stay stuck:

    - A leader of an older term. With the lease we do not answer vote requests, so a node that
      raised its term while cut off would neither be elected nor follow; its answer makes the old
      leader step down and frees it. A removed node gets no appends, so it cannot disrupt so.
    - A pre-candidate of an older term, which may have the only log that can win: while nodes
      with and without pre-vote are mixed, some wait in a higher term with a shorter log.
    - Without pre-vote a candidate of an older term, if we know no leader either (thesis 3.4 always
      answers; etcd's raft never does). Both campaign, each raises its own term as often as the
      other, and we may be one who cannot win: our configuration may still be the one before it.
    """
    if message.type in (MsgType.APP, MsgType.HEARTBEAT):
        if raft.check_quorum or raft.pre_vote:
            raft.send(Message(MsgType.APP_RESP, message.from_))
    elif message.type == MsgType.PRE_VOTE:
        raft.send(Message(MsgType.PRE_VOTE_RESP, message.from_, term=raft.term, reject=True))
    elif message.type == MsgType.VOTE and raft.leader == NONE:
        raft.send(Message(MsgType.VOTE_RESP, message.from_, term=raft.term, reject=True))
