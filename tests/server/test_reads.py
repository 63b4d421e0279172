"""Linearizable reads: rounds, contexts that are never used twice, the applied index, giving up."""

import pytest

from pyetcd.proto import errors
from pyetcd.server import reads
from pyetcd.server.propose import RequestIds
from pyetcd.server.reads import LinearizableReads


class Target:
    """The driver as reads see it."""

    def __init__(self):
        self.applied_index = 0
        self.contexts = []
        self.asked_to_start = 0

    def request_read_index(self, context):
        self.contexts.append(context)

    def read_soon(self):
        self.asked_to_start += 1


@pytest.fixture
def target():
    return Target()


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def linearizable(target, clock):
    return start(target, clock, wall_s=1000.0)


def start(target, clock, wall_s):
    ids = RequestIds(7, wall_s)
    return LinearizableReads(target, next_id=ids.next, monotonic_s=lambda: clock[0], timeout_s=7.0)


def test_one_round_for_all_who_wait(linearizable, target):
    answers = []
    for _ in range(3):
        linearizable.wait(answers.append)
    assert linearizable.has_queued and target.asked_to_start == 3
    linearizable.start_round()
    assert len(target.contexts) == 1 and not linearizable.has_queued
    linearizable.confirmed(5, target.contexts[0])
    assert not answers  # entry 5 is not applied yet
    target.applied_index = 5
    linearizable.applied(5)
    assert answers == [None] * 3


def test_who_comes_later_needs_a_later_round(linearizable, target):
    first, second = [], []
    linearizable.wait(first.append)
    linearizable.start_round()
    linearizable.wait(second.append)
    assert not linearizable.has_queued  # one round at a time
    target.applied_index = 9
    linearizable.confirmed(4, target.contexts[0])
    assert first == [None] and second == [] and linearizable.has_queued
    linearizable.start_round()
    linearizable.confirmed(4, target.contexts[1])
    assert second == [None]


def test_a_retry_has_its_own_context(linearizable, target, clock):
    answers = []
    linearizable.wait(answers.append)
    linearizable.start_round()
    clock[0] += reads.RETRY_S
    linearizable.expire()
    old, new = target.contexts
    assert old != new
    linearizable.confirmed(0, old)  # late: etcd once took it for the answer (etcd#20418)
    assert not answers
    linearizable.confirmed(0, new)
    assert answers == [None]


def test_an_answer_to_an_earlier_run_is_none(linearizable, target, clock):
    """The leader held the question while this member restarted: its index is from before."""
    linearizable.wait(lambda error: None)
    linearizable.start_round()
    again, answers = start(target, clock, wall_s=1000.01), []
    again.wait(answers.append)
    again.start_round()
    before, now = target.contexts
    again.confirmed(0, before)
    assert not answers
    again.confirmed(0, now)
    assert answers == [None]


def test_a_new_leader_is_asked_again(linearizable, target):
    answers, later = [], []
    linearizable.wait(answers.append)
    linearizable.start_round()
    linearizable.wait(later.append)
    linearizable.leader_changed()
    old, new = target.contexts
    linearizable.confirmed(0, old)
    assert not answers and not later
    linearizable.confirmed(0, new)
    assert answers == [None] and not later


@pytest.mark.parametrize("stage", ["queued", "asked", "confirmed"])
def test_giving_up(linearizable, target, clock, stage):
    answers = []
    linearizable.wait(answers.append)
    if stage != "queued":
        linearizable.start_round()
    if stage == "confirmed":
        linearizable.confirmed(1000, target.contexts[0])
    clock[0] += 7.0
    linearizable.expire()
    assert [type(answer) for answer in answers] == [errors.Timeout]
    assert linearizable.failed_total == linearizable.slow_total == 1


def test_bound_and_stop(linearizable, monkeypatch):
    answers = []
    monkeypatch.setattr(reads, "WAITING_MAX", 1)
    linearizable.wait(answers.append)
    linearizable.wait(answers.append)
    assert [type(answer) for answer in answers] == [errors.TooManyRequests]
    linearizable.stop()
    linearizable.wait(answers.append)
    assert [type(answer) for answer in answers[1:]] == [errors.Stopped] * 2
