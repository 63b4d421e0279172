"""Alarms and the quota: facts 43 to 46."""

import time
from typing import Any

import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store import alarms

NO_SPACE = (8, "etcdserver: mvcc: database space exceeded")
CORRUPT = (15, "etcdserver: corrupt cluster")
QUOTA_BYTES = 256 * 1024
GET, ACTIVATE, DEACTIVATE = (
    rpc.AlarmRequest.GET,
    rpc.AlarmRequest.ACTIVATE,
    rpc.AlarmRequest.DEACTIVATE,
)
PUT = rpc.RequestOp(request_put=rpc.PutRequest(key=b"p"))
READ = rpc.RequestOp(request_range=rpc.RangeRequest(key=b"p"))
DELETE = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"nothing"))
NESTED = rpc.RequestOp(request_txn=rpc.TxnRequest(success=[READ]))


def fill(side: Any) -> None:
    """Puts until there is no room, not even for a small one. How far the large ones get is chance:
    the size is measured when a batch is committed."""
    member_id = side.raw("Maintenance.Status").header.member_id
    deadline_s = time.monotonic() + 20
    for value in (b"x" * 8192, b""):
        disarm(side, rpc.NOSPACE, member_id=member_id)
        while side("KV.Put", key=b"big", value=value) != NO_SPACE:
            assert time.monotonic() < deadline_s


def listed(side: Any) -> list[tuple[int, int]]:
    return [(each.memberID, each.alarm) for each in side("Maintenance.Alarm").alarms]


def set_alarm(side: Any, kind: Any, *, member_id: int = 5) -> Any:
    return side("Maintenance.Alarm", action=ACTIVATE, memberID=member_id, alarm=kind)


def disarm(side: Any, kind: Any, *, member_id: int = 5) -> Any:
    return side("Maintenance.Alarm", action=DEACTIVATE, memberID=member_id, alarm=kind)


@pytest.fixture
def full(side: Any) -> Any:
    """A server whose store has no room, and whose alarm is set for it."""
    fresh = side.fresh(f"--quota-backend-bytes={QUOTA_BYTES}")
    fresh("KV.Put", key=b"small", value=b"v")
    fill(fresh)
    return fresh


def test_fact_43_what_a_request_costs() -> None:
    """256 bytes and what is put; a lease 64; of a transaction the dearer branch. The costs only
    show near the quota's last byte, where the sizes of the two files differ: the pure object."""
    assert alarms.put_cost_bytes(b"kk", b"vvv") == 256 + 5
    assert alarms.LEASE_COST_BYTES == 64
    two = rpc.TxnRequest(success=[PUT, PUT], failure=[PUT, READ, DELETE])
    assert alarms.txn_cost_bytes(two) == 2 * 257
    assert alarms.txn_cost_bytes(rpc.TxnRequest(success=[READ, DELETE])) == 0


def test_fact_43_what_is_refused_over_the_quota(full: Any) -> None:
    """Put, Txn and LeaseGrant, even before there is an alarm, and they raise it. 3.5.1 refuses
    also what adds nothing (docs/differences.md: requests that add nothing, when the quota is used
    up)."""
    member_id = full.raw("Maintenance.Status").header.member_id
    for request in (
        lambda: full("KV.Put", key=b"k"),
        lambda: full.txn(success=[PUT]),
        lambda: full("Lease.LeaseGrant", TTL=60),
    ):
        disarm(full, rpc.NOSPACE, member_id=member_id)
        assert listed(full) == []
        assert request() == NO_SPACE
        assert listed(full) == [(member_id, rpc.NOSPACE)]
    disarm(full, rpc.NOSPACE, member_id=member_id)
    deletes = full.txn(success=[DELETE])
    assert deletes == NO_SPACE if full.is_etcd else deletes.succeeded
    reads = full.txn(success=[READ])
    assert reads == NO_SPACE if full.is_etcd else reads.succeeded


def test_fact_44_what_goes_on_without_space(side: Any) -> None:
    """While the alarm is set: reads, deletes, compactions and everything but puts and leases."""
    fresh = side.fresh()
    fresh("KV.Put", key=b"small", value=b"v")
    lease = fresh("Lease.LeaseGrant", TTL=60).ID
    set_alarm(fresh, rpc.NOSPACE)
    for request in (
        fresh("KV.Put", key=b"k"),
        fresh.txn(success=[PUT]),
        fresh.txn(success=[READ], failure=[PUT]),
        fresh("Lease.LeaseGrant", TTL=60),
    ):
        assert request == NO_SPACE
    assert fresh("KV.Range", key=b"small").count == 1
    assert fresh.txn(success=[READ, DELETE]).succeeded
    assert fresh("KV.DeleteRange", key=b"small").deleted == 1
    assert fresh("KV.Compact", revision=3, physical=True).header.revision == 3
    assert fresh("Lease.LeaseRevoke", ID=lease).header.revision == 3
    fresh.raw("Maintenance.Defragment")
    assert len(fresh("Cluster.MemberList").members) == 1
    assert fresh("Auth.UserAdd", name="u", password="p").header.revision == 3
    disarm(fresh, rpc.NOSPACE)
    assert fresh("KV.Put", key=b"k").header.revision == 4


def test_fact_44_the_way_out(full: Any) -> None:
    """To disarm does not look at the size, the next put does; room comes by compacting and
    defragmenting."""
    member_id = full.raw("Maintenance.Status").header.member_id
    disarm(full, rpc.NOSPACE, member_id=member_id)
    assert listed(full) == []
    assert full("KV.Put", key=b"k", value=b"v") == NO_SPACE
    assert listed(full) == [(member_id, rpc.NOSPACE)]
    revision = full.revision()
    full("KV.Compact", revision=revision, physical=True)
    full.raw("Maintenance.Defragment")
    assert full.raw("Maintenance.Status").dbSize < QUOTA_BYTES
    assert full("KV.Put", key=b"k", value=b"v") == NO_SPACE  # until it is disarmed
    disarm(full, rpc.NOSPACE, member_id=member_id)
    assert full("KV.Put", key=b"k", value=b"v").header.revision == revision + 1


def test_fact_45_a_corrupt_cluster_changes_nothing(side: Any) -> None:
    """Whatever goes through the log to the keyspace is refused; what is read beside it answers."""
    fresh = side.fresh()
    fresh("KV.Put", key=b"p", value=b"v")
    lease = fresh("Lease.LeaseGrant", TTL=60).ID
    set_alarm(fresh, rpc.CORRUPT)
    for request in (
        fresh("KV.Put", key=b"p"),
        fresh("KV.DeleteRange", key=b"p"),
        fresh.txn(success=[PUT]),
        fresh.txn(success=[DELETE]),
        fresh.txn(success=[NESTED]),
        fresh("KV.Compact", revision=2),
        fresh("Lease.LeaseGrant", TTL=60),
        fresh("Lease.LeaseRevoke", ID=lease),
    ):
        assert request == CORRUPT
    assert fresh("KV.Range", key=b"p").count == 1
    assert fresh.txn(success=[READ]).succeeded
    fresh.process.kill()
    fresh.process.start()
    deadline_s = time.monotonic() + 20
    while fresh("KV.Put", key=b"p") != CORRUPT:  # it is replayed
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    disarm(fresh, rpc.CORRUPT)
    assert fresh("KV.Put", key=b"p").header.revision == 3


def test_fact_46_alarms_are_set_and_listed(side: Any) -> None:
    """For any member, also one that is not there; NONE sets nothing and lists every kind."""
    fresh = side.fresh()
    assert list(set_alarm(fresh, rpc.NONE).alarms) == []
    (made,) = set_alarm(fresh, rpc.NOSPACE, member_id=12345).alarms
    assert (made.memberID, made.alarm) == (12345, rpc.NOSPACE)
    set_alarm(fresh, rpc.CORRUPT, member_id=7)
    both = [(7, rpc.CORRUPT), (12345, rpc.NOSPACE)]
    assert sorted(listed(fresh)) == both
    only = fresh("Maintenance.Alarm", action=GET, alarm=rpc.CORRUPT).alarms
    assert [(each.memberID, each.alarm) for each in only] == [(7, rpc.CORRUPT)]
    status = fresh.raw("Maintenance.Status")
    assert sorted(status.errors) == ["memberID:12345 alarm:NOSPACE ", "memberID:7 alarm:CORRUPT "]
    (gone,) = disarm(fresh, rpc.CORRUPT, member_id=7).alarms
    assert (gone.memberID, gone.alarm) == (7, rpc.CORRUPT)
    assert list(disarm(fresh, rpc.CORRUPT, member_id=7).alarms) == []
    before = fresh.raw("Maintenance.Status").raftIndex
    assert listed(fresh) == [(12345, rpc.NOSPACE)]
    assert fresh.raw("Maintenance.Status").raftIndex == before + 1  # a list goes through the log


def test_fact_46_no_leader_is_an_error_of_the_status(leaderless: Any) -> None:
    """Beside the alarms that the member knows."""
    assert list(leaderless("Maintenance.Status").errors) == ["etcdserver: no leader"]
