"""Proposals: ids, answers exactly once, etcd's three kinds of giving up, the bounds."""

import pytest

from pyetcd.proto import errors
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest, RequestHeader
from pyetcd.proto.rpc_pb2 import PutRequest, PutResponse
from pyetcd.server import propose
from pyetcd.server.config import load
from pyetcd.server.prepare import tuning_of
from pyetcd.server.propose import Proposer, RequestIds


class Target:
    """The driver as a proposer sees it."""

    def __init__(self):
        self.apply_gap = 0
        self.inbox = {}
        self.as_leader = []

    def submit(self, request_id, data):
        self.inbox[request_id] = data

    def submit_as_leader(self, request_id, data):
        self.as_leader.append(request_id)

    def withdraw(self, request_id):
        return self.inbox.pop(request_id, None) is not None


@pytest.fixture
def target():
    return Target()


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def proposer(target, clock):
    return Proposer(
        target,
        RequestIds(0xABCD1234, 1.0),
        monotonic_s=lambda: clock[0],
        request_bytes_max=1000,
        timeout_s=7.0,
    )


def put(value=b"v"):
    return InternalRaftRequest(put=PutRequest(key=b"k", value=value))


def test_ids_are_laid_out_as_etcds():
    ids = RequestIds(0x1111_2222_3333_ABCD, 1_700_000_000.123)
    first, second = ids.next(), ids.next()
    assert first >> 48 == 0xABCD and second == first + 1
    assert (first >> 8) & 0xFF_FFFF_FFFF == 1_700_000_000_123 & 0xFF_FFFF_FFFF


def test_a_wall_clock_set_back_makes_no_id_again():
    """A machine without a battery starts at the same time of day each time."""
    config = load([], {})
    first, second = (RequestIds(7, 25.0, salt=tuning_of(config).ids_salt) for _ in range(2))
    earlier = {first.next() for _ in range(100_000)}
    assert not earlier & {second.next() for _ in range(100_000)}


def test_an_answer_comes_once(proposer, target):
    answers = []
    proposer.propose(put(), answers.append)
    (request_id,) = target.inbox
    header = InternalRaftRequest.FromString(target.inbox[request_id]).header
    assert header == RequestHeader(ID=request_id)
    response = PutResponse()
    proposer.resolve(request_id, response)
    proposer.resolve(request_id, response)
    proposer.resolve(request_id + 1, response)  # another member's
    assert answers == [response] and proposer.pending == 0


@pytest.mark.parametrize(
    ("taken", "elected_s", "connected", "kind"),
    [
        (False, 101.0, False, errors.ContextDeadlineExceeded),  # no leader: it will never commit
        (True, 0.0, True, errors.Timeout),
        (True, 99.0, True, errors.Timeout),  # elected before
        (True, 101.5, False, errors.TimeoutDueToLeaderFail),
        (True, 103.0, True, errors.Timeout),  # it was too long on its way before the election
        (True, 0.0, False, errors.TimeoutDueToConnectionLost),
    ],
)
def test_giving_up(proposer, target, clock, taken, elected_s, connected, kind):
    answers = []
    proposer.propose(put(), answers.append)
    if taken:
        target.inbox.clear()
    proposer.elected_s = elected_s
    proposer.is_connected_since = lambda since_s: connected
    clock[0] = 106.9
    proposer.expire()
    assert not answers
    clock[0] = 107.0
    proposer.expire()
    assert [type(answer) for answer in answers] == [kind]
    assert not target.inbox and proposer.failed_total == 1


def test_what_a_member_says_itself_has_no_bound(proposer, target):
    request = InternalRaftRequest()
    request.cluster_member_attr_set.member_attributes.name = "x" * 1000
    proposer.propose(request, lambda answer: None)
    assert len(target.inbox) == 1


def test_bounds(proposer, target, monkeypatch):
    answers = []
    proposer.propose(put(b"x" * 1000), answers.append)
    target.apply_gap = propose.APPLY_GAP_MAX + 1
    proposer.propose(put(), answers.append)
    target.apply_gap = 0
    monkeypatch.setattr(propose, "PENDING_MAX", 1)
    proposer.propose(put(), answers.append)
    proposer.propose(put(), answers.append)
    kinds = [errors.RequestTooLarge, errors.TooManyRequests, errors.TooManyRequests]
    assert [type(answer) for answer in answers] == kinds
    assert len(target.inbox) == 1


def test_only_a_leader_proposes_for_itself(proposer, target):
    proposer.propose_as_leader(put(), lambda answer: None)
    assert not target.inbox and len(target.as_leader) == 1


def test_stopping_answers_everyone(proposer):
    answers = []
    proposer.propose(put(), answers.append)
    proposer.stop()
    proposer.propose(put(), answers.append)
    assert [type(answer) for answer in answers] == [errors.Stopped, errors.Stopped]
