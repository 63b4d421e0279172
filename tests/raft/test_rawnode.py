"""The user's side: the Ready contract, start-up, status, and limits."""

import random
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.core import Config
from pyetcd.raft.describe import describe_ready
from pyetcd.raft.progress import ProgressState
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.storage import MemoryStorage
from pyetcd.raft.types import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    LogLost,
    Message,
    MsgType,
    ProposalDropped,
    Role,
    Snapshot,
    SnapshotMeta,
)


@pytest.fixture
def one(sim: ModuleType) -> Any:
    cluster = sim.Cluster()
    cluster.add(1, ConfState(voters=(1,)))
    sim.hup(cluster, 1)
    return cluster


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 0},
        {"heartbeat_ticks": 0},
        {"election_ticks": 1},
        {"applied": -1},
        {"inflight_max": 0},
        {"uncommitted_bytes_max": 0},
        {"inflight_bytes_max": 5},
        {"reads_max": 0},
    ],
)
def test_a_bad_configuration_is_refused(wrong: dict[str, int]) -> None:
    good = {"id": 1, "storage": MemoryStorage(), "rng": random.Random(1)}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RawNode(Config(**(good | wrong)))  # type: ignore[arg-type]


def test_one_ready_at_a_time(one: Any) -> None:
    node = one[1]
    node.propose([b"a"])
    ready = node.ready()
    assert not node.has_ready()
    with pytest.raises(AssertionError):
        node.ready()
    node.propose([b"b"])
    node.tick()
    assert not node.has_ready()
    with pytest.raises(AssertionError):
        node.advance(replace(ready))
    one.members[1].storage.append(ready.entries)
    node.advance(ready)
    assert [entry.data for entry in node.ready().entries] == [b"b"]


def test_nothing_to_do_is_no_ready(one: Any) -> None:
    assert not one[1].has_ready()


def test_a_batch_is_one_ready_and_one_append(sim: ModuleType) -> None:
    cluster = sim.three()
    sim.hup(cluster, 1)
    cluster[1].propose([b"%d" % n for n in range(500)])
    ready = cluster.begin(1)
    assert len(ready.entries) == 500
    assert [len(m.entries) for m in ready.messages] == [500, 500]
    cluster.run()
    assert len(cluster.members[3].applied) == 500


def test_a_batch_is_all_or_nothing(sim: ModuleType) -> None:
    cluster = sim.Cluster()
    cluster.add(1, ConfState(voters=(1, 2)), uncommitted_bytes_max=10, pre_vote=False)
    cluster[1].campaign()
    cluster.ready(1)
    cluster[1].step(Message(MsgType.VOTE_RESP, 1, 2, term=1))
    cluster[1].propose([b"12345"])
    with pytest.raises(ProposalDropped):
        cluster[1].propose([b"1", b"123456"])
    assert cluster[1].last_index == 2


def test_messages_that_were_given_are_not_changed(sim: ModuleType) -> None:
    """A follower forwards a copy, and a leader appends copies: networks may repeat messages."""
    cluster = sim.three()
    sim.hup(cluster, 1)
    proposal = Message(MsgType.PROP, 2, 3, entries=[Entry(0, 0, data=b"x")])
    for _ in range(2):
        cluster[2].step(proposal)
    cluster.run()
    assert proposal == Message(MsgType.PROP, 2, 3, entries=[Entry(0, 0, data=b"x")])
    assert cluster.members[1].applied == [b"x", b"x"]


def test_a_message_of_several_entries_keeps_all_but_a_refused_change(sim: ModuleType) -> None:
    cluster = sim.three()
    sim.hup(cluster, 1)
    entries = [
        Entry(0, 0, data=b"a"),
        Entry(0, 0, EntryType.CONF_CHANGE_V2),
        Entry(0, 0, data=b"b"),
    ]
    cluster[1].step(Message(MsgType.PROP, 1, 2, entries=entries))
    cluster.run()
    assert cluster.members[2].applied == [b"a", b"b"]
    assert cluster[1].last_index == 4


def test_a_change_that_cannot_be_read_is_refused(one: Any) -> None:
    entry = Entry(0, 0, EntryType.CONF_CHANGE, b"\xff")
    with pytest.raises(ProposalDropped, match="not a configuration change"):
        one[1].step(Message(MsgType.PROP, 1, 2, entries=[entry]))


def test_start_from_what_was_stored() -> None:
    storage = MemoryStorage(ConfState((1, 2)))
    storage.append([Entry(1, 1), Entry(1, 2), Entry(2, 3)])
    storage.hard_state = HardState(2, 1, 2)
    node = RawNode(Config(id=1, storage=storage, rng=random.Random(1), applied=1))
    assert (node.term, node.commit, node.applied, node.last_index) == (2, 2, 1, 3)
    ready = node.ready()
    assert [entry.index for entry in ready.committed_entries] == [2]
    assert ready.hard_state is None and not ready.must_sync
    node.advance(ready)
    assert not node.has_ready()


def test_start_from_a_snapshot() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(SnapshotMeta(7, 3, ConfState((1, 2), (3,)))))
    node = RawNode(Config(id=1, storage=storage, rng=random.Random(1)))
    assert (node.commit, node.applied, node.last_index) == (7, 7, 7)
    assert node.status().configuration == Configuration(frozenset({1, 2}), learners=frozenset({3}))


@pytest.mark.parametrize(("hard", "applied"), [(HardState(2, 1, 9), 0), (HardState(2, 1, 0), 9)])
def test_a_log_shorter_than_what_was_committed_or_applied_is_lost(
    hard: HardState, applied: int
) -> None:
    storage = MemoryStorage(ConfState((1,)))
    storage.append([Entry(1, 1)])
    storage.hard_state = hard
    with pytest.raises(LogLost):
        RawNode(Config(id=1, storage=storage, rng=random.Random(1), applied=applied))


def test_status(sim: ModuleType) -> None:
    cluster = sim.three()
    sim.hup(cluster, 2)
    status = cluster[2].status()
    assert (status.id, status.term, status.vote, status.leader) == (2, 1, 2, 2)
    assert (status.role, status.commit, status.applied) == (Role.LEADER, 1, 1)
    peer = status.progress[1]
    assert (peer.match, peer.next, peer.state) == (1, 2, ProgressState.REPLICATE)
    assert cluster[1].status().progress == {} and not cluster[1].is_leader


def test_reads_that_are_too_many_are_dropped(sim: ModuleType) -> None:
    cluster = sim.three(reads_max=2)
    cluster[1].campaign()
    while not cluster[1].is_leader:
        cluster.turn()
    for n in range(4):
        cluster[1].read_index(b"early%d" % n)
    cluster.run()
    for n in range(3):
        cluster[1].read_index(b"late%d" % n)
    cluster.run()
    contexts = [state.context for state in cluster.members[1].reads]
    assert contexts[-2:] == [b"late0", b"late1"] and len(contexts) <= 4


def test_a_read_without_its_context_is_ignored(one: Any) -> None:
    one[1].step(Message(MsgType.READ_INDEX, 1, 2))
    one[1].step(Message(MsgType.READ_INDEX_RESP, 1, 1, term=1))
    assert not one[1].has_ready()


def test_the_text_of_a_ready() -> None:
    storage = MemoryStorage(ConfState((1,)))
    node = RawNode(Config(id=1, storage=storage, rng=random.Random(1)))
    node.campaign()
    assert describe_ready(node.ready()) == ["PRE_CANDIDATE leader=0"]


def test_an_election_while_what_was_applied_is_compacted_already() -> None:
    """The state machine is ahead of raft until the Ready comes back, and so may be compaction."""
    storage = MemoryStorage(ConfState(voters=(1, 2, 3)))
    storage.append([Entry(1, index, data=b"x") for index in range(1, 6)])
    storage.hard_state = HardState(1, 0, 4)
    node = RawNode(Config(id=1, storage=storage, rng=random.Random(1), pre_vote=False))
    ready = node.ready()
    assert [entry.index for entry in ready.committed_entries] == [1, 2, 3, 4]
    storage.create_snapshot(3, ConfState(voters=(1, 2, 3)))
    storage.compact(3)
    node.campaign()
    assert node.role == Role.CANDIDATE and node.applied == 0
    node.advance(ready)
    assert node.applied == 4
