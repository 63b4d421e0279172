"""What the API wants changed reaches raft as soon as raft takes it, and not twice."""

from types import SimpleNamespace
from typing import cast

import pytest
from google.protobuf.message import Message

from pyetcd.proto.errors import ContextDeadlineExceeded, EtcdError, Stopped, TooManyRequests
from pyetcd.proto.rpc_pb2 import MemberAddResponse
from pyetcd.raft.types import ConfChange, ConfChangeType, ProposalDropped
from pyetcd.server.loop import Driver
from pyetcd.server.membership import CHANGES_MAX, Membership
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.propose import Proposer, RequestIds
from pyetcd.store.members import Members

TIMEOUT_S = 7.0


class Raft:
    """Takes a change only while it is open; takes one at a time, as raft does."""

    apply_gap = 0
    replica = SimpleNamespace(node=SimpleNamespace(leader=0))

    def __init__(self) -> None:
        self.is_open = True
        self.taken: list[ConfChange] = []

    def propose_conf_change(self, change: ConfChange) -> None:
        if not self.is_open:
            raise ProposalDropped("a configuration change may be pending")
        self.is_open = False
        self.taken.append(change)

    def submit(self, request_id: int, data: bytes) -> None:
        raise AssertionError

    submit_as_leader = submit

    def withdraw(self, request_id: int) -> bool:
        return False


class World:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.raft = Raft()
        self.answers: list[Message | EtcdError] = []
        self.membership = Membership(
            member_id=1,
            members=cast(Members, None),
            clock=self,
            timeout_s=TIMEOUT_S,
            strict_reconfig_check=True,
            removed=lambda: None,
        )
        self.proposer = Proposer(
            self.raft,
            RequestIds(1, 0.0),
            monotonic_s=self.monotonic_s,
            request_bytes_max=1 << 20,
            timeout_s=TIMEOUT_S,
        )
        driver, transport = cast(Driver, self.raft), cast(PeerTransport, None)
        self.membership.bind(driver, self.proposer, transport)

    def monotonic_s(self) -> float:
        return self.now_s

    wall_s = monotonic_s

    def add(self, node_id: int) -> None:
        self.membership.configure(ConfChange(ConfChangeType.ADD_NODE, node_id), self.answers.append)

    def tick(self, seconds: float = 0.1) -> None:
        self.now_s += seconds
        self.proposer.expire()
        self.membership.ticked()

    def apply(self, change: ConfChange) -> None:
        self.proposer.resolve(change.id, MemberAddResponse())


@pytest.fixture
def world() -> World:
    return World()


def test_changes_in_quick_succession(world: World) -> None:
    """The answer to the first leaves while raft still counts it as pending."""
    world.add(2)
    world.add(3)
    world.add(4)
    for count in (1, 2, 3):
        world.tick()
        assert [change.node_id for change in world.raft.taken] == [2, 3, 4][:count]
        world.apply(world.raft.taken[-1])
        world.raft.is_open = True
    world.tick()
    assert len(world.raft.taken) == 3
    assert all(isinstance(answer, MemberAddResponse) for answer in world.answers)
    assert len(world.answers) == 3


def test_a_change_waits_for_a_leader(world: World) -> None:
    world.raft.is_open = False
    world.add(2)
    world.tick(TIMEOUT_S - 1)
    assert not world.answers
    world.raft.is_open = True
    world.tick()
    world.apply(world.raft.taken[0])
    assert isinstance(world.answers[0], MemberAddResponse)


def test_no_longer_than_the_request_timeout(world: World) -> None:
    world.raft.is_open = False
    world.add(2)
    world.tick(TIMEOUT_S)
    world.raft.is_open = True
    world.tick()
    assert [type(answer) for answer in world.answers] == [ContextDeadlineExceeded]
    assert not world.raft.taken, "who was told that it failed must not see it happen"


def test_a_stop_answers(world: World) -> None:
    world.raft.is_open = False
    world.add(2)
    world.proposer.stop()
    world.add(3)
    assert [type(answer) for answer in world.answers] == [Stopped, Stopped]


def test_too_many_changes(world: World) -> None:
    world.raft.is_open = False
    for node_id in range(CHANGES_MAX + 1):
        world.add(node_id + 2)
    assert [type(answer) for answer in world.answers] == [TooManyRequests]


def test_whether_the_links_have_held() -> None:
    """etcd cluster_util.go: isConnectedSince, isConnectedToQuorumSince."""
    world = World()
    node = SimpleNamespace(leader=0)
    links = {2: 50.0, 3: None}
    world.membership.driver = cast(Driver, SimpleNamespace(replica=SimpleNamespace(node=node)))
    world.membership.transport = cast(
        PeerTransport, SimpleNamespace(peer_ids=links.keys(), active_since=links.get)
    )
    world.membership._members = cast(Members, SimpleNamespace(all=lambda: [1, 2, 3]))
    held = world.membership.is_connected_since
    assert held(60.0)  # no leader: not the links' fault
    for leader, since_s, expected in (
        (2, 60.0, True),
        (2, 40.0, False),  # it came up again meanwhile
        (3, 60.0, False),
        (1, 60.0, True),
        (1, 40.0, False),  # a leader that had no quorum
    ):
        node.leader = leader
        assert held(since_s) is expected, (leader, since_s)
