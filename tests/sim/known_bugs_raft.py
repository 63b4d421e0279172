"""Known bugs of raft, put back: see known_bugs.py."""

from typing import Any

from pyetcd.raft import core, follower, leader, log, rawnode, step
from pyetcd.raft.quorum import joint_commit
from pyetcd.raft.types import Message, MsgType

Patch = tuple[Any, str, Any]


def commit_by_counting_old_terms() -> list[Patch]:
    """A leader counts the copies of entries of earlier terms (thesis, figure 3.7)."""

    def maybe_commit(self: Any) -> bool:
        matched = {node: peer.match for node, peer in self.progress.items()}
        index = joint_commit(self.conf.voters, self.conf.outgoing, matched)
        if index <= self.log.committed:
            return False
        self.log.commit_to(index)
        return True

    return [(core.Raft, "maybe_commit", maybe_commit)]


def learner_counted() -> list[Patch]:
    """A learner's copy counts for the commit index."""

    def maybe_commit(self: Any) -> bool:
        matched = {node: peer.match for node, peer in self.progress.items()}
        voters = self.conf.voters | self.conf.learners
        index = joint_commit(voters, self.conf.outgoing, matched)
        if index <= self.log.committed or not self.log.matches(index, self.term):
            return False
        self.log.commit_to(index)
        return True

    return [(core.Raft, "maybe_commit", maybe_commit)]


def append_cuts_what_matches() -> list[Patch]:
    """An old append cuts off the newer tail of a log that it matches."""

    def find_conflict(self: Any, entries: Any) -> int:
        return int(entries[0].index) if entries else 0

    return [(log.RaftLog, "_find_conflict", find_conflict)]


def answer_of_an_older_term_counted() -> list[Patch]:
    """An append that was acknowledged in an earlier term counts in this one."""
    real = step._enter_term

    def enter_term(raft: Any, message: Message) -> bool:
        if message.term < raft.term and message.type is MsgType.APP_RESP and message.index:
            return True
        return real(raft, message)

    return [(step, "_enter_term", enter_term)]


def own_answer_of_an_older_term_counted() -> list[Patch]:
    """What a node stored as leader of one term counts for it in the next (the ABA of raft)."""
    real = rawnode.RawNode.advance

    def advance(self: Any, ready: Any) -> None:
        for message in self._own_acks:
            if message.type is MsgType.APP_RESP:
                message.term = self.raft.term
        real(self, ready)

    return [(rawnode.RawNode, "advance", advance)]


def vote_for_a_shorter_log() -> list[Patch]:
    return [(log.RaftLog, "is_up_to_date", lambda self, index, term: True)]


def second_vote_in_a_term() -> list[Patch]:
    real = follower.answer_vote

    def answer_vote(raft: Any, message: Message) -> None:
        before, leads = (raft.vote, raft.leader), raft.leader == raft.id
        if message.type is MsgType.VOTE and not leads:
            raft.vote = raft.leader = 0
        real(raft, message)
        if raft.vote == 0:
            raft.vote, raft.leader = before

    return [(step, "answer_vote", answer_vote)]


def heartbeat_commits_what_is_not_there() -> list[Patch]:
    """A heartbeat carries the leader's commit index, whatever the follower holds."""

    def broadcast_heartbeat(raft: Any) -> None:
        context = raft.reads.start_round(raft.id)
        for node in raft.progress:
            if node != raft.id:
                commit = raft.log.committed
                raft.send(Message(MsgType.HEARTBEAT, node, commit=commit, context=context))
        if context:
            leader._confirm_reads(raft, raft.id, context)

    return [(leader, "broadcast_heartbeat", broadcast_heartbeat)]


def configuration_of_the_log_kept_over_a_snapshot() -> list[Patch]:
    """An installed snapshot brings data, and not the configuration at its index."""
    from pyetcd.server.machine import StateMachine

    real = StateMachine.install

    def install(self: Any, received: Any) -> None:
        before = self.conf_state
        real(self, received)
        self._conf_states.clear()
        self.set_conf_state(received.meta.index, before)

    return [(StateMachine, "install", install)]


RAFT_BUGS = (
    commit_by_counting_old_terms,
    learner_counted,
    append_cuts_what_matches,
    answer_of_an_older_term_counted,
    own_answer_of_an_older_term_counted,
    vote_for_a_shorter_log,
    second_vote_in_a_term,
    heartbeat_commits_what_is_not_there,
    configuration_of_the_log_kept_over_a_snapshot,
)

__all__ = ["RAFT_BUGS"]
