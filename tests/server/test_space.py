"""The watch over free space, with a disk that says of itself what the test wants."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyetcd.proto.errors import Timeout
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import NOSPACE, AlarmRequest, AlarmResponse
from pyetcd.server.space import AGAIN_S, SpaceWatch
from pyetcd.store.alarms import Alarms
from pyetcd.store.backend import Backend
from pyetcd.store.space import Reserve

MEMBER = 7
PLENTY = 10 << 30


class Disk(Reserve):
    """Has as much as it says."""

    free = PLENTY

    def free_bytes(self) -> int:
        return self.free


class Member:
    """As much of one as the watch needs, over restarts."""

    def __init__(self, folder: Path) -> None:
        self.backend = Backend.open(str(folder / "kv.db"), create=True)
        self.wal = SimpleNamespace(
            path=str(folder / "wal.db"), member_id=MEMBER, waiting_bytes=0, on_full=None
        )
        self.alarms = Alarms(self.backend)
        self.applier = SimpleNamespace(is_within_quota=True)
        self.is_tight = False
        self.has_leader = True
        self.now_s = 100.0
        self.folder = folder
        self.start()

    def start(self, free: int = PLENTY) -> None:
        self.disk = Disk(str(self.folder))
        self.disk.unit_bytes, self.disk.size_bytes = 1 << 20, 4 << 20
        self.disk.free = free
        self.watch = SpaceWatch(
            self.disk,
            machine=cast("Any", self),
            proposer=cast("Any", self),
            monotonic_s=lambda: self.now_s,
        )

    def propose(self, request: InternalRaftRequest, done: Any) -> None:
        if not self.has_leader:
            done(Timeout())
            return
        alarm = request.alarm
        assert (alarm.memberID, alarm.alarm) == (MEMBER, NOSPACE)
        is_set = alarm.action == AlarmRequest.ACTIVATE
        change = self.alarms.activate if is_set else self.alarms.deactivate
        change(alarm.memberID, alarm.alarm)
        done(AlarmResponse())

    def ticks(self, count: int = 3) -> None:
        for _ in range(count):
            self.now_s += AGAIN_S
            self.watch.ticked()

    @property
    def state(self) -> tuple[bool, bool, int]:
        """Full, alarm, bytes in reserve (-1: no file)."""
        path = self.disk.path
        size = os.path.getsize(path) if os.path.exists(path) else -1
        return self.watch.is_full, self.alarms.nospace, size


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    made = Member(tmp_path)
    yield made
    made.watch.close()
    made.backend.close()


def test_full_and_not_any_more(member: Member) -> None:
    held = member.disk.size_bytes
    assert member.state == (False, False, held)
    member.disk.free = 100
    member.watch.look()
    assert member.state == (True, False, 0)  # refuses before anybody agrees to the alarm
    member.ticks()
    assert member.state == (True, True, 0)
    member.disk.free = held  # not enough for the reserve and a margin: no to and fro
    member.ticks()
    assert member.state == (True, True, 0)
    member.disk.free = PLENTY
    member.ticks()
    assert member.state == (False, False, held)
    assert member.watch.full_total == 1


def test_what_waits_for_a_checkpoint_must_fit(member: Member) -> None:
    member.disk.free = 50 << 20
    member.watch.look()
    assert not member.watch.is_full and not member.is_tight
    member.wal.waiting_bytes = 30 << 20
    member.watch.look()
    assert not member.watch.is_full and member.is_tight
    member.wal.waiting_bytes = 49 << 20
    member.watch.look()
    assert not member.watch.is_full
    member.wal.waiting_bytes = 50 << 20
    member.watch.look()
    assert member.watch.is_full


def test_without_a_leader_it_asks_again(member: Member) -> None:
    member.has_leader = False
    member.disk.free = 0
    member.ticks()
    assert member.state == (True, False, 0)
    member.has_leader = True
    member.ticks()
    assert member.state == (True, True, 0)
    member.has_leader = False
    member.disk.free = PLENTY
    member.ticks()
    assert member.state == (False, True, 0)
    member.has_leader = True
    member.ticks()
    assert member.state == (False, False, member.disk.size_bytes)


def test_an_operator_cannot_disarm_a_full_disk(member: Member) -> None:
    member.disk.free = 0
    member.ticks()
    member.alarms.deactivate(MEMBER, NOSPACE)
    member.ticks()
    assert member.state == (True, True, 0)


def test_an_alarm_that_was_there_before_stays(member: Member) -> None:
    member.alarms.activate(MEMBER, NOSPACE)
    member.disk.free = 0
    member.ticks()
    assert member.state == (True, True, -1)
    member.disk.free = PLENTY
    member.ticks()
    assert member.state == (False, True, member.disk.size_bytes)


def test_the_alarm_stays_when_the_quota_is_exceeded_too(member: Member) -> None:
    member.disk.free = 0
    member.ticks()
    member.applier.is_within_quota = False
    member.disk.free = PLENTY
    member.ticks()
    assert member.state == (False, True, member.disk.size_bytes)
    member.applier.is_within_quota = True
    member.ticks()
    assert member.alarms.nospace, "an operator's from now on"


@pytest.mark.parametrize("is_full", [True, False])
def test_a_restart_remembers_whose_the_alarm_is(member: Member, *, is_full: bool) -> None:
    member.disk.free = 0
    member.ticks()
    member.watch.close()
    assert member.disk.is_claimed
    member.start(free=0 if is_full else PLENTY)
    assert member.watch.is_full == is_full
    member.disk.free = PLENTY
    member.ticks()
    assert member.state == (False, False, member.disk.size_bytes)


def test_the_log_gives_up_the_reserve_by_itself(member: Member) -> None:
    assert member.wal.on_full is not None
    member.disk.free = 8 << 20
    assert member.wal.on_full()
    assert not member.disk.is_held
    member.watch.look()
    assert member.watch.is_full


def test_no_reserve_beside_a_stopped_member(member: Member) -> None:
    member.watch.close()
    assert not os.path.exists(member.disk.path)
