"""Applying entries: gates, answers, unknown requests (SURFACE 8.5), and the same log twice."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from pyetcd.proto import errors
from pyetcd.proto.membership_pb2 import (
    Attributes,
    ClusterMemberAttrSetRequest,
    ClusterVersionSetRequest,
    DowngradeInfoSetRequest,
)
from pyetcd.proto.raft_internal_pb2 import InternalAuthenticateRequest, InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthStatusRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DowngradeVersionTestRequest,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from pyetcd.proto.v2request_pb2 import Request as V2Request
from pyetcd.raft.types import ConfChange, ConfChangeType, Entry, EntryType
from pyetcd.store.alarms import txn_cost_bytes
from pyetcd.store.compact import CompactionJob, hash_kv
from pyetcd.store.members import Member, encode_member


def put_op(key: str = "a", value: str = "v") -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key.encode(), value=value.encode()))


PUT = PutRequest(key=b"a", value=b"v")
DELETE = DeleteRangeRequest(key=b"a")
READ_OP = RequestOp(request_range=RangeRequest(key=b"a"))
DELETE_OP = RequestOp(request_delete_range=DELETE)
NESTED_READ = TxnRequest(success=[RequestOp(request_txn=TxnRequest(success=[READ_OP]))])
NESTED_PUT = TxnRequest(success=[RequestOp(request_txn=TxnRequest(failure=[put_op()]))])
ENTRY_KINDS: dict[str, Any] = {
    "put": PUT,
    "delete_range": DELETE,
    "txn": TxnRequest(success=[put_op()]),
    "compaction": CompactionRequest(revision=1),
    "lease_grant": LeaseGrantRequest(ID=9, TTL=60),
    "lease_revoke": LeaseRevokeRequest(ID=1),
    "range": RangeRequest(key=b"a"),
}


def alarm(machine: Any, action: int, kind: int, member: int = 5) -> list[tuple[int, int]]:
    request = AlarmRequest(action=action, memberID=member, alarm=kind)  # type: ignore[arg-type]
    return [(found.memberID, found.alarm) for found in machine.do(alarm=request).alarms]


def test_the_empty_entry_of_a_new_leader(machine: Any) -> None:
    applied = machine.applier.apply(Entry(1, 1))
    assert (applied.request_id, applied.answer) == (0, None)


def test_answers_carry_the_id_and_the_revision(machine: Any) -> None:
    applied = machine.apply(put=PUT)
    assert applied.request_id == 1 and applied.error is None
    assert applied.response.header.revision == 2
    data = InternalRaftRequest(ID=77, put=PUT).SerializeToString()
    assert machine.applier.apply(Entry(1, 9, data=data)).request_id == 77
    for field in ("range", "compaction", "lease_grant", "txn", "delete_range"):
        answer = machine.apply(**{field: ENTRY_KINDS[field]}).response
        assert answer.header.revision == machine.keyspace.revision, field


def test_item_43_costs() -> None:
    two = TxnRequest(success=[put_op("a", "12345"), put_op("bb", "")], failure=[put_op()])
    assert txn_cost_bytes(two) == 256 + 6 + 256 + 2
    assert txn_cost_bytes(TxnRequest(success=[READ_OP, DELETE_OP])) == 0
    assert txn_cost_bytes(NESTED_PUT) == 258  # 3.5.33: nested puts count


def test_item_43_a_write_over_quota_is_applied_refused_and_alarmed(
    make_machine: Callable[..., Any],
) -> None:
    machine = make_machine(quota_bytes=1)
    applied = machine.apply(put=PUT)
    assert isinstance(applied.answer, errors.NoSpace) and applied.over_quota
    assert machine.keyspace.revision == 2  # as in etcd: the others may have had room
    assert machine.apply(txn=TxnRequest(success=[put_op()])).over_quota
    assert machine.apply(lease_grant=LeaseGrantRequest(ID=1, TTL=5)).over_quota


def test_item_43_what_adds_nothing_passes_the_quota_as_in_3_5_7(
    make_machine: Callable[..., Any],
) -> None:
    machine = make_machine(quota_bytes=1)
    machine.apply(put=PUT)
    machine.do(txn=TxnRequest(success=[READ_OP]))
    machine.do(txn=TxnRequest(success=[DELETE_OP]))
    machine.do(delete_range=DELETE)
    assert machine.applier.fits(InternalRaftRequest(delete_range=DELETE))
    assert not machine.applier.fits(InternalRaftRequest(put=PUT))


def test_an_error_goes_before_the_quota(make_machine: Callable[..., Any]) -> None:
    machine = make_machine(quota_bytes=1)
    applied = machine.apply(put=PutRequest(key=b"a", lease=99))
    assert isinstance(applied.answer, errors.LeaseNotFound) and not applied.over_quota


@pytest.mark.parametrize("field", ["put", "txn", "lease_grant"])
def test_item_44_nospace_refuses_what_adds(machine: Any, field: str) -> None:
    alarm(machine, AlarmRequest.ACTIVATE, NOSPACE)
    applied = machine.apply(**{field: ENTRY_KINDS[field]})
    assert isinstance(applied.answer, errors.NoSpace) and not applied.over_quota
    assert machine.keyspace.revision == 1 and len(machine.lessor) == 0


def test_item_44_row_29_nospace_lets_the_rest_through(machine: Any) -> None:
    machine.do(lease_grant=LeaseGrantRequest(ID=1, TTL=60))
    machine.put("a", lease=1)
    machine.put("b")
    alarm(machine, AlarmRequest.ACTIVATE, NOSPACE)
    machine.reopen()  # the alarm survives, and start is not broken by it
    with pytest.raises(errors.NoSpace):
        machine.put("c")
    machine.do(range=RangeRequest(key=b"a"))
    machine.do(txn=TxnRequest(success=[READ_OP, DELETE_OP]))
    machine.do(txn=NESTED_READ)
    machine.do(delete_range=DeleteRangeRequest(key=b"b"))
    machine.do(compaction=CompactionRequest(revision=2))
    machine.do(lease_revoke=LeaseRevokeRequest(ID=1))
    point = LeaseCheckpoint(ID=1, remaining_TTL=5)
    machine.do(lease_checkpoint=LeaseCheckpointRequest(checkpoints=[point]))
    with pytest.raises(errors.NoSpace):
        machine.do(txn=NESTED_PUT)
    alarm(machine, AlarmRequest.DEACTIVATE, NOSPACE)
    machine.put("c")


@pytest.mark.parametrize("field", sorted(ENTRY_KINDS))
def test_item_45_corrupt_refuses_every_entry_on_the_keyspace(machine: Any, field: str) -> None:
    alarm(machine, AlarmRequest.ACTIVATE, CORRUPT)
    with pytest.raises(errors.Corrupt):
        machine.do(**{field: ENTRY_KINDS[field]})


def test_item_45_a_nested_read_goes_through_raft_and_so_fails(machine: Any) -> None:
    alarm(machine, AlarmRequest.ACTIVATE, CORRUPT)
    with pytest.raises(errors.Corrupt):
        machine.do(txn=NESTED_READ)


def test_item_46_alarm_requests(machine: Any) -> None:
    assert alarm(machine, AlarmRequest.ACTIVATE, NOSPACE, member=1 << 63) == [(1 << 63, 1)]
    assert alarm(machine, AlarmRequest.ACTIVATE, NOSPACE, member=1 << 63) == [(1 << 63, 1)]
    assert alarm(machine, AlarmRequest.ACTIVATE, CORRUPT, member=3) == [(3, 2)]
    assert alarm(machine, AlarmRequest.ACTIVATE, 0) == []
    assert alarm(machine, AlarmRequest.ACTIVATE, 7) == []  # etcd stops here
    assert alarm(machine, AlarmRequest.GET, 0) == [(1 << 63, 1), (3, 2)]
    assert alarm(machine, AlarmRequest.GET, CORRUPT) == [(3, 2)]
    assert machine.alarms.describe() == [
        f"memberID:{1 << 63} alarm:NOSPACE ",
        "memberID:3 alarm:CORRUPT ",
    ]
    machine.reopen()
    assert alarm(machine, AlarmRequest.GET, 0) == [(1 << 63, 1), (3, 2)]
    assert alarm(machine, AlarmRequest.DEACTIVATE, NOSPACE, member=4) == []
    assert alarm(machine, AlarmRequest.DEACTIVATE, CORRUPT, member=3) == [(3, 2)]
    # Unlike etcd, whose applier forgets NOSPACE when CORRUPT is disarmed.
    with pytest.raises(errors.NoSpace):
        machine.put("a")


def test_the_gate_falls_with_the_last_alarm_of_its_kind(machine: Any) -> None:
    alarm(machine, AlarmRequest.ACTIVATE, NOSPACE, member=1)
    alarm(machine, AlarmRequest.ACTIVATE, NOSPACE, member=2)
    alarm(machine, AlarmRequest.DEACTIVATE, NOSPACE, member=1)
    with pytest.raises(errors.NoSpace):
        machine.put("a")
    alarm(machine, AlarmRequest.DEACTIVATE, NOSPACE, member=2)
    machine.put("a")


def test_row_17_a_refused_transaction_changes_nothing(machine: Any) -> None:
    future = RequestOp(request_range=RangeRequest(key=b"a", revision=99))
    for ops in ([put_op(), future], [put_op(), RequestOp(request_put=PutRequest(lease=5))]):
        with pytest.raises(errors.EtcdError):
            machine.do(txn=TxnRequest(success=ops))
    assert machine.keyspace.revision == 1


def conf(machine: Any, kind: ConfChangeType, member: Member, id: int = 40) -> Any:
    change = ConfChange(kind, member.id, encode_member(member), id)
    machine.index += 1
    entry = Entry(1, machine.index, EntryType.CONF_CHANGE)
    return machine.applier.apply_conf_change(entry, change)


def test_conf_changes_answer_with_the_members(machine: Any) -> None:
    applied, valid = conf(machine, ConfChangeType.ADD_NODE, Member(7, ("http://a:1",), name="m"))
    assert valid and applied.request_id == 40
    (shown,) = applied.response.members
    assert (shown.ID, shown.name, list(shown.peerURLs)) == (7, "m", ["http://a:1"])
    applied, valid = conf(machine, ConfChangeType.ADD_NODE, Member(8, ("http://a:1",)))
    assert not valid and isinstance(applied.answer, errors.PeerURLExist)


def test_row_27_members_are_the_same_after_a_restart(machine: Any) -> None:
    conf(machine, ConfChangeType.ADD_NODE, Member(7, ("http://a:1",)))
    conf(machine, ConfChangeType.ADD_LEARNER_NODE, Member(8, ("http://a:2",), is_learner=True))
    before = machine.members.all()
    machine.reopen()
    assert machine.members.all() == before


def v2(machine: Any, *, inner: bool = False, **fields: Any) -> Any:
    request = V2Request(**{"ID": 31, "Method": "PUT", "Path": "", "Val": "", "Dir": False} | fields)
    machine.index += 1
    data = (InternalRaftRequest(v2=request) if inner else request).SerializeToString()
    return machine.applier.apply(Entry(1, machine.index, data=data))


@pytest.mark.parametrize("inner", [False, True])
def test_v2_requests_by_which_etcd_members_publish(machine: Any, inner: bool) -> None:
    id = 0xFEDCBA9876543210
    conf(machine, ConfChangeType.ADD_NODE, Member(id, ("http://a:1",)))
    attributes = json.dumps({"name": "x", "clientURLs": ["http://c:1"]})
    path = f"/0/members/{id:x}/attributes"
    applied = v2(machine, inner=inner, Path=path, Val=attributes)
    assert applied.request_id == 31 and applied.error is None
    assert machine.members.get(id) == Member(
        id, ("http://a:1",), name="x", client_urls=("http://c:1",)
    )
    v2(machine, inner=inner, Path="/0/version", Val="3.5.0")
    assert machine.members.version == "3.5.0"
    assert v2(machine, inner=inner, Method="SYNC", Time=5).error is None


@pytest.mark.parametrize(
    "fields",
    [
        {"Method": "NOPE", "Path": "/1/foo"},
        {"Method": "DELETE", "Path": "/1/foo"},
        {"Method": "QGET", "Path": "/1/foo"},
        {"Path": "/0/version", "Val": "3.5.0", "PrevExist": True},
        {"Path": "/0/version", "Val": "three"},
    ],
)
def test_a_refused_v2_request_changes_nothing(machine: Any, fields: dict[str, Any]) -> None:
    applied = v2(machine, **fields)
    assert applied.request_id == 31 and applied.error is not None
    assert machine.members.version == ""
    assert machine.applier.v2.index == 0


def test_v2_keys(machine: Any) -> None:
    applied = v2(machine, Path="/1/foo", Val="bar")
    assert (applied.op, applied.answer.action, applied.answer.index) == ("v2 PUT", "set", 1)
    assert v2(machine, Method="QGET", Path="/1/foo").answer.node.value == "bar"


def test_cluster_entries_of_the_v3_kind(machine: Any) -> None:
    conf(machine, ConfChangeType.ADD_NODE, Member(7, ("http://a:1",)))
    attributes = Attributes(name="n", client_urls=["http://c:1"])
    machine.do(
        cluster_member_attr_set=ClusterMemberAttrSetRequest(
            member_ID=7, member_attributes=attributes
        )
    )
    machine.do(cluster_version_set=ClusterVersionSetRequest(ver="3.5.0"))
    machine.do(downgrade_info_set=DowngradeInfoSetRequest(enabled=True, ver="3.4.0"))
    assert machine.members.get(7).name == "n"
    assert machine.members.version == "3.5.0" and machine.members.downgrade.enabled
    machine.do(downgrade_info_set=DowngradeInfoSetRequest(enabled=False, ver="3.4.0"))
    assert machine.members.downgrade.target_version == ""


def test_authentication_is_off(machine: Any) -> None:
    status = machine.do(auth_status=AuthStatusRequest())
    assert (status.enabled, status.authRevision, status.header.revision) == (False, 1, 1)
    machine.do(auth_disable=AuthDisableRequest())
    with pytest.raises(errors.AuthNotEnabled):
        machine.do(authenticate=InternalAuthenticateRequest(name="root"))
    with pytest.raises(errors.RootUserNotExist):
        machine.do(auth_enable=AuthEnableRequest())


def test_what_a_newer_etcd_asks_is_refused_by_all(machine: Any) -> None:
    with pytest.raises(errors.NotCapable):
        machine.do(downgrade_version_test=DowngradeVersionTestRequest(ver="3.5"))


# -- the same log, the same state


def random_log(rng: random.Random, length: int) -> list[dict[str, Any]]:
    def key() -> bytes:
        return rng.choice(["a", "b", "c", "dd", "e"]).encode()

    def op() -> RequestOp:
        kind = rng.random()
        if kind < 0.5:
            return put_op(key().decode(), str(rng.random()))
        if kind < 0.7:
            return RequestOp(request_range=RangeRequest(key=key(), revision=rng.randint(0, 60)))
        return RequestOp(request_delete_range=DeleteRangeRequest(key=key(), range_end=b"d"))

    def one() -> dict[str, Any]:
        kind = rng.random()
        id = rng.randint(1, 4)
        if kind < 0.35:
            lease = id if rng.random() < 0.5 else 0
            return {"put": PutRequest(key=key(), value=b"%d" % rng.randint(0, 9), lease=lease)}
        if kind < 0.45:
            return {"delete_range": DeleteRangeRequest(key=key(), range_end=b"c")}
        if kind < 0.62:
            compare = Compare(key=key(), target=Compare.VERSION, version=rng.randint(0, 2))
            ops = [op() for _ in range(rng.randint(0, 3))]
            return {"txn": TxnRequest(compare=[compare], success=ops, failure=[op()])}
        if kind < 0.72:
            return {"lease_grant": LeaseGrantRequest(ID=id, TTL=rng.randint(1, 99))}
        if kind < 0.8:
            return {"lease_revoke": LeaseRevokeRequest(ID=id)}
        if kind < 0.85:
            point = LeaseCheckpoint(ID=id, remaining_TTL=rng.randint(0, 50))
            return {"lease_checkpoint": LeaseCheckpointRequest(checkpoints=[point])}
        if kind < 0.9:
            return {"compaction": CompactionRequest(revision=rng.randint(1, length // 3))}
        if kind < 0.97:
            action, alarm_type = rng.choice([0, 1, 2, 2]), rng.choice([1, 1, 1, 2])
            return {"alarm": AlarmRequest(action=action, memberID=id, alarm=alarm_type)}
        return {"cluster_version_set": ClusterVersionSetRequest(ver=f"3.{id}.0")}

    return [one() for _ in range(length)]


TABLES = ["current", "leases", "members", "members_removed", "alarms"]


def state_of(machine: Any) -> dict[str, Any]:
    tables: dict[str, Any] = {
        name: sorted(machine.backend.query(f"SELECT * FROM {name}")) for name in TABLES
    }
    keyspace = machine.keyspace
    tables["hash"] = hash_kv(keyspace, 0)
    tables["marks"] = (keyspace.revision, keyspace.compact_revision, machine.members.version)
    tables["keys"] = {lease.id: machine.lessor.keys(lease.id) for lease in machine.lessor}
    tables["gates"] = (machine.alarms.nospace, machine.alarms.corrupt)
    return tables


@pytest.mark.parametrize("seed", range(6))
def test_the_same_log_gives_the_same_state_whatever_happens_between(
    make_machine: Callable[..., Any], seed: int
) -> None:
    """Rows 1, 7 and 16: one machine runs through; the other compacts at other times, promotes and
    demotes its lessor, crashes at random points and replays what was not committed."""
    rng = random.Random(seed)
    log = random_log(rng, 250)
    calm, wild = make_machine("calm.db"), make_machine("wild.db")
    answers = [calm.apply(**request).answer for request in log]
    job = CompactionJob(wild.keyspace)
    position = 0
    while position < len(log):
        answer = wild.apply(**log[position]).answer
        assert repr(answer) == repr(answers[position]), log[position]
        position += 1
        dice = rng.random()
        if dice < 0.1:
            wild.backend.commit()
        elif dice < 0.2:
            job.step()
        elif dice < 0.25:
            wild.lessor.promote(1.0)
            wild.now_s += 30
            wild.lessor.expired()
        elif dice < 0.28:
            wild.close()  # a crash: what was not committed is gone
            wild.open()
            job = CompactionJob(wild.keyspace)
            position = wild.index
    assert state_of(wild) == state_of(calm)
    wild.reopen()
    assert state_of(wild) == state_of(calm)
