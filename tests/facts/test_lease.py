"""Watches and rights, leaders and streams, leases: facts 35 to 42."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.auth_pb2 import Permission
from pyetcd.proto.keys import prefix_end
from pyetcd.store import lease as lease_module
from pyetcd.store.backend import Backend
from pyetcd.store.lease import Lessor

NO_LEADER = (14, "etcdserver: no leader")
NO_LEASE = (5, "etcdserver: requested lease not found")
HAS_LEADER = [("hasleader", "true")]
WAIT_S = 20.0


def until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def granted(side: Any, ttl_s: int, id: int = 0) -> int:
    return int(side("Lease.LeaseGrant", TTL=ttl_s, ID=id).ID)


def time_to_live(side: Any, id: int, *, keys: bool = False) -> Any:
    return side("Lease.LeaseTimeToLive", ID=id, keys=keys)


def kept_alive(side: Any, id: int) -> Any:
    stream = side.stream("Lease.LeaseKeepAlive")
    stream.ask(ID=id)
    return stream.take()


@pytest.fixture(scope="module")
def trios(machine_type: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """Three members of each program, made when they are first asked for."""
    machine = machine_type(tmp_path_factory.mktemp("facts-trio"))
    made: dict[str, list[Any]] = {}

    def get(program: str) -> list[Any]:
        if program not in made:
            timing = ("--heartbeat-interval=50", "--election-timeout=500")
            made[program] = machine.cluster(3, *timing, program=program)
            for node in made[program]:
                node.wait_healthy()
        return made[program]

    try:
        yield get
    finally:
        machine.close()


@pytest.fixture
def trio(side: Any, trios: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The leader of three, then the followers."""
    with contextlib.ExitStack() as stack:
        members = []
        for node in trios(side.program):
            member = type(side)(side.program, node.endpoint, side.fresh)
            member.prefix = side.prefix
            stack.callback(member.close)
            members.append(member)
        yield _led(members)


def _led(members: list[Any]) -> tuple[Any, list[Any]]:
    found: list[Any] = []

    def settled() -> bool:
        states = [member.raw("Maintenance.Status") for member in members]
        found[:] = [
            member
            for member, state in zip(members, states, strict=True)
            if state.leader == state.header.member_id
        ]
        return len(found) == 1 and len({state.leader for state in states}) == 1

    until(settled, "one leader")
    return found[0], [member for member in members if member is not found[0]]


# 35 and 36: who may watch


def test_fact_35_a_new_stream_that_wants_a_leader(leaderless: Any) -> None:
    """Without a leader a stream that asks for one by its metadata is refused at once."""
    stream = leaderless.stream("Watch.Watch", HAS_LEADER)
    stream.ask(create_request=rpc.WatchCreateRequest(key=b"k"))
    assert stream.take() == NO_LEADER
    stream = leaderless.stream("Watch.Watch")
    stream.ask(create_request=rpc.WatchCreateRequest(key=b"k"))
    assert stream.take().created


def test_fact_35_a_stream_whose_leader_goes(side: Any, machine: Any) -> None:
    """It ends when there has been no leader for three election timeouts, and not before; one that
    did not ask for a leader stays."""
    timing = ("--heartbeat-interval=50", "--election-timeout=500")
    nodes = [each.wait_healthy() for each in machine.cluster(2, *timing, program=side.program)]
    member = type(side)(side.program, nodes[1].endpoint, side.fresh)
    try:
        streams = [member.stream("Watch.Watch", metadata) for metadata in (HAS_LEADER, None)]
        for stream in streams:
            stream.ask(create_request=rpc.WatchCreateRequest(key=b"k"))
            assert stream.take().created
        nodes[0].kill()
        began_s = time.monotonic()
        assert streams[0].take() == NO_LEADER
        # The last heartbeat was at most one of its intervals before the kill.
        assert time.monotonic() - began_s > 3 * 0.5 - 0.1
        streams[1].ask(create_request=rpc.WatchCreateRequest(key=b"l"))
        assert streams[1].take().created
    finally:
        member.close()


def test_fact_36_rights_are_looked_at_when_a_watch_is_made(guarded: Any) -> None:
    """Who loses the right to read keeps a watch that he has, and gets no new one."""
    prefix, end = guarded.prefix, prefix_end(guarded.prefix)
    root, user = guarded.login("root"), guarded.login("user")
    permission = Permission(permType=Permission.READ, key=prefix, range_end=end)
    guarded.raw("Auth.RoleGrantPermission", name="role", perm=permission, metadata=root)
    create = rpc.WatchCreateRequest(key=prefix, range_end=end)
    stream = guarded.stream("Watch.Watch", user)
    stream.ask(create_request=create)
    assert stream.take().created
    revoked = {"role": "role", "key": prefix, "range_end": end}
    guarded.raw("Auth.RoleRevokePermission", metadata=root, **revoked)
    guarded.raw("KV.Put", key=prefix + b"k", value=b"v", metadata=root)
    assert [event.kv.value for event in stream.take().events] == [b"v"]
    # A token of before the change is an old one: the user logs in again.
    late = guarded.stream("Watch.Watch", guarded.login("user"))
    late.ask(create_request=create)
    answer = late.take()
    assert (answer.created, answer.canceled) == (True, True)
    assert "permission denied" in answer.cancel_reason


# 37 to 42: leases


def test_fact_37_what_is_granted(side: Any) -> None:
    """No less than one and a half election timeouts, rounded up; any id but one that exists."""
    asked = ((60, 60), (3, 3), (2, 2), (1, 2), (0, 2), (-5, 2))
    for ttl_s, given_s in asked:
        answer = side("Lease.LeaseGrant", TTL=ttl_s)
        assert given_s == answer.TTL and answer.ID > 0 and not answer.error
        side("Lease.LeaseRevoke", ID=answer.ID)
    assert side("Lease.LeaseGrant", TTL=9_000_000_001) == (11, "etcdserver: too large lease TTL")
    side("Lease.LeaseRevoke", ID=granted(side, 9_000_000_000))
    negative = -abs(hash(side.prefix)) - 1
    assert granted(side, 60, negative) == negative
    exists = (9, "etcdserver: lease already exists")
    assert side("Lease.LeaseGrant", TTL=60, ID=negative) == exists
    assert time_to_live(side, negative).grantedTTL == 60
    side("Lease.LeaseRevoke", ID=negative)


def test_fact_38_a_lease_that_is_not_there(side: Any) -> None:
    """It has the time to live -1, is kept alive with 0, and only to revoke it is an error."""
    answer = time_to_live(side, 12345, keys=True)
    assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (12345, -1, 0, [])
    assert (kept_alive(side, 12345).ID, kept_alive(side, 12345).TTL) == (12345, 0)
    assert side("Lease.LeaseRevoke", ID=12345) == NO_LEASE


def test_fact_38_whole_seconds_that_are_left(side: Any) -> None:
    """What remains is cut to seconds: a lease of a minute has 59 at once."""
    id = granted(side, 60)
    side.put(b"b", lease=id)
    side.put(b"a", lease=id)
    answer = time_to_live(side, id, keys=True)
    assert answer.TTL in (58, 59) and answer.grantedTTL == 60
    assert sorted(answer.keys) == [side.key(b"a"), side.key(b"b")]
    assert not time_to_live(side, id).keys
    assert kept_alive(side, id).TTL == 60
    side("Lease.LeaseRevoke", ID=id)


def test_fact_39_a_follower_asks_its_leader(trio: Any) -> None:
    """To keep a lease alive and to tell what is left of it; which leases there are it knows."""
    leader, followers = trio
    id = granted(leader, 60)
    leader.put(b"k", lease=id)
    for follower in followers:
        assert kept_alive(follower, id).TTL == 60
        answer = time_to_live(follower, id, keys=True)
        assert answer.TTL in (58, 59) and list(answer.keys) == [leader.key(b"k")]
        ids = [each.ID for each in follower("Lease.LeaseLeases").leases]
        assert id in ids
        assert time_to_live(follower, 12345).TTL == -1
        assert kept_alive(follower, 12345).TTL == 0
    leader("Lease.LeaseRevoke", ID=id)


def test_fact_39_a_list_of_leases_needs_no_leader(leaderless: Any) -> None:
    """It is answered from what the member has. (The rest has nobody to ask: fact 64.)"""
    assert list(leaderless("Lease.LeaseLeases").leases) == []


def test_fact_40_what_expires_goes_in_one_revision(side: Any) -> None:
    """The keys of a lease that has run out are deleted in their order, in one revision."""
    id = granted(side, 2)
    for name in (b"c", b"a", b"b"):
        side.put(name, lease=id)
    watch = side.watch()
    assert watch.take().created
    events = watch.take().events
    assert [(event.type, event.kv.key) for event in events] == [
        (1, side.key(b"a")),
        (1, side.key(b"b")),
        (1, side.key(b"c")),
    ]
    assert {event.kv.mod_revision for event in events} == {side.get_all().header.revision}
    assert time_to_live(side, id).TTL == -1


def test_fact_40_a_new_leader_gives_the_whole_time_again(trio: Any) -> None:
    """And an election timeout more, which whole seconds do not show."""
    leader, followers = trio
    id = granted(leader, 30)
    until(lambda: time_to_live(leader, id).TTL <= 28, "a second to go by")
    target = followers[0].raw("Maintenance.Status").header.member_id
    leader.raw("Maintenance.MoveLeader", targetID=target)
    led, _ = _led([leader, *followers])
    until(lambda: time_to_live(led, id).TTL > 0, "the new leader to have looked at its leases")
    assert time_to_live(led, id).TTL >= 29
    led("Lease.LeaseRevoke", ID=id)


def test_fact_40_a_restart_gives_the_whole_time_again(side: Any) -> None:
    """A lease survives, with its keys."""
    fresh = side.fresh()
    id = granted(fresh, 30)
    fresh.put(b"k", lease=id)
    until(lambda: time_to_live(fresh, id).TTL <= 28, "a second to go by")
    fresh.process.kill()
    fresh.process.start().wait_healthy()
    until(lambda: isinstance(time_to_live(fresh, id), rpc.LeaseTimeToLiveResponse), "an answer")
    answer = time_to_live(fresh, id, keys=True)
    assert answer.TTL >= 29 and list(answer.keys) == [fresh.key(b"k")]


def test_fact_40_how_many_at_once(tmp_path: Path) -> None:
    """Five hundred a look. The real one is not asked: a burst of leases would show it by times
    only."""
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    now_s = 0.0
    lessor = Lessor(backend, lambda: now_s)
    lessor.promote(0.0)
    for id in range(1, 1201):
        lessor.grant(id, 10)
    assert lessor.expired() == []
    now_s = 10.0
    assert lease_module.EXPIRED_MAX == 500
    assert [len(lessor.expired()) for _ in range(4)] == [500, 500, 200, 0]
    backend.close()


def test_fact_41_attached_to_the_last_lease(side: Any) -> None:
    """A put with a lease takes the key from the one it had; without one it has none."""
    assert side.put(b"k", lease=12345) == NO_LEASE
    first, second = granted(side, 60), granted(side, 60)
    side.put(b"k", lease=first)
    side.put(b"k", lease=second)
    assert not time_to_live(side, first, keys=True).keys
    assert list(time_to_live(side, second, keys=True).keys) == [side.key(b"k")]
    side("Lease.LeaseRevoke", ID=first)
    assert side.get(b"k").kvs[0].lease == second
    side.put(b"k")
    side("Lease.LeaseRevoke", ID=second)
    assert side.get(b"k").kvs[0].lease == 0


def test_fact_41_the_order_of_leases(side: Any) -> None:
    """They are listed as they will run out."""
    times_s = (300, 100, 400, 200)
    by_time = {ttl_s: granted(side, ttl_s) for ttl_s in times_s}
    listed = [each.ID for each in side("Lease.LeaseLeases").leases]
    ours = [id for id in listed if id in by_time.values()]
    assert ours == [by_time[ttl_s] for ttl_s in sorted(times_s)]
    for id in by_time.values():
        side("Lease.LeaseRevoke", ID=id)


def test_fact_42_what_is_left_is_written_down(tmp_path: Path) -> None:
    """Every five minutes, of leases that have more than that. Off in 3.5.1 (docs/differences.md:
    lease checkpoints); asked of the pure object, for it takes minutes."""
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    now_s = 0.0
    lessor = Lessor(backend, lambda: now_s)
    lessor.promote(0.0)
    lessor.grant(1, 300)
    lessor.grant(2, 900)
    found = []
    for minute in range(1, 15):
        now_s = 60.0 * minute
        for id, left_s in lessor.due_checkpoints():
            lessor.checkpoint(id, left_s)
            found.append((minute, id, left_s))
    assert found == [(5, 2, 600), (10, 2, 300)]
    again = Lessor(backend, lambda: now_s)
    again.promote(1.0)
    lease = again.get(2)
    assert lease is not None and again.remaining_s(lease) == 301.0
    backend.close()
