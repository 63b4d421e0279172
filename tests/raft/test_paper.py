"""The thesis, section by section: a sentence of ours for each rule, and a test that shows it.

Sections are those of Ongaro's dissertation "Consensus: Bridging Theory and Practice" (2014).
"""

import random
from types import ModuleType
from typing import Any

import pytest

from pyetcd.raft.types import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    Message,
    MsgType,
    ProposalDropped,
    Role,
    Snapshot,
    SnapshotMeta,
)

CONF = ConfState(voters=(1, 2, 3))


@pytest.fixture
def trio(sim: ModuleType) -> Any:
    return sim.three(pre_vote=False, check_quorum=False)


def elect(cluster: Any, node: int = 1) -> None:
    cluster[node].campaign()
    cluster.run()
    assert cluster[node].is_leader


# 3.3 Terms.


@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
def test_3_3_a_newer_term_makes_a_follower(trio: Any, role: str) -> None:
    if role == "leader":
        elect(trio)
    elif role == "candidate":
        trio[1].campaign()
    trio[1].step(Message(MsgType.APP, 1, 2, term=7))
    assert (trio[1].role, trio[1].term, trio[1].leader) == (Role.FOLLOWER, 7, 2)


def test_3_3_an_older_term_is_turned_away(trio: Any) -> None:
    elect(trio)
    trio[2].step(Message(MsgType.APP, 2, 3, term=9))
    trio.run()
    before = trio[2].last_index
    trio[2].step(Message(MsgType.APP, 2, 1, term=1, index=1, log_term=1, entries=[Entry(1, 2)]))
    assert (trio[2].last_index, trio[2].leader) == (before, 3)


# 3.4 Leader election.


def test_3_4_servers_start_as_followers(trio: Any) -> None:
    assert {trio[node].role for node in (1, 2, 3)} == {Role.FOLLOWER}


def test_3_4_heartbeats_go_out_at_the_heartbeat_interval(sim: ModuleType) -> None:
    cluster = sim.three(election_ticks=10, heartbeat_ticks=2)
    elect(cluster)
    sent = []
    for _ in range(6):
        cluster.tick(1)
        sent.append(cluster[1].has_ready())
        if sent[-1]:
            kinds = {message.type for message in cluster.ready(1).messages}
            assert kinds == {MsgType.HEARTBEAT}
    assert sent == [False, True] * 3


@pytest.mark.parametrize("timeout", [0, 1, 2])
def test_3_4_without_a_leader_a_follower_campaigns(sim: ModuleType, timeout: int) -> None:
    """It raises its term, votes for itself and asks all others."""
    cluster = sim.Cluster()
    cluster.add(1, CONF, rng=sim.FixedRng(timeout), pre_vote=False)
    cluster.tick(1, 3 + timeout - 1)
    assert cluster[1].role == Role.FOLLOWER
    cluster.tick(1)
    assert (cluster[1].role, cluster[1].term, cluster[1].raft.vote) == (Role.CANDIDATE, 1, 1)
    ready = cluster.ready(1)
    assert {(m.type, m.to) for m in ready.messages_after_append} == {
        (MsgType.VOTE, 2),
        (MsgType.VOTE, 3),
    }


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 1, 0, Role.LEADER),
        (3, 1, 1, Role.LEADER),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (5, 2, 0, Role.LEADER),
        (5, 1, 2, Role.CANDIDATE),
        (5, 1, 3, Role.FOLLOWER),
    ],
)
def test_3_4_a_majority_elects(
    sim: ModuleType, size: int, granted: int, refused: int, role: Role
) -> None:
    cluster = sim.Cluster(check_each=False)
    cluster.add(1, ConfState(voters=tuple(range(1, size + 1))), pre_vote=False)
    cluster[1].campaign()
    cluster.ready(1)
    for voter in range(2, 2 + granted + refused):
        cluster[1].step(Message(MsgType.VOTE_RESP, 1, voter, term=1, reject=voter >= 2 + granted))
    assert cluster[1].role == role


def test_3_4_a_repeated_vote_counts_once(sim: ModuleType) -> None:
    cluster = sim.Cluster()
    cluster.add(1, ConfState(voters=(1, 2, 3, 4, 5)), pre_vote=False)
    cluster[1].campaign()
    cluster.ready(1)
    for _ in range(3):
        cluster[1].step(Message(MsgType.VOTE_RESP, 1, 2, term=1))
    assert cluster[1].role == Role.CANDIDATE


def test_3_4_each_term_draws_a_new_timeout_from_the_interval(sim: ModuleType) -> None:
    cluster = sim.Cluster()
    cluster.add(1, CONF, rng=random.Random(1), election_ticks=10, pre_vote=False)
    seen = set()
    for term in range(1, 400):
        cluster[1].step(Message(MsgType.HEARTBEAT, 1, 2, term=term))
        seen.add(cluster[1].raft.randomized_election_ticks)
    assert seen == set(range(10, 20))


def test_3_4_split_votes_are_rare(sim: ModuleType) -> None:
    """Among five, the chance that another times out within the same tick stays below a half."""
    rng, splits = random.Random(7), 0
    for _ in range(300):
        timeouts = []
        for _node in range(5):
            raft = sim.Cluster().add(1, CONF, rng=rng, election_ticks=10).node.raft
            timeouts.append(raft.randomized_election_ticks)
        splits += timeouts.count(min(timeouts)) > 1
    assert splits / 300 < 0.5


# 3.5 Log replication.


def test_3_5_an_entry_is_committed_once_a_majority_has_it(trio: Any) -> None:
    elect(trio)
    trio[1].propose([b"x"])
    trio.ready(1)
    assert trio[1].commit == 1
    (append,) = [m for m in trio.network if m.to == 2]
    trio.deliver(append)
    trio.ready(2)
    trio.deliver(trio.network[-1])
    assert trio[1].commit == 2


def test_3_5_committing_commits_all_that_lies_before(trio: Any) -> None:
    """Also entries of former leaders, and followers learn of it with the next append."""
    elect(trio)
    trio.isolate(1)
    trio[1].propose([b"never"])
    trio.ready(1)
    elect(trio, 2)
    trio[2].propose([b"a", b"b"])
    trio.run()
    assert trio.members[3].applied == [b"a", b"b"] and trio.members[1].applied == []
    trio.heal()
    trio.tick(2)
    trio.run()
    assert trio.members[1].applied == [b"a", b"b"]


def test_3_5_a_leader_never_overwrites_its_log_and_a_follower_takes_the_leaders(
    sim: ModuleType,
) -> None:
    """Figure 3.6: six followers with every kind of difference end with the leader's log."""
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    followers = [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ]
    for follower_terms in followers:
        cluster = sim.Cluster(check_each=False)
        for node, terms in ((1, leader_terms), (2, follower_terms), (3, [])):
            member = cluster.add(node, CONF, pre_vote=False, check_quorum=False)
            member.storage.append([Entry(term, i) for i, term in enumerate(terms, 1)])
            member.storage.hard_state = type(member.node.hard_state)(7)
            member.boot()
        elect(cluster)
        assert cluster.members[2].storage._entries == cluster.members[1].storage._entries
        terms = [entry.term for entry in cluster.members[1].storage._entries]
        assert terms == [*leader_terms, 8]


# 3.6 Safety.


@pytest.mark.parametrize(
    ("last", "granted"),
    [((2, 2), True), ((1, 3), True), ((3, 2), True), ((1, 2), False), ((9, 1), False)],
)
def test_3_6_1_votes_go_to_logs_that_are_up_to_date(
    trio: Any, last: tuple[int, int], granted: bool
) -> None:
    trio[1].step(Message(MsgType.APP, 1, 2, term=2, entries=[Entry(1, 1), Entry(2, 2)]))
    trio.ready(1)
    index, log_term = last
    trio[1].step(Message(MsgType.VOTE, 1, 3, term=5, index=index, log_term=log_term))
    (answer,) = trio.ready(1).messages_after_append
    assert answer.reject is not granted


def test_3_6_2_only_entries_of_the_own_term_are_committed_by_counting(sim: ModuleType) -> None:
    cluster = sim.Cluster(check_each=False)
    member = cluster.add(1, ConfState(voters=(1, 2)), pre_vote=False)
    member.storage.append([Entry(1, 1), Entry(2, 2)])
    member.storage.hard_state = type(member.node.hard_state)(2)
    member.boot()
    cluster[1].campaign()
    cluster.ready(1)
    cluster[1].step(Message(MsgType.VOTE_RESP, 1, 2, term=3))
    cluster.ready(1)
    for acknowledged, commit in ((1, 0), (2, 0), (3, 3)):
        cluster[1].step(Message(MsgType.APP_RESP, 1, 2, term=3, index=acknowledged))
        assert cluster[1].commit == commit


# 3.8 Persisted state.


def test_3_8_term_vote_and_log_are_stored_before_they_are_answered(trio: Any) -> None:
    trio[1].step(Message(MsgType.VOTE, 1, 2, term=3, index=0, log_term=0))
    ready = trio.begin(1)
    assert ready.must_sync and ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (3, 2)
    assert ready.messages == [] and ready.messages_after_append[0].type == MsgType.VOTE_RESP
    trio.finish(1)
    trio.restart(1)
    trio[1].step(Message(MsgType.VOTE, 1, 3, term=3, index=9, log_term=2))
    assert trio.ready(1).messages_after_append[0].reject


def test_3_8_a_commit_index_alone_need_not_be_synced(trio: Any) -> None:
    elect(trio)
    trio.check_each = False
    trio[2].step(Message(MsgType.APP, 2, 1, term=1, index=1, log_term=1, entries=[Entry(1, 2)]))
    trio.ready(2)
    trio[2].raft.log.commit_to(2)
    assert not trio.begin(2).must_sync


# 3.10 Leadership transfer, 4 membership, 5 snapshots, 6 clients, 9.6 pre-vote, 10.2.1: scenarios in
# testdata. Here only what is easier to say in Python.


def test_4_1_a_new_member_does_not_end_the_leaders_lease(sim: ModuleType) -> None:
    """It counts as active until it had a chance to speak."""
    cluster = sim.Cluster()
    cluster.add(1, ConfState(voters=(1,)))
    elect(cluster)
    cluster.tick(1, 2)
    cluster.run()
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_NODE, 2))
    cluster.run()
    cluster.tick(1)
    assert cluster[1].is_leader
    cluster.tick(1, 3)
    assert not cluster[1].is_leader


def test_5_a_snapshot_carries_the_configuration(sim: ModuleType) -> None:
    cluster = sim.Cluster(check_each=False)
    cluster.add(3, CONF)
    conf = ConfState((1, 2), (), (1, 3), (3,), auto_leave=True)
    snapshot = Snapshot(SnapshotMeta(11, 4, conf), b"a\nb")
    cluster[3].step(Message(MsgType.SNAP, 3, 1, term=4, snapshot=snapshot))
    cluster.run()
    status = cluster[3].status()
    assert (status.commit, status.applied) == (11, 11)
    assert status.configuration.outgoing == {1, 3} and status.configuration.auto_leave
    assert cluster.members[3].applied == [b"a", b"b"]


def test_6_2_no_leader_no_proposal(trio: Any) -> None:
    with pytest.raises(ProposalDropped):
        trio[1].propose([b"x"])


def test_10_2_1_appends_leave_before_the_leader_has_stored_them(trio: Any) -> None:
    elect(trio)
    trio[1].propose([b"x"])
    ready = trio.begin(1)
    assert {m.type for m in ready.messages} == {MsgType.APP}
    assert ready.messages_after_append == [] and ready.entries[0].data == b"x"
    trio.run()
    assert trio[1].commit == 2
