"""Leases by facts (SURFACE 8.4, RELIABILITY 1.6), with a clock that stands until it is set."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from pyetcd.proto import errors
from pyetcd.proto.rpc_pb2 import (
    DeleteRangeRequest,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
)
from pyetcd.store import lease as lease_module
from pyetcd.store.lease import PILE_UP_RATE, Expiring, NotPrimary, ttl_min_s


def grant(machine: Any, id: int, ttl_s: int = 60) -> int:
    return int(machine.do(lease_grant=LeaseGrantRequest(ID=id, TTL=ttl_s)).TTL)


def revoke(machine: Any, id: int) -> Any:
    return machine.do(lease_revoke=LeaseRevokeRequest(ID=id))


def checkpoint(machine: Any, id: int, left_s: int) -> None:
    point = LeaseCheckpoint(ID=id, remaining_TTL=left_s)
    machine.do(lease_checkpoint=LeaseCheckpointRequest(checkpoints=[point]))


def remaining(machine: Any, id: int) -> float:
    return float(machine.lessor.remaining_s(machine.lessor.get(id)))


def test_item_37_the_shortest_ttl_is_one_and_a_half_election_timeouts(machine: Any) -> None:
    assert ttl_min_s(election_ticks=10, tick_ms=100) == 2
    assert ttl_min_s(election_ticks=50, tick_ms=100) == 8
    assert ttl_min_s(election_ticks=5, tick_ms=100) == 1
    assert grant(machine, 1, 1) == 2
    assert grant(machine, 2, 0) == 2
    assert grant(machine, 3, -5) == 2
    assert grant(machine, 4, 3) == 3


def test_item_37_the_longest_ttl(machine: Any) -> None:
    assert grant(machine, 1, 9_000_000_000) == 9_000_000_000
    with pytest.raises(errors.LeaseTTLTooLarge):
        grant(machine, 2, 9_000_000_001)


def test_item_37_ids(machine: Any) -> None:
    grant(machine, -7)
    grant(machine, (1 << 63) - 1)
    with pytest.raises(errors.LeaseExist):
        grant(machine, -7)
    with pytest.raises(errors.LeaseNotFound):
        grant(machine, 0)  # the server has picked one before
    machine.put("a", lease=-7)
    machine.reopen()
    assert machine.lessor.keys(-7) == [b"a"]


def test_item_38_the_remaining_time_is_truncated(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 60)
    machine.now_s += 0.001
    assert int(remaining(machine, 1)) == 59


def test_item_38_missing_leases(machine: Any) -> None:
    machine.lessor.promote(0)
    with pytest.raises(errors.LeaseNotFound):
        machine.lessor.renew(9)
    with pytest.raises(errors.LeaseNotFound):
        revoke(machine, 9)
    assert machine.lessor.get(9) is None and machine.lessor.keys(9) == []


def test_item_40_only_the_primary_expires_and_renews(machine: Any) -> None:
    grant(machine, 1, 5)
    machine.now_s += 100
    assert machine.lessor.expired() == []
    with pytest.raises(NotPrimary):
        machine.lessor.renew(1)
    machine.lessor.promote(1.0)
    assert machine.lessor.expired() == []
    machine.now_s += 6.0
    assert machine.lessor.expired() == [1]
    machine.lessor.demote()
    machine.now_s += 100
    assert machine.lessor.expired() == []


def test_item_40_a_new_primary_starts_in_full_plus_one_election_timeout(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 60)
    machine.now_s += 50
    machine.lessor.demote()
    machine.lessor.promote(1.0)
    assert remaining(machine, 1) == 61.0


def test_item_40_an_expired_lease_is_reported_again_until_it_is_gone(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 2)
    machine.now_s += 2
    assert machine.lessor.expired() == [1]
    machine.now_s += 1
    assert machine.lessor.expired() == []
    machine.now_s += 2
    assert machine.lessor.expired() == [1]
    revoke(machine, 1)
    machine.now_s += 10
    assert machine.lessor.expired() == []


def test_item_40_the_earliest_first_and_no_more_than_the_limit(machine: Any) -> None:
    machine.lessor.promote(0)
    for id in range(1, 8):
        grant(machine, id, 20 - id)
    machine.now_s += 100
    assert machine.lessor.expired(limit=3) == [7, 6, 5]
    assert machine.lessor.expired() == [4, 3, 2, 1]


def test_item_40_revoking_deletes_the_keys_in_order_in_one_revision(
    machine: Any, client: Any
) -> None:
    grant(machine, 1)
    for key in "cab":
        machine.put(key, lease=1)
    client.watch("a", "z")
    assert revoke(machine, 1).header.revision == 5
    assert client.events() == [("-a", 5), ("-b", 5), ("-c", 5)]
    rows = machine.backend.query("SELECT rev & 8388607, key FROM revisions WHERE value IS NULL")
    assert rows == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_item_2_revoking_a_lease_without_keys_uses_no_revision(machine: Any) -> None:
    grant(machine, 1)
    assert revoke(machine, 1).header.revision == 1


def test_item_40_leases_survive_a_restart_in_full(machine: Any) -> None:
    grant(machine, 1, 60)
    machine.put("a", lease=1)
    machine.reopen()
    machine.lessor.promote(0)
    assert remaining(machine, 1) == 60
    revoke(machine, 1)
    assert machine.keyspace.range(b"a").rows == []


def test_item_41_a_put_with_an_unknown_lease_is_refused(machine: Any) -> None:
    with pytest.raises(errors.LeaseNotFound):
        machine.put("a", lease=5)
    assert machine.keyspace.revision == 1


def test_item_41_a_key_belongs_to_its_last_lease(machine: Any) -> None:
    grant(machine, 1)
    grant(machine, 2)
    machine.put("a", lease=1)
    machine.put("a", lease=2)
    assert (machine.lessor.keys(1), machine.lessor.keys(2)) == ([], [b"a"])
    machine.put("b", lease=2)
    machine.put("b")  # item 4: without a lease it has none any more
    machine.do(put=PutRequest(key=b"a", value=b"x", ignore_lease=True))
    assert machine.lessor.keys(2) == [b"a"]
    machine.do(delete_range=DeleteRangeRequest(key=b"a"))
    assert machine.lessor.keys(2) == []
    revoke(machine, 1)
    revoke(machine, 2)
    assert [row[1] for row in machine.keyspace.range(b"a", b"z").rows] == [b"b"]


def test_item_41_leases_are_listed_by_remaining_time(machine: Any) -> None:
    machine.lessor.promote(0)
    for id, ttl_s in ((1, 30), (2, 10), (3, 20)):
        grant(machine, id, ttl_s)
    assert machine.lessor.ids() == [2, 3, 1]


def test_item_42_checkpoints_of_long_leases_every_five_minutes(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 3600)
    grant(machine, 2, 300)
    assert machine.lessor.due_checkpoints() == []
    machine.now_s += 300
    assert machine.lessor.due_checkpoints() == [(1, 3300)]
    assert machine.lessor.due_checkpoints() == []
    checkpoint(machine, 1, 3300)
    machine.now_s += 300
    assert machine.lessor.due_checkpoints() == [(1, 3000)]


def test_row_24_remaining_time_survives_leader_changes_and_restart(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 3600)
    for _ in range(3):
        machine.now_s += 310
        for id, left_s in machine.lessor.due_checkpoints():
            checkpoint(machine, id, left_s)
        machine.now_s += 100  # lost: within one checkpoint
        machine.lessor.demote()
        machine.lessor.promote(1.0)
    machine.reopen()
    machine.lessor.promote(1.0)
    # Three times 310 s were checkpointed; each change gave one election timeout back.
    assert 3600 - 3 * 310 <= remaining(machine, 1) <= 3600 - 3 * 310 + 4


def test_a_renewal_forgets_the_checkpoint(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 3600)
    checkpoint(machine, 1, 500)
    assert machine.lessor.must_forget_checkpoint(1)
    checkpoint(machine, 1, 0)
    assert not machine.lessor.must_forget_checkpoint(1)
    assert machine.lessor.renew(1) == 3600
    machine.reopen()
    machine.lessor.promote(0)
    assert remaining(machine, 1) == 3600


def test_checkpoints_of_unknown_leases_are_passed_over(machine: Any) -> None:
    checkpoint(machine, 77, 5)
    assert machine.backend.query("SELECT * FROM leases") == []


def test_row_23_an_expired_lease_waits_for_its_revoke(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 5)
    machine.now_s += 4.9
    assert machine.lessor.renew(1) == 5
    machine.now_s += 5
    with pytest.raises(Expiring):
        machine.lessor.renew(1)
    called: list[str] = []
    machine.lessor.when_settled(1, lambda: called.append("revoked"))
    forgotten = lambda: called.append("forgotten")  # noqa: E731
    machine.lessor.when_settled(1, forgotten)
    machine.lessor.forget_waiter(1, forgotten)
    revoke(machine, 1)
    assert called == ["revoked"]
    with pytest.raises(errors.LeaseNotFound):
        machine.lessor.renew(1)


def test_row_23_waiters_hear_of_a_leader_change(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 5)
    called: list[bool] = []
    machine.lessor.when_settled(1, lambda: called.append(True))
    machine.lessor.demote()
    assert called == [True]


def test_a_renewal_adds_nothing_to_the_heap(machine: Any) -> None:
    machine.lessor.promote(0)
    grant(machine, 1, 5)
    for _ in range(50):
        machine.now_s += 1
        machine.lessor.renew(1)
        machine.lessor.expired()
    assert len(machine.lessor._expiries) == 1
    machine.now_s += 5
    assert machine.lessor.expired() == [1]


def test_many_equal_leases_do_not_all_expire_in_one_second(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "PILE_UP_LEASES", 100)
    for id in range(1, 1801):
        machine.lessor.grant(id, 10)
    machine.lessor.promote(0)
    counts = []
    machine.now_s += 9
    for _ in range(4):
        machine.now_s += 1
        found = machine.lessor.expired(limit=10_000)
        for id in found:
            revoke(machine, id)
        counts.append(len(found))
    assert sum(counts) == 1800
    assert max(counts) <= PILE_UP_RATE + 1 and counts[0] <= 1


def test_twin_random_life(make_machine: Callable[..., Any]) -> None:
    """Against a dictionary: which keys each lease has, and when it is over."""
    rng = random.Random(7)
    machine = make_machine(checkpoint_interval_s=0)
    machine.lessor.promote(0)
    deadline: dict[int, float] = {}
    ttl: dict[int, int] = {}
    owner: dict[str, int] = {}
    for _ in range(600):
        id, key, dice = rng.randint(1, 6), rng.choice("abcdef"), rng.random()
        if dice < 0.25 and id not in ttl:
            ttl[id] = grant(machine, id, rng.randint(2, 9))
            deadline[id] = machine.now_s + ttl[id]
        elif dice < 0.6:
            lease = id if id in ttl and rng.random() < 0.8 else 0
            machine.put(key, lease=lease)
            owner[key] = lease
        elif dice < 0.7:
            machine.do(delete_range=DeleteRangeRequest(key=key.encode()))
            owner.pop(key, None)
        elif dice < 0.8 and id in ttl and deadline[id] > machine.now_s:
            assert machine.lessor.renew(id) == ttl[id]
            deadline[id] = machine.now_s + ttl[id]
        elif dice < 0.83:
            machine.reopen()
            machine.lessor.promote(0)
            deadline = {id: machine.now_s + ttl[id] for id in ttl}
        else:
            machine.now_s += rng.random()
        over = sorted(id for id in ttl if deadline[id] <= machine.now_s)
        assert sorted(machine.lessor.expired()) == over
        for id in over:
            revoke(machine, id)
            del ttl[id], deadline[id]
            owner = {key: lease for key, lease in owner.items() if lease != id}
        assert {id: machine.lessor.keys(id) for id in ttl} == {
            id: sorted(key.encode() for key, lease in owner.items() if lease == id) for id in ttl
        }
        assert [row[1].decode() for row in machine.keyspace.range(b"a", b"z").rows] == sorted(owner)
